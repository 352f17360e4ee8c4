"""What became of a corpus's records, counted while they pass, and kept without the records."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from vila_core.data.sample import Group, SetAside
from vila_core.data.supervision import Supervision, Tally
from vila_core.data.work import NO_TEXT, OVER_LIMIT, Made

_EXAMPLES = 10


@dataclass
class CorpusReport:
    """The counters of one corpus. They add up: see `check`."""

    name: str
    supervision: Supervision
    manifest: dict[str, Any] = field(default_factory=dict)
    records: int = 0  # read, those of no use included
    not_sampled: int = 0  # of them, left out by the format's own sampling before they were read
    extra: int = 0  # samples beyond the first of a record
    kept: int = 0
    reasons: Counter[str] = field(default_factory=Counter)
    groups: Counter[Group] = field(default_factory=Counter)
    examples: dict[str, list[dict[str, str]]] = field(default_factory=dict)
    reported: Counter[str] = field(default_factory=Counter)
    """Samples kept although they stand in an evaluation set (`decontaminate: report`)."""
    left_out: Counter[str] = field(default_factory=Counter)  # images out of kept samples, by rule

    def keep(self, made: Made) -> None:
        """Count a sample that is in the shards."""
        self.kept += 1
        self.supervision.keep(made.kind, made.counts)
        self.left_out.update(made.left_out)

    def set_aside(self, row: SetAside) -> None:
        """Count a record or sample that is not."""
        self.reasons[row.reason] += 1
        self.groups[row.group] += 1
        if row.kind and row.reason == OVER_LIMIT:
            self.supervision.over(row.kind, row.where)
        elif row.kind and row.reason == NO_TEXT:
            self.supervision.masked(row.kind, row.where)
        rows = self.examples.setdefault(row.reason, [])
        if len(rows) < _EXAMPLES:
            rows.append({"where": row.where, "detail": row.detail})

    @property
    def num_set_aside(self) -> int:
        """Records and samples set aside, for whatever reason."""
        return self.reasons.total()

    @property
    def broken(self) -> int:
        """Records with a defect: what a rule, a limit or a check of the user's found isn't one."""
        return self.groups["broken"]

    @property
    def broken_share(self) -> float:
        """Broken records among all that were looked at."""
        return self.broken / max(self.looked_at, 1)

    @property
    def looked_at(self) -> int:
        """Samples, and records that are none: all but what sampling left out."""
        return self.kept + self.num_set_aside

    def check(self) -> None:
        """Raise AssertionError unless every record is accounted for."""
        gone = self.kept + self.num_set_aside + self.not_sampled
        if self.records + self.extra != gone:
            raise AssertionError(f"{self.name}: {self.records} + {self.extra} records, {gone} told")

    def to_json(self) -> dict[str, Any]:
        """Return the counts, the most frequent reasons first, with examples of each."""
        ordered = sorted(self.reasons.items(), key=lambda item: (-item[1], item[0]))
        return {
            "read": self.records,
            "not_sampled": self.not_sampled,
            "extra_samples": self.extra,
            "kept": self.kept,
            "set_aside": dict(ordered),
            "groups": dict(sorted(self.groups.items())),
            "examples": self.examples,
            "contaminated_kept": dict(sorted(self.reported.items())),
            "left_out": dict(sorted(self.left_out.items())),
            "supervision": self.supervision.to_json(),
            **{name: self.manifest[name] for name in ("text_tokens", "supervised", "images")},
        }

    def state(self) -> dict[str, Any]:
        """Return everything but the manifest, as JSON."""
        return {
            "counts": [self.records, self.not_sampled, self.extra, self.kept],
            "reasons": dict(self.reasons),
            "groups": dict(self.groups),
            "examples": self.examples,
            "reported": dict(self.reported),
            "left_out": dict(self.left_out),
            "kinds": {kind: vars(tally) for kind, tally in self.supervision.kinds.items()},
            "supervision_examples": self.supervision.examples,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from what `state` returned."""
        self.records, self.not_sampled, self.extra, self.kept = state["counts"]
        self.reasons, self.groups = Counter(state["reasons"]), Counter(state["groups"])
        self.reported = Counter(state["reported"])
        self.examples, self.left_out = state["examples"], Counter(state["left_out"])
        self.supervision.kinds = {kind: Tally(**row) for kind, row in state["kinds"].items()}
        self.supervision.examples = state["supervision_examples"]
