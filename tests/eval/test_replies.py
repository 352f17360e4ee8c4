"""Replies of a judge survive a killed process."""

from __future__ import annotations

from pathlib import Path

import pytest

from vila_core.errors import UserError
from vila_core.eval.replies import Replies


def test_replies_are_there_as_soon_as_they_are_set(tmp_path: Path) -> None:
    path = tmp_path / "judge" / "replies.jsonl"
    with Replies(path) as replies:
        replies["a"] = "8 6\nsince \N{SNOWMAN} \u2028 \x00"
        with Replies(path) as again:  # as after kill -9: the first one was never closed
            assert dict(again) == dict(replies) == {"a": "8 6\nsince \N{SNOWMAN} \u2028 \x00"}


def test_a_half_written_or_damaged_line_is_asked_again(tmp_path: Path) -> None:
    path = tmp_path / "replies.jsonl"
    with Replies(path) as replies:
        replies["a"], replies["b"] = "1", "2"
    whole = path.read_bytes()
    path.write_bytes(whole + b'{"key": 1}\nnot json\n{"key":"c","rep')
    with Replies(path) as replies:
        assert dict(replies) == {"a": "1", "b": "2"}
        replies["c"] = "3"
    with Replies(path) as replies:
        assert dict(replies) == {"a": "1", "b": "2", "c": "3"}
    assert path.read_bytes().startswith(whole)


def test_a_place_that_can_not_be_used(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="can't be used to keep replies"):
        Replies(tmp_path / "file" / "replies.jsonl")
