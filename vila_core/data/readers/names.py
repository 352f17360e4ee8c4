"""Names of a corpus's files, and the part of the sample keys that follows from them."""

from __future__ import annotations

import re

SUFFIXES = (".jsonl", ".jsonl.gz", ".jsonl.zip", ".json", ".parquet")
_NUMBERED = re.compile(r"(?:^|shard[_-]|part[_-])(\d+)(?=[^\d]|$)")
_NOT_IN_KEYS = re.compile(r"[^A-Za-z0-9._-]+")
_DIGITS = 18


def shard_name(name: str, suffixes: tuple[str, ...] = SUFFIXES) -> str:
    """Return the middle part of the sample keys of a file, from its name in the corpus folder.

    The published names carry a number: `docs_no_face_shard_17_v2.jsonl.zip` and
    `part-00017-…parquet` are both `00017`. Other files keep their name: `chat.json` is `chat`.
    """
    folder, _, last = name.rpartition("/")
    stem = next((last.removesuffix(end) for end in suffixes if last.endswith(end)), last)
    match = _NUMBERED.search(stem)
    if match and len(match.group(1)) <= _DIGITS:
        stem = f"{int(match.group(1)):05d}"
    path = [*folder.split("/"), stem] if folder else [stem]
    return "/".join(_NOT_IN_KEYS.sub("-", part).strip(".") or "-" for part in path)
