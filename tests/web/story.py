"""Two finished runs and a version: all that a dashboard shows, with real files, in a second.

The data are a small miniature world (real corpora with indexes, real evaluation sets with images).
The models are a few numbers, what they answer is made up: the better run is right more often.
"""

from __future__ import annotations

import json
import math
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from components.registry import Registry, Version
from components.runtime import record
from vila_core.eval.items import EvalSet, Item, eval_folders, load_eval_set
from vila_core.eval.prompts import make_prompt
from vila_core.eval.records import BLIND, SEEN, Record, ordered, summarise
from vila_core.jsonio import digest, dumps
from vila_core.stages import prepare
from vila_core.store import ArtifactRef, Store, publish

MODEL = "miniature"
RIGHT = {"first": 0.72, "second": 0.9}
"""Share of questions about images that each run answers rightly."""
STEPS = 60
WORLD = {
    "captions": 24,
    "documents": 16,
    "conversations": 24,
    "questions": 2,
    "instructions": 24,
    "eval_items": 12,
    "eval_digits": 30,
}
TASKS = (
    ("prepare", "prepare"),
    ("align", "align"),
    ("pretrain", "pretrain"),
    ("sft", "sft"),
    ("evaluate", "evaluate"),
    ("register", "register"),
)


@dataclass(frozen=True)
class Told:
    """One run of the story."""

    run_id: str
    data: ArtifactRef
    model: ArtifactRef
    results: ArtifactRef


@dataclass(frozen=True)
class Story:
    """The runs; the first one's model is `miniature@1`, where `candidate` stands."""

    first: Told
    second: Told
    version: Version


def make_story(store: Store, scratch: Path, steps: int = STEPS) -> Story:
    """Write the story into a store; `scratch` takes what becomes artifacts."""
    data = _data(store, scratch / "data")
    first = _tell(store, scratch, "story-1129-100000-aaaa", "first", data, 0, steps)
    second = _tell(store, scratch, "story-1129-110000-bbbb", "second", data, 1, steps)
    registry = Registry(store)
    metrics = _metrics(store, first)
    version = registry.register(
        Version(
            model=MODEL,
            number=0,
            artifact=first.model,
            run_id=first.run_id,
            key=digest("register first"),
            metrics=metrics,
            evidence={"passed": True, "gates": []},
            lineage=_lineage(store, first),
        )
    )
    registry.move(MODEL, "candidate", version.number, why="the first of the story")
    return Story(first, second, version)


def _data(store: Store, folder: Path) -> ArtifactRef:
    config = prepare.Config.model_validate({"source": "miniature", "miniature": WORLD})
    made = prepare.run(config, {}, folder)
    return publish(store, made.outputs["data"])


def _tell(
    store: Store, scratch: Path, run_id: str, which: str, data: ArtifactRef, seed: int, steps: int
) -> Told:
    configs = _configs(seed, steps)
    hour = 10 + seed
    run = {
        "run_id": run_id,
        "name": "story",
        "recipe": "story",
        "config": configs,
        "config_digest": digest(configs),
        "runner": "subprocess",
        "code_digest": digest("code"),
        "pipeline": "recipe",
        "tasks": [list(task) for task in TASKS],
        "created_at": f"2026-11-29T{hour}:00:00.000+00:00",
        "argv": ["run", "story"],
        "environment": {"python": "3.11.2", "cores": 2, "packages": {"torch": "2.13.0"}},
    }
    record.create_run(store, run)
    record.begin_driver(store, run_id)
    model = _model(store, scratch / which / "model", seed)
    results, summary = _results(store, scratch / which / "results", data, RIGHT[which])
    told = Told(run_id, data, model, results)
    models = {name: ArtifactRef("", digest([name, seed])) for name in ("align", "pretrain")}
    inputs: Mapping[str, Mapping[str, str]] = {
        "prepare": {},
        "align": {"data": data.sha256},
        "pretrain": {"data": data.sha256, "model": models["align"].sha256},
        "sft": {"data": data.sha256, "model": models["pretrain"].sha256},
        "evaluate": {"data": data.sha256, "model": model.sha256},
        "register": {
            "model": model.sha256,
            "results": results.sha256,
            "baseline": results.sha256,
        },
    }
    outputs: Mapping[str, Mapping[str, ArtifactRef]] = {
        "prepare": {"data": data},
        "align": {"model": models["align"]},
        "pretrain": {"model": models["pretrain"]},
        "sft": {"model": model},
        "evaluate": {"results": results},
        "register": {},
    }
    for name, stage in TASKS:
        key = digest([run_id if seed and name not in ("prepare", "align") else "", name])
        cached = bool(seed) and name in ("prepare", "align")
        parts = {
            "stage": stage,
            "config": configs.get(name, {}),
            "code": {"digest": digest(["code", stage]), "files": {}},
            "inputs": inputs[name],
        }
        writer = record.AttemptWriter(
            store,
            run_id,
            name,
            {"stage": stage, "key": key, "config": parts["config"], "key_parts": parts},
        )
        trains = name in ("align", "pretrain", "sft")
        if trains and not cached:
            lines = (json.dumps(row) + "\n" for row in _rows(steps, seed, name))
            (writer.folder / "metrics.jsonl").write_text("".join(lines))
        (writer.folder / "log.txt").write_text(f"{name} begins\n{name} ends\n")
        metrics = summary["metrics"] if name == "evaluate" else _ended(name, configs, steps, seed)
        writer.finish(
            {
                "status": "cached" if cached else "succeeded",
                "exit_code": 0,
                "duration_s": 2.5,
                "outputs": {part: ref.as_json() for part, ref in outputs[name].items()},
                "metrics": metrics,
                "error": None,
                "cached_from": {"run_id": "story-1129-100000-aaaa"} if cached else None,
                "peak_rss_bytes": 2**28,
                "cpu_s": 2.0,
            }
        )
    record.end_run(store, run_id, "succeeded")
    return told


def _configs(seed: int, steps: int) -> dict[str, Any]:
    train = {"steps": steps, "lr": 0.003, "seed": seed, "precision": "fp32"}
    return {
        "prepare": {"source": "miniature", "miniature": WORLD},
        "align": {"trains": ["projector"], "mixture": {"coyo": 1.0}, "train": train | {"seed": 0}},
        "pretrain": {
            "trains": ["projector", "language_model"],
            "mixture": {"mmc4": 0.5, "coyo": 0.5},
            "mixture_by": "tokens",
            "train": train,
        },
        "sft": {
            "trains": ["projector", "language_model"],
            "mixture": {"llava": 0.7, "flan": 0.3},
            "mixture_by": "tokens",
            "train": train,
        },
        "evaluate": {"blind": True, "tasks": None},
        "register": {"model": MODEL, "alias": "candidate"},
        "tracking": {"wandb": "offline"},
        "pipeline": "recipe",
    }


def _rows(steps: int, seed: int, task: str) -> Iterator[dict[str, float]]:
    draw = random.Random(f"{task} {seed}")
    for step in range(1, steps + 1):
        loss = 0.4 + 2.0 * math.exp(-6 * step / steps) + 0.05 * draw.random()
        yield {
            "step": step,
            "time": 1795960000.0 + step * 0.5,
            "loss": loss,
            "lr": 0.003 * (1 - step / steps),
            "grad_norm": 1 + draw.random(),
            "tokens_per_s": 17_000 + 500 * draw.random(),
            "supervised_tokens_per_s": 5_000 + 100 * draw.random(),
            "mfu": 0.15 + 0.01 * draw.random(),
            "memory_mib": 670 + step / steps,
            "step_s": 0.09,
            "data_wait_s": 0.01,
            "pack_fill": 0.99,
        }


def _ended(name: str, configs: Mapping[str, Any], steps: int, seed: int) -> dict[str, float]:
    if name == "register":
        return {"promoted": 1.0, "version": 1.0}
    if "train" not in configs.get(name, {}):
        return {}
    mixture = configs[name]["mixture"]
    return {
        "loss": 0.41 + 0.01 * seed,
        "loss_first": 2.4,
        "steps": steps,
        "tokens": 1000.0 * steps,
        "tokens_per_s": 17_200.0,
        "wall_s": 0.5 * steps,
        **{f"tokens_share/{corpus}": share for corpus, share in mixture.items()},
        **{f"supervised_share/{corpus}": 1 / len(mixture) for corpus in mixture},
        **{f"epochs/{corpus}": 1.5 for corpus in mixture},
    }


def _model(store: Store, folder: Path, seed: int) -> ArtifactRef:
    folder.mkdir(parents=True)
    numbers = np.random.default_rng(seed).standard_normal((8, 8)).astype(np.float32)
    save_file({"projector.weight": numbers}, folder / "model.safetensors")
    (folder / "config.json").write_text(dumps({"model_type": "vila", "hidden_size": 8}) + "\n")
    (folder / "processor_config.json").write_text(dumps({"image_size": 48}) + "\n")
    return publish(store, folder)


def _results(
    store: Store, folder: Path, data: ArtifactRef, right: float
) -> tuple[ArtifactRef, dict[str, Any]]:
    root = store.local_path(f"artifacts/{data.sha256}")
    assert root is not None
    draw = random.Random(right)
    found: list[Record] = []
    for path in eval_folders(root / "eval").values():
        found += _answers(load_eval_set(path), draw, right)
    folder.mkdir(parents=True)
    kept = ordered(found)
    (folder / "records.jsonl").write_text("".join(one.line() for one in kept), encoding="utf-8")
    summary = summarise(kept)
    (folder / "summary.json").write_text(dumps(summary, indent=1) + "\n", encoding="utf-8")
    return publish(store, folder), summary


def _answers(task: EvalSet, draw: random.Random, right: float) -> Iterator[Record]:
    answers = [item.case.answer for item in task.items]
    for shots in task.settings.shots:
        better = min(1.0, right + 0.02 * shots)
        for item in task.items:
            yield _record(task, item, shots, SEEN, better, answers, draw)
            if task.settings.blind and item.has_images:
                yield _record(task, item, shots, BLIND, item.chance, answers, draw)


def _record(
    task: EvalSet,
    item: Item,
    shots: int,
    condition: str,
    right: float,
    answers: Sequence[str],
    draw: random.Random,
) -> Record:
    said = item.case.answer if draw.random() < right else draw.choice(answers)
    return Record(
        key=item.key,
        task=task.settings.task,
        type=item.type,
        shots=shots,
        condition=condition,
        prompt_digest=make_prompt(item, shots, task.settings.stop).digest(),
        answer=said,
        finished=True,
        reference=item.case.answer,
        score=float(said == item.case.answer),
        chance=item.chance,
    )


def _metrics(store: Store, told: Told) -> dict[str, float]:
    summary = json.loads(store.read(f"artifacts/{told.results.sha256}/summary.json"))
    return {key: float(value) for key, value in summary["metrics"].items()}


def _lineage(store: Store, told: Told) -> dict[str, Any]:
    loaded = record.RunRecord.load(store, told.run_id)
    tasks = {}
    for name, attempts in loaded.tasks.items():
        parts = attempts[-1].started["key_parts"]
        finished = attempts[-1].finished
        assert finished is not None
        if name != "register":
            tasks[name] = {
                "stage": parts["stage"],
                "key": attempts[-1].started["key"],
                "config_digest": digest(parts["config"]),
                "code_digest": parts["code"]["digest"],
                "inputs": parts["inputs"],
                "outputs": {part: ref["sha256"] for part, ref in finished["outputs"].items()},
            }
    return {
        "tasks": tasks,
        "config_digest": loaded.run["config_digest"],
        "code_digest": loaded.run["code_digest"],
        "register": {
            "key": digest("register first"),
            "inputs": {"model": told.model.sha256, "results": told.results.sha256},
        },
    }
