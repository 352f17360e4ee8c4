"""Promotion end to end on the story of two runs: judge, move, roll back, reject, force."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from components.registry import Registry
from tests.web.story import Story, make_story
from vila_core.errors import Conflict, UserError
from vila_core.store import Store, open_store
from vila_ops.registry import promote as way

STRICT = "gates:\n  - {metric: miniature_vqa/accuracy@0, min: 1.01}\n"
EASY = "gates:\n  - {metric: miniature_vqa/accuracy@0, min: 0.1}\n"


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Story]:
    folder = tmp_path_factory.mktemp("story")
    return folder / "store", make_story(open_store(folder / "store"), folder / "scratch")


@pytest.fixture
def story(told: tuple[Path, Story]) -> Story:
    return told[1]


@pytest.fixture
def store(told: tuple[Path, Story], tmp_path: Path) -> Store:
    shutil.copytree(told[0], tmp_path / "store")
    return open_store(tmp_path / "store")


def gates(tmp_path: Path, text: str) -> str:
    path = tmp_path / "asked.yaml"
    path.write_text(text)
    return str(path)


def judge(store: Store, tmp_path: Path, what: str, text: str = EASY, to: str = "champion"):
    return way.judge_promotion(store, what, to, gates=gates(tmp_path, text), who="ada")


def test_a_run_becomes_a_version_and_the_alias_moves(
    store: Store, story: Story, tmp_path: Path
) -> None:
    found = judge(store, tmp_path, story.second.run_id)
    assert (found.model, found.version, found.before, found.passed) == (
        "miniature",
        None,
        None,
        True,
    )
    assert len(Registry(store).versions("miniature")) == 1  # judging writes nothing
    entry = way.promote(store, found, who="ada")
    assert (entry.kind, entry.version, entry.before, entry.forced) == ("promote", 2, None, False)
    version = Registry(store).resolve("miniature@champion")
    assert version.artifact.sha256 == story.second.model.sha256
    assert version.results == story.second.results.sha256
    assert version.lineage["tasks"]["sft"]["outputs"] == {"model": story.second.model.sha256}
    kept = entry.evidence
    assert (kept["gates_name"], kept["who"], kept["passed"]) == ("asked.yaml", "ada", True)
    assert kept["gates"][0]["details"] == {
        "gate": "miniature_vqa/accuracy@0",
        "asked": "at least 0.1",
    }
    assert len(kept["gates_digest"]) == 64


def test_a_run_that_is_a_version_already_gets_no_second_one(
    store: Store, story: Story, tmp_path: Path
) -> None:
    found = judge(store, tmp_path, story.first.run_id)
    assert found.version == 1
    assert way.promote(store, found, who="ada").version == 1
    again = judge(store, tmp_path, "miniature@1")
    assert again.stands
    assert way.promote(store, again, who="ada").seq == 2  # the entry that brought it
    assert len(Registry(store).history("miniature")) == 2


def test_the_gates_of_the_run_are_the_default(store: Store, story: Story) -> None:
    found = way.judge_promotion(store, story.second.run_id, "champion", who="ada")
    assert found.gates_name == f"of run {story.second.run_id}"
    assert any("miniature_digits" in verdict.text for verdict in found.verdicts)


def test_a_failed_gate_moves_nothing_unless_forced_with_a_reason(
    store: Store, story: Story, tmp_path: Path
) -> None:
    found = judge(store, tmp_path, story.second.run_id, STRICT)
    assert not found.passed
    with pytest.raises(UserError, match="1 of 1 gates failed, and miniature@champion stays"):
        way.promote(store, found, who="ada")
    with pytest.raises(UserError, match="force needs a reason"):
        way.promote(store, found, who="ada", force=True, why=" ")
    assert "champion" not in Registry(store).aliases("miniature")
    assert len(Registry(store).versions("miniature")) == 1
    entry = way.promote(store, found, who="ada", force=True, why="a demo for the board")
    assert entry.forced
    assert not entry.evidence["passed"]
    assert Registry(store).history("miniature")[-1].forced


def test_force_that_was_not_needed_is_not_marked(
    store: Store, story: Story, tmp_path: Path
) -> None:
    found = judge(store, tmp_path, story.second.run_id)
    assert not way.promote(store, found, who="ada", force=True, why="to be sure").forced


def test_two_promotions_on_one_judgement(store: Store, story: Story, tmp_path: Path) -> None:
    first = judge(store, tmp_path, story.first.run_id)
    second = judge(store, tmp_path, story.second.run_id)
    way.promote(store, first, who="ada")
    with pytest.raises(Conflict, match="look again and decide again"):
        way.promote(store, second, who="bob")
    assert Registry(store).aliases("miniature")["champion"] == 1


def test_the_model_of_a_task(store: Store, story: Story, tmp_path: Path) -> None:
    for task in ("sft", "evaluate"):
        found = judge(store, tmp_path, f"{story.second.run_id}:{task}")
        assert found.subject.artifact.sha256 == story.second.model.sha256
        assert found.subject.results == story.second.results.sha256
    pretrained = judge(store, tmp_path, f"{story.second.run_id}:pretrain")
    assert not pretrained.passed  # nothing evaluated it
    assert "there is no metric" in pretrained.verdicts[0].text


@pytest.mark.parametrize(
    ("what", "to", "more", "message"),
    [
        ("nothing", "champion", {}, "there is no run 'nothing'"),
        ("story:prepare", "champion", {}, "task prepare of run .* has no model"),
        ("miniature@9", "champion", {}, "no such version"),
        ("miniature@1", "champion", {"model": "other"}, "is a version of miniature"),
        ("miniature@1", "champion", {"gates": "minature"}, "did you mean 'miniature'"),
        ("miniature@1", "Champion!", {}, "can't name an alias"),
        ("story", "champion", {"model": "Big Model"}, "can't name a model"),
    ],
)
def test_mistakes(store: Store, what: str, to: str, more: dict[str, str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        way.judge_promotion(store, what, to, who="ada", **more)


def _moved(store: Store, *versions: int) -> None:
    for number in versions:
        Registry(store).move("miniature", "champion", number, why="test")


@pytest.fixture
def three(store: Store, story: Story) -> Store:
    """The registry with versions 1, 2 and 3."""
    version = Registry(store).version("miniature", 1)
    import dataclasses

    for key in ("b", "c"):
        Registry(store).register(dataclasses.replace(version, key=key))
    return store


def test_each_rollback_goes_further_back(three: Store) -> None:
    _moved(three, 1, 2, 3)
    entry = way.rollback(three, "miniature", "champion", why="worse at night", who="ada")
    assert (entry.kind, entry.before, entry.after, entry.why) == (
        "rollback",
        3,
        2,
        "worse at night",
    )
    assert way.rollback(three, "miniature", "champion", why="too", who="ada").after == 1
    with pytest.raises(UserError, match="none before it to go back to"):
        way.rollback(three, "miniature", "champion", why="more", who="ada")
    _moved(three, 3)
    assert way.rollback(three, "miniature", "champion", why="again", who="ada").after == 1


def test_a_rollback_passes_over_rejected_versions(three: Store) -> None:
    _moved(three, 1, 2, 3)
    way.reject(three, "miniature@2", why="leaks names", who="ada")
    assert way.rollback(three, "miniature", "champion", why="slow", who="ada").after == 1
    with pytest.raises(UserError, match="was rejected by ada: leaks names"):
        way.rollback(three, "miniature", "champion", why="well", who="bob", to=2)
    entry = way.rollback(three, "miniature", "champion", why="well", who="b", to=2, force=True)
    assert entry.forced
    with pytest.raises(UserError, match="stands at version 2 already"):
        way.rollback(three, "miniature", "champion", why="well", who="bob", to=2)


@pytest.mark.parametrize("why", ["", "  "])
def test_reasons_are_required(three: Store, why: str) -> None:
    _moved(three, 1, 2)
    with pytest.raises(UserError, match="a rollback needs a reason"):
        way.rollback(three, "miniature", "champion", why=why, who="ada")
    for decide in (way.approve, way.reject):
        with pytest.raises(UserError, match="needs a reason"):
            decide(three, "miniature@1", why=why, who="ada")
    with pytest.raises(UserError, match="there is no such alias"):
        way.rollback(three, "miniature", "chmpion", why="x", who="ada")


def test_a_rejected_version_is_promoted_after_an_approval_only(
    store: Store, story: Story, tmp_path: Path
) -> None:
    way.reject(store, "miniature@1", why="leaks names", who="ada")
    found = judge(store, tmp_path, "miniature@1")
    assert not found.passed
    assert [verdict.kind for verdict in found.verdicts if not verdict.passed] == ["approvals"]
    assert "rejected by ada: leaks names" in found.verdicts[-1].text
    way.approve(store, "miniature@1", why="cleaned", who="bob")
    assert judge(store, tmp_path, "miniature@1").passed
