"""The training loop of every stage."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import nn

from vila_core.errors import VilaError
from vila_core.train import state as run_state
from vila_core.train.checkpoint import Checkpoint, Checkpoints
from vila_core.train.config import TrainConfig
from vila_core.train.engine import Engine, LossFn, create_engine, join_ranks
from vila_core.train.features import FeatureCache
from vila_core.train.flops import peak_flops
from vila_core.train.metrics import Clock, Tally, cpu_seconds, memory_mib
from vila_core.train.profile import StepProfiler
from vila_core.train.recompute import recomputing
from vila_core.train.resume import load_weights, restore, save
from vila_core.train.step import TrainStep, factor_at
from vila_core.train.watchdog import Watchdog
from vila_core.types import QUIET, Batch, Mirror, Reporter, StepSource


@dataclass(frozen=True)
class FitResult:
    """What a training came to. Losses are per supervised token, means over ten steps."""

    loss_first: float
    loss_last: float
    steps: int
    tokens: int
    supervised_tokens: float
    images: int
    wall_s: float  # summed over attempts, up to what each one kept
    cpu_s: float
    peak_memory_mib: float
    checkpoint_s: float = 0.0  # the part of `wall_s` that went into checkpoints
    resumed_from: int | None = None  # the step this attempt started after
    rank: int = 0
    feature_hit_rate: float | None = None  # share of images found in the feature cache, if any is
    source_state: Mapping[str, Any] = field(default_factory=dict)  # after the last step

    def metrics(self) -> dict[str, float]:
        """Return the final metrics of a stage."""
        values = {
            "loss": self.loss_last,
            "loss_first": self.loss_first,
            "steps": self.steps,
            "tokens": self.tokens,
            "images": self.images,
            "tokens_per_s": self.tokens / max(self.wall_s, 1e-9),
            "wall_s": self.wall_s,
            "cpu_s": self.cpu_s,
            "checkpoint_s": self.checkpoint_s,
            "memory_mib": self.peak_memory_mib,
        }
        if self.feature_hit_rate is not None:
            values["feature_hit_rate"] = self.feature_hit_rate
        return values


def fit(
    model: nn.Module,
    source: StepSource,
    config: TrainConfig,
    *,
    loss_fn: LossFn,
    out_dir: Path,
    report: Reporter = QUIET,
    pack_tokens: int | None = None,
    mirror: Mirror | None = None,
    features: FeatureCache | None = None,
) -> FitResult:
    """Train the unfrozen parameters of `model` in place for `config.steps` steps.

    `loss_fn(model, batch)` returns a scalar: the loss *summed* over what `batch.supervised` counts.
    Each step's gradient is that of the sum over all micro-batches and ranks divided by their
    count. Checkpoints go to `out_dir/checkpoints`; the newest complete one there is continued, to
    the same bits as without the interruption (same engine and number of ranks, CPU). Build the
    model before the call the same way each time: seeds are set here, after it. `pack_tokens`, the
    tokens that fit in a micro-batch, lets the metrics say how full they are. `mirror` keeps
    copies of the checkpoints, which another machine can continue. With `features`, the frozen
    tower's features are kept there and `loss_fn` gets them in place of pixels.

    Raises UserError for a checkpoint of another training, VilaError for a loss or gradient that
    isn't finite (before the update, with the sample keys), for a step that supervises nothing and
    for a full disk.
    """
    was_training = model.training
    model.train()
    try:
        with run_state.deterministic(config), recomputing(model, config):
            training = _Training(
                model, source, config, loss_fn, out_dir, report, pack_tokens, mirror, features
            )
            try:
                return training.run()
            finally:
                training.watchdog.close()
                training.profiler.close()
                training.checkpoints.close()
                training.engine.close()
                if features is not None:
                    features.close()
    finally:
        model.train(was_training)


class _Training:
    def __init__(
        self,
        model: nn.Module,
        source: StepSource,
        config: TrainConfig,
        loss_fn: LossFn,
        out_dir: Path,
        report: Reporter,
        pack_tokens: int | None,
        mirror: Mirror | None,
        features: FeatureCache | None,
    ) -> None:
        self.source, self.config, self.features = source, config, features
        self.pack_tokens = pack_tokens
        self.fingerprint = run_state.fingerprint(model, source, config)
        self.checkpoints = Checkpoints(
            out_dir / "checkpoints",
            keep=config.keep,
            keep_every=config.keep_every,
            background=config.save_in_background,
            mirror=mirror,
            report=report,
        )
        saved = self.checkpoints.latest(join_ranks(config))
        if saved is not None:
            run_state.check_fingerprint(
                saved.state["fingerprint"], self.fingerprint, str(saved.path)
            )
            load_weights(model, saved)
        self.engine: Engine = create_engine(model, config)
        self.report = report if self.engine.rank == 0 else QUIET
        self.watchdog = Watchdog(
            config.watchdog_s,
            self.engine.phases,
            out_dir,
            self.report,
            rank=self.engine.rank,
            world=self.engine.world,
        )
        self.train_step = TrainStep(self.engine, config, loss_fn, features, self.watchdog)
        self.profiler = StepProfiler(config.profile_steps, self.engine, out_dir, self.report)
        self.step = 0
        self.tally = Tally()
        self.trace = run_state.Trace()
        self.source_state = source.initial_state()
        self.resumed_from = None
        self.flops_per_token = 0.0
        if saved is not None:
            self._resume(saved)
        elif self.engine.rank:
            run_state.seed_all(config.seed, self.engine.rank)

    def run(self) -> FitResult:
        config, engine, tally = self.config, self.engine, self.tally
        started, cpu_started = time.perf_counter() - tally.wall_s, cpu_seconds() - tally.cpu_s
        self.peak, how = peak_flops(engine.device, config.precision)
        self.report.info(f"peak for MFU: {self.peak / 1e9:.1f} GFLOP/s per process ({how})")
        steps = self.source.steps(self.source_state)
        clock = Clock()
        self.watchdog.start()
        while self.step < config.steps:
            self.watchdog.next_step(self.step + 1, self.source_state)
            self.profiler.begin(self.step + 1)
            batches, self.source_state = self._next(steps)
            loss, norm = self._train(batches, clock)
            self.step += 1
            if config.save_every:
                self.trace.add(self.step, loss, batches)
            self.profiler.end(self.step)
            self.report.progress(self.step, config.steps, "step", loss=loss)
            if self.step % config.log_every == 0 or self.step == config.steps:
                self._log(norm, clock)
                clock = Clock()
            tally.wall_s = time.perf_counter() - started
            tally.cpu_s = cpu_seconds() - cpu_started
            due = config.save_every and self.step % config.save_every == 0
            if due or (config.save_every and self.step == config.steps):
                with self._saving():
                    self._save()
            self.checkpoints.check()
        with self._saving():
            self.checkpoints.wait()
        tally.wall_s = time.perf_counter() - started
        tally.cpu_s = cpu_seconds() - cpu_started
        engine.finish()
        return FitResult(
            loss_first=_mean(tally.first),
            loss_last=_mean(tally.last),
            steps=self.step,
            tokens=tally.total_tokens,
            supervised_tokens=tally.total_supervised,
            images=tally.total_images,
            wall_s=tally.wall_s,
            cpu_s=tally.cpu_s,
            checkpoint_s=tally.checkpoint_s,
            peak_memory_mib=memory_mib(engine.device),
            resumed_from=self.resumed_from,
            rank=engine.rank,
            feature_hit_rate=self._hit_rate(),
            source_state=self.source_state,
        )

    def _hit_rate(self) -> float | None:
        if self.features is None or not self.tally.total_images:
            return None
        return self.tally.total_hits / self.tally.total_images

    @contextlib.contextmanager
    def _saving(self) -> Iterator[None]:
        start = time.perf_counter()
        with self.engine.phases("checkpoint"):
            yield
        self.tally.checkpoint_s += time.perf_counter() - start

    def _next(
        self, steps: Iterator[tuple[list[Batch], dict[str, Any]]]
    ) -> tuple[list[Batch], dict[str, Any]]:
        try:
            with self.engine.phases("data"):
                batches, state = next(steps)
        except StopIteration:
            done = f"{self.step} of {self.config.steps} steps"
            raise VilaError(f"the data ended after {done}.") from None
        expected = self.config.packs_per_step
        if len(batches) * self.engine.world != expected:
            raise ValueError(
                f"the source gave {len(batches)} micro-batches to each of {self.engine.world} "
                f"ranks; packs_per_step is {expected}"
            )
        return batches, state

    def _train(self, batches: list[Batch], clock: Clock) -> tuple[float, float]:
        """Do one step; return its loss and gradient norm."""
        due = (self.step + 1) % self.config.log_every == 0
        done = self.train_step(self.step + 1, batches, count_flops=due)
        if done.flops is not None:
            self.flops_per_token = done.flops / done.counts.tokens
        clock.add(len(batches) * self.engine.world, done.counts, done.hits)
        return self.tally.add(done.loss_sum, done.counts, done.hits), done.norm

    def _log(self, norm: float, clock: Clock) -> None:
        config = self.config
        factor = factor_at(config, self.step)
        row = {"loss": self.tally.take_loss(), "lr": config.lr * factor, "grad_norm": norm}
        for part, lr in config.lr_of_parts().items():
            row[f"lr_{part}"] = lr * factor
        cached = self.features is not None
        row |= clock.rates(self.engine.phases, pack_tokens=self.pack_tokens, cached=cached)
        if self.flops_per_token:
            speed = self.flops_per_token * row["tokens_per_s"]
            row["mfu"] = speed / (self.peak * self.engine.world)
        row["memory_mib"] = memory_mib(self.engine.device)
        self.report.metrics(self.step, row)

    def _save(self) -> None:
        save(
            self.checkpoints,
            self.engine,
            self.config,
            step=self.step,
            source_state=self.source_state,
            fingerprint=self.fingerprint,
            tally=self.tally,
            trace=self.trace,
        )

    def _resume(self, saved: Checkpoint) -> None:
        restore(self.engine, self.config, saved, self.report)
        self.step = self.resumed_from = saved.step
        self.source_state = dict(saved.state["source"])
        self.tally = Tally(**saved.state["tally"])


def _mean(values: list[float]) -> float:
    return math.fsum(values) / len(values) if values else math.nan
