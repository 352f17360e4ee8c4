from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

from tests.web.story import Story
from vila_core.store import Store

ROOT = Path(__file__).parents[2]


def vila(*words: str, store: Store) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "vila_ops.cli.main", "lineage", *words, "--store", store.uri],
        env={**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "80"},
        capture_output=True,
        text=True,
    )


def test_the_command_prints_a_tree_and_json(told_store: Store, story: Story) -> None:
    done = vila("miniature@candidate", store=told_store)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("version miniature@1\n")
    assert f"made by: task sft of {story.first.run_id}" in done.stdout
    both = vila("miniature@1", "--back", "--forward", "--json", store=told_store)
    back, forward = json.loads(both.stdout)
    assert (back["direction"], forward["direction"]) == ("back", "forward")
    assert {node["kind"] for node in back["nodes"]} >= {"version", "artifact", "task", "corpus"}
    assert [edge["label"] for edge in forward["edges"]] == ["stands at it now"]


def test_the_commands_of_the_page_work(told_store: Store) -> None:
    page = (ROOT / "docs/how-to/trace-lineage.md").read_text()
    commands = re.findall(r"^\$ vila lineage (.*)$", page, re.MULTILINE)
    assert len(commands) == 3
    for command in commands:
        done = vila(*shlex.split(command), store=told_store)
        assert done.returncode == 0, done.stderr
        assert len(done.stdout) > 200


def test_a_mistake_is_one_message(told_store: Store) -> None:
    done = vila("abc", store=told_store)
    assert done.returncode == 2
    assert done.stderr == "error: 'abc' is too short for a digest: give at least 6 digits.\n"
