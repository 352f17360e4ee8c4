"""Who computes gradients and applies them: the `Engine` interface and the single-process one."""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any, Protocol

import torch
from torch import nn

from vila_core.errors import UserError
from vila_core.train.config import TrainConfig
from vila_core.train.optim import adamw, set_lr
from vila_core.train.phases import Phases
from vila_core.types import Batch

# Returns the loss summed (not averaged) over what `Batch.supervised` counts. `model` is whatever
# the engine wraps it in; call it like the module.
LossFn = Callable[[Any, Batch], torch.Tensor]
Tensors = Iterable[tuple[str, torch.Tensor]]


class Engine(Protocol):
    """One rank's side of a training step. Every method but `backward` may be collective."""

    rank: int
    world: int
    device: torch.device
    phases: Phases  # `backward`, `update` and collectives enter theirs

    def backward(self, batch: Batch, loss_fn: LossFn, *, scale: float, last: bool) -> torch.Tensor:
        """Add the gradient of `scale` × the loss sum of one micro-batch; return the sum, detached.

        `last` says that this is the rank's last micro-batch of the step.
        """
        ...

    def update(self, factor: float) -> float:
        """Clip, update the weights at `factor` of the peak learning rates, and clear gradients.

        Returns the global gradient norm before clipping. Where the norm is known before the
        update (plain, ZeRO-0) and isn't finite, the weights are left alone.
        """
        ...

    def total(self, values: list[float]) -> list[float]:
        """Return the sums of `values` over all ranks."""
        ...

    def gather(self, value: Any) -> list[Any]:
        """Return every rank's `value` (JSON-like), in order of rank."""
        ...

    def weights(self) -> Iterator[tuple[str, torch.Tensor]]:
        """Yield every trained parameter by name, whole, in fp32 where that is its master."""
        ...

    def optimizer_state(self) -> Iterator[tuple[str, torch.Tensor]]:
        """Yield AdamW's state as `<key>:<parameter name>`, whole."""
        ...

    def load(self, weights: Tensors, optimizer: Tensors) -> None:
        """Put back `optimizer_state`, and master weights where they are kept beside the model's.

        The model itself had its weights loaded before the engine was made.
        """
        ...

    def finish(self) -> None:
        """Leave the model with its trained weights, whole, on rank 0, and without hooks."""
        ...

    def close(self) -> None:
        """Free what the engine holds; called once, after success and failure alike."""
        ...


def choose_device(config: TrainConfig) -> torch.device:
    """Return this process's device. Raises UserError where there aren't enough GPUs."""
    if config.device == "cuda" and not torch.cuda.is_available():
        raise UserError("device: cuda is set, but torch finds no CUDA device; use device: auto.")
    if config.device == "cpu" or not torch.cuda.is_available():
        return torch.device("cpu")
    number, there = int(os.environ.get("LOCAL_RANK", "0")), torch.cuda.device_count()
    if number >= there:
        raise UserError(
            f"processes: {number + 1} or more need a GPU each, but torch finds {there}; set "
            f"processes to at most {there}, or device: cpu."
        )
    return torch.device("cuda", number)


def create_engine(model: nn.Module, config: TrainConfig) -> Engine:
    """Return the engine that `config` names, over `model`."""
    if config.engine == "deepspeed":
        from vila_core.train.deepspeed_engine import DeepSpeedEngine

        return DeepSpeedEngine(model, config)
    return PlainEngine(model, config)


def join_ranks(config: TrainConfig) -> Callable[[Any], list[Any]] | None:
    """Join the other ranks and return what gathers every rank's value; None for a single process.

    For what ranks must agree on before there is an engine.
    """
    if config.engine == "plain" or int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return None
    from vila_core.train.deepspeed_engine import join_ranks as join

    return join(config)


def to_device(batch: Batch, device: torch.device) -> Batch:
    """Return `batch` with its tensors on `device`."""
    if device.type == "cpu":
        return batch
    tensors = {key: value.to(device, non_blocking=True) for key, value in batch.tensors.items()}
    return replace(batch, tensors=tensors)


def autocast(device: torch.device, config: TrainConfig) -> contextlib.AbstractContextManager[Any]:
    """Return the autocast context of `config.precision`: matrix products in bf16 or as they are."""
    if config.precision == "fp32":
        return contextlib.nullcontext()
    return torch.autocast(device.type, dtype=torch.bfloat16)


def fill_missing_gradients(parameters: list[nn.Parameter]) -> None:
    """Give parameters that no micro-batch reached a zero gradient.

    Across ranks there is no other way (another rank may have reached them), and what is learnt
    must not depend on the number of ranks.
    """
    for parameter in parameters:
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)


def clip_gradients(parameters: list[nn.Parameter], limit: float) -> torch.Tensor:
    """Scale gradients in place so that their global norm is at most `limit` (0: no limit).

    Returns the norm before, a scalar tensor.
    """
    grads = [parameter.grad for parameter in parameters if parameter.grad is not None]
    norm = torch.nn.utils.get_total_norm(grads)
    if limit:
        torch.nn.utils.clip_grads_with_norm_(parameters, limit, norm)
    return norm


def weights_of(model: nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield the parameters of `model` that require a gradient, and its persistent buffers.

    Frozen parameters are the input's, unchanged: a checkpoint needs no copy of them.
    """
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            yield name, parameter.detach()
    for name, value in model.state_dict(keep_vars=True).items():
        if isinstance(value, torch.Tensor) and not isinstance(value, nn.Parameter):
            yield name, value.detach()


class PlainEngine:
    """One process, one device, torch alone."""

    rank = 0
    world = 1

    def __init__(self, model: nn.Module, config: TrainConfig) -> None:
        world = int(os.environ.get("WORLD_SIZE", "1"))
        if world > 1:
            raise UserError(
                f"engine: plain runs in one process, but WORLD_SIZE is {world}; "
                "set engine: deepspeed for several."
            )
        self.device = choose_device(config)
        self.config = config
        self.model = model.to(self.device)
        self.phases = Phases(self.device)
        self.optimizer = adamw(model, config)
        self.trained = {n: p for n, p in model.named_parameters() if p.requires_grad}

    def backward(self, batch: Batch, loss_fn: LossFn, *, scale: float, last: bool) -> torch.Tensor:
        """See `Engine`."""
        with self.phases("forward"), autocast(self.device, self.config):
            loss = loss_fn(self.model, to_device(batch, self.device))
        with self.phases("backward"):
            (loss * scale).backward()
        return loss.detach()

    def update(self, factor: float) -> float:
        """See `Engine`."""
        with self.phases("optimiser"):
            parameters = list(self.trained.values())
            fill_missing_gradients(parameters)
            norm = float(clip_gradients(parameters, self.config.clip))
            if math.isfinite(norm):
                set_lr(self.optimizer.param_groups, factor)
                self.optimizer.step()
            self.optimizer.zero_grad(set_to_none=True)
            return norm

    def total(self, values: list[float]) -> list[float]:
        """See `Engine`."""
        return values

    def gather(self, value: Any) -> list[Any]:
        """See `Engine`."""
        return [value]

    def weights(self) -> Iterator[tuple[str, torch.Tensor]]:
        """See `Engine`."""
        return weights_of(self.model)

    def optimizer_state(self) -> Iterator[tuple[str, torch.Tensor]]:
        """See `Engine`."""
        return adamw_state(self.optimizer, self.trained)

    def load(self, weights: Tensors, optimizer: Tensors) -> None:
        """See `Engine`."""
        load_adamw_state(self.optimizer, self.trained, optimizer)

    def finish(self) -> None:
        """See `Engine`."""
        self.optimizer.zero_grad(set_to_none=True)

    def close(self) -> None:
        """See `Engine`."""
        pass


def adamw_state(
    optimizer: torch.optim.Optimizer, trained: Mapping[str, nn.Parameter]
) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield AdamW's tensors as `<key>:<parameter name>`; one never updated has none."""
    for name, parameter in trained.items():
        for key, value in optimizer.state.get(parameter, {}).items():
            yield f"{key}:{name}", value


def load_adamw_state(
    optimizer: torch.optim.Optimizer,
    trained: Mapping[str, nn.Parameter],
    state: Tensors,
) -> None:
    """Put `adamw_state` back, on the device of each parameter."""
    for full_name, value in state:
        key, _, name = full_name.partition(":")
        parameter = trained[name]
        optimizer.state[parameter][key] = value.to(parameter.device)
