"""One delivery of one history entry to one target, by the target's kind."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from components.registry import HistoryEntry
from vila_core.errors import VilaError
from vila_core.store import Store
from vila_ops.registry.mirror_settings import HuggingFace, Target, Wandb, Webhook


class Undelivered(VilaError):
    """A delivery failed; another try may help, after `wait_s` if the target said so."""

    def __init__(self, message: str, wait_s: float | None = None) -> None:
        super().__init__(message)
        self.wait_s = wait_s


class Refused(Undelivered):
    """The target understood and said no: another try won't help before somebody changes it."""


def deliver_entry(
    store: Store, model: str, target: Target, name: str, entry: HistoryEntry
) -> Mapping[str, Any]:
    """Deliver an entry; return what the target answered, for the record.

    Raises Undelivered, and UserError for a secret that is not there.
    """
    if isinstance(target, Webhook):
        from vila_ops.registry.webhooks import post

        return post(target, name, model, entry)
    if isinstance(target, Wandb | HuggingFace):
        from vila_ops.registry.mirror_child import in_child

        return in_child(store, target, name, model, entry)
    raise TypeError(f"{name}: no delivery is known for {type(target).__name__}")
