"""The choice benchmarks read from S3."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.eval.benchmarks import samples_choice as samples
from tests.eval.benchmarks.test_choice_readers import asked, read, shown
from vila_core.errors import UserError
from vila_core.store import Store


@pytest.mark.parametrize("name", ["pope", "mme", "mmbench", "seed", "nlvr2", "llava_bench"])
def test_a_bucket_gives_the_same_questions(name: str, tmp_path: Path, s3_store: Store) -> None:
    samples.MAKERS[name](tmp_path)
    for path in sorted(tmp_path.rglob("*")):
        if path.is_file():
            s3_store.write(path.relative_to(tmp_path).as_posix(), path.read_bytes())
    _, here = read(name, tmp_path)
    _, there = read(name, s3_store.uri)
    assert [q.key for q in there] == [q.key for q in here]
    assert [asked(q) for q in there] == [asked(q) for q in here]
    assert [shown(q) for q in there[:3]] == [shown(q) for q in here[:3]]


@pytest.mark.parametrize("name", samples.MAKERS)
def test_an_empty_bucket_is_told(name: str, s3_store: Store) -> None:
    with pytest.raises(UserError, match=r"missing|holds no"):
        read(name, s3_store.uri)
