"""What was answered is kept, whatever happens, and is not asked again."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from vila_core.errors import UserError
from vila_core.eval.answerer import Answer
from vila_core.eval.journal import Journal
from vila_core.eval.prompts import Prompt

ASKED = [Prompt(f"question {n}", ()) for n in range(7)]
DIGESTS = [prompt.digest() for prompt in ASKED]
MODEL = {"sha256": "abc"}
ODD = {2: "", 3: "\x00\x07\u2028", 4: "naïve 猫\nnext line"}


class Echo:
    """Answers with the question, in batches of two, and notes what it was asked."""

    sees = False

    def __init__(self, fail_after: int = 99) -> None:
        self.asked: list[str] = []
        self.fail_after = fail_after

    def describe(self) -> dict[str, str]:
        return {"kind": "echo"}

    def written(self, prompt: Prompt) -> Prompt:
        return prompt

    def answers(
        self, prompts: Sequence[Prompt], *, max_new_tokens: int, stop: str | None, blind: bool
    ) -> Iterator[list[tuple[int, Answer]]]:
        for start in range(0, len(prompts), 2):
            batch = list(enumerate(prompts))[start : start + 2]
            for _, prompt in batch:
                if len(self.asked) == self.fail_after:
                    raise UserError("the endpoint refuses")
                self.asked.append(prompt.text)
            yield [(n, self.answer(prompt)) for n, prompt in batch]

    def likelihoods(
        self, prompts: Sequence[Prompt], choices: Sequence[Sequence[str]], *, blind: bool
    ) -> Iterator[list[tuple[int, list[float]]]]:
        for n, (prompt, its) in enumerate(zip(prompts, choices, strict=True)):
            self.asked.append(prompt.text)
            yield [(n, [-1 / (len(one) + 3) for one in its])]

    @staticmethod
    def answer(prompt: Prompt) -> Answer:
        number = int(prompt.text.split()[-1])
        return Answer(ODD.get(number, f"answer {number}"), finished=number != 5)


EXPECTED = {n: Echo.answer(prompt) for n, prompt in enumerate(ASKED)}


def ask(
    path: Path, echo: Echo, model: dict[str, str] = MODEL, count: int = 7, **more: Any
) -> dict[int, Answer]:
    way = {"max_new_tokens": 5, "stop": None, "blind": False, **more}
    with Journal(path, model) as journal:
        found: dict[int, Answer] = {}
        for batch in journal.answers(echo, ASKED[:count], DIGESTS[:count], **way):
            assert not found.keys() & {n for n, _ in batch}
            found |= dict(batch)
    return found


def test_nothing_is_asked_twice(tmp_path: Path) -> None:
    path = tmp_path / "new" / "answers.jsonl"
    first, second = Echo(), Echo()
    assert ask(path, first) == EXPECTED == ask(path, second)
    assert (len(first.asked), second.asked) == (7, [])


def test_another_way_of_asking_is_another_question(tmp_path: Path) -> None:
    path = tmp_path / "answers.jsonl"
    ask(path, Echo())
    for more in ({"blind": True}, {"max_new_tokens": 6}, {"stop": "."}, {"model": {"sha256": "b"}}):
        other = Echo()
        assert ask(path, other, **more) == EXPECTED
        assert len(other.asked) == 7
    last = Echo()
    ask(path, last)
    assert last.asked == []


def test_what_was_answered_before_a_failure_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "answers.jsonl"
    with pytest.raises(UserError, match="refuses"):
        ask(path, Echo(fail_after=4))
    again = Echo()
    assert ask(path, again) == EXPECTED
    assert again.asked == [prompt.text for prompt in ASKED[4:]]


def test_a_torn_last_line_at_every_byte(tmp_path: Path) -> None:
    path = tmp_path / "answers.jsonl"
    ask(path, Echo(), count=6)
    whole = path.read_bytes()
    begin = whole.rindex(b"\n", 0, -1) + 1
    for end in range(begin, len(whole)):
        path.write_bytes(whole[:end])
        again = Echo()
        assert ask(path, again, count=6) == {n: EXPECTED[n] for n in range(6)}
        assert again.asked == ["question 5"]
        assert path.read_bytes() == whole


@pytest.mark.parametrize(
    "damage", [b"\x00" * 40, b"{}", b"[1, [2]]", b'["k", 3]', b"\xff\xfe", b"[" * 5000, b"nan"]
)
def test_a_damaged_line_is_asked_again(tmp_path: Path, damage: bytes) -> None:
    path = tmp_path / "answers.jsonl"
    ask(path, Echo())
    lines = path.read_bytes().splitlines(keepends=True)
    lines[3] = damage + b"\n"
    path.write_bytes(b"".join(lines))
    again = Echo()
    assert ask(path, again) == EXPECTED
    assert len(again.asked) == 1


def test_equal_prompts_are_asked_once(tmp_path: Path) -> None:
    echo = Echo()
    twice = [ASKED[1], ASKED[0], ASKED[1]]
    with Journal(tmp_path / "a.jsonl", MODEL) as journal:
        digests = [prompt.digest() for prompt in twice]
        found = dict(
            pair
            for batch in journal.answers(
                echo, twice, digests, max_new_tokens=1, stop=None, blind=False
            )
            for pair in batch
        )
        assert len(journal) == 2
    assert found == {0: EXPECTED[1], 1: EXPECTED[0], 2: EXPECTED[1]}
    assert echo.asked == ["question 1", "question 0"]


def test_likelihoods_are_kept_to_the_bit(tmp_path: Path) -> None:
    choices = [["a", "bb"], ["ccc"], [], ["a", "bb"], ["a"], ["b"], ["c"]]
    rounds, asked = [], []
    for _ in range(2):
        echo = Echo()
        with Journal(tmp_path / "a.jsonl", MODEL) as journal:
            batches = journal.likelihoods(echo, ASKED, choices, DIGESTS, blind=False)
            rounds.append(dict(pair for batch in batches for pair in batch))
        asked.append(len(echo.asked))
    assert rounds[0] == rounds[1]
    assert rounds[0][0] == [-1 / 4, -1 / 5]
    assert asked == [7, 0]


def test_a_killed_process_loses_nothing_it_answered(tmp_path: Path) -> None:
    path = tmp_path / "answers.jsonl"
    script = """
        import sys, time
        from pathlib import Path
        from tests.eval.test_journal import ASKED, DIGESTS, MODEL, Echo
        from vila_core.eval.journal import Journal
        with Journal(Path(sys.argv[1]), MODEL) as journal:
            way = {"max_new_tokens": 5, "stop": None, "blind": False}
            for number, _ in enumerate(journal.answers(Echo(), ASKED, DIGESTS, **way)):
                if number == 1:
                    print("two batches", flush=True)
                    time.sleep(60)
    """
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(script), str(path)], stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    with process.stdout as output:
        assert output.readline() == b"two batches\n"
        os.kill(process.pid, signal.SIGKILL)
    process.wait()
    again = Echo()
    assert ask(path, again) == EXPECTED
    assert again.asked == [prompt.text for prompt in ASKED[4:]]


def test_a_journal_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"file/a\.jsonl: can't be used to keep answers: "):
        Journal(tmp_path / "file" / "a.jsonl", MODEL)
    with pytest.raises(UserError, match="can't be used to keep answers: Is a directory"):
        Journal(tmp_path, MODEL)
