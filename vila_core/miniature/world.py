"""Write the miniature world: four corpora in published formats, evaluation sets, a tokenizer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from vila_core.miniature.config import WorldConfig
from vila_core.miniature.digits import load_digits
from vila_core.miniature.documents import (
    Document,
    Picture,
    Scan,
    draw_picture,
    series_document,
    web_document,
)
from vila_core.miniature.evalsets import write_eval_sets
from vila_core.miniature.questions import (
    SCENE_KINDS,
    SINGLE_KINDS,
    TRANSFER_KINDS,
    ask,
    ask_single,
    digit_question,
    reading_text,
    scene_question,
)
from vila_core.miniature.scenes import draw_scene
from vila_core.miniature.text import knowledge
from vila_core.miniature.words import IMAGE, write_tokenizer
from vila_core.miniature.writers import Painter, write_coyo, write_flan, write_llava, write_mmc4
from vila_core.types import QUIET, Reporter

CAPTIONS, DOCUMENTS, CONVERSATIONS, INSTRUCTIONS, EVALS, TOWER, LANGUAGE = range(7)
"""First half of each random stream's seed, so that no two parts of the world share their draws."""


@dataclass(frozen=True)
class RawCorpus:
    """A corpus as it lies on disk: its format's reader, its file, and the folder of its images."""

    name: str
    format: str
    path: Path
    images: Path | None


def write_world(raw_dir: Path, config: WorldConfig, report: Reporter = QUIET) -> list[RawCorpus]:
    """Write everything under `raw_dir` and return the corpora.

    Beside the corpora (`coyo/`, `mmc4/`, `llava/`, `flan/`) stand `eval/<task>/` and `tokenizer/`.
    The same config gives the same bytes.
    """
    train, _ = load_digits()
    labels = train.labels_N.tolist()
    writers = (_coyo, _mmc4, _llava)
    corpora = []
    for done, write in enumerate(writers):
        report.progress(done, len(writers) + 2, "parts")
        corpora.append(write(raw_dir, config, labels))
    path = write_flan(raw_dir / "flan", _instructions(config))
    corpora.append(RawCorpus("flan", "flan", path, None))
    report.progress(len(writers) + 1, len(writers) + 2, "parts")
    write_eval_sets(raw_dir / "eval", config, np.random.default_rng([EVALS, config.seed]))
    write_tokenizer(raw_dir / "tokenizer")
    report.progress(len(writers) + 2, len(writers) + 2, "parts")
    return corpora


def _paint(pictures: Sequence[Picture], stream: int, config: WorldConfig) -> list[bytes]:
    train, _ = load_digits()
    return Painter(train, np.random.default_rng([stream, config.seed, 1])).paint(pictures)


def _coyo(raw_dir: Path, config: WorldConfig, labels: Sequence[int]) -> RawCorpus:
    rng = np.random.default_rng([CAPTIONS, config.seed])
    pictures = [draw_picture(rng, labels) for _ in range(config.captions)]
    captions = [f"{picture.caption} ." for picture in pictures]
    folder = raw_dir / "coyo"
    path = write_coyo(folder, captions, _paint(pictures, CAPTIONS, config))
    return RawCorpus("coyo", "coyo", path, folder / "images")


def _mmc4(raw_dir: Path, config: WorldConfig, labels: Sequence[int]) -> RawCorpus:
    rng = np.random.default_rng([DOCUMENTS, config.seed])
    documents = [_document(rng, config, labels) for _ in range(config.documents)]
    pictures = [picture for document in documents for picture in document.pictures]
    folder = raw_dir / "mmc4"
    path = write_mmc4(folder, documents, _paint(pictures, DOCUMENTS, config))
    return RawCorpus("mmc4", "mmc4", path, folder / "images")


def _document(rng: np.random.Generator, config: WorldConfig, labels: Sequence[int]) -> Document:
    if rng.random() < config.series_share:
        return series_document(
            rng, config.series_shortest, config.series_longest, config.series_rules
        )
    return web_document(rng, labels, config.web_longest, config.web_text_share)


def _llava(raw_dir: Path, config: WorldConfig, labels: Sequence[int]) -> RawCorpus:
    rng = np.random.default_rng([CONVERSATIONS, config.seed])
    drawn = [_conversation(rng, config, labels) for _ in range(config.conversations)]
    pictures = [picture for picture, _ in drawn]
    folder = raw_dir / "llava"
    images = _paint(pictures, CONVERSATIONS, config)
    path = write_llava(folder, [turns for _, turns in drawn], images)
    return RawCorpus("llava", "llava", path, folder / "images")


def _conversation(
    rng: np.random.Generator, config: WorldConfig, labels: Sequence[int]
) -> tuple[Picture, list[tuple[str, str]]]:
    """Draw a picture and what is asked about it; as in LLaVA-1.5, several questions per picture."""
    if rng.random() < config.digit_share:
        row = int(rng.integers(len(labels)))
        picture: Picture = Scan(row, int(labels[row]))
        asked = [digit_question(int(labels[row]))]
    else:
        count = int(rng.integers(1, 4))
        picture = draw_scene(rng, count, distinct=True)
        if count == 1:
            asked = [ask_single(picture, kind) for kind in SINGLE_KINDS]
            asked.append(ask(rng, picture, "count"))
        else:
            asked = [ask(rng, picture, kind) for kind in SCENE_KINDS]
        asked = [asked[n] for n in rng.permutation(len(asked))[: config.questions]]
    turns = [(qa.question, qa.answer) for qa in asked]
    first = (f"scene {IMAGE} . {turns[0][0]}", turns[0][1])
    return picture, [first, *turns[1:]]


def _instructions(config: WorldConfig) -> list[tuple[str, str, str]]:
    rng = np.random.default_rng([INSTRUCTIONS, config.seed])
    tasks = []
    for _ in range(config.instructions):
        if rng.random() < config.reading_share:
            kinds = SCENE_KINDS
            if config.transfer_share and rng.random() < config.transfer_share:
                kinds = TRANSFER_KINDS
            question = scene_question(rng, kinds[rng.integers(len(kinds))])
            text = reading_text(question).removesuffix(" a")
            tasks.append((f"reading/{question.qa.kind}", text, question.qa.answer))
        else:
            qa = knowledge(rng)
            tasks.append((f"knowledge/{qa.kind}", qa.question, qa.answer))
    return tasks
