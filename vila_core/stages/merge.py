"""Stage `merge`: all parts of a partitioned `prepare` to the data that an undivided one writes.

The parts read, converted, filtered, hashed and counted. Here samples meet, in the order of the
whole corpora: duplicates, evaluation sets, limits over samples, takedowns and the shards. So the
result does not depend on the number of parts, to the byte.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from vila_core.config import Frozen
from vila_core.data.dedupe.config import DedupeConfig
from vila_core.jsonio import digest
from vila_core.stages._building import Job, build_all, continue_or_clear, copy_evals, judge_of
from vila_core.stages._parts import EXCLUDE, Part, read_parts
from vila_core.types import QUIET, Reporter, StageResult

if TYPE_CHECKING:
    from vila_core.data.work import Work


class Config(Frozen):
    """Nothing: the parts say how they were prepared."""


def run(
    config: Config, inputs: Mapping[str, Path], out_dir: Path, report: Reporter = QUIET
) -> StageResult:
    """Write `out_dir/data` from the parts, which are the inputs, under any names and in any order.

    Killed anywhere and run again with the same `out_dir`, it goes on after the last finished shard.
    Raises UserError unless the parts are those of one prepare, and when too much of a corpus is
    broken; Damaged for a part that was changed.
    """
    from vila_core.data.sample import read_keys
    from vila_core.data.shards import ShardLimits

    parts = read_parts(inputs.values())
    first, settings = parts[0].folder, parts[0].settings
    data, notes = out_dir / "data", out_dir / "journal"
    continue_or_clear(digest([part.value for part in parts]), data, notes, report)
    for name in ("tokenizer", "eval"):
        shutil.rmtree(data / name, ignore_errors=True)
    shutil.copytree(first / "tokenizer", data / "tokenizer")
    evals = first / "eval" if settings["eval"] is not None else None
    exclude = read_keys(first / EXCLUDE) if settings["exclude"] is not None else frozenset()
    dedupe = settings["dedupe"] and DedupeConfig.model_validate(settings["dedupe"])
    judge = judge_of(dedupe, evals, report) if dedupe else None
    jobs = [
        _job(parts, number, dedupe, data / "tokenizer")
        for number in range(len(settings["corpora"]))
    ]
    report.info(f"joining {len(parts)} parts")
    shards = ShardLimits(**settings["shards"])
    metrics = build_all(jobs, data, notes, shards, exclude, judge, report)
    if evals is not None:
        copy_evals(evals, data / "eval")
    shutil.rmtree(notes, ignore_errors=True)
    return StageResult({"data": data}, metrics)


def _job(parts: Sequence[Part], number: int, dedupe: DedupeConfig | None, tokenizer: Path) -> Job:
    from vila_core.data.parts import Stored, Totals

    made = parts[0].settings["corpora"][number]
    name = made["name"]
    rows = [part.value["corpora"][name] for part in parts]
    held = [row["in_files"] for row in rows if row["in_files"] is not None]
    supply = Stored(
        [part.folder / "parts" / name for part in parts],
        [Totals(**row["totals"]) for row in rows],
        facts=made["made"],
        in_files=sum(held) if held else None,
    )
    return Job(_work(made, Path(rows[0]["path"]), dedupe, tokenizer), supply)


def _work(
    made: Mapping[str, object], path: Path, dedupe: DedupeConfig | None, tokenizer: Path
) -> Work:
    """Return what is left to know of a corpus: nothing of how its records are read."""
    from vila_core.data.rules import Rules
    from vila_core.data.work import CorpusSource, SampleLimits, Work

    facts = made["made"]
    assert isinstance(facts, dict)
    source = CorpusSource(
        str(made["name"]),
        facts["format"],
        path,
        None,
        template=str(made["template"]),
        max_set_aside=float(str(made["max_set_aside"])),
        rules=Rules.model_validate(made["rules"]),
    )
    return Work(source, tokenizer, SampleLimits(), dedupe)
