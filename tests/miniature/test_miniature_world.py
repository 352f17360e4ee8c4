"""The world on disk: published formats that the real readers take, reproducible, honestly split."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from vila_core.data.readers import READERS
from vila_core.data.sample import Sample, Text
from vila_core.eval.items import load_eval_set
from vila_core.images import decode
from vila_core.miniature.config import WorldConfig
from vila_core.miniature.digits import load_digits
from vila_core.miniature.evalsets import DEMOS
from vila_core.miniature.words import COLORS, build_tokenizer
from vila_core.miniature.world import RawCorpus, write_world

SMALL = WorldConfig(
    captions=60, documents=60, conversations=60, instructions=60, eval_items=6, eval_digits=400
)
TASKS = {
    "miniature_vqa": 36,
    "miniature_single": 18,
    "miniature_digits": 400,
    "miniature_caption": 6,
    "miniature_icl": 12,
    "miniature_knowledge": 30,
    "miniature_reading": 36,
    "miniature_text_icl": 12,
}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[RawCorpus]]:
    folder = tmp_path_factory.mktemp("world")
    return folder, write_world(folder, SMALL)


def read(corpus: RawCorpus) -> Iterator[Sample]:
    reader = READERS[corpus.format]
    for sample in reader.read(corpus.path, corpus=corpus.name, images=corpus.images):
        assert isinstance(sample, Sample), sample
        yield sample


def files(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def test_the_same_config_writes_the_same_bytes(
    world: tuple[Path, list[RawCorpus]], tmp_path: Path
) -> None:
    write_world(tmp_path / "again", SMALL)
    assert files(tmp_path / "again") == files(world[0])
    write_world(tmp_path / "other", SMALL.model_copy(update={"seed": 1}))
    other = files(tmp_path / "other")
    same = {name for name, digest in files(world[0]).items() if other.get(name) == digest}
    # Which digits are asked for is fixed; how they are shown is not.
    fixed = {"eval/miniature_digits/items.jsonl"}
    assert all(n in fixed or n.startswith("tokenizer/") or n.endswith("task.json") for n in same)


def content(folder: Path) -> str:
    """Digest what was drawn, not how libraries encode it: texts, rows, and pixels of scenes.

    Pixels of scans are left out: enlarging them is a matrix product, which rounds by processor.
    """
    total = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        total.update(name.encode())
        if path.suffix in (".json", ".jsonl"):
            total.update(path.read_bytes())
        elif path.suffix == ".parquet":
            total.update(json.dumps(pq.read_table(path).to_pylist()).encode())
        elif path.suffix == ".png" and name.startswith("eval") and "digits" not in name:
            total.update(np.asarray(decode(path.read_bytes())).tobytes())
    return total.hexdigest()


def test_the_settings_of_controls_leave_the_quickstarts_world_as_it_was(
    world: tuple[Path, list[RawCorpus]],
) -> None:
    """Figures in the docs were measured in this world: a new setting must not move its draws."""
    assert content(world[0]) == ("62a253dee2d72d99b73ab10247fa5facdff342e6e6f7cee26f0489b71fb60147")


def documents(folder: Path) -> list[list[str]]:
    lines = (folder / "mmc4/docs_shard_0.jsonl").read_text().splitlines()
    return [json.loads(line)["text_list"] for line in lines]


def test_controls_leave_out_series_attributes_or_text(tmp_path: Path) -> None:
    def write(name: str, **changes: object) -> list[list[str]]:
        write_world(tmp_path / name, WorldConfig.model_validate({**SMALL.model_dump(), **changes}))
        return documents(tmp_path / name)

    arrows = [text for page in write("no_series", series_share=0) for text in page if "->" in text]
    assert not arrows
    colors = write("one_attribute", series_share=1, series_rules=["color"])
    assert {text.split("->")[1].split()[0] for page in colors for text in page} <= set(COLORS)
    bare = [text for page in write("no_text", web_text_share=0) for text in page]
    assert not any(text.startswith("q ") or " q " in text for text in bare)
    assert any("->" in text for text in bare)


def test_only_instructions_teach_the_transfer_kinds(tmp_path: Path) -> None:
    config = SMALL.model_copy(update={"transfer_share": 0.5, "eval_visual_items": 40})
    write_world(tmp_path, config)
    flan = (tmp_path / "flan/instructions.jsonl").read_text()
    assert "reading/count-plus" in flan
    assert "reading/color-sort" in flan
    asked = (tmp_path / "llava/conversations.json").read_text()
    assert "objects plus" not in asked
    assert "sort color" not in asked
    items = load_eval_set(tmp_path / "eval/miniature_transfer").items
    assert [item.type for item in items] == ["count-plus"] * 40 + ["color-sort"] * 40
    for item in items:
        question, answer = str(item.case.parts[-1]).split(), item.case.answer
        if item.type == "count-plus":
            assert int(answer) - int(question[-2]) in (1, 2, 3)
        else:
            assert answer.split() == sorted(set(answer.split()) & set(COLORS))


def test_the_real_readers_take_every_record(world: tuple[Path, list[RawCorpus]]) -> None:
    kinds = {
        "coyo": "caption",
        "mmc4": "interleaved",
        "llava": "conversation",
        "flan": "conversation",
    }
    for corpus in world[1]:
        samples = list(read(corpus))
        assert len(samples) == 60
        if corpus.name != "flan":
            assert {sample.kind for sample in samples} == {kinds[corpus.name]}
        assert all(sample.images for sample in samples) == (corpus.name != "flan")


def test_every_word_is_in_the_vocabulary(world: tuple[Path, list[RawCorpus]]) -> None:
    tokenizer = build_tokenizer()
    texts = [
        part.text
        for corpus in world[1]
        for sample in read(corpus)
        for part in sample.parts
        if isinstance(part, Text)
    ]
    for task in TASKS:
        for item in load_eval_set(world[0] / "eval" / task).items:
            for case in (item.case, *item.demos):
                texts += [part for part in case.parts if isinstance(part, str)] + [case.answer]
    assert len(texts) > 1000
    for text in texts:
        assert tokenizer.unk_token_id not in tokenizer(text).input_ids, text


def test_pictures_are_32_pixels_square(world: tuple[Path, list[RawCorpus]]) -> None:
    for corpus in world[1]:
        for sample in read(corpus):
            assert {decode(image).size for image in sample.images} <= {(32, 32)}


def test_coyo_has_the_published_columns_and_invents_no_scores(
    world: tuple[Path, list[RawCorpus]],
) -> None:
    table = pq.read_table(world[0] / "coyo/part-00000.parquet")
    assert table.column_names[:5] == ["id", "url", "text", "width", "height"]
    assert "clip_similarity_vitb32" in table.column_names
    assert table["clip_similarity_vitb32"].null_count == 60


def test_documents_are_series_of_one_rule_and_web_pages(
    world: tuple[Path, list[RawCorpus]],
) -> None:
    series = web = 0
    with (world[0] / "mmc4/docs_shard_0.jsonl").open() as lines:
        for line in lines:
            record = json.loads(line)
            shown = {info["matched_text_index"] for info in record["image_info"]}
            for row, info in zip(record["similarity_matrix"], record["image_info"], strict=True):
                assert int(np.argmax(row)) == info["matched_text_index"]
                assert len(row) == len(record["text_list"])
            arrows = [text.split() for text in record["text_list"] if "->" in text]
            if not arrows:
                web += 1
                assert any(text == "scene" for text in record["text_list"])
                continue
            series += 1
            answers = {words[words.index("->") + 1] for words in arrows}
            colors = {"red", "green", "blue", "yellow", "purple", "white"}
            assert answers <= colors or not answers & colors
            for index, words in enumerate(arrows):
                assert (words[0] == "->") == (index in shown)
    assert series > 10
    assert web > 10


def test_eval_sets_have_their_items_kinds_and_demonstrations(
    world: tuple[Path, list[RawCorpus]],
) -> None:
    assert {path.name for path in (world[0] / "eval").iterdir()} == set(TASKS)
    for task, count in TASKS.items():
        loaded = load_eval_set(world[0] / "eval" / task)
        assert len(loaded.items) == count
        for item in loaded.items:
            assert 0 < item.chance <= 0.5
            assert len(item.demos) in (0, DEMOS)
            paths = [part for case in (item.case, *item.demos) for part in case.parts]
            pictures = [part for part in paths if isinstance(part, Path)]
            assert len(set(pictures)) == len(pictures), "a demonstration shows the question"
            for picture in pictures:
                assert decode(picture.read_bytes()).size == (32, 32)


def test_no_test_digit_is_in_a_training_corpus(world: tuple[Path, list[RawCorpus]]) -> None:
    """Compare strokes, not names: every picture of the corpora with every test scan."""
    train, test = load_digits()
    both = np.concatenate([train.scans_NYX, test.scans_NYX]).reshape(-1, 64)
    both = both - both.mean(1, keepdims=True)
    both /= np.linalg.norm(both, axis=1, keepdims=True)
    found = 0
    for corpus in world[1]:
        for sample in read(corpus):
            text = " ".join(part.text for part in sample.parts if isinstance(part, Text))
            if "digit" not in text or len(sample.images) != 1:
                continue
            pixels = np.asarray(decode(sample.images[0]), dtype=np.float32).mean(-1)
            blocks = pixels.reshape(8, 4, 8, 4).mean((1, 3)).ravel()
            blocks -= blocks.mean()
            nearest = int(np.argmax(both @ blocks))
            assert nearest < len(train), "a test scan stands in a training corpus"
            found += 1
    assert found > 10
