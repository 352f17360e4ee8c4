"""Small runs with curves and evaluations, made as the platform writes them."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from starlette.testclient import TestClient

from components.runtime import record
from tests.web.made_runs import begin_task, write_run
from vila_core.store import Store, publish
from vila_ops.web.app import create_app

LOCAL = "http://127.0.0.1:8080"


def run_id(number: int, name: str = "toy") -> str:
    return f"{name}-1129-1000{number:02d}-{number:04x}"


def make_run(
    store: Store,
    number: int,
    answers: Iterable[Mapping[str, Any]] = (),
    rows: Sequence[Mapping[str, Any]] = (),
    *,
    config: Mapping[str, Any] | None = None,
    status: str = "succeeded",
    name: str = "toy",
    **more: Any,
) -> str:
    """Write a run that trained (`rows`) and was evaluated (`answers`); return its id."""
    made = run_id(number, name)
    config = config or {"sft": {"lr": 0.1, "seed": number}}
    write_run(
        store, made, config=config, **{"created_at": f"2026-11-29T10:00:{number:02d}+00:00", **more}
    )
    record.begin_driver(store, made)
    lines = [dict(line) for line in answers]
    outputs = {"results": publish_records(store, lines).as_json()} if lines else {}
    metrics = {"toy/accuracy@0": sum(line["score"] or 0 for line in lines) / max(1, len(lines))}
    for task, found, its in (("sft", {}, {"loss": 2.5}), ("evaluate", outputs, metrics)):
        writer = begin_task(store, made, task, task, rows if task == "sft" else ())
        writer.finish(
            {
                "status": "succeeded",
                "exit_code": 0,
                "duration_s": 1.5,
                "outputs": found,
                "metrics": its,
                "error": None,
                "cached_from": None,
            }
        )
    if status != "running":
        record.end_run(store, made, status)
    return made


def publish_records(store: Store, lines: Iterable[Mapping[str, Any]]) -> Any:
    with tempfile.TemporaryDirectory() as folder:
        text = "".join(json.dumps(line) + "\n" for line in lines)
        (Path(folder) / "records.jsonl").write_text(text, encoding="utf-8")
        return publish(store, Path(folder))


def answer(key: object, score: float | None, **more: Any) -> dict[str, Any]:
    return {
        "key": f"toy/{key}",
        "task": "toy",
        "type": "kind",
        "shots": 0,
        "condition": "seen",
        "prompt_digest": f"{key}",
        "answer": "yes" if score else "no",
        "finished": True,
        "reference": "yes",
        "score": score,
        **more,
    }


def answers(scores: Sequence[float | None], **more: Any) -> list[dict[str, Any]]:
    return [answer(key, score, **more) for key, score in enumerate(scores)]


def rows_of(values: Sequence[float], metric: str = "loss") -> list[dict[str, Any]]:
    return [
        {"step": step, "time": 100.0 + step, "step_s": 1.0, "tokens_per_s": 10.0, metric: value}
        for step, value in enumerate(values, start=1)
    ]


def client_of(store: Store) -> TestClient:
    return TestClient(
        create_app(store), base_url=LOCAL, follow_redirects=False, raise_server_exceptions=False
    )


def path_of(*names: str, **more: str) -> str:
    query = [f"run={name}" for name in names] + [f"{key}={value}" for key, value in more.items()]
    return "/compare?" + "&".join(query)
