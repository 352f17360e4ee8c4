"""`vila plan`: what a recipe's training stages will need, before anything is started or paid."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, cast

from vila_core.errors import UserError, require
from vila_core.stages._training import TrainingConfig
from vila_core.train import estimate
from vila_core.train.estimate import Load, Memory, Shape
from vila_ops.gpus import CPU, Gpu, load_gpu
from vila_ops.planned_data import Mixed, PlannedData
from vila_ops.planned_model import PlannedModel, planned_model
from vila_ops.recipes import Recipe

STAGES = ("align", "pretrain", "sft")
ZERO = (0, 1, 2, 3)
HEADROOM = 0.08
"""Share of a GPU's memory left for the CUDA context, NCCL and fragmentation (an assumption)."""
MFU = {
    "gpu": (0.35, "middle of the 30-40% published for packed 7-8B VLMs (lmms-engine's MFU page)"),
    CPU: (0.11, "the quickstart's stages logged 8-14% on two shared cores"),
}


@dataclass(frozen=True)
class StagePlan:
    """One training stage. Counts without a name are per optimiser step, over all ranks.

    `mixed` is None where no prepared data were found: packs are then taken as full.
    """

    name: str
    trains: tuple[str, ...]
    precision: str
    zero_stage: int
    checkpointing: bool  # of activations, as the recipe sets it
    pack_tokens: int
    packs_per_step: int
    steps: int
    nodes: int  # as the recipe sets them
    processes: int
    parameters: int
    trained: int
    load: Load
    tokens_per_image: int
    flops: float  # per step
    seconds: float  # of the whole stage
    price: float | None  # of the whole stage
    memory: tuple[Memory, ...]  # per rank, by ZeRO stage
    mixed: Mixed | None
    notes: tuple[str, ...]

    @property
    def image_tokens(self) -> float | None:
        """Image tokens per step, None where the data aren't known."""
        return self.load.images * self.tokens_per_image if self.mixed else None

    @property
    def text_tokens(self) -> float | None:
        """Text tokens per step, None where the data aren't known."""
        return None if self.image_tokens is None else self.load.tokens - self.image_tokens


@dataclass(frozen=True)
class Plan:
    """All stages of a recipe on `gpus` GPUs."""

    recipe: str
    gpus: int
    gpu: Gpu
    mfu: float
    mfu_source: str
    gpu_hour_price: float | None
    model: PlannedModel
    data: str  # where the mixture's figures come from
    stages: tuple[StagePlan, ...]

    @property
    def room(self) -> float:
        """Bytes that a rank may use."""
        return self.gpu.memory * (1 - HEADROOM)

    def fits(self, memory: Memory) -> str:
        """Say whether a rank fits: "yes", "checkpointed" (only with checkpointing) or "no"."""
        if memory.total() <= self.room:
            return "yes"
        return "checkpointed" if memory.total(checkpointing=True) <= self.room else "no"

    @property
    def hours(self) -> float:
        """Hours of all stages."""
        return sum(stage.seconds for stage in self.stages) / 3600

    @property
    def cost(self) -> float | None:
        """Price of all stages, None without a price per GPU-hour."""
        if self.gpu_hour_price is None:
            return None
        return self.hours * self.gpus * self.gpu_hour_price

    def as_json(self) -> dict[str, Any]:
        """Return everything as JSON-able values; memory in bytes, times in hours."""
        low, high = estimate.ERROR
        return {
            "recipe": self.recipe,
            "gpus": self.gpus,
            "gpu": {
                "name": self.gpu.name,
                "memory": self.gpu.memory,
                "room": self.room,
                "peak_flops": dict(self.gpu.peaks),
                "source": self.gpu.source,
            },
            "mfu": self.mfu,
            "mfu_source": self.mfu_source,
            "price_per_gpu_hour": self.gpu_hour_price,
            "model": {"name": self.model.name, "parameters": dict(self.model.shape.parameters)},
            "data": self.data,
            "memory_error": {"lowest": low, "highest": high},
            "stages": [self._stage_json(stage) for stage in self.stages],
            "total": {
                "steps": sum(stage.steps for stage in self.stages),
                "tokens": sum(stage.steps * stage.load.tokens for stage in self.stages),
                "flops": sum(stage.steps * stage.flops for stage in self.stages),
                "hours": self.hours,
                "gpu_hours": self.hours * self.gpus,
                "cost": self.cost,
            },
        }

    def _stage_json(self, stage: StagePlan) -> dict[str, Any]:
        hours = stage.seconds / 3600
        return {
            "name": stage.name,
            "trains": list(stage.trains),
            "precision": stage.precision,
            "zero_stage": stage.zero_stage,
            "activation_checkpointing": stage.checkpointing,
            "parameters": stage.parameters,
            "trained": stage.trained,
            "steps": stage.steps,
            "nodes": stage.nodes,
            "processes": stage.processes,
            "per_step": {
                "packs": stage.packs_per_step,
                "tokens": stage.load.tokens,
                "image_tokens": stage.image_tokens,
                "text_tokens": stage.text_tokens,
                "supervised_tokens": stage.load.supervised if stage.mixed else None,
                "images": stage.load.images if stage.mixed else None,
                "flops": stage.flops,
            },
            "tokens": stage.steps * stage.load.tokens,
            "flops": stage.steps * stage.flops,
            "hours": hours,
            "gpu_hours": hours * self.gpus,
            "cost": stage.price,
            "mixture": stage.mixed.as_json() if stage.mixed else None,
            "memory": [
                {
                    "zero_stage": zero,
                    "configured": zero == stage.zero_stage,
                    **asdict(memory),
                    "total": memory.total(),
                    "total_checkpointed": memory.total(checkpointing=True),
                    "fits": self.fits(memory),
                }
                for zero, memory in zip(ZERO, stage.memory, strict=True)
            ],
            "notes": list(stage.notes),
        }


def make_plan(
    recipe: Recipe,
    *,
    gpus: int | None,
    gpu: str,
    data: PlannedData | None,
    mfu: float | None = None,
    price: float | None = None,
    model: str | None = None,
) -> Plan:
    """Plan the training stages that `recipe` has, on as many GPUs as its nodes have if not told.

    Raises UserError for an unknown GPU or preset, an MFU outside of (0, 1], a price below zero, a
    recipe that trains nothing, and data that lack a corpus of a mixture.
    """
    require("torch", extra="train", why="know the model's shape")
    if gpus is not None and gpus < 1:
        raise UserError(f"--gpus {gpus}: at least one GPU is needed.")
    if mfu is not None and not 0 < mfu <= 1:
        raise UserError(f"--mfu {mfu:g}: is a share above 0 and up to 1, for example 0.35.")
    if price is not None and not 0 <= price < float("inf"):
        raise UserError(f"--price {price:g}: must be 0 or more, per GPU-hour.")
    configs = _training_configs(recipe)
    gpus = gpus or max(config.train.ranks for config in configs.values())
    known = load_gpu(
        gpu,
        ranks=gpus,
        threads=max(config.train.threads for config in configs.values()),
        precisions={config.train.precision for config in configs.values()},
    )
    planned = planned_model(recipe, model)
    share, source = MFU[CPU if gpu == CPU else "gpu"]
    if mfu is not None:
        share, source = mfu, "given by --mfu"
    stages = [
        _stage(name, config, planned.shape, known, gpus, share, price, data)
        for name, config in configs.items()
    ]
    where = data.where if data else "no prepared data: packs taken as full (upper bounds)"
    return Plan(recipe.name, gpus, known, share, source, price, planned, where, tuple(stages))


def _training_configs(recipe: Recipe) -> dict[str, TrainingConfig]:
    found = {name: recipe.configs[name] for name in STAGES if name in recipe.configs}
    if not found:
        raise UserError(f"recipe '{recipe.name}' has none of the stages {', '.join(STAGES)}.")
    return cast(dict[str, TrainingConfig], found)


def _stage(
    name: str,
    config: TrainingConfig,
    shape: Shape,
    gpu: Gpu,
    gpus: int,
    mfu: float,
    gpu_hour_price: float | None,
    data: PlannedData | None,
) -> StagePlan:
    train = config.train
    mixed = data.mix(name, config, shape.tokens_per_image) if data else None
    if mixed:
        load, largest = mixed.per_step, mixed.largest
    else:
        largest = _full_pack(config, shape)
        load = _times(largest, train.packs_per_step)
    step_flops = estimate.flops(shape, load, config.trains)
    seconds = train.steps * step_flops / (gpu.peaks[train.precision] * mfu * gpus)
    memory = [
        estimate.memory(
            shape,
            largest,
            config.trains,
            precision=train.precision,
            zero_stage=zero,
            ranks=gpus,
            cpu=gpu.name == CPU,
        )
        for zero in ZERO
    ]
    return StagePlan(
        name=name,
        trains=tuple(config.trains),
        precision=train.precision,
        zero_stage=train.zero_stage,
        checkpointing=train.activation_checkpointing,
        pack_tokens=config.pack_tokens,
        packs_per_step=train.packs_per_step,
        steps=train.steps,
        nodes=train.nodes,
        processes=train.processes,
        parameters=shape.total,
        trained=shape.trained(config.trains),
        load=load,
        tokens_per_image=shape.tokens_per_image,
        flops=step_flops,
        seconds=seconds,
        price=None if gpu_hour_price is None else seconds / 3600 * gpus * gpu_hour_price,
        memory=tuple(memory),
        mixed=mixed,
        notes=tuple(_notes(config, gpus)),
    )


def _full_pack(config: TrainingConfig, shape: Shape) -> Load:
    """Return the costliest pack that the settings allow: each of its figures is an upper bound."""
    tokens = config.pack_tokens
    images = min(config.pack_images, tokens // shape.tokens_per_image)
    return Load(
        packs=1,
        tokens=tokens,
        images=images,
        supervised=tokens,
        squares=tokens**2,
        text_only=float(images == 0),
    )


def _times(load: Load, count: int) -> Load:
    return replace(load, **{key: value * count for key, value in asdict(load).items()})


def _notes(config: TrainingConfig, gpus: int) -> Sequence[str]:
    train = config.train
    notes = []
    if train.engine == "plain" and gpus > 1:
        notes.append(f"engine: plain runs in one process; {gpus} GPUs need train.engine: deepspeed")
    if train.ranks not in (1, gpus):
        notes.append(
            f"the stage asks for {train.ranks} ranks (train.nodes {train.nodes} x train.processes "
            f"{train.processes}), not for {gpus}"
        )
    if train.packs_per_step % gpus:
        notes.append(
            f"train.packs_per_step: {train.packs_per_step} packs can't be dealt evenly to {gpus} "
            f"ranks; use a multiple of {gpus}"
        )
    return notes


def find_data(folder: str | None, store_uri: str, recipe: Recipe) -> PlannedData | None:
    """Return the data in `folder`, or the newest ones that the recipe's prepare put in the store.

    Raises UserError when `folder` holds none.
    """
    if folder is not None:
        return PlannedData.from_folder(Path(folder))
    return PlannedData.from_store(store_uri, recipe.configs.get("prepare"))
