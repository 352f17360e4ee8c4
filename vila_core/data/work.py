"""What is done with one chunk of a corpus's records, in whatever process: records to tar members.

Nothing here depends on another chunk, so chunks can be done anywhere and in any order. What does
(duplicates, shards, counters) is the business of `build.py`, which takes the results in order.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vila_core.data.chat import TemplateRefuses
from vila_core.data.dedupe import DedupeConfig, Signature, Signer
from vila_core.data.encode import Counts, Encoder
from vila_core.data.readers import reader_of
from vila_core.data.readers.common import Options, converted, prove
from vila_core.data.readers.files import Record
from vila_core.data.reencode import Reencode, decoded, reencoded
from vila_core.data.repeats import Prints, Repeats
from vila_core.data.repeats import prints as prints_of
from vila_core.data.rules import Rules
from vila_core.data.sample import Kind, Sample, SetAside
from vila_core.data.shards import Packed, pack
from vila_core.data.tokenizer import load_tokenizer

if TYPE_CHECKING:
    from vila_core.data.sample import Group

OVER_LIMIT = "over the limits"
NO_TEXT = "nothing to learn"
REFUSED = "chat template"


@dataclass(frozen=True)
class CorpusSource:
    """A corpus as published: its format's reader, where it lies, and how it is written out."""

    name: str
    format: str
    path: Path
    images: Path | None
    template: str
    options: Options | None = None
    max_set_aside: float = 0.05
    licence: str | None = None
    reencode: Reencode | None = None
    rules: Rules = field(default_factory=Rules)

    def __reduce__(self) -> tuple[object, ...]:
        """Let the other process find the format first: the class of its options may be there."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        options = None if self.options is None else self.options.model_dump()
        return _source, ({**values, "options": options},)


def _source(values: dict[str, Any]) -> CorpusSource:
    reader, options = reader_of(values["format"]), values["options"]
    if options is not None:
        values["options"] = reader.options.model_validate(options)
    return CorpusSource(**values)


@dataclass(frozen=True)
class SampleLimits:
    """Larger samples are set aside. A length counts `tokens_per_image` for each image."""

    max_tokens: int | None = None
    max_images: int | None = None
    tokens_per_image: int = 0

    def check(self, counts: Counts) -> str | None:
        """Return what is over a limit, or None."""
        length = counts.text_tokens + counts.images * self.tokens_per_image
        if self.max_tokens is not None and length > self.max_tokens:
            return f"{length} tokens, at most {self.max_tokens}"
        if self.max_images is not None and counts.images > self.max_images:
            return f"{counts.images} images, at most {self.max_images}"
        return None


@dataclass(frozen=True)
class Work:
    """What a worker must know. Small, so that it can be sent to another process."""

    source: CorpusSource
    tokenizer: Path
    limits: SampleLimits
    dedupe: DedupeConfig | None = None

    def worker(self) -> Worker:
        """Return what does the chunks, with an encoder of its own."""
        return Worker(self)


@dataclass(frozen=True)
class Chunk:
    """Consecutive records of one file; `shard` is the file's part of the sample keys."""

    shard: str
    records: tuple[Record, ...]

    @property
    def span(self) -> str:
        """From where to where it goes, for messages."""
        return f"from {self.records[0].where} to {self.records[-1].where}"


@dataclass(frozen=True)
class Made:
    """A sample that is ready for a shard, if nothing global speaks against it."""

    packed: Packed
    kind: Kind
    counts: Counts
    signature: Signature | None = None  # where duplicates are looked for
    prints: Prints | None = None  # where rules count over samples
    left_out: Mapping[str, int] = field(default_factory=dict)  # images, by the rule against them


@dataclass(frozen=True)
class Done:
    """What a chunk became: for each of its records, the samples made or set aside."""

    records: tuple[tuple[Made | SetAside, ...], ...]


class Worker:
    """Does chunks of one corpus. Raises UserError for a template that the tokenizer can't serve."""

    def __init__(self, work: Work, encoder: Encoder | None = None) -> None:
        source = work.source
        reader = reader_of(source.format)
        self._work = work
        self.licence = source.licence or reader.licence
        self._convert = reader.converter(
            source.path, source.images, source.options or reader.options()
        )
        if encoder is None:
            # Text tokens are counted without image places, so neither number matters here.
            tokenizer = load_tokenizer(work.tokenizer)
            encoder = Encoder(tokenizer, "plain", image_token_id=0, tokens_per_image=1)
        self.encoder = encoder.with_template(source.template)
        self._signer = Signer(work.dedupe) if work.dedupe else None
        self._prints = Repeats(source.rules).on
        self._found: dict[str, tuple[Signature | None, Prints | None]] = {}  # by key

    def __call__(self, chunk: Chunk) -> Done:
        """Return what became of every record, in order."""
        name = self._work.source.name
        rows: list[tuple[Made | SetAside, ...]] = []
        for record in chunk.records:
            self._found.clear()
            found = converted(name, chunk.shard, record, self._convert, self._finish, self.licence)
            rows.append(tuple(self._made(one) for one in found))
        return Done(tuple(rows))

    def _finish(self, sample: Sample) -> Sample:
        """Apply the rules, hash, bring images into shape: the first two see the original."""
        source = self._work.source
        source.rules.check(sample)
        how = source.reencode
        pictures = decoded(sample, how) if how else None
        if pictures is None:
            prove(sample)
        signature = self._signer(sample, pictures) if self._signer else None
        self._found[sample.key] = signature, prints_of(sample) if self._prints else None
        return reencoded(sample, pictures, how) if how and pictures is not None else sample

    def _made(self, sample: Sample | SetAside) -> Made | SetAside:
        if isinstance(sample, SetAside):
            return sample

        def set_aside(reason: str, detail: str, group: Group = "broken") -> SetAside:
            return SetAside(self._work.source.name, sample.key, reason, detail, group, sample.kind)

        try:
            counts = self.encoder.count(sample)
        except TemplateRefuses as error:
            text = str(error).partition("\n")[0].removeprefix(f"{sample.key}: ")
            return set_aside(REFUSED, text)
        over = self._work.limits.check(counts)
        if over is not None:
            return set_aside(OVER_LIMIT, over, "limit")
        if counts.supervised == 0:
            return set_aside(NO_TEXT, f"{counts.text_tokens} tokens, none supervised")
        signature, prints = self._found[sample.key]
        left_out = sample.meta.get("left_out", {})
        return Made(pack(sample, counts), sample.kind, counts, signature, prints, left_out)
