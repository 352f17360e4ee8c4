"""A download from its config: begun, gone on with after any end, or asked again for what failed."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vila_core.data.download.corpus import OWN, URL, Corpus, Row, Shard
from vila_core.data.download.engine import Engine, Tell, Work
from vila_core.data.download.fetch import Fetcher
from vila_core.data.download.http import Http
from vila_core.data.download.output import Output, Result, Stored
from vila_core.data.download.reasons import REASONS, SUCCESS, Failure
from vila_core.data.download.settings import DownloadConfig
from vila_core.errors import UserError, VilaError
from vila_core.jsonio import dumps, read_object

ABOUT = "download.json"
_VERSION = 1


@dataclass(frozen=True)
class Report:
    """What the folder holds now. Addresses = images + the sum of `reasons`."""

    addresses: int
    images: int
    reasons: Mapping[str, int]
    may_heal: int
    shards: int
    broken_records: int

    def as_json(self) -> dict[str, Any]:
        """Return it as JSON values."""
        return {**self.__dict__, "reasons": dict(self.reasons)}


@dataclass(frozen=True)
class Task:
    """What a call has to do, known before its first request."""

    rows: int | None  # None if only reading the corpus would tell
    files: int  # of the corpus
    shards: int  # that are finished already


def download(
    config: DownloadConfig,
    to: Path,
    *,
    retry: bool = False,
    begin: Callable[[Task], None] | None = None,
    tell: Tell | None = None,
) -> Report:
    """Fetch the images of a corpus into the folder `to`; a killed call is gone on with.

    With `retry`, addresses of finished shards that failed and may heal are asked again. `begin`
    hears what is to be done. Raises UserError for a corpus that can't be read, and for a folder
    that was begun otherwise; VilaError for a disk that can't be written.
    """
    try:
        return _download(config, to, retry, begin or _ignore, tell or _ignore)
    except OSError as error:
        raise VilaError(f"{to}: can't be written: {error.strerror or error}") from None


def _ignore(told: object) -> None:
    pass


def _download(
    config: DownloadConfig, to: Path, retry: bool, begin: Callable[[Task], None], tell: Tell
) -> Report:
    corpus = Corpus(config)
    _refuse_inside(Path(config.path).expanduser(), to)
    output = Output(to, packed=config.format == "coyo")
    about = {"version": _VERSION, "files": corpus.sources(), **config.identity()}
    _refuse_other(to, about)
    with output.locked(), Http(config) as http:
        path = to / ABOUT
        if not path.exists():
            part = path.with_name(f".{ABOUT}.part")
            part.write_text(dumps(about, indent=2) + "\n", encoding="utf-8")
            os.replace(part, path)
        finished = output.finished()
        before = report(output)
        total = corpus.total()
        rows = None if total is None else total - before.addresses
        if rows is not None and retry:
            rows += before.may_heal
        begin(Task(rows, corpus.files(), len(finished)))
        engine = Engine(config, Fetcher(config, http), output)
        engine.run(_works(corpus, output, finished, retry), tell)
        return _proved(report(output), total)


def report(output: Output) -> Report:
    """Return the sum of what the finished shards count."""
    total: Counter[str] = Counter()
    reasons: Counter[str] = Counter()
    names = output.finished()
    for name in names:
        counts = output.counts(name)
        reasons.update(counts["status_dict"])
        total.update({key: value for key, value in counts.items() if isinstance(value, int)})
    images = reasons.pop(SUCCESS, 0)
    return Report(
        total["count"],
        images,
        dict(sorted((+reasons).items())),
        total["may_heal"],
        len(names),
        total["broken_records"],
    )


def _proved(found: Report, total: int | None) -> Report:
    """Return the report if its numbers add up to those of the corpus. Raises VilaError."""
    told = found.images + sum(found.reasons.values())
    if told != found.addresses or total not in (None, found.addresses):
        raise VilaError(
            f"the counters don't add up: {total} rows in the corpus, {found.addresses:,} in the "
            f"shards, {told:,} of these with a result. Was a file of the folder changed by hand?"
        )
    return found


def _works(corpus: Corpus, output: Output, finished: list[str], retry: bool) -> Iterator[Work]:
    if retry:
        for name in finished:
            work = _repair(output, name)
            if work is not None:
                yield work
    for shard in corpus.shards(set(finished)):
        yield Work(shard)


def _repair(output: Output, name: str) -> Work | None:
    """Return the rows of a finished shard, those that may heal without a result."""
    counts = output.counts(name)
    if not counts["may_heal"]:
        return None
    rows: list[Row] = []
    known: list[Result | None] = []
    for record in output.table(name):
        about = {key: value for key, value in record.items() if key not in (*OWN, URL)}
        rows.append(Row(record["key"], record[URL], about))
        reason = record["reason"]
        if reason is None:
            known.append(
                Stored(
                    "",
                    record["width"],
                    record["height"],
                    record["original_width"],
                    record["original_height"],
                    record["sha256"],
                )
            )
        elif REASONS[reason].heals:
            known.append(None)
        else:
            detail = record["error_message"].removeprefix(reason).removeprefix(": ")
            known.append(Failure(reason, detail))
    return Work(Shard(name, rows, counts["broken_records"]), known)


def _refuse_inside(corpus: Path, to: Path) -> None:
    place, folder = to.resolve(), corpus.resolve()
    if folder.is_dir() and (place == folder or folder in place.parents):
        raise UserError(
            f"{to}: lies in the corpus's own folder {corpus}, whose files would be mixed up with "
            "the tables written here.\n  fix: name a folder elsewhere"
        )


def _refuse_other(to: Path, about: Mapping[str, Any]) -> None:
    """Raise UserError if the folder holds something else, or a download of other settings."""
    path = to / ABOUT
    if not path.exists():
        if to.exists() and (not to.is_dir() or any(one.name[0] != "." for one in to.iterdir())):
            raise UserError(f"{to}: exists and is no download.\n  fix: name a new folder")
        return
    begun = read_object(path)
    for name in sorted({*about, *begun}):
        if begun.get(name) == about.get(name):
            continue
        if name == "files":
            raise UserError(
                f"{to}: was begun from other files: the corpus has changed.\n"
                "  fix: bring the old files back, or name a new folder"
            )
        raise UserError(
            f"{to}: was begun with {name} = {dumps(begun.get(name))}, now it is "
            f"{dumps(about.get(name))}.\n  fix: go on with the old value, or name a new folder"
        )
