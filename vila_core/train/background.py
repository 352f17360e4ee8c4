"""Saving beside training: copies of the tensors, and one thread that writes them."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable

import torch

Tensors = Iterable[tuple[str, torch.Tensor]]

_going_on: set[threading.Thread] = set()


def going_on() -> bool:
    """Return whether a save is in flight anywhere in this process."""
    return bool(_going_on)


def settle() -> None:
    """Return when no save is in flight in this process. For any thread; raises nothing."""
    for thread in tuple(_going_on):
        thread.join()


class Staging:
    """CPU copies of named tensors, in buffers that are used again by the next save.

    They take as much memory as a checkpoint. Beside CUDA they are pinned, for speed.
    """

    def __init__(self) -> None:
        self._buffers: dict[str, dict[str, torch.Tensor]] = {}

    def copy(self, kind: str, tensors: Tensors) -> list[tuple[str, torch.Tensor]]:
        """Return copies of `tensors` that later updates don't change."""
        before = self._buffers.get(kind, {})
        now: dict[str, torch.Tensor] = {}
        on_device = False
        for name, tensor in tensors:
            tensor = tensor.detach()
            cuda = tensor.device.type == "cuda"
            buffer = before.get(name)
            if buffer is None or buffer.shape != tensor.shape or buffer.dtype != tensor.dtype:
                buffer = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=cuda)
            # Awaited once for all: the stream's order keeps a gathered tensor's memory until then.
            buffer.copy_(tensor, non_blocking=cuda)
            on_device |= cuda
            now[name] = buffer
        if on_device:
            torch.cuda.synchronize()
        self._buffers[kind] = now
        return list(now.items())


class BackgroundTask:
    """At most one piece of work in a thread; its error is raised where the owner asks."""

    def __init__(self) -> None:
        self._thread: threading.Thread | None = None
        self._error: Exception | None = None

    @property
    def busy(self) -> bool:
        """Whether the work is still going on."""
        return self._thread is not None and self._thread.is_alive()

    def start(self, work: Callable[[], None]) -> None:
        """Begin `work`; whatever was begun before must have been waited for."""
        self._thread = threading.Thread(target=self._run, args=(work,), daemon=True)
        _going_on.add(self._thread)
        self._thread.start()

    def check(self) -> None:
        """Raise what the work has failed with, once."""
        error, self._error = self._error, None
        if error is not None:
            raise error

    def wait(self) -> None:
        """Wait for the work to end. Raises what it failed with."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        self.check()

    def _run(self, work: Callable[[], None]) -> None:
        try:
            work()
        except Exception as error:
            self._error = error
        finally:
            _going_on.discard(threading.current_thread())
