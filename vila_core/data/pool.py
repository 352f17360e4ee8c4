"""Worker processes that do chunks; the results come back in the order of the chunks.

Each worker is a plain child process on two pipes. It ends when its pipe closes, so none outlives a
parent that was killed, and one that dies is seen at once, with what it was working on.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import queue
import signal
import struct
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import chain, islice
from typing import BinaryIO, Generic, Protocol, TypeVar, cast

from vila_core.errors import VilaError

_ALONE_SECONDS = 2.0
_LENGTH = struct.Struct("<Q")
_MODULE = "vila_core.data.pool"


class Chunk(Protocol):
    """A piece of work: small enough that some of them fit in memory, and it can be pickled."""

    @property
    def span(self) -> str:
        """From where to where it goes, for messages."""
        ...


_C = TypeVar("_C", bound=Chunk)
_D = TypeVar("_D")
_Takes = TypeVar("_Takes", bound=Chunk, contravariant=True)
_Gives = TypeVar("_Gives", covariant=True)


class Work(Protocol[_Takes, _Gives]):
    """What a worker must know. Small, so that it can be sent to another process."""

    def worker(self) -> Callable[[_Takes], _Gives]:
        """Return what does the chunks."""
        ...


def do(
    chunks: Iterable[_C], worker: Callable[[_C], _D], work: Work[_C, _D], workers: int
) -> Iterator[_D]:
    """Yield what each chunk became, in order.

    The first ones are done by `worker` in this process: starting others takes some seconds, in
    which a small corpus is through. Raises what `worker` raises, and VilaError for a worker that
    died.
    """
    chunks = iter(chunks)
    until = time.monotonic() + _ALONE_SECONDS
    for chunk in chunks:
        yield worker(chunk)
        if workers > 1 and time.monotonic() > until:
            break
    first = list(islice(chunks, 2 * workers))
    if len(first) < 2 * workers:  # also when all of them are done
        yield from map(worker, first)
        return
    yield from _spread(chain(first, chunks), work, workers)


def cpus() -> int:
    """Return how many processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _spread(chunks: Iterator[_C], work: Work[_C, _D], workers: int) -> Iterator[_D]:
    idle: queue.SimpleQueue[_Child[_C, _D]] = queue.SimpleQueue()
    children: Sequence[_Child[_C, _D]] = [_Child(work) for _ in range(workers)]
    for child in children:
        idle.put(child)

    def ask(chunk: _C) -> _D:
        child = idle.get()
        try:
            return child.ask(chunk)
        finally:
            idle.put(child)

    waiting: deque[Future[_D]] = deque()
    threads = ThreadPoolExecutor(workers, thread_name_prefix="prepare")
    try:
        for chunk in chunks:
            waiting.append(threads.submit(ask, chunk))
            if len(waiting) > 2 * workers:  # bounds what lies in memory
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        for future in waiting:
            future.cancel()
        for child in children:
            child.stop()
        threads.shutdown()


class _Child(Generic[_C, _D]):
    def __init__(self, work: Work[_C, _D]) -> None:
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        self._process = subprocess.Popen(
            [sys.executable, "-m", _MODULE],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment,
        )
        self._to = cast(BinaryIO, self._process.stdin)
        self._from = cast(BinaryIO, self._process.stdout)
        _send(self._to, work)

    def ask(self, chunk: _C) -> _D:
        try:
            _send(self._to, chunk)
            answer = _receive(self._from)
        except (OSError, EOFError):
            code = self._process.wait()
            raise VilaError(
                f"a worker died (exit code {code}) on the records {chunk.span}.\n"
                "  fix: if the machine ran out of memory, use fewer `workers`; run it again: "
                "prepare goes on after the last shard."
            ) from None
        if isinstance(answer, BaseException):
            raise answer
        return cast(_D, answer)

    def stop(self) -> None:
        self._process.kill()
        self._process.wait()
        self._from.close()
        with contextlib.suppress(OSError):  # what it didn't take is lost, with the worker
            self._to.close()


def _send(pipe: BinaryIO, value: object) -> None:
    data = pickle.dumps(value, protocol=pickle.HIGHEST_PROTOCOL)
    pipe.write(_LENGTH.pack(len(data)))
    pipe.write(data)
    pipe.flush()


def _receive(pipe: BinaryIO) -> object:
    """Return what our own other end sent. Raises EOFError when it is gone."""
    header = pipe.read(_LENGTH.size)
    if len(header) < _LENGTH.size:
        raise EOFError
    (size,) = _LENGTH.unpack(header)
    data = pipe.read(size)
    if len(data) < size:
        raise EOFError
    return pickle.loads(data)


def _serve(source: BinaryIO, target: BinaryIO) -> None:
    worker = cast("Work[Chunk, object]", _receive(source)).worker()
    while True:
        chunk = cast(Chunk, _receive(source))
        try:
            answer: object = worker(chunk)
        except Exception as error:
            answer = error
        _send(target, answer)


def _main() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # ^C reaches the whole group; the parent decides
    target = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a library prints must not get between the answers
    run: Callable[[BinaryIO, BinaryIO], None] = _serve
    try:
        run(sys.stdin.buffer, target)
    except (EOFError, BrokenPipeError):
        os._exit(0)


if __name__ == "__main__":
    from vila_core.data import pool

    pool._main()  # as the importable module, so that classes have one name on both sides
