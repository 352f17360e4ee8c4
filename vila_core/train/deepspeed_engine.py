"""The DeepSpeed engine: ZeRO 0 to 3, any accelerator, any number of ranks.

At ZeRO-0 in fp32 with one rank it gives the bits of the plain engine. Three of DeepSpeed's habits
are worked around, each said where it is done: the C++ operation compiled on CPU, the averaging of
gradients (ours are sums divided by a global count), and checkpoints made of pickles (ours hold
whole tensors by name, so another ZeRO stage or number of ranks can continue them).
"""

from __future__ import annotations

import atexit
import contextlib
import logging
import math
import os
import warnings
from collections.abc import Callable, Iterable, Iterator
from datetime import timedelta
from types import ModuleType
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.nn import functional as F

from vila_core.errors import require
from vila_core.train.collectives import record_collectives
from vila_core.train.config import TrainConfig
from vila_core.train.engine import (
    LossFn,
    adamw_state,
    autocast,
    choose_device,
    clip_gradients,
    fill_missing_gradients,
    load_adamw_state,
    to_device,
    weights_of,
)
from vila_core.train.optim import adamw, set_lr
from vila_core.train.phases import Phases
from vila_core.types import Batch

_MOMENTS = ("exp_avg", "exp_avg_sq")


class DeepSpeedEngine:
    """One rank of a DeepSpeed run; see `Engine` for the methods."""

    def __init__(self, model: nn.Module, config: TrainConfig) -> None:
        self.config = config
        self.device = choose_device(config)
        self.phases = Phases(self.device)
        self.deepspeed = import_deepspeed(self.device)
        _start_process_group(self.device, config.watchdog_s)
        self.rank, self.world = dist.get_rank(), dist.get_world_size()
        if self.world > 1:
            record_collectives()
        self.stage = config.zero_stage
        # ZeRO-0 computes in bf16 by autocast over fp32 weights, exactly as the plain engine does;
        # from stage 1 on DeepSpeed holds bf16 weights and shards their fp32 masters.
        self.low_precision = config.precision == "bf16" and self.stage > 0
        self.model = model.to(self.device)
        self.dtypes = {name: p.dtype for name, p in model.named_parameters()}
        self.frozen = self._copy_frozen()
        buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
        self.optimizer = adamw(model, config)
        # Position tables and the like are kept as they were: a bf16 rotary table is wrong.
        self._linear = F.linear
        with _quiet_imports():  # ZeRO's modules are imported here
            self.ds, *_ = self.deepspeed.initialize(
                model=model, optimizer=self.optimizer, config=self._settings()
            )
        for name, buffer in model.named_buffers():
            buffer.data = buffers[name].to(buffer.device)
        self.trained = {n: p for n, p in model.named_parameters() if p.requires_grad}
        self._hooks = []
        if self.low_precision:
            hook = model.register_forward_pre_hook(_to_bf16, with_kwargs=True)
            self._hooks.append(hook)

    def backward(self, batch: Batch, loss_fn: LossFn, *, scale: float, last: bool) -> torch.Tensor:
        """See `Engine`."""
        self.ds.set_gradient_accumulation_boundary(last)
        with self.phases("forward"):
            batch = to_device(batch, self.device)
            if self.stage:
                loss = loss_fn(self.ds, batch)
            else:
                with autocast(self.device, self.config):
                    loss = loss_fn(self.model, batch)
        with self.phases("backward"):
            # DeepSpeed averages over ranks; the loss is already divided by the count of all.
            self.ds.backward(loss * (scale * self.world), scale_wrt_gas=False)
        return loss.detach()

    def update(self, factor: float) -> float:
        """See `Engine`."""
        with self.phases("optimiser"):
            return self._update(factor)

    def _update(self, factor: float) -> float:
        set_lr(self.optimizer.param_groups, factor)
        if self.stage:
            self.ds.step()
            return float(self.ds.get_global_grad_norm())
        parameters = list(self.trained.values())
        fill_missing_gradients(parameters)
        # DeepSpeed's own clipping at stage 0 keeps the norm to itself, and would update with one
        # that isn't finite.
        norm = float(clip_gradients(parameters, self.config.clip))
        if math.isfinite(norm):
            self.ds.step()
        return norm

    def total(self, values: list[float]) -> list[float]:
        """See `Engine`."""
        if self.world == 1:
            return values
        with self.phases("collective"):
            sums = torch.tensor(values, dtype=torch.float64, device=self.device)
            dist.all_reduce(sums)
            return sums.tolist()

    def gather(self, value: Any) -> list[Any]:
        """See `Engine`."""
        if self.world == 1:
            return [value]
        with self.phases("collective"):
            return _gather(value)

    def weights(self) -> Iterator[tuple[str, torch.Tensor]]:
        """See `Engine`."""
        for name, value in weights_of(self.model):
            if self.stage and name in self.trained:
                value = self.deepspeed.utils.safe_get_full_fp32_param(self.trained[name])
            yield name, value

    def optimizer_state(self) -> Iterator[tuple[str, torch.Tensor]]:
        """See `Engine`."""
        if not self.stage:
            yield from adamw_state(self.optimizer, self.trained)
            return
        self._link_moments()
        step = self.optimizer.state[self._flat()[0]]["step"]
        for name, parameter in self.trained.items():
            yield f"step:{name}", torch.as_tensor(step, dtype=torch.float32).clone()
            for key in _MOMENTS:
                yield (
                    f"{key}:{name}",
                    self.deepspeed.utils.safe_get_full_optimizer_state(parameter, key),
                )

    def load(
        self,
        weights: Iterable[tuple[str, torch.Tensor]],
        optimizer: Iterable[tuple[str, torch.Tensor]],
    ) -> None:
        """See `Engine`."""
        if not self.stage:
            load_adamw_state(self.optimizer, self.trained, optimizer)
            return
        utils = self.deepspeed.utils
        if self.low_precision:  # the masters that DeepSpeed made are copies of rounded weights
            for name, value in weights:
                if name in self.trained:
                    value = value.to(self.device, torch.float32)
                    utils.safe_set_full_fp32_param(self.trained[name], value)
        flat = self._flat()
        for tensor in flat:
            moments = {key: torch.zeros_like(tensor) for key in _MOMENTS}
            self.optimizer.state[tensor] = {"step": torch.zeros((), device=tensor.device)} | moments
        self._link_moments()
        for full_name, value in optimizer:
            key, _, name = full_name.partition(":")
            if key == "step":  # one for all: a flat group is updated as a whole
                for tensor in flat:
                    self.optimizer.state[tensor]["step"].copy_(value)
            else:
                value = value.to(self.device)
                utils.safe_set_full_optimizer_state(self.trained[name], value, key)

    def finish(self) -> None:
        """See `Engine`."""
        if not self.stage:
            self.optimizer.zero_grad(set_to_none=True)
            return
        whole: dict[str, torch.Tensor] = {}
        for name, parameter in self.model.named_parameters():
            value = self._whole(name, parameter)
            if self.rank == 0:
                whole[name] = value
        self.ds.destroy()  # takes its hooks off the model
        for hook in self._hooks:
            hook.remove()
        for name, parameter in self.model.named_parameters():
            parameter.grad = None
            if self.rank == 0:
                parameter.data = whole[name].to(self.dtypes[name])

    def close(self) -> None:
        """See `Engine`."""
        F.linear = self._linear  # ZeRO-3 replaces it for the whole process, for good
        del self.ds  # the process group stays: see `_start_process_group`

    def _whole(self, name: str, parameter: nn.Parameter) -> torch.Tensor:
        """Return one parameter, whole, on the CPU (collective)."""
        if name in self.trained:
            return self.deepspeed.utils.safe_get_full_fp32_param(parameter).cpu()
        if name in self.frozen:
            return self.frozen[name]
        if self.stage == 3:
            with self.deepspeed.zero.GatheredParameters([parameter]):
                return parameter.detach().cpu().clone()
        return parameter.detach().cpu()

    def _copy_frozen(self) -> dict[str, torch.Tensor]:
        """Return rank 0's copies of the frozen weights that bf16 would round for good."""
        if not self.low_precision or self.rank:
            return {}
        return {
            name: parameter.detach().cpu().clone()
            for name, parameter in self.model.named_parameters()
            if not parameter.requires_grad and parameter.dtype != torch.bfloat16
        }

    def _flat(self) -> list[torch.Tensor]:
        """Return the flat fp32 tensors that AdamW really updates on this rank (stages 1 to 3)."""
        optimizer = self.ds.optimizer
        for name in ("single_partition_of_fp32_groups", "fp32_partitioned_groups_flat"):
            if hasattr(optimizer, name):
                return list(getattr(optimizer, name))
        return list(optimizer.fp32_groups_flat_partition)

    def _link_moments(self) -> None:
        """Let DeepSpeed find each parameter's moments in its flat ones.

        It does so itself after the first group's first update, when the other groups' moments
        don't exist yet, and never again.
        """
        if self.stage < 3:
            self.ds.optimizer._hp_optimizer_states_linked = False
            self.ds.optimizer._lazy_init_hp_params_optimizer_state()

    def _settings(self) -> dict[str, Any]:
        accumulation = max(1, self.config.packs_per_step // self.world)
        # DeepSpeed allocates its buckets whole (2 GB each by default), however small the model.
        bucket = min(500_000_000, sum(p.numel() for p in self.model.parameters()))
        settings: dict[str, Any] = {
            "train_batch_size": accumulation * self.world,
            "train_micro_batch_size_per_gpu": 1,
            "gradient_clipping": self.config.clip if self.stage else 0.0,
            "steps_per_print": None,
            "zero_optimization": {
                "stage": self.stage,
                "reduce_bucket_size": bucket,
                "allgather_bucket_size": bucket,
            },
        }
        if self.low_precision:
            settings["bf16"] = {"enabled": True}
            if self.stage < 3:  # stage 3 has no fp32 accumulation
                settings["data_types"] = {"grad_accum_dtype": "fp32"}
        return settings


def _to_bf16(
    _module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Cast what goes into a bf16 model; what the loss keeps (its weights) stays fp32."""

    def cast(value: Any) -> Any:
        floating = isinstance(value, torch.Tensor) and value.is_floating_point()
        return value.to(torch.bfloat16) if floating else value

    return tuple(map(cast, args)), {key: cast(value) for key, value in kwargs.items()}


def join_ranks(config: TrainConfig) -> Callable[[Any], list[Any]]:
    """Make the process group that the engine will use; see `vila_core.train.engine`."""
    device = choose_device(config)
    import_deepspeed(device)
    _start_process_group(device, config.watchdog_s)
    return _gather


def _gather(value: Any) -> list[Any]:
    values: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(values, value)
    return values


def import_deepspeed(device: torch.device) -> ModuleType:
    """Import DeepSpeed, quiet and without its compiled operations on CPU."""
    require("deepspeed", extra="train", why="train with engine: deepspeed")
    if device.type == "cpu":
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    with _quiet_imports():
        import deepspeed
        import deepspeed.ops
        import deepspeed.runtime.bf16_optimizer
    # It prints memory reports that no setting turns off, with a full garbage collection for each.
    deepspeed.runtime.bf16_optimizer.see_memory_usage = _no_report
    logging.getLogger("DeepSpeed").setLevel(logging.ERROR)
    warnings.filterwarnings(
        "ignore",
        category=FutureWarning,
        message=r"`torch\.distributed\.\w+` is deprecated",
    )  # by its calls, in every step
    if device.type == "cpu":
        # `init_distributed` would compile this C++ operation on every CPU, even for one process:
        # a minute, and a failure where no compiler is. Training never uses it.
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    return deepspeed


def _no_report(*_: Any, **__: Any) -> None:
    pass


@contextlib.contextmanager
def _quiet_imports() -> Iterator[None]:
    """Hide the deprecations that DeepSpeed and torch cause in themselves when they are imported."""
    with warnings.catch_warnings():
        for module in (r"deepspeed\.", r"torch\."):
            warnings.filterwarnings("ignore", category=DeprecationWarning, module=module)
            warnings.filterwarnings("ignore", category=FutureWarning, module=module)
        yield


def _start_process_group(device: torch.device, watchdog_s: float) -> None:
    """Make torch's process group unless there is one.

    It lasts as long as the process: DeepSpeed keeps handles on it in several of its modules, so a
    second `fit` in the same process could not use a new one.
    """
    if dist.is_initialized():
        return
    atexit.register(dist.destroy_process_group)
    backend = "nccl" if device.type == "cuda" else "gloo"
    # A collective that times out ends the process: the watchdog has its say before.
    timeout = timedelta(seconds=max(1800, watchdog_s + 600))
    if device.type == "cuda":
        torch.cuda.set_device(device)
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        dist.init_process_group(backend, timeout=timeout)
        return
    os.environ.setdefault("LOCAL_RANK", "0")
    if os.path.exists("/sys/class/net/lo"):
        # Alone: no host name is looked up, no port opened beyond the loopback.
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    store = dist.HashStore()  # pyright: ignore[reportPrivateImportUsage]
    dist.init_process_group(backend, store=store, rank=0, world_size=1, timeout=timeout)
