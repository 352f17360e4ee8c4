"""Counts of a corpus's tokens by one tokenizer and one template, beside the index or in it.

The index holds those that `prepare` made. For another tokenizer or template, `counts-<12 hex>.npz`
holds the two columns that differ; a small JSON beside it names its sha256 and what it was made of.
"""

from __future__ import annotations

import hashlib
import io
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

from vila_core.data.arrays import write_arrays
from vila_core.data.index import UNREADABLE, Index
from vila_core.data.location import Location
from vila_core.data.sample import IMAGE_TAG
from vila_core.errors import Damaged, NotFound
from vila_core.jsonio import digest

if TYPE_CHECKING:
    from vila_core.data.encode import Encoder

VERSION = 1
DIGEST_KEY = "tokenizer_digest"
"""Where a corpus's manifest says what its index was counted with: see `tokenizer_digest`."""
CHAT_KEY = "chat_template_sha256"
_FILLER = re.compile(r"<unused-row-\d+>")
_FLAGS = ("special", "normalized", "lstrip", "rstrip", "single_word")
_HOW_TEXT_IS_CUT = ("normalizer", "pre_tokenizer", "post_processor", "model")


@dataclass(frozen=True)
class Counted:
    """What counts depend on: a tokenizer, a template, and the tokenizer's own chat template."""

    tokenizer: str  # see `tokenizer_digest`
    template: str
    chat_template: str | None = None  # sha256, where the template is the tokenizer's own

    @property
    def name(self) -> str:
        """12 hex digits of the digest of all three."""
        return digest([self.tokenizer, self.template, self.chat_template])[:12]

    @property
    def arrays(self) -> str:
        """The name of the file of counts."""
        return f"counts-{self.name}.npz"

    @property
    def facts(self) -> str:
        """The name of the small file beside it."""
        return f"counts-{self.name}.json"

    @classmethod
    def by(cls, encoder: Encoder) -> Counted:
        """Return what an encoder counts with."""
        return cls(encoder.digest, encoder.template.name, encoder.chat_template)

    @classmethod
    def of(cls, manifest: Mapping[str, Any]) -> Counted | None:
        """Return what a corpus's index was counted with; None for manifests that don't say it."""
        if DIGEST_KEY not in manifest:
            return None
        return cls(manifest[DIGEST_KEY], manifest["template"], manifest.get(CHAT_KEY))


@dataclass(frozen=True)
class TokenCounts:
    """The columns of the index that a tokenizer and a template decide, of N samples."""

    num_text_tokens: np.ndarray  # (N,) int32
    num_supervised: np.ndarray  # (N,) int32

    def write(self, file: BinaryIO) -> None:
        """Write the arrays. Equal counts give equal bytes."""
        write_arrays(file, num_text_tokens=self.num_text_tokens, num_supervised=self.num_supervised)


def find(where: Location, counted: Counted, index_sha256: str, index: Index) -> TokenCounts | None:
    """Return a corpus's counts by `counted`, None if there are none.

    Raises Damaged for a file that isn't what its JSON says, or that belongs to another index.
    """
    try:
        facts = json.loads(where.read(counted.facts))
    except (NotFound, FileNotFoundError):
        return None
    except ValueError as error:
        raise Damaged(f"{where.uri}/{counted.facts}: is not valid JSON: {error}") from None
    place = f"{where.uri}/{counted.arrays}"
    if facts.get("version") != VERSION or facts.get("index_sha256") != index_sha256:
        return None  # of an earlier version, or of the corpus before it was prepared again
    try:
        data = where.read(counted.arrays)
    except (NotFound, FileNotFoundError):
        raise Damaged(f"{place}: is missing, though {counted.facts} names it.") from None
    if hashlib.sha256(data).hexdigest() != facts["sha256"]:
        raise Damaged(f"{place}: is not the file that {counted.facts} names.\n  fix: count again.")
    return _parse(data, place, len(index.offset))


def _parse(data: bytes, place: str, samples: int) -> TokenCounts:
    try:
        with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
            found = TokenCounts(arrays["num_text_tokens"], arrays["num_supervised"])
    except UNREADABLE as error:
        raise Damaged(f"{place}: is not a readable file of counts: {error}") from None
    if len(found.num_text_tokens) != samples or len(found.num_supervised) != samples:
        raise Damaged(f"{place}: holds counts of another number of samples than {samples}.")
    return found


def tokenizer_digest(backend: str, eos: str) -> str:
    """Return the sha256 of what decides how a tokenizer cuts text; `backend` is its JSON.

    Vocabulary, merges, normaliser, pre-tokeniser, post-processor (its BOS), added tokens and the
    end-of-sequence token. Left out is what models add to hold images: `<image>` and the fillers
    before it, which the encoder keeps from ever standing in a text.
    """
    state = json.loads(backend)
    added = sorted(
        [token["content"], *(bool(token[flag]) for flag in _FLAGS)]
        for token in state["added_tokens"]
        if token["content"] != IMAGE_TAG and not _FILLER.fullmatch(token["content"])
    )
    parts = [state.get(name) for name in _HOW_TEXT_IS_CUT]
    return digest([VERSION, parts, added, eos])
