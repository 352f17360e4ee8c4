"""From one corpus on disk to its shards, with everything that had to be set aside on the way."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vila_core.data.chat import TemplateRefuses
from vila_core.data.encode import Counts, Encoder
from vila_core.data.readers import READERS
from vila_core.data.readers.common import Options
from vila_core.data.sample import Sample, SetAside
from vila_core.data.shards import ShardLimits, ShardWriter
from vila_core.data.supervision import Supervision

OVER_LIMIT = "over the limits"
NO_TEXT = "nothing to learn"
REFUSED = "chat template"
_EXAMPLES = 10
_EVERY = 500


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


@dataclass
class CorpusReport:
    """What became of a corpus's records."""

    name: str
    supervision: Supervision
    manifest: dict[str, Any] = field(default_factory=dict)
    set_aside: list[SetAside] = field(default_factory=list)

    @property
    def kept(self) -> int:
        """Samples in the shards."""
        return int(self.manifest["samples"])

    @property
    def reasons(self) -> dict[str, int]:
        """How many records were set aside, by reason, the most frequent first."""
        counts = Counter(row.reason for row in self.set_aside)
        return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))

    @property
    def broken(self) -> int:
        """Records set aside for a defect: those over a limit of the user's own don't count."""
        return sum(row.reason != OVER_LIMIT for row in self.set_aside)

    @property
    def broken_share(self) -> float:
        """Broken records among broken and kept ones."""
        return self.broken / max(self.broken + self.kept, 1)

    def to_json(self) -> dict[str, Any]:
        """Return counts, and the first examples of each reason."""
        examples: dict[str, list[dict[str, str]]] = {}
        for row in self.set_aside:
            rows = examples.setdefault(row.reason, [])
            if len(rows) < _EXAMPLES:
                rows.append({"where": row.where, "detail": row.detail})
        return {
            "read": self.kept + len(self.set_aside),
            "kept": self.kept,
            "set_aside": self.reasons,
            "examples": examples,
            "supervision": self.supervision.to_json(),
            **{name: self.manifest[name] for name in ("text_tokens", "supervised", "images")},
        }


def build_corpus(
    source: CorpusSource,
    folder: Path,
    encoder: Encoder,
    *,
    limits: SampleLimits,
    shards: ShardLimits,
    told: Callable[[int], None] = lambda count: None,
) -> CorpusReport:
    """Read `source`, count its tokens with its template, and write shards and index to `folder`.

    `told` hears now and then how many records were read. Raises UserError for a corpus or a file
    of it that can't be read at all; single broken records are in the report.
    """
    report = CorpusReport(source.name, Supervision(source.template))
    encoder = encoder.with_template(source.template)
    records = READERS[source.format].read(
        source.path, corpus=source.name, images=source.images, options=source.options
    )
    with ShardWriter(folder, source.name, template=source.template, limits=shards) as writer:
        for number, record in enumerate(records, start=1):
            if isinstance(record, SetAside):
                report.set_aside.append(record)
            else:
                _add(record, writer, encoder, limits, report)
            if number % _EVERY == 0:
                told(number)
        report.manifest = writer.finish(
            format=source.format,
            set_aside=len(report.set_aside),
            **({"chat_template_sha256": encoder.chat_template} if encoder.chat_template else {}),
        )
    return report


def _add(
    sample: Sample,
    writer: ShardWriter,
    encoder: Encoder,
    limits: SampleLimits,
    report: CorpusReport,
) -> None:
    def set_aside(reason: str, detail: str) -> None:
        report.set_aside.append(SetAside(report.name, sample.key, reason, detail))

    try:
        counts = encoder.count(sample)
    except TemplateRefuses as error:
        set_aside(REFUSED, str(error).partition("\n")[0].removeprefix(f"{sample.key}: "))
        return
    over = limits.check(counts)
    if over is not None:
        set_aside(OVER_LIMIT, over)
        report.supervision.over(sample.kind, sample.key)
    elif counts.supervised == 0:
        set_aside(NO_TEXT, f"{counts.text_tokens} tokens, none supervised")
        report.supervision.masked(sample.kind, sample.key)
    else:
        writer.add(sample, counts)
        report.supervision.keep(sample.kind, counts)
