"""Stage `evaluate`: zero- and few-shot accuracy beside the blind baseline, sample by sample."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import Field

from vila_core.config import Frozen
from vila_core.errors import UserError, require
from vila_core.jsonio import dumps
from vila_core.types import QUIET, Reporter, StageResult

if TYPE_CHECKING:
    from vila_core.eval.generate import Generator
    from vila_core.eval.items import EvalSet
    from vila_core.eval.records import Record


class Config(Frozen):
    """What to ask, and how."""

    tasks: tuple[str, ...] | None = Field(
        None, description="task names; default: all that are prepared"
    )
    shots: tuple[int, ...] | None = Field(
        None, description="instead of each task's own numbers of demonstrations"
    )
    blind: bool = Field(True, description="measure the baseline without images too")
    batch_size: int = Field(128, gt=0, description="prompts answered at once")
    threads: int = Field(1, gt=0, description="CPU threads of torch")


def run(
    config: Config, inputs: Mapping[str, Path], out_dir: Path, report: Reporter = QUIET
) -> StageResult:
    """Ask `model` (a VILA folder, or a plain language model for text tasks) all tasks of `data`.

    Output `results`: records.jsonl and summary.json. Tasks with images are skipped, by name, for a
    model that can't see. Raises UserError for an unknown task or a damaged evaluation set.
    """
    for module in ("torch", "transformers"):
        require(module, extra="train", why="evaluate a model")
    import torch

    from vila_core.eval.metrics import NORMALISATION
    from vila_core.eval.records import ordered, summarise

    torch.set_num_threads(config.threads)
    sets = _open_sets(inputs["data"] / "eval", config)
    generator, sees = _open_model(inputs["model"], config)
    skipped = sorted(name for name, task in sets.items() if task.has_images and not sees)
    for name in skipped:
        report.info(f"{name} is skipped: the model can't see images")
    asked = {name: task for name, task in sets.items() if name not in skipped}
    records = _ask_all(asked, generator, config, report)
    bleu_tasks = [s.settings.task for s in asked.values() if s.settings.metric == "bleu"]
    summary = summarise(records, bleu_tasks)
    summary |= {"skipped": skipped, "normalisation": NORMALISATION, "decoding": "greedy"}
    folder = out_dir / "results"
    folder.mkdir(parents=True, exist_ok=True)
    lines = "".join(record.line() for record in ordered(records))
    (folder / "records.jsonl").write_text(lines, encoding="utf-8")
    (folder / "summary.json").write_text(dumps(summary, indent=1) + "\n", encoding="utf-8")
    return StageResult({"results": folder}, summary["metrics"])


def _open_sets(folder: Path, config: Config) -> dict[str, EvalSet]:
    from vila_core.eval.items import eval_folders, load_eval_set

    there = eval_folders(folder)
    for name in config.tasks or ():
        if name not in there:
            close = difflib.get_close_matches(name, there, n=1)
            known = f"prepared tasks: {', '.join(there) or 'none'}"
            fix = f"did you mean '{close[0]}'?" if close else f"{known}."
            raise UserError(f"tasks: there is no task '{name}' in the prepared data; {fix}")
    return {name: load_eval_set(there[name]) for name in config.tasks or there}


def _open_model(folder: Path, config: Config) -> tuple[Generator, bool]:
    """Return what answers prompts, and whether it can see."""
    from vila_core.eval.generate import Generator

    if (folder / "processor_config.json").is_file():
        from vila_core.images import decode
        from vila_core.model import load

        model, processor = load(folder)
        return Generator(
            model,
            processor.tokenizer,
            processor.expand,
            lambda path: processor.image_transform(decode(path.read_bytes())),
            config.batch_size,
        ), True
    import torch
    from transformers import AutoModelForCausalLM

    from vila_core.model import load_tokenizer

    model = AutoModelForCausalLM.from_pretrained(
        str(folder), dtype=torch.float32, local_files_only=True
    ).eval()
    return Generator(model, load_tokenizer(folder), batch_size=config.batch_size), False


def _ask_all(
    sets: Mapping[str, EvalSet], generator: Generator, config: Config, report: Reporter
) -> list[Record]:
    from vila_core.eval.metrics import exact_match
    from vila_core.eval.prompts import make_prompt
    from vila_core.eval.records import BLIND, SEEN, Record

    rounds = []
    for name, task in sets.items():
        settings = task.settings
        conditions = (
            [SEEN, BLIND] if config.blind and settings.blind and task.has_images else [SEEN]
        )
        for shots in config.shots or settings.shots:
            most = min(len(item.demos) for item in task.items)
            if shots > most:
                raise UserError(
                    f"shots: {shots} are asked for, but '{name}' has {most} demonstrations."
                )
            rounds += [(task, shots, condition) for condition in conditions]
    total = sum(len(task.items) for task, _, _ in rounds)
    records: list[Record] = []
    for task, shots, condition in rounds:
        settings = task.settings
        prompts = [make_prompt(item, shots, settings.stop) for item in task.items]
        answers = generator.answers(
            prompts,
            max_new_tokens=settings.max_new_tokens,
            stop=settings.stop,
            blind=condition == BLIND,
        )
        for index, answer in answers:
            item = task.items[index]
            records.append(
                Record(
                    key=item.key,
                    task=settings.task,
                    type=item.type,
                    shots=shots,
                    condition=condition,
                    prompt_digest=prompts[index].digest(),
                    answer=answer,
                    reference=item.case.answer,
                    score=exact_match(answer, item.case.answer),
                    chance=item.chance,
                )
            )
            report.progress(len(records), total, "answers")
    return records
