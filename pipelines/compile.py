"""Compile the graphs: `python -m pipelines.compile [--check]` writes or checks `compiled/*.yaml`.

The compiled files are committed. The runners read them, so that running needs no compiler, and a
review shows what a cluster will see.
"""

from __future__ import annotations

import argparse
import importlib
import tempfile
from collections.abc import Sequence
from pathlib import Path

PIPELINES = ("recipe", "prepare_parallel")
COMPILED = Path(__file__).parent / "compiled"


def compile_pipeline(name: str, target: Path) -> None:
    """Compile `pipelines.<name>.<name>` into the YAML file `target`; same source, same bytes."""
    from kfp import compiler

    pipeline = getattr(importlib.import_module(f"pipelines.{name}"), name)
    target.parent.mkdir(parents=True, exist_ok=True)
    compiler.Compiler().compile(pipeline, str(target))


def stale() -> list[str]:
    """Return the names of the pipelines whose committed file is not what compiling gives."""
    names = []
    for name in PIPELINES:
        committed = COMPILED / f"{name}.yaml"
        with tempfile.TemporaryDirectory() as folder:
            fresh = Path(folder) / "fresh.yaml"
            compile_pipeline(name, fresh)
            if not committed.exists() or committed.read_bytes() != fresh.read_bytes():
                names.append(name)
    return names


def main(argv: Sequence[str] | None = None) -> int:
    """Compile all pipelines, or with --check return 1 when a committed file is out of date."""
    parser = argparse.ArgumentParser(description="compile the pipelines into pipelines/compiled")
    parser.add_argument("--check", action="store_true", help="only check that they are up to date")
    if parser.parse_args(argv).check:
        names = stale()
        for name in names:
            print(f"compiled/{name}.yaml is out of date; run: python -m pipelines.compile")
        return 1 if names else 0
    for name in PIPELINES:
        compile_pipeline(name, COMPILED / f"{name}.yaml")
        print(f"wrote pipelines/compiled/{name}.yaml")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
