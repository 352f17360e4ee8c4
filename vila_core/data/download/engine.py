"""Threads that turn the addresses of open shards into images, or into reasons why not."""

from __future__ import annotations

import hashlib
import queue
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from vila_core.data.download.address import Address, parse
from vila_core.data.download.corpus import Row, Shard
from vila_core.data.download.fetch import MAX_REDIRECTS, Fetcher
from vila_core.data.download.hosts import Hosts
from vila_core.data.download.output import Output, Part, Result, Stored
from vila_core.data.download.reasons import Failure
from vila_core.data.download.settings import DownloadConfig
from vila_core.data.reencode import shrunk
from vila_core.images import TRUNCATED, BadImage, check, check_header, size

_ROWS_OPEN, _MOST_OPEN = 20_000, 64
"""Shards are open together up to so many rows: a slow host holds only its own shard up."""
_LOOK_S = 0.25
_HOST_FAILED = frozenset(
    {"timeout", "unreachable", "no such host", "certificate", "robots.txt unreachable"}
)


@dataclass
class Progress:
    """How far a call is, counted since it began."""

    rows: int = 0
    images: int = 0
    num_bytes: int = 0
    shards: int = 0
    reasons: Counter[str] = field(default_factory=Counter)


Tell = Callable[[Progress], None]


@dataclass
class Work:
    """A shard to fetch. `known` has the results of an earlier call that stay."""

    shard: Shard
    known: Sequence[Result | None] = ()


class _Open:
    """A shard of which rows are under way."""

    def __init__(self, work: Work, part: Part) -> None:
        self.shard, self.part, self.again = work.shard, part, bool(work.known)
        self.results: list[Result | None] = list(work.known or [None] * len(work.shard.rows))
        self.left = sum(one is None for one in self.results)


@dataclass
class _Job:
    open: _Open
    number: int
    address: Address
    tries: int = 0
    redirects: int = 0

    @property
    def row(self) -> Row:
        return self.open.shard.rows[self.number]


class Engine:
    """Fetches shards into `output`. For one call of `run`."""

    def __init__(self, config: DownloadConfig, fetcher: Fetcher, output: Output) -> None:
        self._config, self._fetcher, self._output = config, fetcher, output
        self._hosts: Hosts[_Job] = Hosts(config.per_host, config.host_pause_s)
        self._lock = threading.Lock()
        self._closed: queue.SimpleQueue[_Open | BaseException] = queue.SimpleQueue()
        self._opened: list[_Open] = []
        self.progress = Progress()

    def run(self, works: Iterator[Work], tell: Tell) -> None:
        """Fetch all shards; `tell` hears how far it is, a few times a second."""
        threads = [
            threading.Thread(target=self._work, name=f"download-{number}", daemon=True)
            for number in range(self._config.threads)
        ]
        for thread in threads:
            thread.start()
        try:
            self._run(works, tell)
        finally:
            self._hosts.close()
            for opened in self._opened:  # none, unless something went wrong
                opened.part.discard()
        for thread in threads:
            thread.join()

    def _run(self, works: Iterator[Work], tell: Tell) -> None:
        count, rows, more = 0, 0, True
        told = time.monotonic()
        while True:
            while more and rows < _ROWS_OPEN and count < _MOST_OPEN:
                work = next(works, None)
                more = work is not None
                if work is not None:
                    count, rows = count + 1, rows + len(work.shard.rows)
                    self._begin(work)
            if not count:
                break
            try:
                closed = self._closed.get(timeout=_LOOK_S)
            except queue.Empty:
                closed = None
            if isinstance(closed, BaseException):
                raise closed
            if closed is not None:
                count, rows = count - 1, rows - len(closed.shard.rows)
                self._finish(closed)
            if closed is not None or time.monotonic() - told >= _LOOK_S:
                told = time.monotonic()
                tell(self.progress)

    def _begin(self, work: Work) -> None:
        opened = _Open(work, self._output.begin(work.shard))
        self._opened.append(opened)
        if not opened.left:
            self._closed.put(opened)
        jobs: list[tuple[str, _Job]] = []
        for number, row in enumerate(work.shard.rows):
            if opened.results[number] is not None:
                continue
            try:
                if row.refused:
                    raise Failure(row.refused)
                address = parse(row.url)
            except Failure as failure:
                self._settle(opened, number, failure)
                continue
            jobs.append((address.origin, _Job(opened, number, address)))
        self._hosts.add(jobs)

    def _finish(self, opened: _Open) -> None:
        results = [one for one in opened.results if one is not None]
        self._output.finish(opened.shard, results, opened.part, again=opened.again)
        self._opened.remove(opened)
        self.progress.shards += 1

    def _work(self) -> None:
        try:
            while taken := self._hosts.take():
                self._step(*taken)
        except BaseException as error:  # a full disk, a mistake of ours: the main thread tells it
            self._closed.put(error)

    def _step(self, host: str, job: _Job) -> None:
        answer, failure = None, None
        try:
            answer = self._fetcher.step(job.address)
        except Failure as caught:
            failure = caught
        given_up = self._hosts.release(
            host,
            failed=failure is not None and failure.reason in _HOST_FAILED,
            busy=failure is not None and failure.reason == "busy",
            wait_s=failure.wait_s if failure and failure.again else 0.0,
            pause_s=self._fetcher.delay_s(job.address),
        )
        if failure is not None:
            for other in given_up:
                self._settle(other.open, other.number, failure)
            self._again(host, job, failure)
        elif answer is not None and answer.moved is not None:
            self._moved(job, answer.moved)
        elif answer is not None:
            self._settle(job.open, job.number, self._stored(job, answer.data))

    def _again(self, host: str, job: _Job, failure: Failure) -> None:
        if not (failure.kind.again and failure.again and job.tries < self._config.retries):
            self._settle(job.open, job.number, failure)
            return
        pause = self._config.backoff_s * 2**job.tries
        job.tries += 1
        self._hosts.add_later(host, job, max(pause, failure.wait_s))

    def _moved(self, job: _Job, address: Address) -> None:
        job.redirects += 1
        job.address = address
        if job.redirects > MAX_REDIRECTS:
            failure = Failure("redirects", f"more than {MAX_REDIRECTS}")
            self._settle(job.open, job.number, failure)
            return
        self._hosts.add([(address.origin, job)])

    def _stored(self, job: _Job, data: bytes) -> Result:
        how = self._config.reencode
        try:
            if how is None:
                extension, kept = check(data), data
            else:
                check_header(data)
                extension, kept = "jpg", shrunk(data, how)
            original, new = size(data), size(kept)
        except BadImage as error:
            reason = "damaged image" if error.reason == TRUNCATED else error.reason
            return Failure(reason, error.detail)
        place = job.open.part.put(job.row.name, kept)
        with self._lock:
            self.progress.num_bytes += len(data)
        return Stored(extension, *new, *original, hashlib.sha256(data).hexdigest(), place)

    def _settle(self, opened: _Open, number: int, result: Result) -> None:
        """Note the result of a row; who notes the last one closes the shard."""
        with self._lock:
            assert opened.results[number] is None
            opened.results[number] = result
            opened.left -= 1
            self.progress.rows += 1
            if isinstance(result, Failure):
                self.progress.reasons[result.reason] += 1
            else:
                self.progress.images += 1
            if not opened.left:
                self._closed.put(opened)
