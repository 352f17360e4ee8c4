"""What there is to see of prepared data: counts, lengths, and samples as the model gets them."""

from __future__ import annotations

import base64
import io
import itertools
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from vila_core.data.corpus import Corpus
from vila_core.data.encode import Encoder
from vila_core.data.index import FILE_NAME
from vila_core.data.sample import IMAGE_TAG, Image, Sample
from vila_core.errors import UserError
from vila_core.images import decode
from vila_core.jsonio import read_object
from vila_ops.data.charts import Histogram, histogram

if TYPE_CHECKING:
    from vila_core.model.processor import VilaProcessor

_THUMBNAIL = 224
_MEASURED_IMAGES = 1000
_PER_REASON = 5


@dataclass(frozen=True)
class Run:
    """A piece of a sample as it is written out: text with or without loss, or an image."""

    text: str | None
    loss: bool = False
    image: str = ""  # a data URI


@dataclass(frozen=True)
class Shown:
    """One sample of the gallery."""

    key: str
    kind: str
    tokens: int
    supervised: int
    images: int
    meta: Mapping[str, Any]
    runs: Sequence[Run]


@dataclass(frozen=True)
class CorpusFacts:
    """Everything that the page tells of one corpus."""

    name: str
    manifest: Mapping[str, Any]
    report: Mapping[str, Any] | None  # of prepare; None where only the shards are at hand
    set_aside: Sequence[Mapping[str, str]]
    charts: Sequence[Histogram]
    gallery: Sequence[Shown]


def inspect(
    folder: Path, *, samples: int = 12, seed: int = 0, processor: VilaProcessor | None = None
) -> list[CorpusFacts]:
    """Look at the corpora below a folder that prepare wrote, or at one of them.

    `samples` are drawn of each by `seed`. With a model's `processor`, images are shown cut and
    resized as that model gets them. Raises UserError when there is no prepared corpus.
    """
    data, folders = _corpora(folder)
    report = read_object(data / "report.json")["corpora"] if _is(data / "report.json") else {}
    encoders = _encoders(data)
    picture = _seen_by(processor) if processor else _thumbnail
    return [
        _facts(Corpus.open(one), report.get(one.name), data, encoders, picture, samples, seed)
        for one in folders
    ]


def _corpora(folder: Path) -> tuple[Path, list[Path]]:
    """Return the data folder and the corpora in it that are asked for."""
    if _is(folder / FILE_NAME):
        return folder.parent.parent, [folder]
    below = folder / "corpora"
    found = sorted(path for path in below.iterdir() if path.is_dir()) if below.is_dir() else []
    if not found:
        raise UserError(
            f"{folder}: holds no prepared corpus.\n"
            "  fix: name a folder that `vila data prepare` or a prepare task wrote."
        )
    return folder, found


def _encoders(data: Path) -> Callable[[str], Encoder]:
    from vila_core.data.tokenizer import load_tokenizer

    if not (data / "tokenizer").is_dir():
        raise UserError(f"{data}: holds no tokenizer, which showing samples as written out needs.")
    encoder = Encoder(
        load_tokenizer(data / "tokenizer"), "plain", image_token_id=0, tokens_per_image=1
    )
    return encoder.with_template


def _facts(
    corpus: Corpus,
    report: Mapping[str, Any] | None,
    data: Path,
    encoders: Callable[[str], Encoder],
    picture: Callable[[bytes], str],
    samples: int,
    seed: int,
) -> CorpusFacts:
    chosen = np.random.default_rng(seed).permutation(len(corpus))
    encoder = encoders(corpus.template)
    gallery = [
        _shown(corpus.read(int(number)), corpus, int(number), encoder, picture)
        for number in np.sort(chosen[:samples])
    ]
    index = corpus.index
    sides = np.array(list(itertools.islice(_sides(corpus, chosen), _MEASURED_IMAGES)))
    charts = [
        histogram("text tokens per sample", "tokens", index.num_text_tokens),
        histogram("supervised tokens per sample", "tokens", index.num_supervised),
        histogram("images per sample", "images", index.num_images),
        histogram("shorter side of images", "pixels", sides),
        histogram("size of images", "kB", index.image_size / 1000),
    ]
    return CorpusFacts(
        corpus.name,
        corpus.manifest,
        report,
        _set_aside(data / "set_aside.jsonl", corpus.name),
        [chart for chart in charts if chart and chart.largest > 0],
        gallery,
    )


def _shown(
    sample: Sample,
    corpus: Corpus,
    number: int,
    encoder: Encoder,
    picture: Callable[[bytes], str],
) -> Shown:
    text, marks = encoder.loss_bearing(sample)
    images = iter([part.index for part in sample.parts if isinstance(part, Image)])
    runs: list[Run] = []
    place = 0
    for piece in text.split(IMAGE_TAG):
        if place:
            runs.append(Run(None, image=picture(sample.images[next(images)])))
        start = place
        for loss, some in itertools.groupby(marks[start : start + len(piece)].tolist()):
            size = len(list(some))
            runs.append(Run(text[place : place + size], bool(loss)))
            place += size
        place += len(IMAGE_TAG)
    index = corpus.index
    return Shown(
        sample.key,
        sample.kind,
        int(index.num_text_tokens[number]),
        int(index.num_supervised[number]),
        int(index.num_images[number]),
        sample.meta,
        runs,
    )


def _sides(corpus: Corpus, order: np.ndarray) -> Iterator[int]:
    """Yield the shorter sides of images, of samples in `order`, by their headers alone."""
    from PIL import Image as Pillow

    for number in order.tolist():
        for image in corpus.read(number).images:
            with Pillow.open(io.BytesIO(image)) as opened:
                yield min(opened.size)


def _set_aside(path: Path, corpus: str) -> list[dict[str, str]]:
    """Return the first rows of each reason."""
    rows: list[dict[str, str]] = []
    seen: dict[str, int] = {}
    if not _is(path):
        return rows
    with path.open(encoding="utf-8") as file:
        for line in file:
            row = json.loads(line)
            if row["source"] == corpus and seen.get(row["reason"], 0) < _PER_REASON:
                seen[row["reason"]] = seen.get(row["reason"], 0) + 1
                rows.append(row)
    return rows


def _thumbnail(data: bytes) -> str:
    """Return a stored image as it is, only smaller."""
    image = decode(data, at_least=_THUMBNAIL)
    image.thumbnail((_THUMBNAIL, _THUMBNAIL))
    return _uri(image)


def _seen_by(processor: VilaProcessor) -> Callable[[bytes], str]:
    import torch
    from PIL import Image as Pillow

    mean_C11 = torch.tensor(processor.mean).reshape(3, 1, 1)
    std_C11 = torch.tensor(processor.std).reshape(3, 1, 1)

    def picture(data: bytes) -> str:
        pixels_CHW = processor.transform_bytes(data) * std_C11 + mean_C11
        pixels_HWC = (pixels_CHW.clamp(0, 1) * 255).round().byte().permute(1, 2, 0)
        return _uri(Pillow.fromarray(pixels_HWC.numpy()))

    return picture


def _uri(image: Any) -> str:
    file = io.BytesIO()
    image.save(file, "PNG" if max(image.size) <= 64 else "JPEG", quality=85)
    kind = "png" if max(image.size) <= 64 else "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(file.getvalue()).decode()}"


def _is(path: Path) -> bool:
    return path.is_file()
