"""What a training puts into a checkpoint, and how it goes on from one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from vila_core.train import state as run_state
from vila_core.train.checkpoint import Checkpoint, Checkpoints
from vila_core.train.config import TrainConfig
from vila_core.train.engine import Engine
from vila_core.train.metrics import Tally
from vila_core.types import Reporter


def load_weights(model: nn.Module, saved: Checkpoint) -> None:
    """Put a checkpoint's weights into the model, before an engine is made over it.

    The engine may cut parameters up, or copy them as master weights.
    """
    own = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    with torch.no_grad():
        for name, value in saved.tensors("weights"):
            own[name].copy_(value)


def save(
    checkpoints: Checkpoints,
    engine: Engine,
    config: TrainConfig,
    *,
    step: int,
    source_state: Mapping[str, Any],
    fingerprint: Mapping[str, Any],
    tally: Tally,
    trace: run_state.Trace,
) -> None:
    """Save after `step` (collective); rank 0 writes."""
    state = {
        "step": step,
        "source": source_state,
        "fingerprint": fingerprint,
        "rng": engine.gather(run_state.get_rng(engine.device)),
        "tally": tally.to_json(),
        "engine": _engine_words(config, engine),
        "steps": trace.take(engine.gather(trace.packs)),
    }
    checkpoints.save(
        step,
        weights=engine.weights(),
        optimizer=engine.optimizer_state(),
        state=state if engine.rank == 0 else None,
    )


def restore(engine: Engine, config: TrainConfig, saved: Checkpoint, report: Reporter) -> None:
    """Put optimiser and random generators back, and say how exactly the training goes on."""
    state = saved.state
    engine.load(saved.tensors("weights"), saved.tensors("optimizer"))
    if engine.rank < len(state["rng"]):
        run_state.set_rng(state["rng"][engine.rank], engine.device)
    else:
        run_state.seed_all(config.seed, engine.rank, saved.step)
    text, words = f"resumed after step {saved.step} from {saved.path.name}", state["engine"]
    now = _engine_words(config, engine)
    if words != now:
        text += f", written by {words}, by {now}: equal within rounding, not bit for bit"
    report.info(text)


def _engine_words(config: TrainConfig, engine: Engine) -> str:
    words = (
        f"{config.engine} ZeRO-{config.zero_stage} on {engine.world} {engine.device.type} rank(s) "
        f"with {config.threads} threads"
    )
    return f"{words} and cached features" if config.cache_features else words
