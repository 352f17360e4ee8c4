"""Fetch the shards of the coming windows of the plan before anybody asks for them.

The plan is a pure function, so what comes next is known. Threads fetch in its order, as far ahead
as the shards from the window in use to the farthest one fit into the cache together: what is
fetched is not pushed out again before it was used.
"""

from __future__ import annotations

import contextlib
import os
import queue
import threading
from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from vila_core.data.cache import RemoteFile, ShardCache, Stopped
from vila_core.data.corpus import Corpus
from vila_core.errors import UserError, VilaError

THREADS = 4
_SHARE = 0.9  # of the budget; a reader may fetch for itself meanwhile


class ReadAhead:
    """Follows `windows`: the number of each window of the plan, and the files that it uses.

    Tell `reached` which window is being used. A file that can't be fetched is left to the reader,
    who meets the same error when it needs the file.
    """

    def __init__(
        self, windows: Iterable[tuple[int, Sequence[RemoteFile]]], cache: ShardCache
    ) -> None:
        self._cache = cache
        self._room = int(cache.budget * _SHARE)
        self._at = 0
        self._moved = threading.Condition()
        self._closed = False
        self._last: dict[RemoteFile, int] = {}  # files of the stretch, last window that uses each
        self._wanted: queue.SimpleQueue[RemoteFile | None] = queue.SimpleQueue()
        # Daemons: a training that ends by an error must not wait for a download.
        self._threads = [
            threading.Thread(target=self._plan, args=(iter(windows),), daemon=True),
            *(threading.Thread(target=self._fetch, daemon=True) for _ in range(THREADS)),
        ]
        for thread in self._threads:
            thread.start()

    def reached(self, window: int) -> None:
        """Say that the windows before this one are done."""
        if window > self._at:
            with self._moved:
                self._at = window
                self._moved.notify()

    def close(self) -> None:
        """Stop, and wait for the threads: they stop within a piece of a download."""
        with self._moved:
            self._closed = True
            self._moved.notify()
        for _ in range(THREADS):
            self._wanted.put(None)
        for thread in self._threads:
            thread.join(timeout=10)  # never for good: at the interpreter's end they don't run on

    def _plan(self, windows: Iterator[tuple[int, Sequence[RemoteFile]]]) -> None:
        for window, files in windows:
            new = [file for file in files if file not in self._last]
            with self._moved:
                self._moved.wait_for(lambda new=new, window=window: self._fits(new, window))
                if self._closed:
                    return
                self._last.update(dict.fromkeys(files, window))
            for file in new:
                self._wanted.put(file)

    def _fits(self, new: Sequence[RemoteFile], window: int) -> bool:
        """Drop what is used up; return whether the stretch may grow by `new`."""
        self._last = {file: last for file, last in self._last.items() if last >= self._at}
        stretch = sum(file.size or 0 for file in (*self._last, *new))
        return self._closed or stretch <= self._room or window <= self._at

    def _fetch(self) -> None:
        while (file := self._wanted.get()) is not None and not self._closed:
            with self._moved:
                stretch = list(self._last)
            with contextlib.suppress(VilaError, Stopped, OSError):
                self._cache.touch(stretch)  # of what is here, drop anything else first
                if not self._cache.holds(file):
                    os.close(self._cache.open(file, stop=lambda: self._closed))


def shards_of(
    windows: Iterable[tuple[int, np.ndarray, np.ndarray]], corpora: Sequence[Corpus]
) -> Iterator[tuple[int, list[RemoteFile]]]:
    """Yield each window's number and the remote shards of its draws, in order of first use.

    `windows` are `Planner.windows`, whose sources are `corpora` by number.
    """
    for window, sources_D, samples_D in windows:
        shards_D = np.empty_like(samples_D)
        for source, corpus in enumerate(corpora):
            of_it = sources_D == source
            shards_D[of_it] = corpus.index.shard[samples_D[of_it]]
        pairs = dict.fromkeys(zip(sources_D.tolist(), shards_D.tolist(), strict=True))
        yield (
            window,
            [corpora[source].remote[shard] for source, shard in pairs if corpora[source].remote],
        )


def check_room(
    files: Sequence[Sequence[RemoteFile]], shuffle_shards: int | None, budget: int
) -> None:
    """Raise UserError when shards would be fetched again and again, for lack of room.

    `files` are the shards of each corpus. They fit all together, or two groups of `shuffle_shards`
    of each corpus must: the one in use, and the next.
    """
    total = sum(file.size or 0 for shards in files for file in shards)
    largest = sum(max((file.size or 0 for file in shards), default=0) for shards in files)
    room = int(budget * _SHARE)
    if total <= room or (shuffle_shards and 2 * shuffle_shards * largest <= room):
        return
    fitting = room // (2 * largest)
    fix = f"shuffle_shards: {fitting}, or " if fitting else ""
    among = f"{shuffle_shards} shards" if shuffle_shards else "all shards"
    raise UserError(
        f"shuffle_shards: samples are shuffled among {among} of each corpus, {_gib(total)} in all, "
        f"but the shard cache holds {_gib(budget)}: they would be fetched again and again.\n"
        f"  fix: {fix}a larger VILA_CACHE_SIZE."
    )


def _gib(size: int) -> str:
    return f"{size / 2**30:.3g} GiB"
