"""`vila data add|push|pull|status|diff|log`."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from vila_ops.cli.options import JsonOption

Paths = Annotated[list[Path] | None, typer.Argument(help="Folders; default: all that is tracked.")]
Remote = Annotated[
    str | None,
    typer.Option("--remote", metavar="URL", help="Keep versions there: s3://bucket/prefix, folder"),
]


def add(
    path: Annotated[Path, typer.Argument(help="The folder, as vila data prepare left it.")],
    message: Annotated[
        str | None, typer.Option("--message", "-m", help="Commit the version with this message.")
    ] = None,
    init: Annotated[
        bool, typer.Option("--init", help="Make the git and DVC repositories that are missing.")
    ] = False,
    remote: Remote = None,
    json: JsonOption = False,
) -> None:
    """Keep a folder as it is now as a version, named by its content."""
    from vila_ops.data import versions

    done = versions.add(path, init=init, remote=remote, message=message)
    if json:
        _print(asdict(done))
        return
    facts = done.version
    typer.echo(f"{facts['path']}: {facts['md5']}, {_amount(facts['nfiles'], facts['size'])}")
    if done.committed:
        typer.echo(f"commit {done.committed[:12]}")
    elif done.files:
        typer.echo("commit what names it:")
        typer.echo(f"  git add {' '.join(done.files)} && git commit")


def push(paths: Paths = None, remote: Remote = None) -> None:
    """Send versions to the remote, only what it lacks."""
    from vila_ops.data import versions

    url, count = versions.push(paths or [], remote)
    typer.echo(f"{count} files sent to {url}" if count else f"{url} has everything")


def pull(paths: Paths = None) -> None:
    """Bring folders to the version that git has checked out, verified."""
    from vila_ops.data import versions

    counts = versions.pull(paths or [])
    told = ", ".join(f"{value} {name}" for name, value in counts.items())
    typer.echo(told or "everything is here")


def status(paths: Paths = None, json: JsonOption = False) -> None:
    """Tell what was changed, is not committed, is missing here or in the remote."""
    from vila_ops.data import versions

    found = versions.status(paths or [])
    if json:
        _print(found)
        return
    fixes = {
        "changed": "vila data add",
        "uncommitted": "git commit",
        "missing": "vila data pull",
        "unpushed": "vila data push",
    }
    open_ = {kind: found[kind] for kind in fixes if found[kind]}
    for kind, names in open_.items():
        typer.echo(f"{kind} ({fixes[kind]}):")
        _list(names)
    if not found["tracked"]:
        typer.echo("nothing is tracked yet (vila data add)")
    elif not open_:
        typer.echo(f"{len(found['tracked'])} tracked: nothing changed, committed and pushed")


def diff(
    path: Annotated[Path, typer.Argument(help="The folder.")],
    before: Annotated[str, typer.Argument(metavar="REV", help="A revision of git.")] = "HEAD",
    after: Annotated[
        str | None, typer.Argument(metavar="REV", help="Another; default: as it is now.")
    ] = None,
    json: JsonOption = False,
) -> None:
    """List the files that differ between two versions."""
    from vila_ops.data import versions

    found = versions.diff(path, before, after)
    if json:
        _print(found)
        return
    for kind, names in found.items():
        if names:
            typer.echo(f"{kind}:")
            _list(names)
    if not any(found.values()):
        typer.echo("no difference")


def log(
    path: Annotated[Path, typer.Argument(help="The folder.")], json: JsonOption = False
) -> None:
    """List the versions of a folder, newest first."""
    from vila_ops.data import versions

    entries = versions.log(path)
    if json:
        _print([asdict(entry) for entry in entries])
        return
    for entry in entries:
        amount = _amount(entry.nfiles, entry.size)
        typer.echo(f"{entry.git_rev[:12]}  {entry.at[:16]}  {entry.md5[:12]}  {amount}")
        typer.echo(f"    {entry.subject}")


COMMANDS = (add, push, pull, status, diff, log)


def _list(names: list[str], most: int = 20) -> None:
    for name in names[:most]:
        typer.echo(f"  {name}")
    if len(names) > most:
        typer.echo(f"  … and {len(names) - most} more (--json lists all)")


def _amount(files: int, size: int) -> str:
    return f"{files:,} files, {size / 2**20:,.1f} MiB"


def _print(value: Any) -> None:
    from vila_core.jsonio import dumps

    typer.echo(dumps(value))
