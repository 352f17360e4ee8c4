"""What differs between two checkpoints of one step: samples, losses, tensors, order, randomness."""

from __future__ import annotations

from typing import Any

import torch

from vila_core.train.checkpoint import Checkpoint


def differences(before: Checkpoint, after: Checkpoint) -> list[str]:
    """Return the first difference of each kind in words, bit by bit; none: they are equal.

    Samples and losses are compared for the steps that both tell of. Times are not compared.
    """
    found = [
        _samples(before, after),
        _losses(before, after),
        _tensors("weights", before, after),
        _tensors("optimizer", before, after),
    ]
    for key, words in (("source", "position in the data"), ("rng", "random generators")):
        if before.state[key] != after.state[key]:
            found.append(f"step {before.step}: the {words} differ")
    return [text for text in found if text is not None]


def compared(before: Checkpoint, after: Checkpoint) -> dict[str, Any]:
    """Return how much `differences` compares: first and last step, samples, tensors, values."""
    steps = _steps(before).keys() & _steps(after).keys()
    tensors = [tensor for kind in ("weights", "optimizer") for _, tensor in before.tensors(kind)]
    return {
        "losses_of_steps": [min(steps), max(steps)] if steps else [],
        "samples": sum(len(pack) for step in steps for pack in _steps(before)[step]["packs"]),
        "tensors": len(tensors),
        "values": sum(tensor.numel() for tensor in tensors),
    }


def _steps(checkpoint: Checkpoint) -> dict[int, dict[str, Any]]:
    return {row["step"]: row for row in checkpoint.state.get("steps", ())}


def _samples(before: Checkpoint, after: Checkpoint) -> str | None:
    theirs = _steps(after)
    for step, row in sorted(_steps(before).items()):
        if step not in theirs or row["packs"] == theirs[step]["packs"]:
            continue
        ones, others = row["packs"], theirs[step]["packs"]
        for number in range(max(len(ones), len(others))):
            one, other = (packs[number] if number < len(packs) else [] for packs in (ones, others))
            for place in range(max(len(one), len(other))):
                keys = [pack[place] if place < len(pack) else "none" for pack in (one, other)]
                if keys[0] != keys[1]:
                    where = f"step {step}, pack {number}, sample {place}"
                    return f"{where}: was {keys[0]}, is {keys[1]}"
    return None


def _losses(before: Checkpoint, after: Checkpoint) -> str | None:
    theirs = _steps(after)
    for step, row in sorted(_steps(before).items()):
        if step in theirs and row["loss"] != theirs[step]["loss"]:
            return f"step {step}: the loss was {row['loss']!r}, is {theirs[step]['loss']!r}"
    return None


def _tensors(kind: str, before: Checkpoint, after: Checkpoint) -> str | None:
    names = set()
    for name, value in before.tensors(kind):
        names.add(name)
        other = after.tensor(kind, name)
        if other is None:
            return f"{kind} {name}: is missing"
        if value.shape != other.shape or value.dtype != other.dtype:
            was, now = (f"{list(t.shape)} {t.dtype}" for t in (value, other))
            return f"{kind} {name}: was {was}, is {now}"
        unequal = (_bits(value) != _bits(other)).any(dim=1)
        if unequal.any():
            place = int(unequal.nonzero()[0])
            was, now = (t.reshape(-1)[place].item() for t in (value, other))
            return (
                f"{kind} {name}: {int(unequal.sum())} of {value.numel()} values differ, the first "
                f"at {place}: was {was!r}, is {now!r}"
            )
    extra = sorted({name for name, _ in after.tensors(kind)} - names)
    return f"{kind} {extra[0]}: was not there" if extra else None


def _bits(tensor: torch.Tensor) -> torch.Tensor:
    """Return the bytes, one row per value: -0.0 is not 0.0, and one NaN is itself."""
    return tensor.reshape(-1).view(torch.uint8).reshape(tensor.numel(), tensor.element_size())
