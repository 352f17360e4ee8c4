"""Several processes answer as one does, and a lost one is told."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.eval.test_journal import ASKED, DIGESTS, EXPECTED, Echo
from vila_core.errors import UserError, VilaError
from vila_core.eval.answerer import Answer, Answerer
from vila_core.eval.journal import Journal
from vila_core.eval.prompts import Prompt, Turn
from vila_core.eval.sharding import Sharded, answering

WAY: dict[str, Any] = {"max_new_tokens": 5, "stop": None, "blind": False}


@dataclass(frozen=True)
class TinyOpener:
    """A model with images, its weights by a seed."""

    def __call__(self) -> Answerer:
        from tests.eval.test_generate import seeing_generator

        return seeing_generator()


class Killed(Echo):
    """Dies at a question; says its own process number as the layout of a conversation."""

    def written(self, prompt: Prompt) -> Prompt:
        assert prompt.images == ()
        return Prompt("laid out", (), prompt.where, prompt.turns)

    def answers(self, prompts: Sequence[Prompt], **way: Any) -> Iterator[list[tuple[int, Answer]]]:
        for number, prompt in enumerate(prompts):
            if prompt.text == "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            if prompt.text == "mistake":
                raise UserError("f:3: no such image")
            if prompt.text == "bug":
                raise KeyError("bug")
            yield [(number, self.answer(prompt))]


def open_echo() -> Answerer:
    return Killed()


def open_nothing() -> Answerer:
    raise UserError("model: there is no such folder")


def gather(batches: Iterator[list[tuple[int, Any]]]) -> dict[int, Any]:
    found: dict[int, Any] = {}
    for batch in batches:
        assert not found.keys() & {n for n, _ in batch}
        found |= dict(batch)
    return found


@pytest.mark.slow
def test_several_processes_answer_as_one(tmp_path: Path) -> None:
    from tests.eval.test_generate import noise, prompts

    asked = prompts(30, noise(tmp_path))
    choices = [[" red", " blue . green"]] * 30
    rounds = []
    for processes in (1, 2):
        with answering(TinyOpener(), processes) as answerer:
            rounds.append(
                (
                    gather(answerer.answers(asked, **WAY)),
                    gather(answerer.answers(asked, **{**WAY, "blind": True})),
                    gather(answerer.likelihoods(asked, choices, blind=False)),
                    answerer.describe(),
                    answerer.sees,
                )
            )
    one, two = rounds
    assert len(one[0]) == 30
    assert one[:2] == two[:2]
    assert one[3:] == two[3:]
    for n in range(30):
        assert two[2][n] == pytest.approx(one[2][n], abs=1e-4)


@pytest.fixture(scope="module")
def sharded() -> Iterator[Sharded]:
    with answering(open_echo, 3) as answerer:
        assert isinstance(answerer, Sharded)
        yield answerer


def test_every_prompt_is_asked_once(sharded: Sharded, tmp_path: Path) -> None:
    for count in (7, 2, 0):
        found = gather(sharded.answers(ASKED[:count], **WAY))
        assert found == {n: EXPECTED[n] for n in range(count)}
    with Journal(tmp_path / "a.jsonl", sharded.describe()) as journal:
        for _ in range(2):
            assert gather(journal.answers(sharded, ASKED, DIGESTS, **WAY)) == EXPECTED
    found = gather(sharded.likelihoods(ASKED[:2], [["a"], ["bb", "c"]], blind=False))
    assert found == {0: [-1 / 4], 1: [-1 / 5, -1 / 4]}


def test_conversations_are_written_by_a_worker(sharded: Sharded) -> None:
    prompt = Prompt("", (Path("a.png"),), "f:1", (Turn("<image> red ?"),))
    assert sharded.written(prompt) == Prompt("laid out", prompt.images, "f:1", prompt.turns)
    assert sharded.written(ASKED[0]) is ASKED[0]


@pytest.mark.parametrize(
    ("text", "kind", "message"),
    [
        ("kill", VilaError, r"process \d of 2 that answer questions ended with SIGKILL"),
        ("mistake", UserError, "f:3: no such image"),
        ("bug", RuntimeError, r"in process \d of sharding:\n(?s:.*)KeyError: 'bug'"),
    ],
)
def test_a_worker_that_fails(text: str, kind: type[Exception], message: str) -> None:
    with answering(open_echo, 2) as answerer:
        with pytest.raises(kind, match=message):
            gather(answerer.answers([*ASKED, Prompt(text, ())], **WAY))
        with pytest.raises(ValueError, match="the workers have ended"):
            answerer.written(Prompt("", (), turns=(Turn("red"),)))


def test_a_model_that_cannot_be_opened() -> None:
    with (
        pytest.raises(UserError, match="model: there is no such folder"),
        answering(open_nothing, 2),
    ):
        pytest.fail("it was opened")
