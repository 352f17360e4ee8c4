"""Small samples of the benchmarks of answers and captions, in their official formats.

Each `make_<name>(folder)` writes the files of all splits that need no server, and of the default
one, with a train split for demonstrations.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

COLORS = ("red", "green", "blue", "yellow", "white", "black")


def make_vqav2(folder: Path) -> Path:
    """Write VQAv2: six of test2015 of which three are test-dev, four of val, six of train."""
    questions = [_coco_question(n, "What color is the wall?") for n in range(6)]
    _vqa_questions(folder, "v2_OpenEnded_mscoco", "test2015", questions)
    _vqa_questions(folder, "v2_OpenEnded_mscoco", "test-dev2015", questions[:3])
    _coco_images(folder, "test2015", range(6))
    for split, count in (("val2014", 4), ("train2014", 6)):
        asked = [_coco_question(n, f"Is picture {n} {COLORS[n]}?") for n in range(count)]
        _vqa_questions(folder, "v2_OpenEnded_mscoco", split, asked)
        answers = [
            {
                "question_id": each["question_id"],
                "image_id": each["image_id"],
                "question_type": "is",
                "answer_type": ("yes/no", "number", "other")[n % 3],
                "multiple_choice_answer": "yes",
                "answers": _ten(["yes"] * 7 + ["no"] * 3),
            }
            for n, each in enumerate(asked)
        ]
        _vqa_answers(folder, "v2_mscoco", split, answers)
        _coco_images(folder, split, range(count))
    return folder


def make_okvqa(folder: Path) -> Path:
    """Write OK-VQA: four questions of val and six of train, with raw and stemmed answers."""
    for split, count in (("val2014", 4), ("train2014", 6)):
        asked = [_coco_question(n, "What sport is this?") for n in range(count)]
        _vqa_questions(folder, "OpenEnded_mscoco", split, asked)
        answers = [
            {
                "question_id": each["question_id"],
                "image_id": each["image_id"],
                "question_type": "four" if n % 2 else "one",
                "answer_type": "other",
                "confidence": 3,
                "answers": [
                    {**answer, "raw_answer": raw, "raw_confidence": "yes"}
                    for answer, raw in zip(
                        _ten(["surf"] * 6 + ["surf board"] * 4),
                        ["surfing"] * 6 + ["surf boards"] * 4,
                        strict=True,
                    )
                ],
            }
            for n, each in enumerate(asked)
        ]
        types = {"one": "Vehicles and Transportation", "four": "Sports and Recreation"}
        _vqa_answers(folder, "mscoco", split, answers, question_types=types)
        _coco_images(folder, split, range(count))
    return folder


def make_gqa(folder: Path) -> Path:
    """Write GQA 1.2: four questions of testdev, val and the server's, six of train."""
    for name, count in (
        ("testdev_balanced", 4),
        ("val_balanced", 4),
        ("submission_all", 4),
        ("train_balanced", 6),
    ):
        records: dict[str, Any] = {}
        for n in range(count):
            is_open = n % 2 == 0
            record = {
                "question": "What color is the wall?" if is_open else f"Is the wall {COLORS[n]}?",
                "imageId": f"n{n}",
                "isBalanced": True,
            }
            if name != "submission_all":
                record |= {
                    "answer": COLORS[n] if is_open else "yes",
                    "fullAnswer": f"The wall is {COLORS[n]}.",
                    "types": {
                        "structural": "query" if is_open else "verify",
                        "semantic": "attr",
                        "detailed": "color",
                    },
                }
            records[f"{name[:3]}{n}"] = record
        _write(folder / f"{name}_questions.json", records)
    for n in range(6):
        _image(folder / "images" / f"n{n}.jpg", n)
    return folder


def make_vizwiz(folder: Path) -> Path:
    """Write VizWiz: three questions of test and of val, six of train."""
    for split, count in (("test", 3), ("val", 3), ("train", 6)):
        records: list[dict[str, Any]] = []
        for n in range(count):
            name = f"VizWiz_{split}_{n:08}.jpg"
            record: dict[str, Any] = {"image": name, "question": f"What is this, number {n}?"}
            if split != "test":
                common = "unanswerable" if n == 2 else COLORS[n]
                record["answers"] = [
                    {"answer_confidence": "yes", "answer": answer}
                    for answer in [common] * 8 + ["Red!"] * 2
                ]
                record["answer_type"] = "unanswerable" if n == 2 else "other"
                record["answerable"] = int(n != 2)
            records.append(record)
            _image(folder / split / name, n)
        _write(folder / f"{split}.json", records)
    return folder


def make_scienceqa(folder: Path) -> Path:
    """Write ScienceQA: four problems of test, two without an image, one of val, six of train."""
    problems: dict[str, Any] = {}
    splits: dict[str, list[str]] = {}
    at = 0
    for split, count in (("test", 4), ("val", 1), ("train", 6)):
        for n in range(count):
            at += 1
            key = str(at)
            problems[key] = {
                "question": f"Which color is shown in picture {n}?",
                "choices": ["red", "green", "blue"],
                "answer": n % 3,
                "hint": "" if n % 2 == 0 else "The picture shows  a wall.",
                "image": "image.png" if n < 2 or split != "test" else None,
                "task": "closed choice",
                "grade": "grade2" if n < 3 else "grade8",
                "subject": "natural science" if n % 2 == 0 else "social science",
                "topic": "physics",
                "category": "Colors",
                "skill": "Name a color",
                "lecture": "",
                "solution": "",
                "split": split,
            }
            if problems[key]["image"]:
                _image(folder / "images" / split / key / "image.png", n)
            splits.setdefault(split, []).append(key)
    splits |= {"minitest": splits["test"][:2], "minival": [], "trainval": []}
    _write(folder / "problems.json", problems)
    _write(folder / "pid_splits.json", splits)
    return folder


def make_textvqa(folder: Path) -> Path:
    """Write TextVQA 0.5.1: three questions of val and test, six of train, with Rosetta's tokens."""
    for split, count, first in (("val", 3, 34602), ("test", 3, 39602), ("train", 6, 0)):
        records: list[dict[str, Any]] = []
        for n in range(count):
            record: dict[str, Any] = {
                "question": f"what is the brand of camera {n}?",
                "image_id": f"{split}{n:013x}",
                "image_classes": ["Camera"],
                "question_id": first + n,
                "set_name": split,
            }
            if split != "test":
                record["answers"] = ["dakota"] * 6 + ["dakota digital"] * 3 + ["nous les gosses"]
            records.append(record)
            images = "test_images" if split == "test" else "train_images"
            _image(folder / images / f"{record['image_id']}.jpg", n)
        whole = {"dataset_type": split, "dataset_name": "textvqa", "dataset_version": "0.5.1"}
        _write(folder / f"TextVQA_0.5.1_{split}.json", {**whole, "data": records})
        tokens = [
            {"image_id": each["image_id"], "ocr_tokens": ["DAKOTA", "DIGITAL"]} for each in records
        ]
        _write(folder / f"TextVQA_Rosetta_OCR_v0.2_{split}.json", {**whole, "data": tokens})
    return folder


def make_coco_caption(folder: Path) -> Path:
    """Write COCO captions: Karpathy's file three images of test and six of train; and val2014's."""
    images: list[dict[str, Any]] = []
    for n in range(9):
        split = "test" if n < 3 else ("train", "restval")[n % 2]
        place = "train2014" if split == "train" else "val2014"
        name = f"COCO_{place}_{n + 1:012}.jpg"
        sentences = _sentences(n)
        record = {"filepath": place, "filename": name, "imgid": n, "split": split, "cocoid": n + 1}
        images.append({**record, "sentids": [n], "sentences": sentences})
        _image(folder / place / name, n)
    _write(folder / "dataset_coco.json", {"images": images, "dataset": "coco"})
    tests = images[:3]
    _write(
        folder / "captions_val2014.json",
        {
            "info": {"year": 2014},
            "images": [{"id": each["cocoid"], "file_name": each["filename"]} for each in tests],
            "annotations": [
                {"image_id": each["cocoid"], "id": 10 * each["cocoid"] + at, "caption": one["raw"]}
                for each in tests
                for at, one in enumerate(each["sentences"])
            ],
        },
    )
    return folder


def make_flickr30k(folder: Path) -> Path:
    """Write Flickr30k: Karpathy's file with three images of test and six of train."""
    images: list[dict[str, Any]] = []
    for n in range(9):
        name = f"{1000 + n}.jpg"
        split = "test" if n < 3 else "train"
        record = {"filename": name, "imgid": n, "split": split, "sentids": [n]}
        images.append({**record, "sentences": _sentences(n)})
        _image(folder / "flickr30k-images" / name, n)
    _write(folder / "dataset_flickr30k.json", {"images": images, "dataset": "flickr30k"})
    return folder


MAKERS: dict[str, Callable[[Path], Path]] = {
    "vqav2": make_vqav2,
    "gqa": make_gqa,
    "vizwiz": make_vizwiz,
    "scienceqa": make_scienceqa,
    "textvqa": make_textvqa,
    "okvqa": make_okvqa,
    "coco_caption": make_coco_caption,
    "flickr30k": make_flickr30k,
}


def _sentences(n: int) -> list[dict[str, Any]]:
    color = COLORS[n % len(COLORS)]
    texts = [f"A {color} wall without a window.", f"A large {color} wall, seen from near."]
    return [
        {"tokens": text.rstrip(".").lower().split(), "raw": text, "imgid": n, "sentid": at}
        for at, text in enumerate(texts)
    ]


def _coco_question(n: int, text: str) -> dict[str, Any]:
    return {"image_id": n + 1, "question": text, "question_id": 1000 * (n + 1)}


def _ten(answers: Sequence[str]) -> list[dict[str, Any]]:
    return [
        {"answer": answer, "answer_confidence": "yes", "answer_id": n}
        for n, answer in enumerate(answers, start=1)
    ]


def _vqa_questions(folder: Path, stem: str, subset: str, asked: list[dict[str, Any]]) -> None:
    head = {"info": {"version": "2.0"}, "task_type": "Open-Ended", "data_type": "mscoco"}
    content = {**head, "license": {}, "data_subtype": subset, "questions": asked}
    _write(folder / f"{stem}_{subset}_questions.json", content)


def _vqa_answers(
    folder: Path, stem: str, subset: str, answers: list[dict[str, Any]], **more: Any
) -> None:
    content = {"info": {"version": "2.0"}, "license": {}, "data_type": "mscoco", **more}
    content |= {"data_subtype": subset, "annotations": answers}
    _write(folder / f"{stem}_{subset}_annotations.json", content)


def _coco_images(folder: Path, subset: str, numbers: range) -> None:
    for n in numbers:
        _image(folder / subset / f"COCO_{subset}_{n + 1:012}.jpg", n)


def _image(path: Path, n: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (32, 32), COLORS[n % len(COLORS)]).save(path)


def _write(path: Path, value: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))
