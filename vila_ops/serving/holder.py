"""The model that is served now: loaded in the background, and exchanged without a pause."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from vila_core.errors import VilaError
from vila_core.store import ArtifactRef, Store, fetch
from vila_ops.ask import ModelRef, refer
from vila_ops.serving.figures import Figures
from vila_ops.serving.limits import Limits
from vila_ops.serving.problem import unavailable

if TYPE_CHECKING:
    from vila_ops.serving.engine import Engine
    from vila_ops.serving.served import Served

LAST_S = 5.0
"""For telling those whose answers are cut off, after the grace."""


@dataclass(frozen=True)
class Opening:
    """How a model is opened: prompts' template (None: its own), device and precision."""

    template: str | None = None
    device: str = "auto"
    precision: str = "fp32"
    threads: int = 1


@dataclass(frozen=True)
class Loaded:
    """A model in memory, where it came from, and since when (Unix time)."""

    served: Served
    engine: Engine
    origin: str
    sha256: str | None
    at: float


class Holder:
    """Loads the model `name` names, and looks whether the name means another one by now.

    `follow_s`: look that often, and load what it means then. Without it the look, every
    `LOOK_S` seconds, is for telling alone.
    """

    LOOK_S = 30.0

    def __init__(
        self,
        store: Store,
        name: str,
        opening: Opening,
        limits: Limits,
        *,
        say: Callable[[str], None],
        follow_s: float | None = None,
        allow_unsigned: bool = False,
    ) -> None:
        """Find the model, without loading it. Raises what `refer` raises.

        `allow_unsigned`: a version may lack the signature of somebody who is trusted.
        """
        self._store, self._name, self._opening = store, name, opening
        self._say, self._follow_s = say, follow_s
        self.limits, self.figures = limits, Figures()
        self._allow_unsigned = allow_unsigned
        self._ref = refer(store, name, allow_unsigned=allow_unsigned)
        self.current: Loaded | None = None
        self.meant: str | None = self._ref.origin
        """What the name means by the last look; None where the store did not tell."""
        self.stopping = False
        self.failure: VilaError | None = None
        self._asked = threading.Event()
        self._reload = False

    @property
    def id(self) -> str:
        """The name under which clients ask for the model."""
        return Path(self._name).resolve().name if self.is_folder else self._name

    @property
    def is_folder(self) -> bool:
        """Whether the model is a folder, which nobody gives versions."""
        return isinstance(self._ref.place, Path)

    def names(self) -> list[str]:
        """Return all names that mean the model in memory."""
        names = [self.id]
        if not self.is_folder:
            names.append(self.id.partition("@")[0])
            if self.current is not None:
                names.append(self.current.origin)
        return list(dict.fromkeys(names))

    @property
    def is_stale(self) -> bool:
        """Whether the name means another version than the one in memory."""
        current = self.current
        return current is not None and self.meant not in (None, current.origin)

    def start(self, failed: Callable[[], None]) -> None:
        """Load in the background; `failed` is called, with `failure` set, when that can't be."""

        def work() -> None:
            try:
                self.current = self._load(self._ref)
            except VilaError as error:
                self.failure = error
            except Exception as error:
                self.failure = VilaError(f"{self._name}: {type(error).__name__}: {error}")
            if self.failure is not None:
                failed()
                return
            self._watch()

        threading.Thread(target=work, name="loader", daemon=True).start()

    def reload(self) -> None:
        """Load what the name means now, in the background; who is being answered notices nothing.

        Called from a signal handler.
        """
        self._reload = True
        self._asked.set()

    def stop(self, grace_s: float) -> None:
        """Take no more requests; write the answers under way for so long, then end them."""
        self.stopping = True
        self._asked.set()
        current = self.current
        if current is None:
            return
        current.engine.drain()
        if not current.engine.join(grace_s):
            current.engine.abort(unavailable("the server was shut down before the answer's end"))
            current.engine.join(LAST_S)

    def cut_off(self) -> None:
        """End all answers at once."""
        if self.current is not None:
            self.current.engine.abort(unavailable("the server was shut down"))

    def _load(self, ref: ModelRef) -> Loaded:
        begun = time.monotonic()
        from vila_ops.serving.served import open_model  # torch: the server listens already

        place = ref.place
        folder = fetch(self._store, place) if isinstance(place, ArtifactRef) else place
        served = open_model(folder, ref.template, self._opening)
        engine = served.engine(self.limits, self.figures)
        engine.start()
        sha256 = place.sha256 if isinstance(place, ArtifactRef) else None
        self._say(f"{self._told(ref)} is loaded, {time.monotonic() - begun:.1f} s")
        return Loaded(served, engine, ref.origin, sha256, time.time())

    def _watch(self) -> None:
        while not self.stopping:
            self._asked.wait(self._follow_s or self.LOOK_S)
            wanted, self._reload = self._reload, False
            self._asked.clear()
            if self.stopping:
                return
            try:
                ref = refer(self._store, self._name, allow_unsigned=self._allow_unsigned)
            except VilaError as error:
                self.meant = None
                if wanted:
                    self._say(f"{self._name}: can't be looked up, nothing is reloaded: {error}")
                continue
            self.meant = ref.origin
            current = self.current
            same = current is not None and current.origin == ref.origin and not self.is_folder
            if wanted and same:
                self._say(f"{self._name} still is {ref.origin}; nothing to reload")
            elif (wanted or (self._follow_s and not self.is_folder)) and not same:
                self._exchange(ref)

    def _exchange(self, ref: ModelRef) -> None:
        old = self.current
        try:
            self.current = self._load(ref)
        except Exception as error:  # whatever it is: what works goes on
            self.figures.reloaded(well=False)
            kept = old.origin if old else "nothing"
            self._say(f"{ref.origin} can't be loaded, {kept} is still served: {error}")
            return
        self.figures.reloaded(well=True)
        if old is not None:
            old.engine.drain()  # its thread ends with the last answer, and its memory is free
        if self.stopping:  # in the meantime
            self.current.engine.drain()

    def _told(self, ref: ModelRef) -> str:
        return (
            self.id
            if ref.origin == self._name or self.is_folder
            else (f"{self._name} ({ref.origin})")
        )
