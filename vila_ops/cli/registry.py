"""`vila registry list` and `vila registry show`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from vila_ops.cli.options import JsonOption, StoreOption, store_uri

if TYPE_CHECKING:
    from components.registry import Registry, Version

app = typer.Typer(
    help="Versions of models, and the aliases that point at them.",
    no_args_is_help=True,
    rich_markup_mode=None,
)


@app.command(name="list")
def list_versions(json: JsonOption = False, store: StoreOption = None) -> None:
    """List all versions of all models, with their aliases."""
    from vila_ops.cli import registered

    uri = store_uri(store)
    registry = _open(uri)
    rows = [
        _row(version, aliases)
        for model in registry.models()
        for aliases in [registry.aliases(model)]
        for version in reversed(registry.versions(model))
    ]
    if json:
        _print_json(rows)
    elif not rows:
        typer.echo(f"nothing is registered in {uri} yet; the last task of a recipe does it.")
    else:
        registered.print_versions(rows)


@app.command()
def show(
    name: Annotated[str, typer.Argument(help="MODEL, MODEL@VERSION or MODEL@ALIAS.")],
    json: JsonOption = False,
    store: StoreOption = None,
) -> None:
    """Show a version with metrics, gates and lineage, or a model's history."""
    from vila_core.errors import UserError
    from vila_ops.cli import registered

    registry = _open(store_uri(store))
    if "@" in name:
        version = registry.resolve(name)
        value = {**version.as_json(), "aliases": _aliases(version, registry.aliases(version.model))}
        if json:
            _print_json(value)
        else:
            registered.print_version(version.name, value)
        return
    if name not in registry.models():
        known = ", ".join(registry.models()) or "none yet"
        raise UserError(f"no model '{name}' is registered; registered: {known}.")
    value = _model(registry, name)
    if json:
        _print_json(value)
    else:
        registered.print_versions(value["versions"])
        registered.print_history(value["history"])


def _open(uri: str) -> Registry:
    from components.registry import Registry
    from vila_core.store import open_store

    return Registry(open_store(uri))


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
