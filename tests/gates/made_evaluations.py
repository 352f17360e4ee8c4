"""Evaluations with records that a test makes up, and candidates that gates are asked about."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from components.registry import Registry, Version
from components.registry.gates.candidate import Candidate
from components.registry.gates.files import GateFile
from components.registry.gates.judge import judge
from components.registry.gates.verdict import Verdict
from components.runtime.record import AttemptWriter, create_run, end_run
from vila_core.config import validate
from vila_core.jsonio import digest
from vila_core.store import Store, publish, ref_of

Scores = Sequence[float | None]


def rows(benchmark: str, scores: Scores, shots: int = 0, **more: Any) -> list[dict[str, Any]]:
    """Records of one benchmark; `more` may be functions of the question's number."""
    return [
        {
            "key": f"{benchmark}/{number:05d}",
            "task": benchmark,
            "shots": shots,
            "condition": "seen",
            "prompt_digest": f"p{number}",
            "score": score,
            **{name: give(number) if callable(give) else give for name, give in more.items()},
        }
        for number, score in enumerate(scores)
    ]


def evaluation(
    store: Store, folder: Path, records: Iterable[Mapping[str, Any]], **summary: Any
) -> str:
    """Publish records and return the sha256 of the artifact; `summary` says how was asked."""
    records = list(records)
    number = len(list(folder.parent.glob(f"{folder.name}*")))
    made = folder.with_name(f"{folder.name}{number}")
    made.mkdir(parents=True)
    (made / "records.jsonl").write_text("".join(json.dumps(row) + "\n" for row in records))
    metrics = {f"{row.get('task')}/accuracy@{row.get('shots')}": 0.5 for row in records}
    (made / "summary.json").write_text(json.dumps({"metrics": metrics, **summary}))
    return publish(store, made).sha256


def evaluated_later(store: Store, model: str, results: str, run_id: str, ended_at: str) -> None:
    """A run of `vila eval` that asked a model of this store, finished at a time of day."""
    create_run(
        store,
        {"run_id": run_id, "name": "eval", "recipe": "eval", "config_digest": digest(run_id)}
        | {
            "code_digest": digest("code"),
            "runner": "inline",
            "tasks": [["eval-pope", "benchmark"]],
        },
    )
    parts = {"stage": "benchmark", "config": {"benchmark": "pope", "model": model}, "inputs": {}}
    started = {"stage": "benchmark", "key": digest(run_id), "key_parts": parts}
    AttemptWriter(store, run_id, "eval-pope", started).finish(
        {
            "status": "succeeded",
            "outputs": {"results": {"uri": "", "sha256": results}},
            "ended_at": f"2026-11-29T{ended_at}:00.000+00:00",
        }
    )
    end_run(store, run_id, "succeeded")


def version(store: Store, results: str, key: str = "k") -> Version:
    """Register a version with an evaluation."""
    return Registry(store).register(
        Version(
            model="mini",
            number=0,
            artifact=ref_of(store, digest(key)),
            run_id="r-old",
            key=key,
            metrics={},
            evidence={},
            lineage={},
            results=results,
        )
    )


def candidate(store: Store, results: str, present: Version | None, **more: Any) -> Candidate:
    """A model with an evaluation, held against a present version."""
    values: dict[str, Any] = {
        "store": store,
        "model": "mini",
        "alias": "champion",
        "run_id": "r-new",
        "artifact": "b" * 64,
        "metrics": {},
        "baseline_metrics": {},
        "results": (results,) if results else (),
        "baseline": "",
        "version": None,
        "present": present,
        "present_results": (present.results,) if present else (),
        "who": "ada",
    }
    return Candidate(**{**values, **more})


def asked(gates: Sequence[Mapping[str, Any]], about: Candidate) -> list[Verdict]:
    """Parse gates as a file has them, and ask them."""
    parsed = validate(GateFile, {"gates": list(gates)}, where="test.yaml").gates
    return list(judge(parsed, about).verdicts)
