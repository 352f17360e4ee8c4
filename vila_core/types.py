"""The nouns that stages, training and the runtime share. Light: imports no torch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class StageResult:
    """What a stage leaves: the folders to publish, by output name, and its final metrics."""

    outputs: Mapping[str, Path]
    metrics: Mapping[str, float] = field(default_factory=dict)


class Reporter(Protocol):
    """Where a stage says how far it is. The runtime implements it; a notebook may pass `QUIET`."""

    def progress(self, done: int, total: int, unit: str, **values: float) -> None:
        """Tell that `done` of `total` units are finished; `values` are shown beside it."""
        ...

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        """Record one row of the metrics log."""
        ...

    def info(self, text: str) -> None:
        """Write one line to the task's log."""
        ...

    def attach(self, path: Path, name: str) -> None:
        """Keep a copy of a file beside the log, as `name` (may have folders), replacing it."""
        ...


class _Quiet:
    def progress(self, done: int, total: int, unit: str, **values: float) -> None:
        pass

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        pass

    def info(self, text: str) -> None:
        pass

    def attach(self, path: Path, name: str) -> None:
        pass


QUIET: Reporter = _Quiet()


@dataclass
class Batch:
    """One micro-batch: tensors by name, and what the loop must know about them.

    `supervised` is the sum of loss weights (number of supervised tokens where weights are 1).
    `num_image_tokens` are the places among `num_tokens` that images take. The last three say what
    is in it, for messages: keys, lengths in tokens and numbers of images, one per sample.
    """

    tensors: dict[str, torch.Tensor]
    supervised: float
    num_tokens: int
    num_images: int = 0
    sample_keys: tuple[str, ...] = ()
    num_image_tokens: int = 0
    sample_lengths: tuple[int, ...] = ()
    sample_images: tuple[int, ...] = ()
    image_digests: tuple[bytes, ...] = ()  # sha256 of each encoded image, where asked for

    def pin_memory(self) -> Batch:
        """Return it with its tensors in page-locked memory. torch's DataLoader calls this."""
        pinned = {name: tensor.pin_memory() for name, tensor in self.tensors.items()}
        return replace(self, tensors=pinned)


class StepSource(Protocol):
    """Micro-batches for training, as a pure function of a small explicit state.

    `steps(state)` yields, for this rank, `(micro_batches, state_after)` per optimiser step, for
    ever. Storing `state_after` with a checkpoint and calling `steps` with it continues exactly.
    """

    fingerprint: str

    def initial_state(self) -> dict[str, Any]:
        """Return the JSON-able state before the first step."""
        ...

    def steps(self, state: Mapping[str, Any]) -> Iterator[tuple[list[Batch], dict[str, Any]]]:
        """Yield steps from `state` on."""
        ...


class Mirror(Protocol):
    """A second place for the checkpoints of one training, for when this machine is lost.

    The runtime implements it. A checkpoint is a flat folder, complete by its `manifest.json`. All
    methods may raise VilaError.
    """

    def steps(self) -> list[int]:
        """Return the steps of the complete checkpoints there."""
        ...

    def push(self, step: int, folder: Path) -> None:
        """Copy the checkpoint in `folder` there, its manifest last."""
        ...

    def pull(self, step: int, folder: Path) -> None:
        """Copy a checkpoint from there into `folder`; who asks verifies it."""
        ...

    def remove(self, step: int) -> None:
        """Remove a checkpoint there, its manifest first."""
        ...
