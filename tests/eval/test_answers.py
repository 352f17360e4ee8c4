"""Records of an evaluation read as arrays: what is a record, what draws give, what is shared."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vila_core.errors import Damaged, NotFound, UserError
from vila_core.eval.answers import Answers, Questions, Scores, shared_places
from vila_core.eval.read_answers import Records, answers_of, read_answers
from vila_core.store import FileStore, Store, publish


def row(key: str = "q0", score: object = 1.0, **more: Any) -> dict[str, Any]:
    fixed = {"task": "vqa", "shots": 0, "condition": "seen", "prompt_digest": "p"}
    return {"key": key, "score": score, **fixed, **more}


def text_of(rows: Iterable[Mapping[str, Any]]) -> bytes:
    return "".join(json.dumps(each) + "\n" for each in rows).encode()


def read(*rows: Mapping[str, Any]) -> Answers:
    (found,) = read_answers([text_of(rows)], "here").values()
    return found


def publish_text(store: FileStore, folder: Path, text: bytes) -> str:
    folder.mkdir()
    (folder / "records.jsonl").write_bytes(text)
    return publish(store, folder).sha256


@pytest.mark.parametrize(
    "bad",
    [
        row(score=math.nan),
        row(score=math.inf),
        row(score=1e301),
        row(score="1.0"),
        row(score=[1.0]),
        row(key=7),
        row(task=7),
        row(task=["vqa"]),
        row(shots="0"),
        row(shots=0.5),
        row(seed="0"),
        row(order=None),
        row("other", unit=7),
        row(prompt_digest=7),
        row(condition="blind", score=math.nan),
        {"key": "q"},
        ["key"],
        "key",
    ],
)
def test_what_is_no_record_is_told_with_its_line(bad: Any) -> None:
    text = text_of([row(), row("q1")]) + b"\n" + json.dumps(bad).encode() + b"\n" + text_of([row()])
    with pytest.raises(UserError, match=r"^here:4: is not a record of an evaluation$"):
        read_answers([text], "here")


@pytest.mark.parametrize("torn", [b'{"key": "q1", "sco', b"\xff", b"{} {}", b"[" * 100_000, b" "])
def test_a_torn_line_is_told(torn: bytes) -> None:
    for text in (text_of([row()]) + torn, text_of([row()]) + torn + b"\n" + text_of([row("q2")])):
        for size in (1, 7, len(text)):
            pieces = [text[at : at + size] for at in range(0, min(len(text), 2000), size)]
            with pytest.raises(UserError, match=r"^here:2: is not"):
                read_answers(pieces, "here")


def test_a_number_too_large_for_a_float_is_no_score() -> None:
    text = text_of([row()]).replace(b"1.0", b"1" + b"0" * 400)
    with pytest.raises(UserError, match="here:1:"):
        read_answers([text], "here")


def test_pieces_may_end_anywhere() -> None:
    rows = [row(f"ü{number}", float(number % 3 == 0)) for number in range(20)]
    text = text_of(rows).replace(b"\n", b"\r\n", 1)
    whole = read_answers([text], "here")["vqa", 0]
    for size in (1, 3, 100):
        pieces = [text[at : at + size] for at in range(0, len(text), size)]
        found = read_answers(pieces, "here")["vqa", 0]
        assert found.asked is whole.asked
        assert found.scores.tolist() == whole.scores.tolist()
        assert found.places.tolist() == whole.places.tolist()
        assert found.lines.tolist() == whole.lines.tolist()
    assert whole.asked.keys() == [each["key"] for each in rows]
    assert whole.asked.key(7) == "ü7"
    assert [text[place:].split(b'"', 4)[3] for place in whole.places.tolist()] == [
        json.dumps(each["key"])[1:-1].encode() for each in rows
    ]


def test_benchmarks_and_shots_are_told_apart_and_controls_left_out() -> None:
    rows = [row(), row(shots=4, score=0.5), row(task="mme"), row(condition="blind", score=0.0)]
    rows += [row("other", condition="text-only", score=0.0)]
    found = read_answers([text_of(rows)], "here")
    assert list(found) == [("vqa", 0), ("vqa", 4), ("mme", 0)]
    assert [each.name for each in found.values()] == ["vqa@0", "vqa@4", "mme@0"]
    assert [each.scores.tolist() for each in found.values()] == [[1.0], [0.5], [1.0]]
    assert read_answers([], "here") == read_answers([b"\n\n"], "here") == {}


def test_a_question_without_a_unit_is_one_of_its_own() -> None:
    found = read(
        row("a", unit=""), row("b", unit="x"), row("c"), row("d", unit="x"), row("e", unit=None)
    )
    assert found.asked.units.tolist() == [0, 1, 2, 1, 3]
    assert read(row("a"), row("b", unit="a")).asked.units.tolist() == [0, 0]


def test_draws_are_averaged_exactly_and_kept_apart() -> None:
    scores = {0: (0.1, 1.0), 1: (0.2, 0.0), 2: (0.3, 0.0)}
    found = read(
        *(
            row(key, score, shots=4, seed=seed, prompt_digest=f"{key}{seed}")
            for seed, each in scores.items()
            for key, score in zip("ab", each, strict=True)
        )
    )
    assert found.scores.tolist() == [math.fsum([0.1, 0.2, 0.3]) / 3, 1 / 3]
    assert {asked: each.values.tolist() for asked, each in found.rounds.items()} == {
        (seed, 0): list(each) for seed, each in scores.items()
    }
    same = read(*(row("a", 0.0, seed=seed, prompt_digest=f"a{seed}") for seed in range(3)))
    other = read(*(row("a", 0.0, seed=seed, prompt_digest=f"a{2 - seed}") for seed in range(3)))
    assert same.prompts[0] == found.prompts[0] != other.prompts[0]


@pytest.mark.parametrize(
    "rows",
    [
        [row("a"), row("b"), row("a", seed=1)],
        [row("a"), row("b"), row("a", seed=1), row("a", seed=1)],
        [row("a"), row("a")],
    ],
)
def test_draws_of_other_questions_are_no_rounds(rows: list[dict[str, Any]]) -> None:
    found = read(*rows)
    assert (found.rounds, found.scored) == ({}, True)
    assert set(found.scores.tolist()) == {1.0}


def test_a_score_that_is_not_known() -> None:
    found = read(row("a", None), row("b", 0.5), row("b", None, seed=1), row("a", None, seed=1))
    assert (found.scored, found.rounds) == (False, {})
    np.testing.assert_array_equal(found.scores, [math.nan, 0.5])
    assert read(row(version="1"), row("b", version=None)).versions == {"1", ""}


def test_numbers_come_back_as_they_were() -> None:
    few = np.array([0.0, 0.3, math.nan, 1.0] * 100)
    many = np.arange(1000) / 999
    for values, taken in ((few, 800), (many, 8400)):
        packed = Scores.of(values)
        np.testing.assert_array_equal(packed.values, values)
        assert packed.bytes < taken


def test_evaluations_of_the_same_questions_share_them() -> None:
    rows = [row(f"q{number}", prompt_digest=f"p{number}") for number in range(1000)]
    first = read(*rows)
    second = read(*({**each, "score": 0.0} for each in rows))
    worded = read(*({**each, "prompt_digest": "other"} for each in rows))
    joined = read(*({**each, "unit": "one"} for each in rows))
    assert first.asked is second.asked is worded.asked
    assert first.prompts is second.prompts
    assert joined.asked is not first.asked
    assert second.bytes < 20 * 1000 < first.bytes
    assert (first.prompts != worded.prompts).all()
    at_first, at_second = shared_places(first, second)
    assert at_first.tolist() == at_second.tolist() == list(range(1000))
    asked = first.asked.index()
    assert asked["q77"] == 77
    kept = Questions.of(["", "\udc80", "é"], ["a", "b", "a"])
    assert kept.keys() == ["", "\udc80", "é"]
    assert [kept.key(place) for place in range(3)] == kept.keys()


def test_shared_questions_are_found_in_another_order() -> None:
    ours = read(row("a"), row("b"), row("c"))
    theirs = read(row("c"), row("x"), row("a"))
    at_ours, at_theirs = shared_places(ours, theirs)
    assert (at_ours.tolist(), at_theirs.tolist()) == ([0, 2], [2, 0])
    assert [len(each) for each in shared_places(ours, read(row("y")))] == [0, 0]


def record_at(store: Store, sha256: str, answers: Answers, place: int) -> dict[str, object]:
    with Records(store) as records:
        return records.at(sha256, answers, place)


def test_a_record_is_read_back_and_checked(tmp_path: Path) -> None:
    store = FileStore(tmp_path / "store")
    rows = [row(key, seed=seed, answer=f"{key}{seed}") for seed in (0, 1) for key in "abc"]
    sha256 = publish_text(store, tmp_path / "made", text_of(rows)[:-1])
    found = answers_of(store, sha256)["vqa", 0]
    for place in range(3):
        assert record_at(store, sha256, found, place) == rows[place]
    path = store.local_path(f"artifacts/{sha256}/records.jsonl")
    path.chmod(0o644)
    path.write_bytes(text_of(rows).replace(b"b0", b"z0"))
    assert record_at(store, sha256, found, 2) == rows[2]
    with pytest.raises(Damaged, match=r"records.jsonl: is not what it was"):
        record_at(store, sha256, found, 1)
    with pytest.raises(Damaged, match=r"records.jsonl: does not match its digest"):
        answers_of(store, sha256)
    path.unlink()
    with pytest.raises(NotFound, match="is gone"):
        record_at(store, sha256, found, 1)


def test_records_of_a_bucket_are_fetched_once(tmp_path: Path) -> None:
    store = FileStore(tmp_path / "store")
    rows = [row(key) for key in "abc"]
    sha256 = publish_text(store, tmp_path / "made", text_of(rows))
    found = answers_of(store, sha256)["vqa", 0]
    store.local_path = lambda key: None  # type: ignore[method-assign]
    with Records(store) as records:
        assert records.at(sha256, found, 2) == rows[2]
        store.delete(f"artifacts/{sha256}/records.jsonl")
        assert records.at(sha256, found, 0) == rows[0]
    with pytest.raises(Damaged, match="is missing from the artifact"):
        record_at(store, sha256, found, 0)


def test_damage_is_told_before_the_line_that_it_made(tmp_path: Path) -> None:
    store = FileStore(tmp_path / "store")
    text = text_of(row(f"q{number}") for number in range(20_000))
    sha256 = publish_text(store, tmp_path / "made", text)
    path = store.local_path(f"artifacts/{sha256}/records.jsonl")
    path.chmod(0o644)
    path.write_bytes(text[:100] + b"\n" + text[101:])
    with pytest.raises(Damaged, match="does not match its digest"):
        answers_of(store, sha256)
    bad = publish_text(store, tmp_path / "bad", text + b"{")
    with pytest.raises(UserError, match=rf"/{bad}/records.jsonl:20001: is not a record"):
        answers_of(store, bad)
