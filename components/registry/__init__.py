"""Versions of models that never change, aliases that move, and the history of who moved them."""

from components.registry.registry import AliasMove, Registry, Version

__all__ = ["AliasMove", "Registry", "Version"]
