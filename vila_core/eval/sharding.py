"""Prompts shared by several processes, each with a model of its own; the answers of one process."""

from __future__ import annotations

import multiprocessing
import signal
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any, Literal

from vila_core.errors import VilaError
from vila_core.eval.answerer import Answer, Answerer
from vila_core.eval.prompts import Prompt

Opener = Callable[[], Answerer]
"""Opens the model, in any process: it is pickled, so a class or function of a module."""

_Method = Literal["answers", "likelihoods"]


@contextmanager
def answering(opener: Opener, processes: int = 1) -> Iterator[Answerer]:
    """Open a model in this process, or in several that share every call's prompts.

    The stage uses what it gets as any `Answerer`, a `Journal` around it included: workers keep
    their model from call to call, so that rounds of a benchmark load it once. Raises what `opener`
    raises.
    """
    if processes == 1:
        yield opener()
        return
    sharded = Sharded(opener, processes)
    try:
        yield sharded
    finally:
        sharded.close()


class Sharded:
    """An `Answerer` over worker processes, started afresh (spawn): one GPU each, by turns.

    Prompts are dealt by length, so that every worker has as many long ones; batches come as they
    are ready. Answers are those of one process, because they don't depend on batches; likelihoods
    too, but for the last bits that depend on a batch's shape. When a worker fails, what arrived
    before has been yielded, all are stopped, and its error is raised: the opener's at the start,
    VilaError for a process that was killed.
    """

    def __init__(self, opener: Opener, processes: int) -> None:
        context = multiprocessing.get_context("spawn")
        self._workers: list[tuple[Any, Connection]] = []
        try:
            for number in range(processes):
                ours, theirs = context.Pipe()
                process = context.Process(
                    target=_work, args=(theirs, opener, number), name=f"answers-{number}"
                )
                process.daemon = True
                process.start()
                theirs.close()
                self._workers.append((process, ours))
            about = [self._receive(number) for number in range(processes)]
        except BaseException:
            self.close()
            raise
        self._sees, self._identity = about[0]

    @property
    def sees(self) -> bool:
        """Whether the model can be shown images."""
        return self._sees

    def describe(self) -> dict[str, str]:
        """Return what identifies the model; the number of processes makes no difference."""
        return dict(self._identity)

    def written(self, prompt: Prompt) -> Prompt:
        """Return the prompt as the first worker's model writes it."""
        if not prompt.turns:
            return prompt
        self._send(0, ("written", replace(prompt, images=()), {}))
        return replace(self._receive(0), images=prompt.images)

    def answers(
        self,
        prompts: Sequence[Prompt],
        *,
        max_new_tokens: int,
        stop: str | None,
        blind: bool = False,
    ) -> Iterator[list[tuple[int, Answer]]]:
        """Yield every worker's batches of (index of the prompt, answer)."""
        settings = {"max_new_tokens": max_new_tokens, "stop": stop, "blind": blind}
        return self._share("answers", [prompts], settings)

    def likelihoods(
        self, prompts: Sequence[Prompt], choices: Sequence[Sequence[str]], *, blind: bool = False
    ) -> Iterator[list[tuple[int, list[float]]]]:
        """Yield every worker's batches of (index, log-likelihood of each choice), in nats."""
        return self._share("likelihoods", [prompts, choices], {"blind": blind})

    def close(self) -> None:
        """End the workers."""
        for process, connection in self._workers:
            connection.close()
            process.terminate()
            process.join()
        self._workers = []

    def _share(
        self, method: _Method, columns: Sequence[Sequence[Any]], settings: dict[str, Any]
    ) -> Iterator[list[tuple[int, Any]]]:
        prompts: Sequence[Prompt] = columns[0]
        by_length = sorted(
            range(len(prompts)), key=lambda n: (len(prompts[n].images), len(prompts[n].text), n)
        )
        shares = [by_length[n :: len(self._workers)] for n in range(len(self._workers))]
        busy = {n for n, share in enumerate(shares) if share}
        try:
            for n in busy:
                given = [[column[place] for place in shares[n]] for column in columns]
                self._send(n, (method, given, settings))
            while busy:
                ready = wait([self._workers[n][1] for n in busy])
                for n in sorted(busy):
                    if self._workers[n][1] not in ready:
                        continue
                    batch = self._receive(n)
                    if batch is None:
                        busy.discard(n)
                    else:
                        yield [(shares[n][place], value) for place, value in batch]
        finally:
            if busy:  # failed, or not read to the end: what is still to come would be mistaken
                self.close()

    def _send(self, number: int, message: Any) -> None:
        try:
            self._workers[number][1].send(message)
        except IndexError:
            raise ValueError("the workers have ended") from None
        except OSError:
            raise self._ended(number) from None

    def _receive(self, number: int) -> Any:
        """Return a worker's next message. Raises what it raised, or VilaError when it is gone."""
        try:
            kind, value = self._workers[number][1].recv()
        except (EOFError, OSError):
            raise self._ended(number) from None
        if kind == "error":
            raise value
        return value

    def _ended(self, number: int) -> VilaError:
        process, _ = self._workers[number]
        process.join(5)
        code = process.exitcode
        how = signal.Signals(-code).name if code is not None and code < 0 else f"exit code {code}"
        return VilaError(
            f"process {number + 1} of {len(self._workers)} that answer questions ended with {how}, "
            "perhaps for want of memory; finished answers are kept: run the same again with fewer "
            "`processes` or a smaller `batch_size`"
        )


def _work(connection: Connection, opener: Opener, number: int) -> None:
    """Open the model, then answer calls until the other end is closed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the parent, which ends us
    try:
        _choose_gpu(number)
        answerer = opener()
        connection.send(("about", (answerer.sees, answerer.describe())))
        while True:
            method, given, settings = connection.recv()
            if method == "written":
                connection.send(("written", answerer.written(given)))
                continue
            for batch in getattr(answerer, method)(*given, **settings):
                connection.send(("batch", batch))
            connection.send(("done", None))
    except (EOFError, BrokenPipeError, ConnectionResetError):
        return
    except VilaError as error:
        connection.send(("error", error))
    except Exception as error:  # told by the parent, with the place where it happened here
        told = "".join(traceback.format_exception(error))
        connection.send(("error", RuntimeError(f"in process {number + 1} of sharding:\n{told}")))


def _choose_gpu(number: int) -> None:
    """Make one GPU this process's own, by turns."""
    if not any(Path("/dev").glob("nvidia[0-9]*")):  # torch is slow to import only to learn this
        return
    import torch

    if torch.cuda.is_available():
        torch.cuda.set_device(number % torch.cuda.device_count())
