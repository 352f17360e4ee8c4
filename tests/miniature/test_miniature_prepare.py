"""The miniature world read back by other rules, as the ablations of the paper need it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from vila_core.config import validate
from vila_core.data.corpus import Corpus
from vila_core.data.sample import Image, Sample, Text
from vila_core.errors import UserError
from vila_core.stages import prepare

SMALL = {
    "captions": 5,
    "documents": 40,
    "conversations": 5,
    "instructions": 5,
    "eval_items": 2,
    "eval_digits": 10,
}


def config(**values: Any) -> prepare.Config:
    values["miniature"] = SMALL
    return validate(prepare.Config, values, where="test.yaml", path="prepare")


def mmc4(folder: Path, **rules: Any) -> list[Sample]:
    prepare.run(config(readers={"mmc4": rules}), {}, folder)
    corpus = Corpus.open(folder / "data/corpora/mmc4")
    return [corpus.read(number) for number in range(len(corpus))]


def test_documents_become_pairs_or_have_their_images_first(tmp_path: Path) -> None:
    pages = mmc4(tmp_path / "pages")
    assert {sample.kind for sample in pages} == {"interleaved"}
    pairs = mmc4(tmp_path / "pairs", rules={"preset": "ablation-pairs"})
    assert {sample.kind for sample in pairs} == {"caption"}
    assert all([type(part) for part in pair.parts] == [Image, Text] for pair in pairs)
    # A picture without words has only a full stop, and is a pair all the same.
    assert len(pairs) == sum(len(page.images) for page in pages)
    first = mmc4(tmp_path / "first", rules={"preset": "ablation-images-first"})
    for sample in first:
        kinds = [type(part) for part in sample.parts]
        assert kinds == [Image] * len(sample.images) + [Text]
    few = mmc4(tmp_path / "few", options={"max_images": 2})
    assert max(len(page.images) for page in few) == 2


@pytest.mark.parametrize(
    ("readers", "told"),
    [
        ({"mmc5": {}}, "readers.mmc5: the miniature world has coyo, mmc4, llava, flan"),
        ({"coyo": {"rules": {"preset": "ablation-pairs"}}}, "readers.coyo: rules.preset"),
        ({"mmc4": {"options": {"max_image": 2}}}, "did you mean 'max_images'?"),
    ],
)
def test_a_mistake_in_readers_names_the_key(readers: dict[str, Any], told: str) -> None:
    with pytest.raises(UserError) as caught:
        config(readers=readers)
    assert told in str(caught.value)


def test_readers_are_for_the_miniature_world() -> None:
    values = {
        "source": "corpora",
        "tokenizer": "tokenizer",
        "corpora": [{"name": "web", "format": "mmc4", "path": "docs.jsonl"}],
        "readers": {"mmc4": {"options": {"max_images": 2}}},
    }
    with pytest.raises(UserError, match="readers go with source: miniature"):
        validate(prepare.Config, values, where="test.yaml", path="prepare")
