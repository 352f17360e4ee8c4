"""Facts in few bytes: ten thousand runs and their million digests fit where they can be searched.

An entry is JSON in which each sha256 stands once, as 32 bytes in a table beside the text; the text
has their numbers. All tables together are one sorted array, so that what holds a digest, or the
beginning of one, is found without reading the texts.
"""

from __future__ import annotations

import io
import json
import re
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from vila_core.jsonio import dumps
from vila_ops.lineage.facts import MALFORMED

BROKEN = (*MALFORMED, OSError, EOFError, zipfile.BadZipFile, zlib.error)
"""What a file that is no index of ours leads to."""
_SHA256 = re.compile(r"(?<![0-9a-f])[0-9a-f]{64}(?![0-9a-f])")
_PLACE = re.compile(r"\x01([0-9]+)\x02")  # JSON text never holds these characters as they are
_HEAD = 16  # hex digits of a digest that are sorted by


@dataclass(frozen=True, slots=True)
class Packed:
    """One entry, and what proves that it still holds (empty: read it again)."""

    table: bytes  # 32 for each digest
    text: bytes
    proof: str

    @classmethod
    def of(cls, value: Mapping[str, Any], proof: str) -> Packed:
        """Pack a JSON-able value."""
        found: dict[str, int] = {}
        text = _SHA256.sub(
            lambda match: f"\x01{found.setdefault(match.group(), len(found))}\x02", dumps(value)
        )
        return cls(bytes.fromhex("".join(found)), text.encode(), proof)

    def leads_with(self, row: bytes) -> bool:
        """Return whether a version names a digest itself.

        Its artifact, baseline, key and results come first, as the keys of JSON are sorted.
        """
        return row in (self.table[at : at + 32] for at in range(0, 128, 32))

    def value(self) -> dict[str, Any]:
        """Return the value again."""
        digests = [self.table[at : at + 32].hex() for at in range(0, len(self.table), 32)]
        return json.loads(_PLACE.sub(lambda m: digests[int(m.group(1))], self.text.decode()))


class Heads:
    """Where digests occur: all of them, sorted by their first 16 digits."""

    def __init__(self, entries: Mapping[str, Packed]) -> None:
        self._keys = list(entries)
        counts = [len(one.table) // 32 for one in entries.values()]
        table = np.frombuffer(b"".join(one.table for one in entries.values()), dtype=np.uint8)
        heads = np.ascontiguousarray(table.reshape(-1, 32)[:, :8]).view(">u8").ravel()
        owners = np.repeat(np.arange(len(counts), dtype=np.uint32), counts)
        order = np.argsort(heads, kind="stable")
        self._heads, self._owners = heads[order].astype(np.uint64), owners[order]

    def holding(self, prefix: str) -> list[str]:
        """Return the keys of the entries in which a digest begins so (at most 16 digits count)."""
        head = prefix[:_HEAD]
        low = int(head.ljust(_HEAD, "0"), 16)
        high = int(head.ljust(_HEAD, "f"), 16)
        first = int(np.searchsorted(self._heads, np.uint64(low), side="left"))
        last = int(np.searchsorted(self._heads, np.uint64(high), side="right"))
        return [self._keys[owner] for owner in np.unique(self._owners[first:last])]


def pack(entries: Mapping[str, Packed]) -> bytes:
    """Return entries as one compressed file."""
    chosen = {key: one for key, one in entries.items() if one.proof}
    about = dumps([[key, one.proof, len(one.table), len(one.text)] for key, one in chosen.items()])
    file = io.BytesIO()
    np.savez_compressed(
        file,
        about=np.frombuffer(about.encode(), dtype=np.uint8),
        tables=np.frombuffer(b"".join(one.table for one in chosen.values()), dtype=np.uint8),
        texts=np.frombuffer(b"".join(one.text for one in chosen.values()), dtype=np.uint8),
    )
    return file.getvalue()


def unpack(data: bytes) -> dict[str, Packed]:
    """Return the entries. Raises one of BROKEN for a file that is none of ours."""
    with np.load(io.BytesIO(data), allow_pickle=False) as file:
        about = json.loads(file["about"].tobytes())
        tables, texts = file["tables"].tobytes(), file["texts"].tobytes()
    return dict(_entries(about, tables, texts))


def _entries(about: Any, tables: bytes, texts: bytes) -> Iterator[tuple[str, Packed]]:
    table_at = text_at = 0
    for key, proof, table_size, text_size in about:
        if not isinstance(key, str) or not isinstance(proof, str):
            raise TypeError("no index of this format")
        table = tables[table_at : table_at + table_size]
        text = texts[text_at : text_at + text_size]
        if len(table) != table_size or len(text) != text_size or table_size % 32:
            raise ValueError("the index is cut off")
        yield key, Packed(table, text, proof)
        table_at, text_at = table_at + table_size, text_at + text_size
