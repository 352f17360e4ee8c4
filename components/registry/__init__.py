"""Versions of models that never change, aliases that move, and the history of who moved them."""

from components.registry.records import HistoryEntry, Version
from components.registry.registry import Registry

__all__ = ["HistoryEntry", "Registry", "Version"]
