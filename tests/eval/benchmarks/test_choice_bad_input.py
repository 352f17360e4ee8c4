"""One clear message for every mistake in the files of the choice benchmarks."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from tests.eval.benchmarks import samples_choice as samples
from tests.eval.benchmarks.test_choice_readers import read
from vila_core.errors import UserError


def fails(name: str, folder: Path, *words: str, split: str | None = None) -> None:
    with pytest.raises(UserError) as caught:
        read(name, folder, split)
    message = str(caught.value)
    for word in words:
        assert word in message
    assert "\n" not in message


def edit(path: Path, change: Callable[[str], str]) -> None:
    text = path.read_text(encoding="utf-8")
    assert change(text) != text
    path.write_text(change(text), encoding="utf-8")


def edit_rows(path: Path, change: Callable[[list[dict[str, Any]]], None]) -> None:
    """Change the rows of a JSON-lines, a tab-separated or a parquet file."""
    if path.suffix == ".parquet":
        rows = pq.read_table(path).to_pylist()
        change(rows)
        samples.write_parquet(path, rows)
        return
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".tsv":
        header, *lines = (line.split("\t") for line in text.splitlines())
        rows = [dict(zip(header, line, strict=True)) for line in lines]
        change(rows)
        cells = [list(rows[0]), *([*row.values()] for row in rows)]
        path.write_text("".join("\t".join(row) + "\n" for row in cells), encoding="utf-8")
        return
    rows = [json.loads(line) for line in text.splitlines()]
    change(rows)
    samples.write_lines(path, rows)


def setting(place: int, **values: Any) -> Callable[[list[dict[str, Any]]], None]:
    def change(rows: list[dict[str, Any]]) -> None:
        rows[place].update(values)

    return change


def doubled(rows: list[dict[str, Any]]) -> None:
    rows.append(dict(rows[0]))


ANNOTATIONS = {
    "pope": "coco/coco_pope_popular.json",
    "mmbench": "mmbench_dev_20230712.tsv",
    "mmbench_cn": "mmbench_dev_cn_20231003.tsv",
    "seed": "SEED-Bench.json",
    "mmmu": "Music/validation-00000-of-00001.parquet",
    "nlvr2": "data/dev.json",
    "blink": "Jigsaw/val-00000-of-00001.parquet",
    "llava_bench": "answers_gpt4.jsonl",
    "mm_vet": "mm-vet.json",
}


@pytest.mark.parametrize("name", ANNOTATIONS)
def test_a_missing_annotation_file_is_named_with_its_source(name: str, tmp_path: Path) -> None:
    samples.MAKERS[name](tmp_path)
    path = tmp_path / ANNOTATIONS[name]
    path.unlink()
    fails(name, tmp_path, path.name, "missing", "put the official file there")
    fails(name, tmp_path / "nowhere", "missing")


def test_mme_without_a_task(tmp_path: Path) -> None:
    fails("mme", tmp_path, "holds no folder of a task of MME")
    samples.make_mme(tmp_path)
    for path in (tmp_path / "MME_Benchmark_release_version" / "count").iterdir():
        path.unlink()
    fails("mme", tmp_path, "no questions of the task count")


@pytest.mark.parametrize("name", ["pope", "seed", "nlvr2", "llava_bench", "mm_vet", "mme"])
def test_a_missing_image_is_named_with_the_question_that_shows_it(
    name: str, tmp_path: Path
) -> None:
    samples.MAKERS[name](tmp_path)
    images = [p for p in sorted(tmp_path.rglob("*")) if p.suffix in (".png", ".jpg")]
    images[-1 if name != "nlvr2" else 0].unlink()
    fails(name, tmp_path, "there is no image", ":")


@pytest.mark.parametrize("name", ["pope", "mmbench", "mmmu", "nlvr2", "blink", "llava_bench"])
def test_a_question_that_stands_twice(name: str, tmp_path: Path) -> None:
    samples.MAKERS[name](tmp_path)
    file = "questions.jsonl" if name == "llava_bench" else ANNOTATIONS[name]
    edit_rows(tmp_path / file, doubled)
    fails(name, tmp_path, "stands twice")


def test_a_question_of_seed_or_mm_vet_that_stands_twice(tmp_path: Path) -> None:
    samples.make_seed(tmp_path)
    edit(tmp_path / "SEED-Bench.json", lambda text: text.replace("101670", "101669"))
    fails("seed", tmp_path, "101669", "stands twice")
    samples.make_mm_vet(tmp_path)
    edit(tmp_path / "mm-vet.json", lambda text: text.replace('"v1_1":', '"v1_0":'))
    fails("mm_vet", tmp_path, "v1_0", "stands twice")


@pytest.mark.parametrize("name", ["pope", "seed", "nlvr2", "llava_bench", "mm_vet"])
def test_broken_json(name: str, tmp_path: Path) -> None:
    samples.MAKERS[name](tmp_path)
    edit(tmp_path / ANNOTATIONS[name], lambda text: text.replace(":", "", 1))
    fails(name, tmp_path, "not valid JSON", Path(ANNOTATIONS[name]).name)


@pytest.mark.parametrize("name", ["mmmu", "blink"])
def test_broken_parquet(name: str, tmp_path: Path) -> None:
    samples.MAKERS[name](tmp_path)
    (tmp_path / ANNOTATIONS[name]).write_bytes(b"PAR1 no more")
    fails(name, tmp_path, "no readable parquet file")


def test_a_part_of_the_parquet_files_is_missing(tmp_path: Path) -> None:
    samples.make_blink(tmp_path)
    path = tmp_path / ANNOTATIONS["blink"]
    path.rename(path.with_name("val-00001-of-00002.parquet"))
    fails("blink", tmp_path, "Jigsaw", "1 of the 2 parquet files")


@pytest.mark.parametrize(
    ("name", "change", "words"),
    [
        ("pope", setting(0, label="maybe"), ("label", "maybe", "yes, no")),
        ("pope", setting(1, text=None), (":2", "'text' must be a text", "None")),
        ("nlvr2", setting(0, label="true"), ("label", "'true'", "True, False")),
        ("nlvr2", setting(0, identifier="train-1-0-0"), ("train-1-0-0", "split 'dev'")),
        ("mmbench", setting(0, answer="E"), ("row 1", "'E'", "none of its 4 options")),
        ("mmbench", setting(2, index="x7"), ("row 3", "x7", "no number")),
        ("mmbench", setting(0, split="test"), ("split 'test'", "'dev' is asked for")),
        ("mmbench", setting(0, image="%%" * 99), ("row 1", "no base64 image")),
        ("mmbench", setting(0, B="nan"), ("row 1", "fewer than two options")),
        ("mmmu", setting(0, options="[1, 2"), ("options", "no list")),
        ("mmmu", setting(0, options="['a', 'b']", answer="C"), ("'C'", "none of the 2 options")),
        ("mmmu", setting(0, question_type="poll"), ("question_type", "poll")),
        ("mmmu", setting(0, image_1=None), ("image_1", "holds no image")),
        ("blink", setting(0, idx="val_Counting_1"), ("val_Counting_1", "task Jigsaw")),
        ("blink", setting(0, answer="(C)"), ("(C)", "none of the 2 choices")),
        ("blink", setting(1, image_1=None), ("holds no image",)),
    ],
)
def test_a_wrong_value_names_row_field_and_value(
    name: str,
    change: Callable[[list[dict[str, Any]]], None],
    words: tuple[str, ...],
    tmp_path: Path,
) -> None:
    samples.MAKERS[name](tmp_path)
    edit_rows(tmp_path / ANNOTATIONS[name], change)
    fails(name, tmp_path, *words)


def test_mmbench_without_rotations(tmp_path: Path) -> None:
    samples.make_mmbench(tmp_path)
    path = tmp_path / ANNOTATIONS["mmbench"]
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:3]))
    fails("mmbench", tmp_path, "no rotated copies")
    path.write_text(path.read_text().splitlines(keepends=True)[0])
    fails("mmbench", tmp_path, "holds no questions")


def test_mmbench_of_another_layout(tmp_path: Path) -> None:
    samples.make_mmbench(tmp_path)
    edit(tmp_path / ANNOTATIONS["mmbench"], lambda text: text.replace("question", "asks", 1))
    fails("mmbench", tmp_path, "the column question is missing")


@pytest.mark.parametrize("line", ["Is it?\tMaybe", "Is it? Yes"])
def test_mme_with_a_broken_line(line: str, tmp_path: Path) -> None:
    samples.make_mme(tmp_path)
    path = tmp_path / "MME_Benchmark_release_version" / "color" / "0001.txt"
    path.write_text(f"Is it?\tYes\n{line}\n")
    fails("mme", tmp_path, "0001.txt:2", line)
    path.write_text("Is it?\tYes\n")
    fails("mme", tmp_path, "0001.txt", "1 questions", "two per image")


def test_seed_bench_2_is_another_benchmark(tmp_path: Path) -> None:
    samples.make_seed(tmp_path)
    edit(
        tmp_path / "SEED-Bench.json",
        lambda t: t.replace('{"choice_a"', '{"subpart": "x", "choice_a"'),
    )
    fails("seed", tmp_path, "is SEED-Bench-2")


def test_seed_with_an_unknown_task_or_letter(tmp_path: Path) -> None:
    samples.make_seed(tmp_path)
    path = tmp_path / "SEED-Bench.json"
    good = path.read_text()
    path.write_text(good.replace('"question_type_id": 5', '"question_type_id": 99', 1))
    fails("seed", tmp_path, "question 1", "99")
    path.write_text(good.replace('"answer": "A"', '"answer": "a"'))
    fails("seed", tmp_path, "question 1", "answer", "'a'")
    path.write_text("[]")
    fails("seed", tmp_path, "'questions' and 'question_type' are needed")


def test_mmmu_answers_of_another_version(tmp_path: Path) -> None:
    samples.make_mmmu(tmp_path)
    path = tmp_path / "answer_dict_val.json"
    good = path.read_text()
    path.write_text(good.replace("validation_Math_1", "validation_Math_9"))
    fails("mmmu", tmp_path, "answer_dict_val.json", "validation_Math_1", "one version")
    path.write_text(good.replace('"ground_truth": "B"', '"ground_truth": "C"', 1))
    fails("mmmu", tmp_path, "is 'C'", "says ['B']", "one version")
    path.write_text("[1]")
    fails("mmmu", tmp_path, "a JSON object of answers by id is needed")


def test_llava_bench_files_of_different_versions(tmp_path: Path) -> None:
    samples.make_llava_bench(tmp_path)
    for file, change in (
        ("answers_gpt4.jsonl", setting(1, question_id=77)),
        ("context.jsonl", setting(1, image="009.jpg")),
    ):
        before = (tmp_path / file).read_text()
        edit_rows(tmp_path / file, change)
        fails("llava_bench", tmp_path, file, "one version of LLaVA-Bench")
        (tmp_path / file).write_text(before)
    (tmp_path / "rule.json").write_text("{}")
    fails("llava_bench", tmp_path, "no rule 'llava_bench_conv'")


def test_mm_vet_of_another_version_or_with_another_script(tmp_path: Path) -> None:
    samples.make_mm_vet(tmp_path)
    path = tmp_path / "mm-vet.json"
    good = path.read_text()
    path.write_text(good.replace("v1_2", "v2_2"))
    fails("mm_vet", tmp_path, "v2_2", "MM-Vet v1")
    path.write_text(good.replace('"spat"', '"smell"'))
    fails("mm_vet", tmp_path, "v1_2", "capability")
    path.write_text(good)
    script = tmp_path / "mm-vet_evaluator.py"
    script.write_text("text = 1\n")
    fails("mm_vet", tmp_path, "sets no `prompt`")
    script.write_text("def (:\n")
    fails("mm_vet", tmp_path, "no Python file")


@pytest.mark.parametrize(
    ("name", "split"), [("mmbench", "test"), ("mmmu", "test"), ("blink", "test")]
)
def test_a_missing_split_is_named(name: str, split: str, tmp_path: Path) -> None:
    samples.MAKERS[name](tmp_path)
    fails(name, tmp_path, "missing", "test", split=split)
