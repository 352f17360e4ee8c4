"""One part of a prepare on its way from the machine that made it to stage `merge`."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vila_core.errors import Damaged, UserError
from vila_core.jsonio import dumps
from vila_core.stages._building import Job
from vila_core.types import Reporter

if TYPE_CHECKING:
    from vila_core.data.shards import ShardLimits
    from vila_core.stages.prepare import Partition

PART = "part.json"
EXCLUDE = "exclude.txt"
_VERSION = 1


def write_parts(
    partition: Partition,
    jobs: Sequence[Job],
    data: Path,
    shards: ShardLimits,
    evals: Path | None,
    exclude: Path | None,
    report: Reporter,
) -> dict[str, float]:
    """Write `data/parts`, one folder per corpus, and what a merge must know; return metrics.

    Raises UserError for a corpus that can't be read. How much of it is broken is judged by the
    merge, which knows all of it.
    """
    from vila_core.data.parts import write_part
    from vila_core.data.sample import read_keys
    from vila_core.data.supply import Making

    settings: dict[str, Any] = {
        "shards": vars(shards),
        "dedupe": (chosen := jobs[0].work.dedupe) and chosen.model_dump(mode="json"),
        "eval": _digests(evals) if evals else None,
        "exclude": sorted(read_keys(exclude)) if exclude else None,
        "corpora": [],
    }
    if exclude is not None:
        shutil.copyfile(exclude, data / EXCLUDE)
    corpora: dict[str, Any] = {}
    for number, job in enumerate(jobs):
        source, making = job.work.source, job.supply
        assert isinstance(making, Making)

        def told(records: int, of: int, number: int = number) -> None:
            report.progress(number, len(jobs), "corpora", records=records, of=of)

        told(0, 0)
        settings["corpora"].append(
            {
                "name": source.name,
                "template": source.template,
                "max_set_aside": source.max_set_aside,
                "rules": source.rules.model_dump(mode="json"),
                "made": dict(making.facts),
            }
        )
        totals = write_part(
            making, data / "parts" / source.name, limits=shards, dedupe=chosen, told=told
        )
        corpora[source.name] = {
            "path": str(source.path),
            "in_files": making.in_files(),
            "totals": vars(totals),
        }
        report.info(f"{source.name}: {totals.samples} samples, {totals.set_aside} set aside")
    report.progress(len(jobs), len(jobs), "corpora")
    value = {
        "version": _VERSION,
        "index": partition.index,
        "of": partition.of,
        "settings": settings,
        "corpora": corpora,
    }
    (data / PART).write_text(f"{dumps(value, indent=2)}\n", encoding="utf-8")
    rows = [corpus["totals"] for corpus in corpora.values()]
    return {name: float(sum(row[name] for row in rows)) for name in ("samples", "set_aside")}


@dataclass(frozen=True)
class Part:
    """A part as it came: the folder `data` of a prepare, and its `part.json`."""

    folder: Path
    value: dict[str, Any]

    @property
    def index(self) -> int:
        """Which one it is."""
        return self.value["index"]

    @property
    def settings(self) -> dict[str, Any]:
        """What is the same in all parts."""
        return self.value["settings"]


def read_parts(folders: Iterable[Path]) -> list[Part]:
    """Return all parts of one prepare in their order.

    Raises UserError unless the folders are each part once, prepared with the same settings.
    """
    parts = sorted((_read(folder) for folder in folders), key=lambda part: part.index)
    if not parts:
        raise UserError("no parts are named; a prepare with `partition` writes one.")
    first = parts[0]
    of = first.value["of"]
    for part in parts[1:]:
        if part.value["of"] != of:
            raise UserError(
                f"{part.folder} is one of {part.value['of']} parts, {first.folder} one of {of}.\n"
                "  fix: prepare all parts with the same `partition.of`."
            )
        if part.settings != first.settings:
            raise UserError(
                f"{part.folder} and {first.folder} were prepared with other settings: "
                f"{', '.join(_different(part.settings, first.settings))}.\n"
                "  fix: prepare all parts with one config, tokenizer and evaluation sets."
            )
    there = [part.index for part in parts]
    if there != list(range(of)):
        missing = sorted(set(range(of)) - set(there))
        twice = sorted({index for index in there if there.count(index) > 1})
        what = [f"missing: {', '.join(map(str, missing))}"] if missing else []
        what += [f"twice: {', '.join(map(str, twice))}"] if twice else []
        raise UserError(f"of {of} parts (0 to {of - 1}), {'; '.join(what)}.")
    return parts


def _read(folder: Path) -> Part:
    for place in (folder, folder / "data"):
        try:
            value = json.loads((place / PART).read_bytes())
        except (FileNotFoundError, NotADirectoryError):
            continue
        except ValueError as error:
            raise Damaged(f"{place / PART}: is not valid JSON: {error}") from None
        if value.get("version") != _VERSION:
            raise UserError(f"{place / PART}: is of another version; prepare this part again.")
        return Part(place, value)
    raise UserError(
        f"{folder}: is not a part: {PART} is missing.\n"
        "  fix: prepare it with `partition` (vila data prepare … --part 0/8)."
    )


def _different(ours: dict[str, Any], theirs: dict[str, Any]) -> list[str]:
    return [name for name in sorted(ours) if ours[name] != theirs.get(name)]


def _digests(evals: Path) -> dict[str, str]:
    import hashlib

    files = sorted(path for path in evals.rglob("*") if path.is_file())
    return {
        path.relative_to(evals).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in files
    }
