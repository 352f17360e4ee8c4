"""Readers of corpora in the formats in which they are published, by format name."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from vila_core.data.readers import (
    coyo,
    custom,
    flan,
    groups,
    img2dataset,
    llava,
    m3it,
    mmc4,
    pairs,
    prepared,
    sharegpt4v,
    webdataset,
)
from vila_core.data.readers.common import Convert, Options, converted
from vila_core.data.readers.files import CorpusFile, Record, RecordFile, corpus_files
from vila_core.data.readers.tables import check_columns
from vila_core.data.sample import Sample, SetAside
from vila_core.errors import UserError

if TYPE_CHECKING:
    import numpy as np

Selection = Mapping[str, "np.ndarray"]
"""Record numbers (integers, ascending) to take of each file, by shard; no entry means none."""


def take_all(files: Sequence[RecordFile], options: Options) -> Selection | None:
    """Return None: every record is taken."""
    return None


def no_columns(options: Options) -> Sequence[frozenset[str]]:
    """Return nothing: columns are not checked beforehand."""
    return ()


@dataclass(frozen=True)
class Reader:
    """A format: where its records lie, how one becomes a sample, its options and usual template.

    `files(path)` lists the files of the corpus at `path` in an order that is always the same; their
    records are read in one process and are cheap. `converter(path, images, options)` gives what
    turns a record into samples, in any process: that part reads images and may be slow.
    `select(files, options)` says which records to take before any of them is read, from what is
    cheap to look at (columns of scores, counts of lines); None is all of them. The others are
    neither samples nor set aside.
    `columns(options)` are sets of columns, one of which every parquet file needs. `licence` is the
    corpus's own where it is published under one. An empty `template` is for the user to choose.
    """

    converter: Callable[[Path, Path | None, Options], Convert]
    options: type[Options]
    template: str
    files: Callable[[Path], Sequence[RecordFile]] = corpus_files
    select: Callable[[Sequence[RecordFile], Options], Selection | None] = take_all
    columns: Callable[[Options], Sequence[frozenset[str]]] = no_columns
    licence: str | None = None

    def find(self, path: Path, options: Options) -> tuple[Sequence[RecordFile], Selection | None]:
        """Return the corpus's files and which of their records to take, before any is read.

        Raises UserError when `path` holds no such corpus, or a table lacks a column.
        """
        files = self.files(path)
        wanted = self.columns(options)
        tables = [file.path for file in files if isinstance(file, CorpusFile)]
        if wanted:
            check_columns((table for table in tables if table.suffix == ".parquet"), wanted)
        return files, self.select(files, options)

    def read(
        self,
        path: Path,
        *,
        corpus: str,
        images: Path | None = None,
        options: Options | None = None,
    ) -> Iterator[Sample | SetAside]:
        """Yield what the corpus at `path` (a file, or a folder of files) holds, in record order.

        `images` is its image folder. A record that can't be used comes as SetAside. Raises
        UserError when `path`, or one of its files as a whole, can't be read.
        """
        options = options or self.options()
        convert = self.converter(path, images, options)
        files, selection = self.find(path, options)
        for file in files:
            for record in selected(file, selection):
                yield from converted(corpus, file.shard, record, convert, licence=self.licence)


def selected(file: RecordFile, selection: Selection | None) -> Iterator[Record]:
    """Yield the records of `file` that are in `selection`, all of them when it is None."""
    if selection is None:
        yield from file.records()
        return
    wanted = iter(selection.get(file.shard, ()))
    number = next(wanted, None)
    if number is None:
        return  # a file of which nothing is taken isn't even opened
    for record in file.records():
        if record.number != number:
            continue
        yield record
        number = next(wanted, None)
        if number is None:
            return


READERS: dict[str, Reader] = {
    "mmc4": Reader(
        mmc4.Converter, mmc4.Mmc4Options, "plain", columns=mmc4.columns, licence="ODC-BY"
    ),
    "coyo": Reader(
        coyo.Converter,
        coyo.CoyoOptions,
        "plain",
        select=coyo.select,
        columns=coyo.columns,
        licence="CC-BY-4.0",
    ),
    "llava": Reader(llava.Converter, llava.LlavaOptions, "vicuna_v1", columns=llava.columns),
    "flan": Reader(
        flan.Converter,
        flan.FlanOptions,
        "vicuna_v1_no_system",
        select=flan.select,
        columns=flan.columns,
        licence="CC-BY-4.0",
    ),
    "m3it": Reader(m3it.Converter, m3it.M3itOptions, "vicuna_v1_no_system", columns=m3it.columns),
    "sharegpt4v": Reader(
        sharegpt4v.Converter,
        sharegpt4v.ShareGpt4vOptions,
        "vicuna_v1",
        columns=llava.columns,
        licence="CC-BY-NC-4.0",
    ),
    "img2dataset": Reader(
        img2dataset.Converter,
        groups.GroupOptions,
        "plain",
        files=img2dataset.files,
        columns=img2dataset.columns,
    ),
    "webdataset": Reader(groups.Converter, groups.GroupOptions, "plain", files=webdataset.files),
    "vila-wds": Reader(
        groups.Converter, groups.GroupOptions, "plain", files=webdataset.listed_files
    ),
    "pairs": Reader(groups.Converter, pairs.PairOptions, "plain", files=pairs.files),
    "prepared": Reader(prepared.Converter, Options, "", files=prepared.files),
}
"""Readers by format name. Others are named by their place: see `reader_of`."""


def reader_of(name: str) -> Reader:
    """Return the reader of a format: one of ours, or the user's own by module or file.

    Raises UserError for an unknown name, and for a place where there is no Reader.
    """
    if name in READERS:
        return READERS[name]
    if not custom.is_custom(name):
        raise UserError(
            f"format '{name}' is unknown; known are {', '.join(READERS)}, and your own as "
            f"{custom.EXAMPLE}"
        )
    reader = custom.load(name)
    if not isinstance(reader, Reader):
        raise UserError(f"format '{name}': is {type(reader).__name__}, expected a Reader")
    return replace(reader, converter=partial(custom.Guarded, name, reader.converter))


def code_file(name: str) -> Path | None:
    """Return the file that defines a format, None for ours."""
    return None if name in READERS else custom.code_file(name)
