"""What of a corpus carries loss: counted per kind of sample, and told, never silent."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vila_core.data.encode import Counts

_EXAMPLES = 5
_HEAD = (
    "corpus",
    "kind",
    "samples",
    "text tokens",
    "supervised",
    "share",
    "wholly masked",
    "over limit",
)


@dataclass
class Tally:
    """The samples of one kind: those kept with their tokens, and those set aside, by reason."""

    samples: int = 0
    text_tokens: int = 0  # image places left out
    supervised: int = 0
    images: int = 0
    wholly_masked: int = 0
    over_limit: int = 0

    @property
    def share(self) -> float:
        """Supervised tokens among the text tokens."""
        return self.supervised / max(self.text_tokens, 1)

    def to_json(self) -> dict[str, float]:
        """Return the counts and the share."""
        return {**vars(self), "supervised_share": self.share}


@dataclass
class Supervision:
    """The supervised-token report of one corpus."""

    template: str
    kinds: dict[str, Tally] = field(default_factory=dict)
    examples: dict[str, list[str]] = field(
        default_factory=lambda: {"wholly_masked": [], "over_limit": []}
    )

    def keep(self, kind: str, counts: Counts) -> None:
        """Count a sample that is kept."""
        tally = self._tally(kind)
        tally.samples += 1
        tally.text_tokens += counts.text_tokens
        tally.supervised += counts.supervised
        tally.images += counts.images

    def masked(self, kind: str, key: str) -> None:
        """Count a sample of which no token would carry loss."""
        self._tally(kind).wholly_masked += 1
        self._example("wholly_masked", key)

    def over(self, kind: str, key: str) -> None:
        """Count a sample that would have to be cut."""
        self._tally(kind).over_limit += 1
        self._example("over_limit", key)

    @property
    def total(self) -> Tally:
        """All kinds together."""
        rows = list(self.kinds.values())
        return Tally(**{name: sum(getattr(row, name) for row in rows) for name in vars(Tally())})

    def to_json(self) -> dict[str, Any]:
        """Return the report: totals, each kind, and the first keys of what was set aside."""
        return {
            "template": self.template,
            **self.total.to_json(),
            "kinds": {kind: tally.to_json() for kind, tally in sorted(self.kinds.items())},
            "examples": {name: keys for name, keys in self.examples.items() if keys},
        }

    def _tally(self, kind: str) -> Tally:
        return self.kinds.setdefault(kind, Tally())

    def _example(self, name: str, key: str) -> None:
        if len(self.examples[name]) < _EXAMPLES:
            self.examples[name].append(key)


def table(corpora: Iterable[tuple[str, Supervision]]) -> Iterator[str]:
    """Yield the report as lines: one row per corpus and kind, then what was set aside."""
    rows: list[tuple[str, ...]] = [_HEAD]
    notes = []
    for name, report in corpora:
        for kind, tally in sorted(report.kinds.items()):
            counts = (tally.samples, tally.text_tokens, tally.supervised)
            rows.append(
                (
                    name,
                    kind,
                    *(f"{count:,}" for count in counts),
                    f"{tally.share:.1%}",
                    f"{tally.wholly_masked:,}",
                    f"{tally.over_limit:,}",
                )
            )
        for reason, keys in report.examples.items():
            if keys:
                count = getattr(report.total, reason)
                what = reason.replace("_", " ")
                notes.append(
                    f"{name}: {count:,} {what}, set aside: {', '.join(keys)}"
                    + (" …" if count > len(keys) else "")
                )
    widths = [max(len(row[column]) for row in rows) for column in range(len(_HEAD))]
    for row in rows:
        cells = [
            cell.ljust(width) if column < 2 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        yield "  ".join(cells).rstrip()
    yield from notes
