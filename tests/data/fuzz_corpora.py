"""Corpora of mutated records in every format, each with the number of records that it holds."""

from __future__ import annotations

import base64
import io
import json
import os
import re
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from tests.data.archives import fetched
from tests.data.fuzz import Fuzz, images
from tests.data.make import documents, write_corpus

Made = tuple[Path, int]
_NAMES = tuple(f"{number:02d}.png" for number in range(len(images()) * 3))


def pool(folder: Path, fuzz: Fuzz) -> None:
    """The image folder that records name: sound images first, then damaged ones."""
    place = folder / "images"
    place.mkdir(parents=True, exist_ok=True)
    for number, name in enumerate(_NAMES):
        data = images()[number % len(images())]
        (place / name).write_bytes(data if number < len(images()) * 2 else fuzz.damage(data))


def lines(folder: Path, fuzz: Fuzz, count: int, record: Callable[[Fuzz], Any]) -> Made:
    data = b"\n".join(fuzz.line(record(fuzz)) for _ in range(count))
    (folder / "a.jsonl").write_bytes(data)
    return folder, sum(1 for line in data.split(b"\n") if line.strip())


def mmc4(folder: Path, fuzz: Fuzz, count: int) -> Made:
    pool(folder, fuzz)

    def document(fuzz: Fuzz) -> dict[str, Any]:
        texts = [fuzz.text() for _ in range(fuzz.random.randint(1, 4))]
        info = [
            {
                "image_name": fuzz.random.choice(_NAMES[:30]),
                "raw_url": "https://pictures.invalid/a",
                "matched_text_index": fuzz.random.randrange(len(texts)),
                "matched_sim": fuzz.random.random(),
            }
            for _ in range(fuzz.random.randint(0, 3))
        ]
        matrix = [[fuzz.random.random() for _ in texts] for _ in info]
        return {
            "text_list": texts,
            "image_info": info,
            "similarity_matrix": matrix,
            "url": "https://page.invalid",
            "could_have_url_duplicate": 0,
        }

    return lines(folder, fuzz, count, document)


def coyo(folder: Path, fuzz: Fuzz, count: int) -> Made:
    """Half as a table with the images inside, half as lines that name them."""
    pool(folder, fuzz)
    rows = count // 2
    texts = [
        fuzz.text() if fuzz.chance(0.7) else fuzz.random.choice((None, "", "\0", "<image>"))
        for _ in range(rows)
    ]
    table = {
        "id": list(range(rows)),
        "text": pa.array(texts, pa.string()),
        "image": pa.array([fuzz.image() if fuzz.chance(0.9) else None for _ in texts], pa.binary()),
        "width": pa.array([fuzz.random.choice((1, None, 2**60)) for _ in texts], pa.int64()),
        "watermark_score": [fuzz.random.choice((0.1, float("nan"), float("inf"))) for _ in texts],
    }
    pq.write_table(pa.table(table), folder / "b.parquet")

    def pair(fuzz: Fuzz) -> dict[str, Any]:
        return {
            "id": fuzz.random.choice(_NAMES)[:-4],
            "url": "https://pictures.invalid/a",
            "text": fuzz.text(),
            "width": 12,
            "clip_similarity_vitb32": fuzz.random.random(),
        }

    path, found = lines(folder, fuzz, count - rows, pair)
    return path, found + rows


def _turns(fuzz: Fuzz, tags: int) -> list[dict[str, str]]:
    prompt = "<image>\n" * tags + fuzz.text().replace("<image>", "it")
    turns = [{"from": "human", "value": prompt}, {"from": "gpt", "value": "a cat"}]
    if fuzz.chance(0.3):
        turns += [{"from": "human", "value": "and?"}, {"from": "gpt", "value": "a dog"}]
    return turns


def llava(folder: Path, fuzz: Fuzz, count: int) -> Made:
    """Half as an array, of sound JSON with mutated structure, half as lines."""
    pool(folder, fuzz)

    def chat(fuzz: Fuzz) -> dict[str, Any]:
        tags = fuzz.random.randrange(3)
        names = fuzz.random.choices(_NAMES, k=tags)
        record: dict[str, Any] = {"id": fuzz.random.choice((7, "sa_3", "x"))}
        if tags:
            record["image"] = names[0] if tags == 1 else names
        return {**record, "conversations": _turns(fuzz, tags)}

    items = [fuzz.json(chat(fuzz)) if fuzz.chance(0.8) else chat(fuzz) for _ in range(count // 2)]
    (folder / "chat.json").write_text(json.dumps(items, default=repr), "utf-8", "surrogatepass")
    path, found = lines(folder, fuzz, count - len(items), chat)
    return path, found + len(items)


def flan(folder: Path, fuzz: Fuzz, count: int) -> Made:
    pairs = (("inputs", "targets"), ("question", "answer"), ("prompt", "completion"))

    def pair(fuzz: Fuzz) -> dict[str, Any]:
        prompt, answer = fuzz.random.choice(pairs)
        return {prompt: fuzz.text(), answer: fuzz.text(), "_task_name": "t", "id": 3}

    return lines(folder, fuzz, count, pair)


def m3it(folder: Path, fuzz: Fuzz, count: int) -> Made:
    def instruction(fuzz: Fuzz) -> dict[str, Any]:
        shown = [fuzz.image() for _ in range(fuzz.random.randrange(3))]
        encoded = [base64.b64encode(data).decode() for data in shown]
        return {
            "instruction": "Say it.",
            "inputs": fuzz.text(),
            "image_base64_str": encoded if fuzz.chance(0.9) else "".join(encoded),
            "outputs": fuzz.text(),
            "meta_data": {"id": 1},
        }

    return lines(folder, fuzz, count, instruction)


def _members(fuzz: Fuzz, name: str) -> dict[str, bytes]:
    """A record of files, mutated in what is there, in names and in contents."""
    about: Any = fetched(name, fuzz.text())
    if fuzz.chance(0.1):
        about = {"conversations": _turns(fuzz, 1)}
    text = fuzz.text().encode()
    members = {
        "jpg": fuzz.image(),
        "txt": fuzz.damage(text) if fuzz.chance(0.1) else text,
        "json": fuzz.line(about) if fuzz.chance(0.5) else json.dumps(about).encode(),
    }
    if fuzz.chance(0.15):
        del members[fuzz.random.choice(sorted(members))]
    if fuzz.chance(0.1):
        members[fuzz.random.choice(("cls", "000.png", "PNG", "npy", ""))] = fuzz.image()
    return members


def tar(path: Path, fuzz: Fuzz, count: int) -> int:
    """Write a sound tar of mutated records and members; return how many records it holds."""
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as archive:
        for number in range(count):
            name = f"{number:09d}"
            if fuzz.chance(0.02):
                name = fuzz.random.choice(
                    ("../up", "/top", "twice", "ä/b", "long" * 60, "a\n", ".")
                )
            for suffix, data in _members(fuzz, name).items():
                info = tarfile.TarInfo(f"{name}.{suffix}")
                info.size = len(data)
                if fuzz.chance(0.01):
                    kinds = (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.DIRTYPE)
                    info.type, info.linkname, info.size = fuzz.random.choice(kinds), "a", 0
                    data = b""
                archive.addfile(info, io.BytesIO(data))
    return tar_records(path)


def tar_records(path: Path) -> int:
    """Count a tar's records by webdataset's own rule for names."""
    found: list[str] = []
    with tarfile.open(path) as archive:
        for info in archive.getmembers():
            if info.isdir():
                continue
            match = re.match(r"((?:.*/)?[^./]*)", info.name, re.DOTALL)
            assert match is not None
            if not found or match[1] != found[-1]:
                found.append(match[1])
    return len(found)


def webdataset(folder: Path, fuzz: Fuzz, count: int) -> Made:
    return folder, sum(tar(folder / f"{n}.tar", fuzz, count // 2) for n in range(2))


def img2dataset(folder: Path, fuzz: Fuzz, count: int) -> Made:
    found = 0
    for shard in ("00000", "00001"):
        found += tar(folder / f"{shard}.tar", fuzz, count // 2)
        (folder / f"{shard}_stats.json").write_text("{}")
    return folder, found


def img2dataset_tables(folder: Path, fuzz: Fuzz, count: int) -> Made:
    rows = [{**fetched(str(n), fuzz.text()), "txt": None} for n in range(count)]
    table = pa.Table.from_pylist(rows)
    shown = [fuzz.image() if fuzz.chance(0.9) else None for _ in rows]
    pq.write_table(table.append_column("jpg", pa.array(shown, pa.binary())), folder / "0.parquet")
    return folder, count


def vila_wds(folder: Path, fuzz: Fuzz, count: int) -> Made:
    _, found = webdataset(folder, fuzz, count)
    rows = [{"url": f"{n}.tar", "filesize": (folder / f"{n}.tar").stat().st_size} for n in (0, 1)]
    meta = {"__kind__": "VILA-WebDataset", "wids_version": 1, "shardlist": rows}
    (folder / "wids-meta.json").write_text(json.dumps(meta))
    return folder, found


def pairs(folder: Path, fuzz: Fuzz, count: int) -> Made:
    found: set[tuple[str, str]] = set()
    for number in range(count):
        place = folder / f"{number % 3}"
        place.mkdir(exist_ok=True)
        for suffix, data in _members(fuzz, f"{number}").items():
            path = place / f"{number}.{suffix}"
            if fuzz.chance(0.01):
                path.symlink_to(fuzz.random.choice(("nowhere", path.name, "/dev/null", "/")))
            else:
                path.write_bytes(data)
            stem, _, last = path.name.rpartition(".")
            if last not in ("", "cls", "npy") and not os.path.isdir(path):
                found.add((place.name, stem))
    return folder, len(found)


def prepared(folder: Path, fuzz: Fuzz, count: int) -> Made:
    """Sound shards, then bytes flipped all over them."""
    write_corpus(folder, "old", documents("old", count))
    path = folder / "old" / "old-00000.tar"
    data = bytearray(path.read_bytes())
    for _ in range(count):
        data[fuzz.random.randrange(len(data))] ^= 1 << fuzz.random.randrange(8)
    path.write_bytes(data)
    return path.parent, count


MAKERS: dict[str, tuple[str, Callable[[Path, Fuzz, int], Made]]] = {
    "mmc4": ("mmc4", mmc4),
    "coyo": ("coyo", coyo),
    "llava": ("llava", llava),
    "sharegpt4v": ("sharegpt4v", llava),
    "flan": ("flan", flan),
    "m3it": ("m3it", m3it),
    "img2dataset": ("img2dataset", img2dataset),
    "img2dataset tables": ("img2dataset", img2dataset_tables),
    "webdataset": ("webdataset", webdataset),
    "vila-wds": ("vila-wds", vila_wds),
    "pairs": ("pairs", pairs),
    "prepared": ("prepared", prepared),
}
