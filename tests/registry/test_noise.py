"""The ledger of seed noise, and gates that know a drop from a draw of seeds."""

from __future__ import annotations

import math
import statistics
from pathlib import Path

import pytest

from components.registry.gates.conditions import Gate
from components.registry.gates.thresholds import threshold_verdicts
from components.registry.noise import Measured, NoiseLedger, Spread, seeds_of, without_seeds
from vila_core.errors import Damaged, UserError
from vila_core.store import open_store


def add(ledger: NoiseLedger, group: str, *values: float, size: str = "tiny") -> None:
    for seed, value in enumerate(values):
        ledger.add(Measured(size, group, str(seed), f"run-{seed}", {"vqa/accuracy@0": value}))


@pytest.fixture
def ledger(tmp_path: Path) -> NoiseLedger:
    return NoiseLedger(open_store(tmp_path / "store"))


def test_the_spread_is_pooled_over_groups_each_around_its_own_mean(ledger: NoiseLedger) -> None:
    add(ledger, "frozen", 0.30, 0.34, 0.32)
    add(ledger, "unfrozen", 0.80, 0.90)
    add(ledger, "alone", 0.10)
    add(ledger, "frozen", 0.0, 1.0, size="small")
    spread = ledger.spread("tiny", "vqa/accuracy@0")
    assert spread is not None
    pooled = (2 * statistics.variance([0.30, 0.34, 0.32]) + statistics.variance([0.8, 0.9])) / 3
    assert spread.deviation == pytest.approx(math.sqrt(pooled))
    assert (spread.freedom, spread.runs, spread.groups) == (3, 5, 2)
    assert spread.difference() == pytest.approx(3.1824 * math.sqrt(2 * pooled), rel=1e-4)
    assert spread.drop() == pytest.approx(2.3534 * math.sqrt(2 * pooled), rel=1e-4)
    assert ledger.spread("tiny", "other/accuracy@0") is None
    assert ledger.spread("huge", "vqa/accuracy@0") is None
    assert ledger.sizes() == ["small", "tiny"]
    assert ledger.spreads("tiny") == {"vqa/accuracy@0": spread}


def test_a_run_counts_once_and_one_run_has_no_spread(ledger: NoiseLedger) -> None:
    measured = Measured("tiny", "g", "0", "run-0", {"vqa/accuracy@0": 0.5})
    assert ledger.add(measured)
    assert not ledger.add(measured)
    assert ledger.spread("tiny", "vqa/accuracy@0") is None
    assert ledger.entries("tiny") == [measured]
    assert ledger.add(Measured("tiny", "g", "1", "run-1", {"vqa/accuracy@0": 0.5}))
    spread = ledger.spread("tiny", "vqa/accuracy@0")
    assert spread is not None
    assert spread.deviation == 0.0


def test_what_the_ledger_refuses(ledger: NoiseLedger, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="'Tiny World' can't name a size"):
        ledger.add(Measured("Tiny World", "g", "0", "r", {"a": 1.0}))
    with pytest.raises(ValueError, match="no metrics"):
        ledger.add(Measured("tiny", "g", "0", "r", {}))
    add(ledger, "g", 0.1)
    (entry,) = (tmp_path / "store" / "noise" / "tiny" / "g").iterdir()
    entry.chmod(0o644)
    entry.write_text("{}")
    with pytest.raises(Damaged, match=r"noise/tiny/g/.*json: is not an entry"):
        NoiseLedger(open_store(tmp_path / "store")).spread("tiny", "a")


def test_seeds_are_told_from_settings() -> None:
    config = {"sft": {"train": {"seed": 3, "lr": 0.1}, "demos": {"seeds": [1, 2]}}, "seedling": 1}
    assert without_seeds(config) == {"sft": {"train": {"lr": 0.1}, "demos": {}}, "seedling": 1}
    assert seeds_of(config) == {"sft.train.seed": 3, "sft.demos.seeds": [1, 2]}


SPREAD = Spread("tiny", "vqa/accuracy@0", 0.04, 4, 6, 2)  # a drop of up to 0.1206 is noise


@pytest.mark.parametrize(
    ("drop", "asked", "known", "passes"),
    [
        (0.10, 0.05, SPREAD, True),
        (0.13, 0.05, SPREAD, False),
        (0.13, 0.15, SPREAD, True),
        (0.10, 0.05, None, False),
        (0.04, 0.05, None, True),
    ],
)
def test_a_drop_within_noise_is_no_regression(
    drop: float, asked: float, known: Spread | None, passes: bool
) -> None:
    gate = Gate(metric="vqa/accuracy@0", baseline_drop_max=asked, noise="tiny")
    asked_for = []

    def spread(size: str, metric: str) -> Spread | None:
        asked_for.append((size, metric))
        return known

    metrics, baseline = {"vqa/accuracy@0": 0.8 - drop}, {"vqa/accuracy@0": 0.8}
    (verdict,) = threshold_verdicts([gate], metrics, baseline, spread=spread)
    assert verdict.passed == passes
    assert asked_for == [("tiny", "vqa/accuracy@0")]
    strict = Gate(metric="vqa/accuracy@0", baseline_drop_max=asked)
    (without,) = threshold_verdicts([strict], metrics, baseline, spread=spread)
    assert without.passed == (drop <= asked)


def test_the_verdict_names_the_noise() -> None:
    gate = Gate(metric="vqa/accuracy@0", baseline_drop_max=0.05, noise="tiny")
    metrics, baseline = {"vqa/accuracy@0": 0.7}, {"vqa/accuracy@0": 0.8}
    (verdict,) = threshold_verdicts([gate], metrics, baseline, spread=lambda *_: SPREAD)
    assert verdict.text == (
        "vqa/accuracy@0: drop from the baseline is 0.1, at most 0.1206, the noise of 6 runs of "
        "size tiny (instead of 0.05), is asked"
    )
    (unknown,) = threshold_verdicts([gate], metrics, baseline)
    assert "at most 0.05 (no noise of seeds is known at size tiny) is asked" in unknown.text
    with pytest.raises(ValueError, match="noise is about drops"):
        Gate(metric="a", min=0.5, noise="tiny")
