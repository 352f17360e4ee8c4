"""The thread that writes answers: together, token by token, joining and leaving as they come."""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from vila_ops.serving.batch import Rows
from vila_ops.serving.events import Failed, Finished, Hear, Piece, Reason
from vila_ops.serving.features import Features, Picture
from vila_ops.serving.figures import Figures
from vila_ops.serving.limits import Limits
from vila_ops.serving.problem import ApiError, unavailable
from vila_ops.serving.queue import FairQueue
from vila_ops.serving.sampling import Sampling, choose
from vila_ops.serving.text import AnswerText

log = logging.getLogger("vila.serve")

LONGEST_RETRY_S = 60


@dataclass(eq=False)
class Job:
    """One answer to write. `hear` is called by the engine's thread and must return at once."""

    asker: str
    ids: Sequence[int]
    pictures: Sequence[Picture]
    limit: int
    sampling: Sampling
    stops: Sequence[str]
    hear: Hear
    asked_at: float = field(default_factory=time.monotonic)
    cancelled: bool = False

    @property
    def size(self) -> int:
        """Tokens of prompt and longest answer."""
        return len(self.ids) + self.limit


@dataclass(eq=False)
class _Row:
    job: Job
    text: AnswerText
    last: int = 0
    tokens: int = 0


class Engine:
    """Writes answers with one model until it is closed.

    `see` is the vision tower; `ends` are the tokens that end an answer.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        ends: frozenset[int],
        see: Callable[[torch.Tensor], torch.Tensor],
        limits: Limits,
        figures: Figures,
    ) -> None:
        self._model, self._tokenizer, self._ends = model, tokenizer, ends
        self._limits, self._figures = limits, figures
        self._pad = tokenizer.pad_token_id or 0
        self._features = Features(see, next(model.parameters()).device)
        self._waiting: FairQueue[Job] = FairQueue(limits.queue)
        self._wake = threading.Condition()
        self._draining = False
        self._aborting: ApiError | None = None
        self._rows: list[_Row] = []
        self._state = Rows(model, self._pad)
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)

    def start(self) -> None:
        """Begin to work."""
        self._thread.start()

    @property
    def alive(self) -> bool:
        """Whether the thread works."""
        return self._thread.is_alive()

    @property
    def waiting(self) -> int:
        """Requests that wait."""
        return len(self._waiting)

    @property
    def running(self) -> int:
        """Answers that are written now."""
        return len(self._rows)

    def submit(self, job: Job) -> None:
        """Queue an answer. Raises ApiError: 429 when the queue is full, 503 at the end."""
        with self._wake:
            if self._draining:
                raise unavailable("the server is shutting down; ask another one, or again later")
            if not self._waiting.add(job.asker, job):
                raise ApiError(
                    429,
                    f"{len(self._waiting)} requests wait already; ask again later",
                    code="rate_limit_exceeded",
                    retry_after_s=self.retry_after_s(),
                )
            self._wake.notify()

    def retry_after_s(self) -> int:
        """Return in how many seconds the queue should have room, by the latest answers' pace."""
        pace = self._figures.answers_per_second()
        rounds = len(self._waiting) / pace if pace else 1.0
        return max(1, min(LONGEST_RETRY_S, math.ceil(rounds / 2)))

    def cancel(self, job: Job) -> None:
        """Write no more of an answer: nobody reads it."""
        with self._wake:
            job.cancelled = True
            if self._waiting.drop(job.asker, job):
                self._figures.cancelled()
            self._wake.notify()

    def drain(self) -> None:
        """Take no more requests; the thread ends when all answers are written."""
        with self._wake:
            self._draining = True
            self._wake.notify()

    def abort(self, error: ApiError) -> None:
        """Take no more requests, and end all answers with an error."""
        with self._wake:
            self._draining = True
            self._aborting = error
            self._wake.notify()

    def join(self, seconds: float | None = None) -> bool:
        """Wait for the thread's end; return whether it came."""
        self._thread.join(seconds)
        return not self._thread.is_alive()

    def _run(self) -> None:
        while True:
            with self._wake:
                while not (self._rows or self._waiting or self._draining):
                    self._wake.wait()
                if self._aborting is not None:
                    for job in [*self._waiting.clear(), *(row.job for row in self._rows)]:
                        job.hear(Failed(self._aborting))
                    self._rows = []
                if self._draining and not (self._rows or self._waiting):
                    return
            try:
                self._turn()
            except Exception as error:  # whatever it is: the next answers are written
                log.exception("%d answers failed", len(self._rows))
                self._give_up(error)

    def _give_up(self, error: Exception) -> None:
        """End all answers under way with an error, and start anew."""
        failed = Failed(_broken(error))
        for row in self._rows:
            row.job.hear(failed)
            self._figures.broken()
        self._rows, self._state = [], Rows(self._model, self._pad)

    def _turn(self) -> None:
        """Let rows leave whose readers left, let others join, and write a token of each."""
        gone = [row for row in self._rows if row.job.cancelled]
        if gone:
            self._figures.cancelled(len(gone))
            self._keep([row for row in self._rows if not row.job.cancelled])
        group = self._next_group()
        if group:
            self._join(group)
        if self._rows:
            self._step()

    def _next_group(self) -> list[Job]:
        """Take the jobs that may join now.

        The first one waits when it doesn't fit, and others behind it too: it would wait for ever.
        """
        group: list[Job] = []
        sizes = [row.job.size for row in self._rows]
        longest = 0
        with self._wake:
            while (job := self._waiting.first()) is not None:
                longest = max(longest, len(job.ids))
                count = len(sizes) + 1
                if count > 1 and (
                    count > self._limits.batch
                    or count * max(*sizes, job.size) > self._limits.batch_tokens
                    or (group and (len(group) + 1) * longest > self._limits.prefill_tokens)
                ):
                    break
                group.append(self._waiting.take())
                sizes.append(job.size)
        return group

    def _join(self, group: Sequence[Job]) -> None:
        try:
            features = self._features.of([one for job in group for one in job.pictures])
            logits_BV = self._state.join([job.ids for job in group], features)
        except Exception as error:
            if len(group) > 1:  # only the one that is at fault shall suffer
                for job in group:
                    self._join([job])
                return
            log.exception("a prompt of %d tokens could not be read", len(group[0].ids))
            group[0].hear(Failed(_broken(error)))
            self._figures.broken()
            return
        for job in group:
            self._figures.read(len(job.ids), len(job.pictures))
            self._rows.append(_Row(job, AnswerText(self._tokenizer, job.stops)))
        self._take(self._rows[-len(group) :], logits_BV)

    def _step(self) -> None:
        begun = time.monotonic()
        logits_BV = self._state.step([row.last for row in self._rows])
        self._figures.step(len(self._rows), time.monotonic() - begun)
        self._take(list(self._rows), logits_BV)

    def _take(self, rows: Sequence[_Row], logits_BV: torch.Tensor) -> None:
        """Add each row's next token to its text; rows that are finished leave."""
        chosen = choose(logits_BV, [row.job.sampling for row in rows])
        ended = {
            row for row, token in zip(rows, chosen, strict=True) if self._ends_with(row, token)
        }
        if ended:
            self._keep([row for row in self._rows if row not in ended])

    def _ends_with(self, row: _Row, token: int) -> bool:
        """Take a row's next token, and tell whether it was its last."""
        job = row.job
        if token < 0:
            error = ApiError(500, "the model's output is not a number", code="model_error")
            job.hear(Failed(error))
            self._figures.broken()
            return True
        row.last, row.tokens = token, row.tokens + 1
        if row.tokens == 1:
            self._figures.first_token(time.monotonic() - job.asked_at)
        text = "" if token in self._ends else row.text.add(token)
        reason: Reason | None = None
        if token in self._ends or row.text.stopped:
            reason = "stop"
        elif row.tokens == job.limit:
            reason = "length"
        if reason is None:
            if text:
                job.hear(Piece(text))
            return False
        text += row.text.finish()
        # The last bytes may complete a stop text.
        job.hear(Finished(text, "stop" if row.text.stopped else reason, row.tokens))
        self._figures.answered(row.tokens, time.monotonic() - job.asked_at)
        return True

    def _keep(self, rows: list[_Row]) -> None:
        places = {row: place for place, row in enumerate(self._rows)}
        self._state.keep([places[row] for row in rows])
        self._rows = rows


def _broken(error: Exception) -> ApiError:
    if isinstance(error, torch.OutOfMemoryError):
        text = "the server's accelerator ran out of memory; ask with fewer or smaller messages"
        return ApiError(500, text, code="out_of_memory")
    return ApiError(500, f"the model failed: {type(error).__name__}", code="model_error")
