"""Options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

StoreOption = Annotated[
    str | None,
    typer.Option(
        "--store",
        envvar="VILA_STORE",
        metavar="URI",
        help="Where runs are kept: a folder, file:// or s3://.  [default: .vila of the project]",
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")]
UnsignedOption = Annotated[
    bool,
    typer.Option("--allow-unsigned", help="Take a version that nobody you trust has signed."),
]
HostOption = Annotated[str, typer.Option("--host", metavar="ADDRESS", help="Address to listen on.")]
PortOption = Annotated[
    int, typer.Option("--port", min=0, max=65535, help="Port; 0 takes a free one.")
]
RunArgument = Annotated[
    str, typer.Argument(metavar="RUN", help="Run id, its beginning, a run's name, or 'last'.")
]


def store_uri(given: str | None) -> str:
    """Return the store to use: as given, or `.vila` in the project or current directory."""
    return given or str(_default_folder(Path.cwd()))


def _default_folder(start: Path) -> Path:
    """Find `.vila` upwards; without one, it belongs beside `.git`; without that, here."""
    for marker in (".vila", ".git"):
        for folder in (start, *start.parents):
            if folder != Path.home() and (folder / marker).exists():
                return folder / ".vila"
    return start / ".vila"
