"""What every task of a run is told, as one JSON string: the store, the run, the driver."""

from __future__ import annotations

from typing import Literal

from pydantic import field_validator

from vila_core.config import Frozen


class Tracking(Frozen):
    """Where metrics go beside the run record."""

    wandb: Literal["offline", "online", "disabled"] = "offline"
    project: str = "vila"


class Context(Frozen):
    """The run that a task belongs to. `driver_pid` is None where another engine drives it."""

    store: str
    run_id: str
    driver_pid: int | None = None
    recipe: str = ""
    tracking: Tracking = Tracking()

    @field_validator("tracking", mode="before")
    @classmethod
    def _mode(cls, value: object) -> object:
        return {"wandb": value} if isinstance(value, str) else value

    @classmethod
    def parse(cls, text: str) -> Context:
        """Read the JSON text. Raises pydantic's ValidationError: only the driver writes it."""
        return cls.model_validate_json(text)
