"""Every benchmark end to end: official files, a model with eyes, scores, records, submissions."""

from __future__ import annotations

import json
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from transformers.utils import logging

from tests.eval.tiny import write_tiny_vila
from vila_core.config import validate
from vila_core.errors import UserError
from vila_core.eval.benchmark import NAMES, TEXT_ONLY, Options, benchmark
from vila_core.eval.files import Files
from vila_core.stages import benchmark as stage
from vila_core.types import QUIET

logging.disable_progress_bar()


def make(name: str) -> Callable[[Path], None]:
    """Return what writes the sample of a benchmark, in the official format."""
    for module in ("samples_choice", "samples_vqa"):
        made = getattr(import_module(f"tests.eval.benchmarks.{module}"), f"make_{name}", None)
        if made is not None:
            return made
    raise AssertionError(f"there is no sample of {name}")


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_vila(tmp_path_factory.mktemp("model") / "vila")


def ask(name: str, data: Path, model_in: Path, out: Path, **more: Any) -> dict[str, Any]:
    config = validate(
        stage.Config,
        {"benchmark": name, "data": str(data), "batch_tokens": 65_536, **more},
        where="test",
    )
    out.mkdir(parents=True, exist_ok=True)
    result = stage.run(config, {"model": model_in}, out, QUIET)
    folder = result.outputs["results"]
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["metrics"] == dict(result.metrics)
    lines = (folder / "records.jsonl").read_text().splitlines()
    return {"summary": summary, "records": [json.loads(line) for line in lines], "folder": folder}


@pytest.mark.parametrize("name", [name for name in NAMES if name not in TEXT_ONLY])
def test_it_runs_from_official_files_to_score_and_submission(
    name: str, model: Path, tmp_path: Path
) -> None:
    make(name)(tmp_path / "files")
    bench = benchmark(name)
    found = ask(name, tmp_path / "files", model, tmp_path / "out")
    summary, records = found["summary"], found["records"]
    questions = bench.read(Files(tmp_path / "files"), Options(bench.splits[0]))
    assert [record["key"] for record in records] == [question.key for question in questions]
    assert summary["version"] == bench.version
    assert summary["prompt"] == bench.prompt
    assert summary["files"]
    assert summary["health"]["answers"] == len(questions)
    key = f"{name}/{bench.headline}@0"
    if bench.judged or records[0]["score"] is None:
        assert summary["missing"] or bench.submission
    else:
        # The metrics are those of the recorded scores, so nothing is lost on the way.
        grades = bench.grade(questions, [record["answer"] for record in records])
        assert summary["metrics"][key] == bench.metrics(questions, grades)[bench.headline]
        assert summary["intervals"][key]["low"] <= summary["metrics"][key]
    if bench.submission:
        answers = [record["answer"] for record in records]
        for file, content in bench.submission(questions, answers).items():
            assert (found["folder"] / "submission" / file).read_bytes() == content


def test_answers_that_are_there_are_not_asked_again(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make("pope")(tmp_path / "files")
    whole = ask("pope", tmp_path / "files", model, tmp_path / "out")
    kept = (tmp_path / "out" / "answers.jsonl").read_bytes()
    lines = kept.splitlines(keepends=True)
    assert len(lines) > 4
    # Killed in the middle of a line: what came before it is used, the rest is asked.
    (tmp_path / "again").mkdir()
    (tmp_path / "again" / "answers.jsonl").write_bytes(b"".join(lines[:4]) + lines[4][:20])
    asked: list[int] = []
    from vila_core.eval.generate import Generator

    answers = Generator.answers

    def counted(self: Generator, prompts: Any, **way: Any) -> Any:
        asked.append(len(prompts))
        return answers(self, prompts, **way)

    monkeypatch.setattr(Generator, "answers", counted)
    again = ask("pope", tmp_path / "files", model, tmp_path / "again")
    assert sum(asked) == len(lines) - 4
    assert again["records"] == whole["records"]


def test_shots_make_a_curve_with_controls(model: Path, tmp_path: Path) -> None:
    make("okvqa")(tmp_path / "files")
    demos = {"seeds": [0, 1], "text_only": True}
    found = ask(
        "okvqa",
        tmp_path / "files",
        model,
        tmp_path / "out",
        shots=[0, 1],
        demos=demos,
        blind=True,
    )
    summary, records = found["summary"], found["records"]
    assert summary["layout"] == "plain"
    rounds = {(r["shots"], r["condition"], r["seed"]) for r in records}
    assert rounds == {
        (0, "seen", 0),
        (0, "blind", 0),
        *((1, condition, seed) for condition in ("seen", "blind", "text_demos") for seed in (0, 1)),
    }
    assert {"okvqa/accuracy@0", "okvqa/accuracy@1", "okvqa/blind_accuracy@1"} <= set(
        summary["metrics"]
    )
    curve = summary["in_context"]["curves"]["seen"]
    assert [point["shots"] for point in curve["points"]] == [0, 1]
    assert summary["in_context"]["images_bring"]


def test_rices_shows_the_most_similar_images(model: Path, tmp_path: Path) -> None:
    make("okvqa")(tmp_path / "files")
    options = {"shots": [1], "demos": {"how": "rices"}}
    found = ask("okvqa", tmp_path / "files", model, tmp_path / "out", **options)
    assert found["summary"]["demonstrations"]["how"] == "rices"
    assert "okvqa/accuracy@1" in found["summary"]["metrics"]


def test_options_can_be_ranked_by_likelihood(model: Path, tmp_path: Path) -> None:
    make("seed")(tmp_path / "files")
    found = ask("seed", tmp_path / "files", model, tmp_path / "out", by_likelihood=True)
    assert found["summary"]["decoding"] == "likelihood"
    assert {record["answer"] for record in found["records"]} <= set("ABCD")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"split": "tset"}, "split: pope has no 'tset'; it has: all, random"),
        ({"shots": [4]}, "pope has no training split"),
        ({"by_likelihood": True}, "pope has no options to rank"),
        ({"model": "no/such/folder"}, "no/such/folder: there is no such folder"),
    ],
)
def test_mistakes_are_told(
    changes: dict[str, Any], message: str, model: Path, tmp_path: Path
) -> None:
    make("pope")(tmp_path / "files")
    with pytest.raises(UserError, match=message):
        ask("pope", tmp_path / "files", model, tmp_path / "out", **changes)


def test_a_model_without_eyes_is_refused(tmp_path: Path, model: Path) -> None:
    make("pope")(tmp_path / "files")
    blind = model.parent / "vila-parts" / "language"
    with pytest.raises(UserError, match="the model can't see images"):
        ask("pope", tmp_path / "files", model, tmp_path / "out", model=str(blind))


def test_a_limit_is_said(model: Path, tmp_path: Path) -> None:
    make("pope")(tmp_path / "files")
    found = ask("pope", tmp_path / "files", model, tmp_path / "out", limit=5)
    assert found["summary"]["questions"] == {"asked": 5, "in_split": 12}
    assert len(found["records"]) == 5
