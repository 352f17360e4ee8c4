"""A part of a training again, in a process of its own: `python -m vila_ops.replay CALL.json`.

The stage runs as in its task, from the checkpoint in its output folder if there is one, and is left
after the step that is asked for.
"""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from components.runtime import stage_module
from vila_core.config import validate
from vila_core.errors import VilaError


class _Enough(Exception):
    """The window has been replayed."""


class _Until:
    """A report that ends the training when the step after `last` is computed.

    By then the checkpoint of `last` is on its way, and the loop waits for it when it ends.
    """

    def __init__(self, last: int) -> None:
        self.last = last

    def progress(self, done: int, total: int, unit: str, **values: float) -> None:
        if done > self.last:
            raise _Enough

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        pass

    def info(self, text: str) -> None:
        print(text, file=sys.stderr)

    def attach(self, path: Path, name: str) -> None:
        pass


def main(call: Mapping[str, Any]) -> None:
    """Run the stage of `call` in its folder until the step `last` is saved."""
    module = importlib.import_module(stage_module(call["stage"]))
    config = validate(module.Config, call["config"], where=call["stage"])
    inputs = {name: Path(path) for name, path in call["inputs"].items()}
    folder = Path(call["out_dir"])
    folder.mkdir(parents=True, exist_ok=True)
    try:
        module.run(config, inputs, folder, _Until(call["last"]))
    except _Enough:
        return


if __name__ == "__main__":
    try:
        main(json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")))
    except VilaError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
