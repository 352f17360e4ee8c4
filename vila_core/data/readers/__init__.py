"""Readers of corpora in the formats in which they are published, by format name."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from vila_core.data.readers import coyo, flan, llava, mmc4
from vila_core.data.readers.common import Convert, Options, converted
from vila_core.data.readers.files import RecordFile, corpus_files
from vila_core.data.sample import Sample, SetAside


@dataclass(frozen=True)
class Reader:
    """A format: where its records lie, how one becomes a sample, its options and usual template.

    `files(path)` lists the files of the corpus at `path` in an order that is always the same; their
    records are read in one process and are cheap. `converter(path, images, options)` gives what
    turns a record into samples, in any process: that part reads images and may be slow.
    """

    converter: Callable[[Path, Path | None, Options], Convert]
    options: type[Options]
    template: str
    files: Callable[[Path], Sequence[RecordFile]] = corpus_files

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
        convert = self.converter(path, images, options or self.options())
        for file in self.files(path):
            for record in file.records():
                yield from converted(corpus, file.shard, record, convert)


READERS: dict[str, Reader] = {
    "mmc4": Reader(mmc4.Converter, mmc4.Mmc4Options, "plain"),
    "coyo": Reader(coyo.Converter, coyo.CoyoOptions, "plain"),
    "llava": Reader(llava.Converter, Options, "vicuna_v1"),
    "flan": Reader(flan.Converter, Options, "vicuna_v1_no_system"),
}
