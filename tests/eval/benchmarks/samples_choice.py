"""Small samples of benchmarks in their official formats: each `make_<name>` fills a folder."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from vila_core.eval.benchmarks.blink import TASKS
from vila_core.eval.benchmarks.mmmu import DOMAINS
from vila_core.eval.scorers.yesno import COGNITION, PERCEPTION

COLORS = ("red", "green", "blue", "yellow", "black", "white")


def picture(color: str, kind: str = "PNG") -> bytes:
    data = io.BytesIO()
    Image.new("RGB", (16, 12), color).save(data, kind)
    return data.getvalue()


def save(path: Path, color: str = "red") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(picture(color, "PNG" if path.suffix == ".png" else "JPEG"))
    return path


def write_lines(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def make_pope(folder: Path) -> None:
    """Two images, four questions a way: LLaVA's layout, coco/ beside val2014/."""
    names = ["COCO_val2014_000000310196.jpg", "COCO_val2014_000000210789.jpg"]
    for name, color in zip(names, COLORS, strict=False):
        save(folder / "val2014" / name, color)
    absent = {
        "random": ("kite", "fork"),
        "popular": ("chair", "car"),
        "adversarial": ("ski", "cup"),
    }
    for way, objects in absent.items():
        asked = [("dog", "yes"), (objects[0], "no"), ("cat", "yes"), (objects[1], "no")]
        write_lines(
            folder / "coco" / f"coco_pope_{way}.json",
            (
                {
                    "question_id": number + 1,
                    "image": names[number // 2],
                    "text": f"Is there a {thing} in the image?",
                    "label": label,
                }
                for number, (thing, label) in enumerate(asked)
            ),
        )


def make_mme(folder: Path) -> None:
    """Two images in each of the fourteen tasks, in both layouts of the release."""
    base = folder / "MME_Benchmark_release_version"
    for task in (*PERCEPTION, *COGNITION):
        split = task in ("artwork", "celebrity", "landmark", "posters", "scene")
        texts = base / task / ("questions_answers_YN" if split else "")
        images = base / task / ("images" if split else "")
        for number, name in enumerate(("0001", "0020")):
            save(images / f"{name}.{'jpg' if split else 'png'}", COLORS[number])
            texts.mkdir(parents=True, exist_ok=True)
            (texts / f"{name}.txt").write_text(
                f"Is this {task} red? Please answer yes or no.\t{('Yes', 'No')[number]}\n"
                f"Is this {task} green? Please answer yes or no.\t{('No', 'Yes')[number]}\n",
                encoding="utf-8",
            )


_MMBENCH = (
    ("241", "Which color is it?", "nan", ("red", "green", "blue", "black"), "A"),
    ("252", "Is it day?", "The sky is shown.", ("yes", "no"), "B"),
)
_AREAS = ("coarse_perception", "finegrained_perception (instance-level)")


def make_mmbench(folder: Path, name: str = "mmbench_dev_20230712.tsv", split: str = "dev") -> None:
    """Two questions, of four and of two options, with all rotated copies behind the originals."""
    columns = "index question hint A B C D answer category image source l2-category comment split"
    rows: list[tuple[int, list[str]]] = []
    for place, (index, question, hint, choices, answer) in enumerate(_MMBENCH):
        image = base64.b64encode(picture(COLORS[place])).decode()
        for turn in range(len(choices)):
            turned = (*choices[turn:], *choices[:turn])
            letter = "ABCD"[turned.index(choices["ABCD".index(answer)])]
            cells = [*turned, *["nan"] * (4 - len(turned))]
            rows.append(
                (
                    turn,
                    [
                        str(turn * 1_000_000 + int(index)),
                        question,
                        hint,
                        *cells,
                        letter if split == "dev" else "",
                        f"ability_{place}",
                        image,
                        "made",
                        _AREAS[place],
                        "nan",
                        split,
                    ],
                )
            )
    lines = ["\t".join(columns.split()), *("\t".join(row) for _, row in sorted(rows, key=_turn))]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text("\n".join(lines) + "\n", encoding="utf-8")


def _turn(row: tuple[int, list[str]]) -> int:
    return row[0]


def make_mmbench_cn(folder: Path) -> None:
    make_mmbench(folder, "mmbench_dev_cn_20231003.tsv")


def make_seed(folder: Path) -> None:
    """Two image questions and one of a video, whose middle frame lies where LLaVA puts it."""
    common = {"choice_a": "One", "choice_b": "Two", "choice_c": "Three", "choice_d": "Four"}
    asked: list[dict[str, Any]] = [
        {"question_id": "101669", "data_type": "image", "data_id": "1454426_2591111986"},
        {"question_id": "101670", "data_type": "image", "data_id": "1454426_2591111987"},
        {"question_id": "v1738", "data_type": "video", "data_id": "94328.webm"},
    ]
    questions = [
        {
            **common,
            **row,
            "question": f"How many towels are in {row['data_id']}?",
            "answer": "ABC"[number],
            "question_type_id": 10 if row["data_type"] == "video" else 5,
        }
        for number, row in enumerate(asked)
    ]
    types = {"Instances Counting": 5, "Action Recognition": 10}
    folder.mkdir(parents=True, exist_ok=True)
    content = {"questions": questions, "question_type": types}
    (folder / "SEED-Bench.json").write_text(json.dumps(content), encoding="utf-8")
    for row in asked[:2]:
        save(folder / "SEED-Bench-image" / row["data_id"], "blue")
    save(folder / "SEED-Bench-video-image" / "10_v1738.png", "green")


def _cell(color: str | None) -> dict[str, Any] | None:
    return None if color is None else {"bytes": picture(color), "path": f"{color}.png"}


def write_parquet(path: Path, rows: list[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows), path)


def mmmu_rows(subject: str, split: str) -> list[dict[str, Any]]:
    """Return a question with two images, one of them in an option, and an open one."""
    hidden = split == "test"
    images = {f"image_{n}": None for n in range(1, 8)}
    return [
        {
            "id": f"{split}_{subject}_1",
            "question": "Compare <image 2> to the drawing. Which is it?",
            "options": str(["<image 1>", "neither", 'the "left" one']),
            "answer": "?" if hidden else "B",
            "question_type": "multiple-choice",
            "subfield": "made",
            **images,
            "image_1": _cell("red"),
            "image_2": _cell("blue"),
        },
        {
            "id": f"{split}_{subject}_2",
            "question": "How long is it? <image 1>",
            "options": "[]",
            "answer": "?" if hidden else str(["1.5", "one and a half"]),
            "question_type": "open",
            "subfield": "made",
            **images,
            "image_1": _cell("green"),
        },
    ]


def make_mmmu(folder: Path, splits: tuple[str, ...] = ("validation", "dev")) -> None:
    """Both kinds of question in each of the thirty subjects, in parquet, and the answer file."""
    subjects = [subject for each in DOMAINS.values() for subject in each]
    answers: dict[str, Any] = {}
    for subject in subjects:
        for split in splits:
            rows = mmmu_rows(subject, split)
            write_parquet(folder / subject / f"{split}-00000-of-00001.parquet", rows)
        for kind, number, truth in (("multiple-choice", 1, "B"), ("short-answer", 2, None)):
            answers[f"validation_{subject}_{number}"] = {
                "question_type": kind,
                "ground_truth": truth or ["1.5", "one and a half"],
            }
    (folder / "answer_dict_val.json").write_text(json.dumps(answers), encoding="utf-8")


def make_nlvr2(folder: Path) -> None:
    """A sentence about two pairs and another about one of them; training pairs in folders."""
    rows = [
        ("dev-850-0-0", "Both images are red.", "True"),
        ("dev-850-1-0", "Both images are red.", "False"),
        ("dev-850-0-1", "The left image is green.", "False"),
    ]
    write_lines(
        folder / "data" / "dev.json",
        ({"identifier": key, "sentence": said, "label": label} for key, said, label in rows),
    )
    for pair, colors in (("0", ("red", "red")), ("1", ("red", "blue"))):
        for number, color in enumerate(colors):
            save(folder / "dev" / f"dev-850-{pair}-img{number}.png", color)
    # No image of training is one of dev: demonstrations must not show a question's own.
    train = [("green", "yellow"), ("black", "white"), ("cyan", "magenta"), ("gray", "orange")]
    write_lines(
        folder / "data" / "train.json",
        (
            {
                "identifier": f"train-{number}-0-0",
                "sentence": f"The left image is {left}.",
                "label": "True",
                "directory": number,
            }
            for number, (left, _) in enumerate(train)
        ),
    )
    for number, colors in enumerate(train):
        for side, color in enumerate(colors):
            save(folder / f"images/train/{number}/train-{number}-0-img{side}.png", color)


def blink_rows(task: str, split: str) -> list[dict[str, Any]]:
    """Return a question with three images and one with a single image."""
    images = {f"image_{n}": None for n in range(1, 5)}
    options = ["the second image", "the third image"]
    listed = "\n".join(f"({letter}) {text}" for letter, text in zip("AB", options, strict=True))
    prompt = f"Which one is like the first?\nSelect from the following choices.\n{listed}\n"
    shown = ("red", "green", "blue"), ("black",)
    return [
        {
            "idx": f"{split}_{task}_{number}",
            "question": "Which one is like the first?",
            "sub_task": task,
            **images,
            **{f"image_{n}": _cell(color) for n, color in enumerate(colors, start=1)},
            "choices": options,
            "answer": "hidden" if split == "test" else f"({'AB'[number - 1]})",
            "prompt": prompt,
        }
        for number, colors in enumerate(shown, start=1)
    ]


def make_blink(folder: Path, split: str = "val") -> None:
    """Two questions in each of the fourteen tasks."""
    for task in TASKS:
        write_parquet(folder / task / f"{split}-00000-of-00001.parquet", blink_rows(task, split))


def make_llava_bench(folder: Path, rules: bool = True) -> None:
    """Three questions about two images, GPT-4's answers, captions, and LLaVA's rules."""
    asked = [("001.jpg", "conv"), ("001.jpg", "detail"), ("002.jpg", "complex")]
    write_lines(
        folder / "questions.jsonl",
        (
            {"question_id": n, "image": image, "category": kind, "text": f"Question {n}?"}
            for n, (image, kind) in enumerate(asked)
        ),
    )
    write_lines(
        folder / "context.jsonl",
        ({"id": n, "image": f"{n}.jpg", "caption": f"A view of {n}."} for n in ("001", "002")),
    )
    write_lines(
        folder / "answers_gpt4.jsonl",
        ({"question_id": n, "text": f"GPT-4 says {n}.", "answer_id": f"a{n}"} for n in range(3)),
    )
    for name, color in (("001.jpg", "red"), ("002.jpg", "blue")):
        save(folder / "images" / name, color)
    if rules:
        content = {
            f"llava_bench_{kind}": {"role": "Assistant", "prompt": f"Rate both ({kind})."}
            for kind in ("conv", "detail", "complex")
        }
        (folder / "rule.json").write_text(json.dumps(content), encoding="utf-8")


def make_mm_vet(folder: Path, evaluator: bool = True) -> None:
    """Three questions of several capabilities, and the part of the script that is read."""
    rows = {
        "v1_0": ("What is x in the equation?", "-1<AND>-5", ["ocr", "math"]),
        "v1_1": ("What is it?", "a cat<OR>a kitten", ["rec"]),
        "v1_2": ("Where does it read?", "left", ["ocr", "spat"]),
    }
    content = {
        key: {
            "imagename": f"{key}.png",
            "question": question,
            "answer": answer,
            "imagesource": "made",
            "capability": capability,
        }
        for key, (question, answer, capability) in rows.items()
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "mm-vet.json").write_text(json.dumps(content), encoding="utf-8")
    for key, color in zip(rows, COLORS, strict=False):
        save(folder / "images" / f"{key}.png", color)
    if evaluator:
        (folder / "mm-vet_evaluator.py").write_text(
            'import argparse\n\nprompt = """Compare and score.\n\nQuestion | Truth\n"""\n\n\n'
            "def main(prompt=prompt):\n    pass\n",
            encoding="utf-8",
        )


MAKERS = {
    "pope": make_pope,
    "mme": make_mme,
    "mmbench": make_mmbench,
    "mmbench_cn": make_mmbench_cn,
    "seed": make_seed,
    "mmmu": make_mmmu,
    "nlvr2": make_nlvr2,
    "blink": make_blink,
    "llava_bench": make_llava_bench,
    "mm_vet": make_mm_vet,
}
"""By benchmark name, for tests that run them all."""
