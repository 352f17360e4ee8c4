"""Corpora in parts: from the command line, and as KFP's loop over parts with a merge."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from components.partition import parse_partition, partitioned
from pipelines.compile import COMPILED
from tests.data.make import write_lines
from tests.data.test_data_prepare import SMALL, config, tree
from vila_core.errors import UserError
from vila_core.miniature.words import write_tokenizer
from vila_core.stages import prepare
from vila_core.store import FileStore
from vila_ops.cli.main import app
from vila_ops.data.trace import places

ROOT = Path(__file__).parents[2]


def vila(*arguments: object) -> str:
    result = CliRunner().invoke(app, [str(one) for one in ("data", *arguments)])
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.output


def test_parts_are_made_and_joined_from_the_command_line(tmp_path: Path) -> None:
    write_tokenizer(tmp_path / "lm")
    rows = [{"inputs": f"q {n}", "targets": f"{n % 30}"} for n in range(100)]
    write_lines(tmp_path / "flan.jsonl", rows + rows[:20])
    corpus = {"name": "flan", "format": "flan", "path": str(tmp_path / "flan.jsonl")}
    section = {"source": "corpora", "tokenizer": str(tmp_path / "lm"), "corpora": [corpus]}
    recipe = tmp_path / "data.yaml"
    recipe.write_text(yaml.safe_dump({"prepare": section}))
    vila("prepare", recipe, "--to", tmp_path / "whole")
    told = vila("prepare", recipe, "--to", tmp_path / "p0", "--part", "0/2")
    assert "flan: 64 records, 64 samples, 0 set aside\npart 0 of 2 (0 to 1): " in told
    part = json.loads(vila("prepare", recipe, "--to", tmp_path / "p1", "--part", "1/2", "--json"))
    assert (part["index"], part["of"]) == (1, 2)
    told = vila("merge", tmp_path / "out", tmp_path / "p1", tmp_path / "p0")
    assert "flan     120   100         20" in told
    assert tree(tmp_path / "out") == tree(tmp_path / "whole")
    assert not list(tmp_path.glob("*.preparing"))
    with pytest.raises(UserError, match="exists already"):
        vila("merge", tmp_path / "out", tmp_path / "p1", tmp_path / "p0")
    with pytest.raises(UserError, match="missing: 1"):
        vila("merge", tmp_path / "new", tmp_path / "p0")
    assert not list(tmp_path.glob("new*"))


def test_a_partition_as_text() -> None:
    assert parse_partition("0/8") == {"index": 0, "of": 8}
    assert partitioned("prepare", '{"source":"miniature"}', "7/8") == (
        "prepare-7-of-8",
        '{"source": "miniature", "partition": {"index": 7, "of": 8}}',
    )
    for text in ("8/8", "1", "-1/3", "a/b", "1/0", ""):
        with pytest.raises(UserError, match="from 0/8 to 7/8"):
            parse_partition(text)


def test_the_compiled_loop_collects_its_parts_into_the_merge() -> None:
    spec = yaml.safe_load((COMPILED / "prepare_parallel.yaml").read_text())
    tasks = spec["root"]["dag"]["tasks"]
    (loop,) = [name for name, task in tasks.items() if "parameterIterator" in task]
    assert tasks["merge"]["dependentTasks"] == [loop]
    (given,) = tasks["merge"]["inputs"]["artifacts"].values()
    assert given["taskOutputArtifact"]["producerTask"] == loop


_RUN = """
import json, sys
from kfp import local
from pipelines.prepare_parallel import prepare_parallel

root, context, config = sys.argv[1:]
local.init(local.SubprocessRunner(use_venv=False), pipeline_root=root)
prepare_parallel(context=context, prepare=config, partitions=["0/2", "1/2"])
"""


@pytest.mark.slow
def test_kfp_runs_the_loop_to_the_bytes_of_the_undivided_prepare(tmp_path: Path) -> None:
    context = {"store": str(tmp_path / "store"), "run_id": "20260101-000000-abcdef"}
    context["tracking"] = "disabled"
    values = [tmp_path / "root", json.dumps(context), json.dumps({"miniature": SMALL})]
    command = [sys.executable, "-c", _RUN, *map(str, values)]
    done = subprocess.run(
        command,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        cwd=tmp_path,
        timeout=120,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    prepare.run(config(miniature=SMALL), {}, tmp_path / "whole")
    entries = [
        json.loads(path.read_bytes())
        for path in (tmp_path / "store/cache").glob("*")
        if path.is_file()
    ]
    stages = sorted(entry["key_parts"]["stage"] for entry in entries)
    assert stages == ["merge", "prepare", "prepare"]
    (merged,) = [entry for entry in entries if entry["key_parts"]["stage"] == "merge"]
    made = tree(tmp_path / "store/artifacts" / merged["outputs"]["data"]["sha256"])
    made.pop("manifest.json")
    assert made == tree(tmp_path / "whole/data")
    (place,) = places(FileStore(tmp_path / "store"), "coyo/00000/000001")  # in no part
    assert place.run_id == context["run_id"]
