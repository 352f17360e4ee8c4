"""`vila registry list|show|history|verify|sign|pull`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vila_core.errors import EXIT_FAILED
from vila_core.layouts import OURS
from vila_ops.cli import registry_keys
from vila_ops.cli.options import JsonOption, StoreOption, UnsignedOption, store_uri

if TYPE_CHECKING:
    from components.registry import Registry, Version
    from vila_core.store import Store

app = typer.Typer(
    help="Versions of models, and the aliases that point at them.",
    no_args_is_help=True,
    rich_markup_mode=None,
)


app.add_typer(registry_keys.app, name="key")

ModelArgument = Annotated[str | None, typer.Argument(metavar="[MODEL]", help="Default: all.")]


@app.command(name="list")
def list_versions(json: JsonOption = False, store: StoreOption = None) -> None:
    """List all versions of all models, with their aliases.

    A model whose records can't be read is told of on stderr, and the others are listed.
    """
    from vila_core.errors import Damaged
    from vila_ops.cli import registered

    uri = store_uri(store)
    registry = _open(uri)
    rows, broken = [], False
    for model in registry.models():
        try:
            aliases = registry.aliases(model)
            rows += [_row(one, aliases) for one in reversed(registry.versions(model))]
        except Damaged as error:
            typer.echo(f"error: {error}", err=True)
            broken = True
    if json:
        _print_json(rows)
    elif rows:
        registered.print_versions(rows)
    elif not broken:
        typer.echo(f"nothing is registered in {uri} yet; the last task of a recipe does it.")
    if broken:
        raise typer.Exit(EXIT_FAILED)


@app.command()
def show(
    name: Annotated[str, typer.Argument(help="MODEL, MODEL@VERSION or MODEL@ALIAS.")],
    json: JsonOption = False,
    store: StoreOption = None,
) -> None:
    """Show a version with signature, lineage, gates and metrics, or a model's versions."""
    from vila_ops.cli import registered
    from vila_ops.registry import shown

    opened = _store(store)
    registry = _registry(opened)
    if "@" in name:
        value = shown.version(opened, registry.resolve(name))
        _print_json(value) if json else registered.print_version(value)
        return
    _check_model(registry, name)
    value = _model(registry, name)
    if json:
        _print_json(value)
    else:
        registered.print_versions(value["versions"])
        registered.print_history(value["history"])


@app.command()
def history(
    model: Annotated[str, typer.Argument(help="The model.")],
    json: JsonOption = False,
    store: StoreOption = None,
) -> None:
    """Show who moved which alias or judged which version, when and why, the latest first."""
    from vila_ops.cli import registered
    from vila_ops.registry import shown

    opened = _store(store)
    _check_model(_registry(opened), model)
    entries = shown.history(opened, model)
    if json:
        _print_json(entries)
    elif not entries:
        typer.echo(f"nothing has happened to {model} yet; next: vila promote RUN --to ALIAS")
    else:
        registered.print_entries(model, list(reversed(entries)))


@app.command()
def verify(
    model: ModelArgument = None, json: JsonOption = False, store: StoreOption = None
) -> None:
    """Check the chain of the history, aliases, signatures, and every file of every version.

    Exit code 0: all is as it was. 1: something is wrong. 2: a mistake of yours.
    """
    from components.registry.verify import check
    from vila_ops.cli import registered

    def say(text: str) -> None:
        if not json:
            typer.echo(text, err=True)

    found = check(_store(store), model, say)
    if json:
        _print_json(found.as_json())
    else:
        registered.print_findings(found)
    if not found.ok:
        raise typer.Exit(EXIT_FAILED)


@app.command()
def sign(
    name: Annotated[str, typer.Argument(help="MODEL (all of it), MODEL@VERSION or MODEL@ALIAS.")],
    json: JsonOption = False,
    store: StoreOption = None,
) -> None:
    """Sign what your key has not signed yet: you say that it is good.

    Records stay as they are; the signatures are kept beside them.
    """
    from vila_ops.registry.sign import sign as sign_records

    opened = _store(store)
    signed = sign_records(opened, name)
    if json:
        _print_json(signed.as_json())
        return
    what = f"{signed.versions} versions and {signed.entries} entries of the history"
    typer.echo(f"signed {what} of {signed.model}, with key {signed.key_id[:16]}")


@app.command()
def pull(
    name: Annotated[str, typer.Argument(metavar="MODEL@X", help="MODEL@VERSION or MODEL@ALIAS.")],
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="The folder; default: MODEL-VERSION here.")
    ] = None,
    layout: Annotated[
        str, typer.Option(help="ours, or as of an export: transformers (vLLM reads it), llava, ….")
    ] = OURS,
    allow_unsigned: UnsignedOption = False,
    json: JsonOption = False,
    store: StoreOption = None,
) -> None:
    """Write a version to a folder of its own: verified, with its card, record and signature.

    'vila ask DIR' asks it. The same again changes nothing; one that broke off goes on.
    """
    from vila_ops.registry.pull import pull as pull_version

    def say(text: str) -> None:
        if not json:
            typer.echo(text, err=True)

    opened = _store(store)
    place = out
    if place is None:
        version = _registry(opened).resolve(name)
        suffix = "" if layout == OURS else f"-{layout}"
        place = Path(f"{version.model}-{version.number}{suffix}")
    made = pull_version(opened, name, place, allow_unsigned=allow_unsigned, layout=layout, say=say)
    if json:
        _print_json({"name": made.version.name, "path": str(made.path), "fresh": made.fresh})
    elif made.fresh:
        next_ = f"\n  next: vila ask {made.path} …" if layout == OURS else ""
        typer.echo(f"{made.version.name} is in {made.path}{next_}")
    else:
        typer.echo(f"{made.version.name} is in {made.path} already")


def _store(given: str | None) -> Store:
    from vila_core.store import open_store

    return open_store(store_uri(given))


def _registry(store: Store) -> Registry:
    from components.registry import Registry

    return Registry(store)


def _open(uri: str) -> Registry:
    return _registry(_store(uri))


def _check_model(registry: Registry, model: str) -> None:
    from vila_core.errors import UserError

    known = registry.models()
    if model not in known:
        raise UserError(
            f"no model '{model}' is registered; registered: {', '.join(known) or 'none yet'}."
        )


def _model(registry: Registry, model: str) -> dict[str, Any]:
    aliases = registry.aliases(model)
    return {
        "model": model,
        "aliases": aliases,
        "versions": [_row(version, aliases) for version in reversed(registry.versions(model))],
        "history": [entry.as_json() for entry in registry.history(model)],
    }


def _row(version: Version, aliases: dict[str, int]) -> dict[str, Any]:
    return {
        "name": version.name,
        "model": version.model,
        "version": version.number,
        "aliases": _aliases(version, aliases),
        "gates_passed": bool(version.evidence.get("passed")),
        "run_id": version.run_id,
        "created_at": version.created_at,
        "artifact": version.artifact.as_json(),
        "metrics": dict(version.metrics),
    }


def _aliases(version: Version, aliases: dict[str, int]) -> list[str]:
    return sorted(alias for alias, number in aliases.items() if number == version.number)


def _print_json(value: object) -> None:
    from vila_core.jsonio import dumps

    typer.echo(dumps(value, indent=2))
