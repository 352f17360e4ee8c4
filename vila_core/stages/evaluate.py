"""Stage `evaluate`: zero- and few-shot accuracy beside the blind baseline, a record per sample."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import Field

from vila_core.errors import UserError
from vila_core.eval.items import Shots
from vila_core.jsonio import dumps
from vila_core.stages._answerers import AnswererConfig, open_folder
from vila_core.types import QUIET, Reporter, StageResult

if TYPE_CHECKING:
    from vila_core.eval.answerer import Answerer
    from vila_core.eval.files import ImageRef
    from vila_core.eval.items import EvalSet
    from vila_core.eval.prompts import Prompt
    from vila_core.eval.records import Record


class Config(AnswererConfig):
    """What to ask, and how."""

    tasks: tuple[str, ...] | None = Field(
        default=None, min_length=1, description="task names; default: all that are prepared"
    )
    shots: Shots | None = Field(
        default=None, description="instead of each task's own numbers of demonstrations"
    )
    blind: bool = Field(default=True, description="measure the baseline without images too")


@dataclass(frozen=True)
class _Round:
    """All questions of a task, asked with some demonstrations, seen and perhaps blind."""

    task: EvalSet
    shots: int
    conditions: Sequence[str]


def run(
    config: Config, inputs: Mapping[str, Path], out_dir: Path, report: Reporter = QUIET
) -> StageResult:
    """Ask `model` (a VILA folder, or a plain language model for text tasks) all tasks of `data`.

    Output `results`: records.jsonl and summary.json. Tasks with images are skipped, by name, for a
    model that can't see, and so are numbers of shots that a task has no demonstrations for. Raises
    UserError for an unknown task, a damaged evaluation set, or a folder that holds no model.
    """
    from vila_core.eval.metrics import NORMALISATION
    from vila_core.eval.records import ordered, summarise

    sets = _open_sets(inputs["data"] / "eval", config)
    answerer = open_folder(inputs["model"], config)
    rounds, skipped = _plan(sets, config, answerer.sees)
    for name, why in skipped.items():
        report.info(f"{name} is skipped: {why}")
    records = ordered(_ask_all(rounds, answerer, report))
    summary = summarise(records, {name: task.settings.metric for name, task in sets.items()})
    summary |= {"skipped": skipped, "normalisation": NORMALISATION, "decoding": "greedy"}
    folder = out_dir / "results"
    folder.mkdir(parents=True, exist_ok=True)
    lines = "".join(record.line() for record in records)
    (folder / "records.jsonl").write_text(lines, encoding="utf-8")
    (folder / "summary.json").write_text(dumps(summary, indent=1) + "\n", encoding="utf-8")
    return StageResult({"results": folder}, summary["metrics"])


def _open_sets(folder: Path, config: Config) -> dict[str, EvalSet]:
    from vila_core.eval.items import TASK_FILE, eval_folders, load_eval_set

    there = eval_folders(folder)
    if not there:
        raise UserError(
            f"{folder}: holds no evaluation task (<task>/{TASK_FILE}); run prepare first"
        )
    for name in config.tasks or ():
        if name not in there:
            close = difflib.get_close_matches(name, there, n=1)
            known = f"prepared tasks: {', '.join(there)}"
            fix = f"did you mean '{close[0]}'?" if close else f"{known}."
            raise UserError(f"tasks: there is no task '{name}' in the prepared data; {fix}")
    return {name: load_eval_set(there[name]) for name in config.tasks or there}


def _plan(
    sets: Mapping[str, EvalSet], config: Config, sees: bool
) -> tuple[list[_Round], dict[str, str]]:
    """Return what to ask, and what is left out, each with its reason."""
    from vila_core.eval.records import BLIND, SEEN

    rounds: list[_Round] = []
    skipped: dict[str, str] = {}
    for name, task in sets.items():
        if task.has_images and not sees:
            skipped[name] = "the model can't see images"
            continue
        blind = config.blind and task.settings.blind and task.has_images
        for shots in sorted(set(config.shots or task.settings.shots)):
            if shots > task.most_shots:
                skipped[f"{name}@{shots}"] = f"its items have {task.most_shots} demonstrations"
            else:
                rounds.append(_Round(task, shots, (SEEN, BLIND) if blind else (SEEN,)))
    if config.shots and not rounds and any("@" in name for name in skipped):
        most = max(task.most_shots for task in sets.values())
        raise UserError(
            f"shots: {min(config.shots)} or more are asked for, but the tasks have at most {most} "
            "demonstrations; lower it"
        )
    return rounds, skipped


def _ask_all(rounds: Sequence[_Round], answerer: Answerer, report: Reporter) -> list[Record]:
    from vila_core.eval.prompts import make_prompt

    total = sum(len(each.task.items) * len(each.conditions) for each in rounds)
    records: list[Record] = []
    digests: dict[ImageRef, bytes] = {}
    for each in rounds:
        settings = each.task.settings
        prompts = [make_prompt(item, each.shots, settings.stop) for item in each.task.items]
        named = [prompt.digest(digests) for prompt in prompts]
        for condition in each.conditions:
            for batch in _ask(each, condition, prompts, named, answerer):
                records += batch
                report.progress(len(records), total, "answers")
    return records


def _ask(
    asked: _Round,
    condition: str,
    prompts: Sequence[Prompt],
    digests: Sequence[str],
    answerer: Answerer,
) -> Iterator[list[Record]]:
    from vila_core.eval.metrics import exact_match
    from vila_core.eval.records import BLIND, Record

    settings = asked.task.settings
    for batch in answerer.answers(
        prompts,
        max_new_tokens=settings.max_new_tokens,
        stop=settings.stop,
        blind=condition == BLIND,
    ):
        yield [
            Record(
                key=item.key,
                task=settings.task,
                type=item.type,
                shots=asked.shots,
                condition=condition,
                prompt_digest=digests[index],
                answer=answer.text,
                finished=answer.finished,
                reference=item.case.answer,
                score=exact_match(answer.text, item.case.answer),
                chance=item.chance,
            )
            for index, answer in batch
            for item in [asked.task.items[index]]
        ]
