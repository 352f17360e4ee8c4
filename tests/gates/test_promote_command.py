"""`vila promote`, `vila rollback`, `vila registry approve|reject`: text, JSON, exit codes."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from test_promote import EASY, STRICT
from typer.testing import CliRunner

from components.registry import Registry
from tests.web.story import Story, make_story
from vila_core.errors import Conflict, VilaError
from vila_core.store import open_store
from vila_ops.cli.main import app
from vila_ops.registry import promote as way

MODEL = "miniature"


@pytest.fixture
def story(tmp_path: Path) -> Story:
    return make_story(open_store(tmp_path / "store"), tmp_path / "scratch")


class Vila:
    """The command, on a store and with keys of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __call__(self, *words: str) -> tuple[int, str, str]:
        env = {"VILA_STORE": str(self.folder / "store"), "XDG_CONFIG_HOME": str(self.folder / "c")}
        done = CliRunner().invoke(app, list(words), env=env)
        if isinstance(done.exception, VilaError):  # what `main` prints and exits with
            return done.exception.exit_code, done.stdout, f"error: {done.exception}"
        if done.exception is not None and not isinstance(done.exception, SystemExit):
            raise done.exception
        return done.exit_code, done.stdout, done.stderr

    def gates(self, name: str, text: str) -> str:
        path = self.folder / name
        path.write_text(text)
        return str(path)


@pytest.fixture
def vila(tmp_path: Path) -> Vila:
    return Vila(tmp_path)


def test_the_whole_way(vila: Vila, story: Story) -> None:
    """Dry run, failure, promotion, again, rollback, rejection: each with its exit code."""
    easy, strict = vila.gates("easy.yaml", EASY), vila.gates("strict.yaml", STRICT)
    second = story.second.run_id
    code, out, _ = vila("promote", second, "--to", "champion", "--gates", easy, "--dry-run")
    assert code == 0
    assert "passed" in out
    assert "at least 0.1" in out
    assert "All gates pass. Nothing was moved: this was a dry run." in out
    code, out, _ = vila("promote", second, "--to", "champion", "--gates", strict)
    assert code == 1
    assert "NOT promoted: 1 of 1 gates failed; miniature@champion stays where it was." in out
    code, out, error = vila("promote", second, "--to", "champion", "--gates", easy)
    assert code == 0, error
    assert "miniature@champion is now version 2." in out
    code, out, _ = vila("promote", "miniature@2", "--to", "champion", "--gates", easy)
    assert code == 0
    assert "stands at version 2 already; nothing was moved." in out
    code, _, error = vila("rollback", "miniature@champion", "--why", "slow")
    assert code == 2
    assert "none before it to go back to" in error
    code, out, _ = vila("rollback", "miniature@champion", "--why", "slow", "--to", "1")
    assert code == 0
    assert "miniature@champion is back at version 1 (from 2)" in out
    assert vila("registry", "reject", "miniature@2", "--why", "leaks names")[0] == 0
    code, out, _ = vila("promote", "miniature@2", "--to", "champion", "--gates", easy)
    assert code == 1
    assert "leaks names" in out
    assert "vila registry approve miniature@2 --why TEXT" in out


def test_json_and_force(vila: Vila, story: Story) -> None:
    strict = vila.gates("strict.yaml", STRICT)
    asked = ("promote", story.second.run_id, "--to", "champion", "--gates", strict, "--json")
    code, out, _ = vila(*asked)
    found = json.loads(out)
    assert (code, found["passed"], found["entry"], found["version"]) == (1, False, None, None)
    assert found["evidence"]["gates"][0]["kind"] == "threshold"
    code, _, error = vila(*asked, "--force")
    assert code == 2
    assert "--force needs a reason" in error
    code, out, _ = vila(*asked, "--force", "--why", "for the board")
    entry = json.loads(out)["entry"]
    assert (code, entry["forced"], entry["why"]) == (0, True, "for the board")
    shown = vila("registry", "show", MODEL)[1]
    assert "forced" in shown


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("gates: [{metric: a/b@0, mim: 1}]", "gates.0.mim: unknown key; did you mean 'min'?"),
        ("gate: []", "gate: unknown key; did you mean 'gates'?"),
        ("gates: [", "not valid YAML"),
        ("- metric", "a mapping (key: value) is needed at the top"),
        ("gates: [{non_inferior: {margin: big}}]", "gates.0.non_inferior.margin: 'big' is not"),
    ],
)
def test_a_wrong_file_is_told_with_its_name(
    vila: Vila, story: Story, text: str, message: str
) -> None:
    path = vila.gates("mine.yaml", text)
    code, _, error = vila("promote", "story", "--to", "champion", "--gates", path)
    assert code == 2
    assert "mine.yaml" in error
    assert message in error


def test_of_fifty_promotions_on_one_judgement_one_wins(story: Story, tmp_path: Path) -> None:
    store = open_store(tmp_path / "store")
    easy = tmp_path / "easy.yaml"
    easy.write_text(EASY)
    judged = [
        way.judge_promotion(store, what, "champion", gates=str(easy), who=f"user{number}")
        for number, what in enumerate([story.first.run_id, story.second.run_id] * 25)
    ]

    def go(number: int) -> str:
        try:
            way.promote(open_store(tmp_path / "store"), judged[number], who=f"user{number}")
        except Conflict as error:
            return str(error)
        return "won"

    with ThreadPoolExecutor(16) as pool:
        results = list(pool.map(go, range(50)))
    moves = [one for one in Registry(store).history(MODEL) if one.alias == "champion"]
    assert len(moves) == 1
    winner = moves[0]
    assert results[int(winner.who.removeprefix("user"))] == "won"
    lost = [text for text in results if text != "won"]
    assert all("look again and decide again" in text for text in lost)
    assert len(lost) == 49
    assert Registry(store).aliases(MODEL)["champion"] == winner.version
    assert len(Registry(store).versions(MODEL)) == 2
