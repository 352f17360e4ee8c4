"""A version's card says what its records say, reads on the Hub, and keeps foreign text in place."""

from __future__ import annotations

import dataclasses
import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from huggingface_hub import ModelCard
from markdown_it import MarkdownIt
from typer.testing import CliRunner

from components.registry import Registry, Version
from components.runtime import record
from tests.web.story import Story
from vila_core.jsonio import digest, dumps
from vila_core.store import ArtifactRef, FileStore, Store, publish
from vila_ops.cli.main import app
from vila_ops.registry.card import card
from vila_ops.registry.escape import code, front_matter, one_line, prose
from vila_ops.registry.measured import measured

HOSTILE = (
    "<script>alert(1)</script>",
    "](javascript:alert(1)) ![x](http://evil.test/x.png)",
    "`code` | cell | **bold** _em_",
    "line\n---\nlicense: mit\n# heading",
    "www.evil.test a@evil.test https://evil.test ~~gone~~",
    "\u202egnp.exe\u0000\u2028",
    "- item",
    "1. item",
    "&lt;img src=x onerror=alert(1)&gt;",
)


def permissive() -> MarkdownIt:
    return MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"])


def test_the_hub_reads_the_card(told: tuple[Store, Story]) -> None:
    store, story = told
    read = ModelCard(card(store, story.version))
    assert read.data.pipeline_tag == "image-text-to-text"
    assert read.data.license == "other"
    assert set(read.data.datasets) == {"coyo", "mmc4", "llava", "flan"}
    assert read.data.model_name == "miniature@1"
    results = {
        (r.dataset_name, r.metric_type, r.metric_args["shots"]): r
        for r in read.data.eval_results or ()
    }
    for key, value in story.version.metrics.items():
        task, _, rest = key.partition("/")
        metric, _, shots = rest.partition("@")
        if "." in task or metric == "chance" or metric.startswith("blind"):
            continue
        found = results.pop((task, metric, int(shots)))
        assert found.metric_value == pytest.approx(100 * value, abs=1e-3)
        if metric == "accuracy":
            low, high = found.metric_args["interval_95"]
            assert low <= found.metric_value <= high
            assert low < high
    assert not results


def test_the_card_tells_recipe_data_results_and_lineage(told: tuple[Store, Story]) -> None:
    store, story = told
    text = card(store, story.version)
    for title in ("How it was trained", "Data", "Evaluation", "Learning in context", "Gates",
                  "Limits", "How to use it", "Lineage"):  # fmt: skip
        assert f"## {title}\n" in text
    assert story.version.artifact.sha256 in text
    assert story.first.data.sha256 in text
    assert story.first.results.sha256 in text
    assert f"run `{story.first.run_id}`" in text
    assert "| align | projector | vision_tower, language_model |" in text
    manifest = store.read(f"artifacts/{story.first.data.sha256}/corpora/flan/manifest.json")
    facts = json.loads(manifest)
    row = next(line for line in text.splitlines() if line.startswith("| flan | flan |"))
    assert f"{facts['samples']:,}" in row
    assert facts["licence"] in row
    assert text == card(store, story.version)


def test_the_card_does_not_change_when_aliases_move(store: Store) -> None:
    version = Registry(store).register(plain("r1"))
    before = card(store, version)
    Registry(store).move("mini", "champion", 1, why="x")
    assert card(store, version) == before


def test_a_version_whose_records_are_gone_has_a_card(store: Store) -> None:
    version = Registry(store).register(plain("gone"))
    text = card(store, version)
    assert "The record of its run is no longer in the store" in text
    assert "The records of the evaluation are no longer in the store." in text
    assert "Its config can't be read in the store." in text
    assert ModelCard(text).data.eval_results[0].metric_value == 50.0  # type: ignore[index]


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_text_stays_text(text: str) -> None:
    for made in (prose(text), code(text)):
        assert "\n" not in made
        html = permissive().render(made)
        assert html.startswith("<p>")
        assert html.count("<") == 2 or html.startswith("<p><code>")
        table = permissive().render(f"| a | b |\n| --- | --- |\n| {made} | end |\n")
        assert table.count("<td>") == 2
        assert "<td>end</td>" in table
    read = yaml.safe_load(front_matter({"name": text, "list": [text]}).split("---\n")[1])
    assert read == {"name": one_line(text), "list": [one_line(text)]}


def test_bare_addresses_are_not_made_links() -> None:
    """GitHub and the Hub make links of bare addresses; none is left bare."""
    for text in HOSTILE:
        for bare in ("https://", "www.e", "a@e"):
            assert bare not in prose(text)


def test_a_hostile_version_has_a_harmless_card(tmp_path: Path, store: Store) -> None:
    text = card(store, hostile(store, tmp_path))
    html = permissive().render(text.split("\n---\n", 1)[1])
    for bad in ("<script", "<img", "href", "<h1>heading", "<strong>bold", "<em>", "<s>", "<hr"):
        assert bad not in html
    data = ModelCard(text).data.to_dict()
    assert data["license"] == "other"
    assert sorted(data["datasets"]) == sorted(one_line(name) for name in HOSTILE)


def test_metrics_that_are_no_numbers_are_left_out(store: Store) -> None:
    metrics = {"vqa/accuracy@0": 0.5, "bad": 1.0, "x/accuracy@y": 2.0}
    version = Registry(store).register(dataclasses.replace(plain("r"), metrics=metrics))
    broken = dataclasses.replace(version, metrics={**metrics, "nan/accuracy@0": float("nan")})
    assert [row.key for row in measured(store, broken).rows] == ["vqa/accuracy@0"]
    ModelCard(card(store, broken))


def test_the_command_prints_and_writes_it(told: tuple[Store, Story], tmp_path: Path) -> None:
    store, story = told
    place = ["--store", store.uri]
    shown = CliRunner().invoke(app, ["registry", "card", "miniature@candidate", *place])
    assert shown.exit_code == 0
    assert shown.output == card(store, story.version)
    out = tmp_path / "README.md"
    done = CliRunner().invoke(app, ["registry", "card", "miniature@1", "--out", str(out), *place])
    assert done.exit_code == 0
    assert out.read_text() == shown.output


class Mutated(FileStore):
    """A store in whose JSON one value is something else."""

    def __init__(self, root: Path, key: str, path: tuple[str | int, ...], value: Any) -> None:
        super().__init__(root)
        self.key, self.path, self.value = key, path, value

    def read(self, key: str) -> bytes:
        data = super().read(key)
        if key != self.key:
            return data
        whole = json.loads(data)
        node = whole
        for part in self.path[:-1]:
            node = node[part]
        node[self.path[-1]] = self.value
        return json.dumps(whole).encode()


def paths(value: Any, depth: int = 0) -> Iterator[tuple[str | int, ...]]:
    """The places of all values in some JSON, four levels deep."""
    items = value.items() if isinstance(value, dict) else enumerate(value)
    for name, item in items:
        yield (name,)
        if isinstance(item, dict | list) and depth < 3:
            yield from ((name, *more) for more in paths(item, depth + 1))


def test_records_of_other_kinds_cost_only_their_part(told: tuple[Store, Story]) -> None:
    store, story = told
    root = store.local_path("")
    assert root is not None
    attempt = f"runs/{story.first.run_id}/tasks/sft/001"
    draw = random.Random(0)
    tried = 0
    for key in (
        f"runs/{story.first.run_id}/run.json",
        f"{attempt}/started.json",
        f"{attempt}/finished.json",
        f"artifacts/{story.version.artifact.sha256}/config.json",
        f"artifacts/{story.version.artifact.sha256}/manifest.json",
        f"artifacts/{story.first.results.sha256}/summary.json",
    ):
        found = list(paths(json.loads(store.read(key))))
        for path in draw.sample(found, min(len(found), 12)):
            value = draw.choice([None, [], {}, "x", -1, float("inf"), [{}], {"a": None}])
            text = card(Mutated(root, key, path, value), story.version)
            assert "## Lineage" in text, (key, path, value)
            ModelCard(text)
            tried += 1
    lineage = dict(story.version.lineage)
    for path in draw.sample(list(paths(lineage)), 12):
        copy = json.loads(json.dumps(lineage))
        node = copy
        for part in path[:-1]:
            node = node[part]
        node[path[-1]] = draw.choice([None, [], "x", 3])
        ModelCard(card(store, dataclasses.replace(story.version, lineage=copy)))
        tried += 1
    for gates in (None, "x", [1], [None], [{"text": None}], {"a": 1}):
        ModelCard(card(store, dataclasses.replace(story.version, evidence={"gates": gates})))
    assert tried > 50


def plain(run_id: str) -> Version:
    artifact = ArtifactRef(uri="", sha256="a" * 64)
    return Version("mini", 0, artifact, run_id, "key", {"vqa/accuracy@0": 0.5}, {}, {})


def hostile(store: Store, scratch: Path) -> Version:
    """A version in whose records every text that others write is hostile."""
    folder = scratch / "model"
    folder.mkdir()
    config = {"projector": HOSTILE[0], "text_config": {"model_type": HOSTILE[1]}}
    (folder / "config.json").write_text(dumps(config))
    artifact = publish(store, folder)
    results = scratch / "results"
    results.mkdir()
    metrics = {f"{text}/accuracy@0": 0.5 for text in HOSTILE if "/" not in text}
    summary = {"metrics": metrics, "skipped": dict.fromkeys(HOSTILE, HOSTILE[0])}
    (results / "summary.json").write_text(dumps(summary))
    found = publish(store, results)
    task = {"mixture": dict.fromkeys(HOSTILE, 1.0), "trains": list(HOSTILE[:2])}
    run = {"run_id": "r1", "recipe": HOSTILE[3], "name": HOSTILE[2], "tasks": [["sft", "sft"]],
           "runner": "inline", "dvc": {HOSTILE[0]: {HOSTILE[1]: HOSTILE[2]}}}  # fmt: skip
    record.create_run(store, run)
    started = {"key": "k", "config": task, "key_parts": {"outside": {}}}
    record.AttemptWriter(store, "r1", "sft", started).finish({"status": "succeeded"})
    entry = {"stage": "sft", "key": "k", "inputs": {"data": "b" * 64},
             "outputs": {HOSTILE[0]: HOSTILE[1]}}  # fmt: skip
    lineage = {
        "tasks": {"sft": entry},
        "register": {"inputs": {"results": found.sha256}},
        "config_digest": HOSTILE[4],
    }
    evidence = {"passed": False, "gates": [{"passed": False, "text": t} for t in HOSTILE]}
    return Registry(store).register(
        Version("mini", 0, artifact, "r1", digest("k"), {}, evidence, lineage)
    )
