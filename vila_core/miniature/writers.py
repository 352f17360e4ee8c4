"""Write samples in the published formats: COYO parquet, MMC4 and FLAN JSON lines, LLaVA JSON.

A value that a real corpus gets from a model that does not run here (CLIP similarity, NSFW score…)
is null, never made up.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from vila_core.jsonio import dumps
from vila_core.miniature.digits import Digits, render_digits
from vila_core.miniature.documents import Document, Picture, Scan
from vila_core.miniature.scenes import IMAGE_SIZE, Scene, render

SITE = "https://miniature.invalid"
"""The address that stands where a real record names its page; `.invalid` never resolves."""
_COYO_TEXT = ("id:int64", "url:string", "text:string", "width:int32", "height:int32")
_COYO_NULL = (
    "image_phash:string",
    "text_length:int32",
    "word_count:int32",
    "num_tokens_bert:int32",
    "num_tokens_gpt:int32",
    "num_faces:int32",
    "clip_similarity_vitb32:float32",
    "clip_similarity_vitl14:float32",
    "nsfw_score_opennsfw2:float32",
    "nsfw_score_gantman:float32",
    "watermark_score:float32",
    "aesthetic_score_laion_v2:float32",
)


def encode_png(pixels_YXC: np.ndarray) -> bytes:
    """Return one picture (uint8, height x width x 3) as PNG."""
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(pixels_YXC).save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


class Painter:
    """Turns pictures into PNG files. Scans are looked up in `digits`, the split they come from."""

    def __init__(self, digits: Digits, rng: np.random.Generator) -> None:
        self._digits = digits
        self._rng = rng

    def paint(self, pictures: Sequence[Picture]) -> list[bytes]:
        """Return the PNG files of `pictures`, in their order."""
        scenes = [n for n, picture in enumerate(pictures) if isinstance(picture, Scene)]
        scans = [n for n, picture in enumerate(pictures) if isinstance(picture, Scan)]
        result = [b""] * len(pictures)
        drawn = render([p for p in pictures if isinstance(p, Scene)], self._rng)
        rows = np.array([p.row for p in pictures if isinstance(p, Scan)], dtype=np.intp)
        shown = render_digits(self._digits.take(rows), self._rng)
        for place, pixels in zip([*scenes, *scans], [*drawn, *shown], strict=True):
            result[place] = encode_png(pixels)
        return result


def write_files(folder: Path, files: Mapping[str, bytes]) -> None:
    """Write `files` by name into `folder`, which is made when missing."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)


def write_lines(path: Path, records: Iterable[Mapping[str, Any]]) -> None:
    """Write JSON lines."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{dumps(record)}\n" for record in records), encoding="utf-8")


def write_coyo(folder: Path, captions: Sequence[str], images: Sequence[bytes]) -> Path:
    """Write pairs as `part-00000.parquet` with COYO's columns, pictures as `images/<id>.png`."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    numbers = range(len(captions))
    values: dict[str, list[Any]] = {
        "id": list(numbers),
        "url": [f"{SITE}/coyo/{n}.png" for n in numbers],
        "text": list(captions),
        "width": [IMAGE_SIZE] * len(captions),
        "height": [IMAGE_SIZE] * len(captions),
        "text_length": [len(caption) for caption in captions],
        "word_count": [len(caption.split()) for caption in captions],
        "num_faces": [0] * len(captions),
    }
    columns = {}
    for field in (*_COYO_TEXT, *_COYO_NULL):
        name, kind = field.split(":")
        columns[name] = pa.array(values.get(name, [None] * len(captions)), getattr(pa, kind)())
    write_files(folder / "images", {f"{n}.png": image for n, image in enumerate(images)})
    path = folder / "part-00000.parquet"
    pq.write_table(pa.table(columns), path)
    return path


def write_mmc4(folder: Path, documents: Sequence[Document], images: Sequence[bytes]) -> Path:
    """Write documents as `docs_shard_0.jsonl`; `images` are those of all documents in order.

    Which sentence a picture belongs to is known here, so the similarity is 1 there and 0 elsewhere.
    """
    records, files, used = [], {}, 0
    for number, document in enumerate(documents):
        info, matrix = [], []
        for index, sentence in enumerate(document.sentences):
            if sentence.picture is None:
                continue
            name = f"{number:06d}-{len(info):02d}.png"
            files[name] = images[used]
            used += 1
            info.append(
                {
                    "image_name": name,
                    "raw_url": f"{SITE}/mmc4/{name}",
                    "matched_text_index": index,
                    "matched_sim": 1.0,
                    "face_detections": None,
                }
            )
            matrix.append([float(index == n) for n in range(len(document.sentences))])
        records.append(
            {
                "url": f"{SITE}/mmc4/{number}.html",
                "text_list": [sentence.text for sentence in document.sentences],
                "image_info": info,
                "similarity_matrix": matrix,
                "could_have_url_duplicate": 0,
            }
        )
    write_files(folder / "images", files)
    path = folder / "docs_shard_0.jsonl"
    write_lines(path, records)
    return path


def write_llava(
    folder: Path, conversations: Sequence[Sequence[tuple[str, str]]], images: Sequence[bytes]
) -> Path:
    """Write visual conversations as `conversations.json`: one picture each, turns (human, gpt)."""
    records = []
    for number, turns in enumerate(conversations):
        spoken = [
            {"from": speaker, "value": value}
            for turn in turns
            for speaker, value in zip(("human", "gpt"), turn, strict=True)
        ]
        name = f"{number:06d}"
        records.append({"id": name, "image": f"{name}.png", "conversations": spoken})
    write_files(folder / "images", {f"{n:06d}.png": image for n, image in enumerate(images)})
    path = folder / "conversations.json"
    path.write_text(dumps(records), encoding="utf-8")
    return path


def write_flan(folder: Path, tasks: Sequence[tuple[str, str, str]]) -> Path:
    """Write text-only instructions `(task name, inputs, targets)` as `instructions.jsonl`."""
    path = folder / "instructions.jsonl"
    records = (
        {"inputs": inputs, "targets": targets, "_task_source": "miniature", "_task_name": name}
        for name, inputs, targets in tasks
    )
    write_lines(path, records)
    return path
