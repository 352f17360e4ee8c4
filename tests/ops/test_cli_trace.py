"""`vila data trace` and `takedown` on a real run of the whole recipe, a very short one."""

from __future__ import annotations

import json
import shutil
from collections import defaultdict
from pathlib import Path

import pytest

from tests.ops.test_cli_prepare import vila
from vila_core.data.corpus import Corpus
from vila_core.data.encode import Encoder
from vila_core.data.loader import PackLoader
from vila_core.errors import UserError
from vila_core.model.processor import VilaProcessor
from vila_core.stages.sft import Config
from vila_core.store import Store, fetch, open_store
from vila_core.store.artifacts import ArtifactRef
from vila_ops.data.takedown import takedown
from vila_ops.data.trace import places, uses
from vila_ops.runs import load_view

pytestmark = pytest.mark.slow
KEY = "mmc4/00000/000007"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with one run, whose pretrain kept every checkpoint."""
    folder = tmp_path_factory.mktemp("traced") / "store"
    sizes = ("captions", "documents", "conversations", "instructions")
    values = [f"prepare.miniature.{name}=60" for name in sizes]
    values += ["prepare.miniature.eval_items=4", "prepare.miniature.eval_digits=10"]
    values += ["vision_tower.train.steps=60", "language_model.train.steps=60"]
    values += ["align.train.steps=6", "pretrain.train.steps=12", "sft.train.steps=24"]
    values += ["pretrain.train.save_every=1", "pretrain.train.keep_every=1"]
    values += ["tracking.wandb=off", "register.gates=[]"]
    options = [text for value in values for text in ("--set", value)]
    vila("run", "quickstart", "--name", "r", "--runner", "inline", "--store", folder, *options)
    return folder


@pytest.fixture(scope="module")
def store(folder: Path) -> Store:
    return open_store(str(folder))


def artifact(store: Store, task: str, name: str) -> Path:
    view = load_view(store, store.children("runs")[0])
    found = view.task(task)
    assert found
    (ref,) = [one for one in found.artifacts if one["name"] == name]
    return fetch(store, ArtifactRef(uri=ref["uri"], sha256=ref["sha256"]))


def test_a_sample_is_found_where_it_lies(store: Store) -> None:
    (place,) = places(store, KEY)
    data = artifact(store, "prepare", "data")
    with (data / place.shard).open("rb") as file:
        file.seek(place.offset)
        header = json.loads(file.read(place.size).partition(b"\0")[0])
    assert (header["key"], header["digest"]) == (KEY, place.digest)
    assert place.meta == header["meta"]


def test_the_steps_are_those_that_the_training_really_drew(store: Store) -> None:
    config = Config.model_validate(load_view(store, store.children("runs")[0]).config["sft"])
    data, model = artifact(store, "prepare", "data"), artifact(store, "sft", "model")
    processor = VilaProcessor.from_pretrained(model)
    corpora = {name: Corpus.open(data / "corpora" / name) for name in config.mixture}
    image_id = json.loads((model / "config.json").read_text())["image_token_id"]
    loader = PackLoader(
        corpora,
        config.mixture,
        Encoder(processor.tokenizer, "miniature", image_id, processor.tokens_per_image),
        processor.transform_bytes,
        pack_tokens=config.pack_tokens,
        pack_images=config.pack_images,
        packs_per_step=config.train.packs_per_step,
        window=config.window,
        mixture_by=config.mixture_by,
        max_epochs=config.max_epochs,
        seed=config.train.seed,
    )
    steps = loader.steps(loader.initial_state())
    drawn: defaultdict[str, list[int]] = defaultdict(list)
    for step in range(1, config.train.steps + 1):
        batches, _ = next(steps)
        for key in {key for batch in batches for key in batch.sample_keys}:
            drawn[key].append(step)
    chosen = [KEY, "llava/conversations/000003", "coyo/00000/000011"]
    for key in chosen:
        (use,) = [one for one in uses(store, [key]).uses if one.task == "sft"] or [None]
        assert list(use.steps if use else ()) == drawn[key], key
    assert any(drawn[key] for key in chosen)


def test_the_trace_names_the_models_that_came_of_it(folder: Path) -> None:
    printed = vila("data", "trace", KEY, "--store", folder)
    assert "docs_shard_0.jsonl:8" in printed
    assert "miniature@1" in printed
    found = json.loads(vila("data", "trace", KEY, "--store", folder, "--json"))
    assert {use["task"] for use in found["uses"]} <= {"pretrain", "sft"}


def test_a_takedown_begins_again_before_the_first_sight(store: Store, folder: Path) -> None:
    found = takedown(store, [KEY, "flan/none/000001"])
    assert found.unknown == ("flan/none/000001",)
    (restart,) = found.restarts()  # sft follows from pretrain
    assert restart.task == "pretrain"
    assert restart.restart == restart.steps[0] - 1
    assert found.models() == ["miniature@1 (candidate)"]
    printed = vila("data", "takedown", KEY, "--store", folder)
    assert "train pretrain again from " in printed
    assert "corpora/mmc4/mmc4-00000.tar" in printed


def test_keys_come_from_files_too(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "keys.txt").write_text(f"# a request of today\n{KEY}\n\n")
    printed = vila("data", "takedown", f"@{tmp_path / 'keys.txt'}", "--store", folder, "--json")
    assert json.loads(printed)["keys"] == [KEY]
    (tmp_path / "keys.txt").write_text("banana\n")
    with pytest.raises(UserError, match=r"keys.txt:1: 'banana' is not a sample key"):
        vila("data", "takedown", f"@{tmp_path / 'keys.txt'}", "--store", folder)


def test_an_unknown_sample(folder: Path) -> None:
    with pytest.raises(UserError, match=r"no prepared data in .* hold this sample"):
        vila("data", "trace", "mmc4/00000/999999", "--store", folder)


def test_a_training_whose_data_are_gone_is_named_not_passed_over(
    store: Store, folder: Path, tmp_path: Path
) -> None:
    data = artifact(store, "prepare", "data")
    shutil.copytree(folder, tmp_path / "store")
    shutil.rmtree(tmp_path / "store" / "artifacts" / data.name)
    seen = uses(open_store(str(tmp_path / "store")), [KEY])
    assert seen.uses == ()
    assert len(seen.untold) == 2  # pretrain and sft; align's mixture has no mmc4
    assert "pretrain: can't tell what it saw: " in " ".join(seen.untold)
    printed = vila("data", "takedown", KEY, "--store", tmp_path / "store")
    assert "can't tell what it saw" in printed
