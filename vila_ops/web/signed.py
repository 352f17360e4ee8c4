"""What the registry's pages tell of signatures: checked as `vila registry verify` does."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from components.registry import HistoryEntry, Version
from components.registry.keys import OWN
from components.registry.signatures import Signatures
from components.registry.signing import BAD, UNKNOWN, VALID, Signed, Trust, trust_of_user
from vila_core.errors import VilaError
from vila_core.store import Store


@dataclass(frozen=True)
class Marks:
    """What is known of the signatures of a model's records, by their numbers.

    `problem` says why nothing is.
    """

    found: Mapping[int, Signed] = field(default_factory=dict)
    problem: str = ""

    @property
    def bad(self) -> list[tuple[int, Signed]]:
        """The records whose signature is bad."""
        return [(number, one) for number, one in self.found.items() if one.state == BAD]

    @property
    def counted(self) -> str:
        """How many there are of each state."""
        states = Counter(one.state for one in self.found.values())
        return ", ".join(f"{count} {state}" for state, count in sorted(states.items()))


def marks(store: Store, model: str, records: Sequence[Version | HistoryEntry]) -> Marks:
    """Return what is known of signatures, by whom this process trusts."""
    try:
        found = Signatures(store, model).all_examined(records, _trust())
    except (VilaError, OSError) as error:
        return Marks(problem=str(error))
    numbers = [one.number if isinstance(one, Version) else one.seq for one in records]
    return Marks(dict(zip(numbers, found, strict=True)))


def _trust() -> Trust:
    """Return whom this process trusts; its own key is not that of whoever looks at the page."""
    trust = trust_of_user()
    keys = {
        key_id: replace(key, name="this server") if key.name == OWN else key
        for key_id, key in trust.keys.items()
    }
    return replace(trust, keys=keys)


def in_short(one: Signed) -> str:
    """Return a state in a few words."""
    if one.state == VALID:
        return f"signed by {one.who}"
    return {BAD: "bad signature", UNKNOWN: "signed by somebody not trusted"}.get(
        one.state, one.state
    )
