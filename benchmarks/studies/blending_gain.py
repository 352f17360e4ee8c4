"""Does blending text into fine-tuning lift the accuracy of questions about images (VILA, Table 4)?

Fine-tuning with visual conversations alone against the same with text-only instructions on top:
equally many steps, and equally many visual tokens per step. All else is
configs/ablations/sizes/miniature.yaml. Each seed has its own language model and order of the data;
its two arms share all that comes before fine-tuning. Conditions vary the number of conversations,
and the size of the language model. Finished stages stay in `--work`, so that a second call goes
on, also with more seeds.

Writes `--report` (Markdown) from what was measured: per condition the difference of each seed, its
mean and 95% interval over seeds, and the half width of that interval, which is the smallest mean
difference that so many seeds could have told from none.
"""

from __future__ import annotations

import argparse
import importlib
import json
import math
import shlex
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vila_core.config import merge, read_yaml, validate
from vila_core.eval.stats import seed_interval
from vila_core.jsonio import digest, dumps

SIZE = Path(__file__).parents[2] / "configs/ablations/sizes/miniature.yaml"
VQA, TEXT = "miniature_vqa", "miniature_knowledge"
TYPES = ("color", "shape", "count", "exist", "where", "object")


@dataclass(frozen=True)
class Condition:
    """What differs from the size file: overrides by section."""

    title: str
    prepare: Mapping[str, Any]
    language_model: Mapping[str, Any]


LARGER = {"hidden_size": 96, "intermediate_size": 240, "num_hidden_layers": 4}
CONDITIONS = {
    "default": Condition("4,000 conversations", {}, {}),
    "little": Condition("400 conversations, about 10 epochs", {"conversations": 400}, {}),
    "larger": Condition("language model of 4 layers of width 96 in place of 3 of 64", {}, LARGER),
}


@dataclass(frozen=True)
class Run:
    """A seed under one condition: metrics of both arms, and of the model they start from."""

    visual: Mapping[str, float]
    blend: Mapping[str, float]

    def gain(self, key: str) -> float:
        """Blended minus visual only, in points."""
        return 100 * (self.blend[key] - self.visual[key])


class Stages:
    """Runs stages in this process, and keeps what they leave by what goes into them."""

    def __init__(self, work: Path) -> None:
        self._work = work

    def run(self, stage: str, values: Mapping[str, Any], **inputs: Path) -> tuple[Path, Any]:
        """Return a stage's output folder and metrics."""
        module = importlib.import_module(f"vila_core.stages.{stage}")
        config = validate(module.Config, values, where=str(SIZE), path=stage)
        names = {name: str(path.relative_to(self._work)) for name, path in inputs.items()}
        folder = self._work / f"{stage}-{digest([stage, config.cache_key(), names])[:16]}"
        done = folder / "done.json"
        if not done.is_file():
            started = time.process_time()
            result = module.run(config, inputs, folder)
            taken = time.process_time() - started
            (output,) = result.outputs.values()
            kept = {
                "output": str(output.relative_to(folder)),
                "metrics": dict(result.metrics),
                "cpu_s": taken,
            }
            done.write_text(dumps(kept), encoding="utf-8")
            print(f"{folder.name}: {taken:.0f} CPU s", flush=True)
        kept = json.loads(done.read_text(encoding="utf-8"))
        return folder / kept["output"], kept["metrics"]


def measure(stages: Stages, condition: Condition, seed: int, items: int) -> Run:
    """Train and measure both arms of a seed."""
    size = read_yaml(SIZE)
    seeded = {"train": {"seed": seed}}
    before, _ = stages.run("prepare", size["prepare"])
    data, _ = stages.run("prepare", merge(size["prepare"], {"miniature": condition.prepare}))
    world = {"miniature": {"eval_visual_items": items}}
    asked, _ = stages.run("prepare", merge(size["prepare"], world))
    tower, _ = stages.run("vision_tower", size["vision_tower"])
    base = merge(size["language_model"], {**seeded, "miniature": {"seed": seed}})
    if condition.language_model:
        from vila_core.miniature.config import LanguageConfig

        shape = merge(LanguageConfig.model_validate({}).model, condition.language_model)
        base = merge(base, {"miniature": {"model": shape}})
    language, _ = stages.run("language_model", base)
    aligned, _ = stages.run(
        "align",
        merge(size["align"], seeded),
        vision_tower=tower,
        language_model=language,
        data=before,
    )
    start, _ = stages.run("pretrain", merge(size["pretrain"], seeded), base=aligned, data=before)
    sft = merge(size["sft"], seeded)
    alone = {**sft, **size["arms"]["blending"]["visual"]["sft"], "mixture": {"llava": 1.0}}
    results = {}
    for name, config in {"visual": alone, "blend": sft}.items():
        model, _ = stages.run("sft", config, base=start, data=data)
        questions = {"tasks": [VQA, TEXT], "blind": True}
        _, results[name] = stages.run("evaluate", questions, model=model, data=asked)
    return Run(**results)


def points(values: Sequence[float]) -> str:
    """Return the mean of shares and their standard deviation over seeds, in points."""
    mean = math.fsum(values) / len(values)
    spread = math.sqrt(math.fsum((v - mean) ** 2 for v in values) / max(len(values) - 1, 1))
    return f"{100 * mean:.1f} ± {100 * spread:.1f}"


def verdict(interval: Mapping[str, float]) -> str:
    """Say what a 95% interval of points means for a gain of 2 points or more."""
    if interval["low"] > 0:
        return "lifts"
    if interval["high"] < 0:
        return "lowers"
    return "no gain of 2 points" if interval["high"] < 2 else "not resolved"


def section(condition: Condition, runs: Mapping[int, Run]) -> list[str]:
    """Return the report's part on one condition."""
    key = f"{VQA}/accuracy@0"
    gains = [run.gain(key) for run in runs.values()]
    lines = [
        f"## {condition.title}",
        "",
        "| measure | visual only | blended | blended minus visual, by seed | mean, 95% interval "
        "| half width | |",
        "|---|---|---|---|---|---|---|",
    ]
    rows = {"questions about images": key, "the same, blind": f"{VQA}/blind_accuracy@0"}
    rows |= {f"type {kind}": f"{VQA}.{kind}/accuracy@0" for kind in TYPES}
    rows["text: knowledge"] = f"{TEXT}/accuracy@0"
    for title, name in rows.items():
        gains = [run.gain(name) for run in runs.values()]
        shown = " ".join(f"{gain:+.1f}" for gain in gains)
        found = seed_interval(gains)
        half = (found["high"] - found["low"]) / 2
        said = verdict(found) if name == key else ""
        lines.append(
            f"| {title} | {points([run.visual[name] for run in runs.values()])} "
            f"| {points([run.blend[name] for run in runs.values()])} | {shown} "
            f"| {found['mean']:+.1f} ({found['low']:+.1f} to {found['high']:+.1f}) "
            f"| {half:.1f} | {said} |"
        )
    return [*lines, ""]


def write(path: Path, measured: Mapping[str, Mapping[int, Run]], items: int) -> None:
    """Write the report."""
    whole = [
        "# Does blending text lift visual accuracy?",
        "",
        "The paper's Table 4 has +2.3 and +3.3 points (0-shot) for text-only instructions blended "
        "into visual fine-tuning. Here: the same comparison in the toy world, on question types "
        "that the visual conversations hold themselves. Written by the script, from what it ran:",
        "",
        f"    {shlex.join(['python', *sys.argv])}",
        "",
        f"{items} held-out questions per type, {len(TYPES)} types. Both arms of a seed start from "
        "the same pre-trained model, take equally many steps, and see equally many visual tokens "
        "per step. Percent, mean ± standard deviation over seeds; intervals by Student's t over "
        "seeds. Half width: the smallest mean difference that these seeds could have told from "
        "none.",
        "",
    ]
    for name, runs in measured.items():
        if len(runs) > 1:
            whole += section(CONDITIONS[name], runs)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(whole), encoding="utf-8")


def main() -> None:
    """Measure every condition, seed by seed, and write the report after each of them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--conditions", nargs="+", choices=CONDITIONS, default=list(CONDITIONS))
    parser.add_argument("--seeds", type=int, default=8, help="seeds 0 to this - 1")
    parser.add_argument("--items", type=int, default=600, help="questions per type")
    parser.add_argument("--work", type=Path, required=True, help="folder of finished stages")
    parser.add_argument("--report", type=Path, required=True, help="Markdown file to write")
    options = parser.parse_args()
    stages = Stages(options.work.resolve())
    measured: dict[str, dict[int, Run]] = {name: {} for name in options.conditions}
    for seed in range(options.seeds):
        for name, runs in measured.items():
            runs[seed] = measure(stages, CONDITIONS[name], seed, options.items)
            gain = runs[seed].gain(f"{VQA}/accuracy@0")
            print(f"seed {seed}, {name}: {gain:+.1f} points", flush=True)
            write(options.report, measured, options.items)


if __name__ == "__main__":
    main()
