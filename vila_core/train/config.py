"""What can be set about a training run. Light: imports no torch."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import ByteSize, Field, model_validator

from vila_core.config import Frozen


class TrainConfig(Frozen):
    """Optimisation, precision, engine and checkpoints of one `fit`.

    The paper prints no optimiser table; the defaults are those of its released scripts: AdamW with
    the usual moments and no weight decay, cosine to zero (they warm up over 3% of the steps), and
    the Trainer's clipping at 1. Learning rate and number of steps have no default, because no
    value is right for every stage.
    """

    not_in_key: ClassVar[tuple[str, ...]] = ("nodes", "processes")

    steps: int = Field(gt=0, description="optimiser steps in all")
    lr: float = Field(gt=0, description="highest learning rate, after warm-up")
    lr_projector: float | None = Field(
        default=None, gt=0, description="learning rate of the projector; unset: `lr`"
    )
    lr_vision_tower: float | None = Field(
        default=None, gt=0, description="learning rate of the vision tower; unset: `lr`"
    )
    lr_language_model: float | None = Field(
        default=None, gt=0, description="learning rate of the language model; unset: `lr`"
    )
    betas: tuple[float, float] = Field(default=(0.9, 0.999), description="AdamW's moment decays")
    eps: float = Field(default=1e-8, gt=0, description="AdamW's epsilon")
    weight_decay: float = Field(
        default=0.0, ge=0, description="on matrices only, never on norms or biases"
    )
    warmup_steps: int = Field(default=0, ge=0, description="steps of linear warm-up")
    min_lr_ratio: float = Field(
        default=0.0, ge=0, le=1, description="the cosine ends at this share of lr"
    )
    clip: float = Field(
        default=1.0, ge=0, description="largest global gradient norm; 0: no clipping"
    )
    packs_per_step: int = Field(
        default=1, gt=0, description="micro-batches (packs) per optimiser step, over all ranks"
    )
    save_every: int = Field(
        default=100, ge=0, description="steps between checkpoints; 0: none at all"
    )
    keep: int = Field(default=2, gt=0, description="how many of the newest checkpoints stay")
    keep_every: int = Field(
        default=0,
        ge=0,
        description="checkpoints whose step is a multiple of this stay for ever; 0: none",
    )
    save_in_background: bool = Field(
        default=True,
        description="copy the tensors and go on training while they are written; takes CPU memory "
        "for one checkpoint",
    )
    log_every: int = Field(default=10, gt=0, description="steps between rows of metrics")
    watchdog_s: float = Field(
        default=1800,
        ge=0,
        description="seconds without a finished step after which each rank tells what it is doing, "
        "with which samples; nothing is ended; 0: never",
    )
    profile_steps: tuple[int, int] | None = Field(
        default=None,
        description="first and last step that torch's profiler traces, into the run record's "
        "profile/; unset: none",
    )
    engine: Literal["plain", "deepspeed"] = Field(default="plain", description="who runs the step")
    zero_stage: Literal[0, 1, 2, 3] = Field(default=0, description="DeepSpeed's ZeRO stage")
    processes: int = Field(
        default=1,
        gt=0,
        description="ranks that the task starts on its machine (on each of its nodes) by torchrun, "
        "one per GPU; above 1 needs engine: deepspeed",
    )
    nodes: int = Field(
        default=1,
        gt=0,
        description="machines that train together, each with so many processes; they share "
        "nothing but the store; above 1 needs engine: deepspeed",
    )
    activation_checkpointing: bool = Field(
        default=False,
        description="compute activations again in backward instead of keeping them: same numbers, "
        "less memory, about a third more time",
    )
    cache_features: ByteSize = Field(
        default=ByteSize(0),
        ge=0,
        description="disk for the frozen vision tower's features (such as 50GiB): an image that "
        "comes again costs a read, not a pass; 0: none are kept",
    )
    precision: Literal["fp32", "bf16"] = Field(
        default="fp32", description="bf16 computes in bfloat16 and keeps fp32 master weights"
    )
    device: Literal["auto", "cpu", "cuda"] = Field(
        default="auto", description="auto: CUDA where present"
    )
    seed: int = Field(default=0, ge=0, description="of python, numpy and torch inside the loop")
    threads: int = Field(default=1, gt=0, description="CPU threads of torch per process")

    @model_validator(mode="after")
    def _consistent(self) -> TrainConfig:
        if self.warmup_steps > self.steps:
            raise ValueError(
                f"warmup_steps ({self.warmup_steps}) is more than steps ({self.steps})"
            )
        if not all(0 <= beta < 1 for beta in self.betas):
            raise ValueError(f"betas {self.betas} must be in [0, 1)")
        if self.keep_every and (not self.save_every or self.keep_every % self.save_every):
            raise ValueError(
                f"keep_every ({self.keep_every}) must be a multiple of save_every "
                f"({self.save_every}): other steps are not saved"
            )
        if self.profile_steps is not None:
            first, last = self.profile_steps
            if not 1 <= first <= last <= self.steps:
                raise ValueError(
                    f"profile_steps {self.profile_steps} must be a first and a last step between 1 "
                    f"and steps ({self.steps})"
                )
        for name, count in (("processes", self.processes), ("nodes", self.nodes)):
            if count > 1 and self.engine == "plain":
                raise ValueError(f"{name} {count} needs engine: deepspeed")
        if self.packs_per_step % self.ranks:
            of = "processes" if self.nodes == 1 else "nodes x processes"
            raise ValueError(
                f"packs_per_step ({self.packs_per_step}) must be a multiple of {of} "
                f"({self.ranks}): each takes as many"
            )
        if self.zero_stage and self.engine == "plain":
            raise ValueError(f"zero_stage {self.zero_stage} needs engine: deepspeed")
        if self.zero_stage == 3 and self.cache_features:
            raise ValueError(
                "cache_features does not go with zero_stage 3: all ranks must run the tower "
                "together there, but each finds other images in the cache; use zero_stage 2 or "
                "lower, or cache_features: 0"
            )
        return self

    @property
    def ranks(self) -> int:
        """All processes of all nodes."""
        return self.nodes * self.processes

    def lr_of_parts(self) -> dict[str, float]:
        """Return the learning rates of the parts that have one of their own, by part."""
        rates = {
            "projector": self.lr_projector,
            "vision_tower": self.lr_vision_tower,
            "language_model": self.lr_language_model,
        }
        return {part: lr for part, lr in rates.items() if lr is not None}

    def numbers(self) -> dict[str, object]:
        """Return the settings that decide what is learnt: a checkpoint resumes only under the same.

        Left out are those that change when something is stored or shown (`save_every`, `keep`,
        `keep_every`, `save_in_background`, `log_every`, `watchdog_s`, `profile_steps`) and those
        that change only who computes (`engine`, `zero_stage`, `processes`, `nodes`,
        `activation_checkpointing`, `cache_features`, `device`, `threads`): the result then agrees
        to rounding, which the loop says when it resumes.
        """
        return self.model_dump(mode="json", exclude=_NOT_NUMBERS)


class LoraConfig(Frozen):
    """Low-rank adapters in place of the language model's own weights."""

    r: int = Field(default=16, gt=0, description="rank of each adapter")
    alpha: int = Field(default=32, gt=0, description="adapters count alpha / r times")
    dropout: float = Field(default=0.0, ge=0, lt=1, description="on what goes into an adapter")
    target_modules: tuple[str, ...] | None = Field(
        default=None,
        min_length=1,
        description="last names of the layers that get one; unset: all linear ones but the head",
    )


_NOT_NUMBERS = {
    "save_every",
    "keep",
    "keep_every",
    "save_in_background",
    "log_every",
    "watchdog_s",
    "profile_steps",
    "engine",
    "zero_stage",
    "processes",
    "nodes",
    "activation_checkpointing",
    "cache_features",
    "device",
    "threads",
}
