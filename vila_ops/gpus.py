"""What is known of a GPU before one is rented: configs/gpus.yaml, or this machine's CPU."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from pydantic import Field

from vila_core.config import Frozen, read_yaml, validate
from vila_core.errors import UserError

CPU = "cpu"
GIB = 2**30


class GpuFacts(Frozen):
    """One entry of configs/gpus.yaml."""

    description: str
    memory_gib: float = Field(gt=0, description="total memory, as torch reports it")
    bf16_tflops: float = Field(gt=0, description="dense peak in TFLOP/s")
    fp32_tflops: float = Field(gt=0, description="dense peak in TFLOP/s")
    source: str = Field(description="where the peaks come from")


@dataclass(frozen=True)
class Gpu:
    """What a plan needs: bytes per rank, peak FLOP/s by precision, and how they are known."""

    name: str
    description: str
    memory: float
    peaks: Mapping[str, float]
    source: str


def load_gpu(name: str, *, ranks: int, threads: int, precisions: set[str]) -> Gpu:
    """Return the facts about a GPU. Raises UserError, with the nearest name, for an unknown one.

    `cpu` is this machine: its memory is shared by the ranks, its peak in the given `precisions` is
    measured, with `threads` threads per rank.
    """
    if name == CPU:
        return _this_machine(ranks, threads, precisions)
    path = Path(str(files("configs") / "gpus.yaml"))
    values = read_yaml(path)
    if name not in values:
        close = difflib.get_close_matches(name.lower(), [*values, CPU], n=1)
        hint = f"did you mean '{close[0]}'?" if close else f"known: {', '.join([*values, CPU])}."
        raise UserError(f"--gpu {name}: is not a known GPU; {hint} (they are listed in {path})")
    facts = validate(GpuFacts, values[name], where=str(path), path=name)
    return Gpu(
        name,
        facts.description,
        facts.memory_gib * GIB,
        {"bf16": facts.bf16_tflops * 1e12, "fp32": facts.fp32_tflops * 1e12},
        facts.source,
    )


def _this_machine(ranks: int, threads: int, precisions: set[str]) -> Gpu:
    import psutil
    import torch

    from vila_core.train.flops import peak_flops

    torch.set_num_threads(threads)
    measured = {one: peak_flops(torch.device(CPU), one) for one in sorted(precisions)}
    return Gpu(
        CPU,
        f"this machine, {threads} thread(s) per rank",
        psutil.virtual_memory().total / ranks,
        {one: peak for one, (peak, _) in measured.items()},
        "; ".join(how for _, how in measured.values()),
    )
