"""`vila eval`: one task per benchmark, so that only what is new is measured."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from components.runtime import stage_module, task_key
from tests.eval.benchmarks.samples_choice import make_pope, make_seed
from tests.eval.benchmarks.samples_vqa import make_okvqa
from tests.eval.tiny import write_tiny_vila
from vila_core.errors import UserError
from vila_core.stages._answerers import fetch_model
from vila_core.store import Store, open_store, publish
from vila_ops.evaluation import plan_evaluation, subject


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model, and official files of three benchmarks."""
    root = tmp_path_factory.mktemp("eval")
    write_tiny_vila(root / "vila")
    make_pope(root / "files" / "pope")
    make_seed(root / "files" / "seed")
    make_okvqa(root / "files" / "okvqa")
    return root


@pytest.mark.slow
def test_only_what_is_new_is_measured(vila, folder: Path) -> None:
    asked = ("eval", folder / "vila", "--data", folder / "files", "--runner", "inline", "--json")
    first = json.loads(vila(*asked, "--benchmarks", "pope"))
    assert [(task["name"], task["cached"]) for task in first["tasks"]] == [("eval-pope", False)]
    second = json.loads(vila(*asked, "--benchmarks", "pope,seed"))
    assert {task["name"]: task["cached"] for task in second["tasks"]} == {
        "eval-pope": True,
        "eval-seed": False,
    }
    assert second["tasks"][0]["metrics"] == first["tasks"][0]["metrics"]
    shown = vila("show", "last")
    assert "f1 (%)" in shown
    assert "loss" not in shown
    assert max(map(len, shown.splitlines())) <= 100
    more = ("--shots", "0,1", "--seeds", "2", "--set", "blind=true")
    few = vila(*asked[:-1], "--benchmarks", "okvqa", *more)
    assert "95% interval  blind  questions" in few
    assert "okvqa: score by demonstrations" in few
    assert "shots minus 0" in few


def test_benchmarks_are_listed(vila) -> None:
    shown = vila("eval", "--list")
    assert "pope" in shown
    assert "extra harness" in shown
    assert "f1 (%)" in shown.split("drop")[-1]
    assert max(map(len, shown.splitlines())) <= 100


def test_settings_are_for_all_or_for_one(folder: Path) -> None:
    asked = plan_evaluation(
        {"model": str(folder / "vila")},
        str(folder / "files"),
        (),
        {"limit": 4},
        ["blind=true", "pope.limit=2"],
    )
    assert [each.task for each in asked] == ["eval-okvqa", "eval-pope", "eval-seed"]
    values = {each.name: each.config.model_dump() for each in asked}
    assert {name: value["limit"] for name, value in values.items()} == {
        "okvqa": 4,
        "pope": 2,
        "seed": 4,
    }
    assert all(value["blind"] for value in values.values())
    assert values["pope"]["data"] == str(folder / "files" / "pope")


@pytest.mark.parametrize(
    ("names", "data", "message"),
    [
        (("poep",), "files", "there is no benchmark 'poep'; did you mean 'pope'?"),
        (("gqa", "pope"), "files", "has no folder 'gqa'"),
        ((), "vila", "holds no folder named like a benchmark"),
        ((), "nowhere", "there is no such folder"),
    ],
)
def test_mistakes_are_told(folder: Path, names: tuple[str, ...], data: str, message: str) -> None:
    with pytest.raises(UserError) as told:
        plan_evaluation({}, str(folder / data), names, {})
    assert message in str(told.value)


def test_what_is_measured_may_be_a_folder_or_an_endpoint(tmp_path: Path, folder: Path) -> None:
    store = open_store(tmp_path / "store")
    assert subject(store, str(folder / "vila")) == {"model": str(folder / "vila")}
    served = {"url": "http://localhost:8000/v1", "model": "llava"}
    assert subject(store, "http://localhost:8000/v1#llava") == {"endpoint": served}
    with pytest.raises(UserError, match="which model of the endpoint"):
        subject(store, "http://localhost:8000/v1")


def test_files_in_a_bucket_are_part_of_the_key(s3_store: Store, folder: Path) -> None:
    files = folder / "files" / "pope"
    for path in sorted(files.rglob("*")):
        if path.is_file():
            s3_store.upload(f"pope/{path.relative_to(files)}", path)
    (asked,) = plan_evaluation({"model": str(folder / "vila")}, s3_store.uri, (), {})
    module = stage_module(asked.stage)
    before = task_key(asked.stage, module, asked.config, {}).key
    assert before == task_key(asked.stage, module, asked.config, {}).key
    s3_store.write("pope/coco_pope_random.json", b"{}\n")
    assert before != task_key(asked.stage, module, asked.config, {}).key


def test_a_model_of_a_store_is_known_by_its_content(tmp_path: Path, folder: Path) -> None:
    keys, places = [], []
    for name in ("one", "other"):
        store = open_store(tmp_path / name)
        place = f"artifact+{publish(store, folder / 'vila').uri}"
        (asked,) = plan_evaluation({"model": place}, str(folder / "files"), ["seed"], {})
        keys.append(task_key(asked.stage, stage_module(asked.stage), asked.config, {}).key)
        places.append(fetch_model(place))
    assert keys[0] == keys[1]
    assert (places[0] / "config.json").is_file()
    assert places[0] != places[1]
