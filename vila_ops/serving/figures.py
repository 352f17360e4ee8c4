"""What the server did, counted: the figures behind `/metrics`."""

from __future__ import annotations

import threading
import time
from bisect import bisect_left
from collections import Counter, deque
from collections.abc import Iterator, Mapping, Sequence

Labels = Mapping[str, str]
_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)
_STEP_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1)
_ROWS = (1, 2, 4, 8, 16, 32, 64, 128)
_TOKENS = (1, 4, 16, 64, 256, 1024, 4096)
_PACE_S = 30.0


class Histogram:
    """Counts of values by upper bound. Not safe for threads by itself."""

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds = tuple(bounds)
        self._counts = [0] * (len(bounds) + 1)
        self._sum = 0.0

    def add(self, value: float) -> None:
        """Count a value."""
        self._counts[bisect_left(self._bounds, value)] += 1
        self._sum += value

    def lines(self, name: str) -> Iterator[str]:
        """Yield the samples in Prometheus' format."""
        total = 0
        for bound, count in zip([*map(_number, self._bounds), "+Inf"], self._counts, strict=True):
            total += count
            yield f'{name}_bucket{{le="{bound}"}} {total}\n'
        yield f"{name}_sum {self._sum:.9g}\n{name}_count {total}\n"


class Figures:
    """Counters and histograms, told by the engine and the endpoint. Threads may share it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._requests: Counter[int] = Counter()
        self._counts: Counter[str] = Counter()
        self._finished: deque[float] = deque(maxlen=1_000)
        self._request_s = Histogram(_SECONDS)
        self._first_s = Histogram(_SECONDS)
        self._step_s = Histogram(_STEP_SECONDS)
        self._batch = Histogram(_ROWS)
        self._answer = Histogram(_TOKENS)

    def request(self, status: int) -> None:
        """Count a chat request by its status."""
        with self._lock:
            self._requests[status] += 1

    def read(self, tokens: int, images: int) -> None:
        """Count a prompt that was read."""
        with self._lock:
            self._counts["prompt_tokens"] += tokens
            self._counts["images"] += images

    def first_token(self, seconds: float) -> None:
        """Count the time from a request to its answer's first token."""
        with self._lock:
            self._first_s.add(seconds)

    def step(self, rows: int, seconds: float) -> None:
        """Count a step of all answers under way."""
        with self._lock:
            self._batch.add(rows)
            self._step_s.add(seconds)

    def answered(self, tokens: int, seconds: float) -> None:
        """Count a whole answer."""
        with self._lock:
            self._counts["generated_tokens"] += tokens
            self._answer.add(tokens)
            self._request_s.add(seconds)
            self._finished.append(time.monotonic())

    def cancelled(self, count: int = 1) -> None:
        """Count answers whose readers left."""
        with self._lock:
            self._counts["cancelled"] += count

    def broken(self) -> None:
        """Count an answer that the model failed at."""
        with self._lock:
            self._counts["failed"] += 1

    def reloaded(self, *, well: bool) -> None:
        """Count a reload of the model."""
        with self._lock:
            self._counts["reloads" if well else "reload_failures"] += 1

    def answers_per_second(self) -> float:
        """Return the pace of the latest answers; 0 when there were none lately."""
        now = time.monotonic()
        with self._lock:
            lately = [at for at in self._finished if now - at < _PACE_S]
        return len(lately) / max(now - lately[0], 1.0) if lately else 0.0

    def lines(self) -> Iterator[str]:
        """Yield all of it in Prometheus' text format."""
        with self._lock:
            yield from _head("requests_total", "counter", "Chat requests by status.")
            for status, count in sorted(self._requests.items()):
                yield f'vila_serve_requests_total{{status="{status}"}} {count}\n'
            for name, text in _COUNTERS.items():
                yield from _head(f"{name}_total", "counter", text)
                yield f"vila_serve_{name}_total {self._counts[name]}\n"
            for name, text, histogram in (
                ("request_seconds", "From a request to its whole answer.", self._request_s),
                ("first_token_seconds", "From a request to its first token.", self._first_s),
                ("step_seconds", "One step of all answers under way.", self._step_s),
                ("batch_size", "Answers under way at a step.", self._batch),
                ("answer_tokens", "Tokens of an answer.", self._answer),
            ):
                yield from _head(name, "histogram", text)
                yield from histogram.lines(f"vila_serve_{name}")


_COUNTERS = {
    "prompt_tokens": "Tokens of prompts, those of images included.",
    "images": "Images shown.",
    "generated_tokens": "Tokens of whole answers.",
    "cancelled": "Answers whose readers left.",
    "failed": "Answers that the model failed at.",
    "reloads": "Models loaded in place of another.",
    "reload_failures": "Reloads that failed.",
}


def gauge(name: str, text: str, value: float, labels: Labels | None = None) -> str:
    """Return one gauge in Prometheus' text format."""
    inner = ",".join(f'{label}="{_escaped(held)}"' for label, held in (labels or {}).items())
    place = f"{{{inner}}}" if inner else ""
    return f"{''.join(_head(name, 'gauge', text))}vila_serve_{name}{place} {value:.17g}\n"


def _head(name: str, kind: str, text: str) -> Iterator[str]:
    yield f"# HELP vila_serve_{name} {text}\n# TYPE vila_serve_{name} {kind}\n"


def _number(value: float) -> str:
    return f"{value:g}"


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
