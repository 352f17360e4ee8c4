"""`vila cluster check|render|apply|bootstrap`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vila_ops.cli.options import JsonOption

if TYPE_CHECKING:
    from vila_ops.cluster.config import ClusterConfig
    from vila_ops.doctor import Check

app = typer.Typer(
    name="cluster",
    help="Bring a Kubernetes cluster up for runs, and see what it lacks.",
    no_args_is_help=True,
    rich_markup_mode=None,
)
WIDTH = 80
SIGNS = {
    "created": "green",
    "changed": "yellow",
    "replaced": "yellow",
    "unchanged": "dim",
    "skipped": "yellow",
    "missing": "red",
    "refused": "red",
    "failed": "red",
}
Cluster = Annotated[
    str,
    typer.Argument(metavar="CLUSTER", help="Name in configs/clusters, or path of a YAML file."),
]


@app.command()
def check(
    cluster: Cluster,
    recipe: Annotated[
        str | None, typer.Option(help="Check room for this recipe's tasks, not for all.")
    ] = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Override the recipe.")
    ] = None,
    pull: Annotated[
        bool, typer.Option(help="Try to pull images that no node has, by pods that end at once.")
    ] = True,
    pull_limit: Annotated[
        float, typer.Option(metavar="SECONDS", help="How long to wait for pulls.")
    ] = 180.0,
    json: JsonOption = False,
) -> None:
    """Say what a cluster lacks for runs, each with the command that fixes it.

    Exit code 1 when something is missing. What could not be looked at is marked with '?'.
    """
    from vila_ops.cluster.check import examine
    from vila_ops.cluster.config import load_cluster

    config = load_cluster(cluster)
    found: list[Check] = []
    for each in examine(
        config, cluster, recipe=recipe, overrides=set_ or [], pull=pull, pull_limit_s=pull_limit
    ):
        found.append(each)
        if not json:
            _print_check(each)
    if json:
        _json([each.as_json() for each in found])
    else:
        _summary(found)
    if any(each.level == "error" for each in found):
        raise typer.Exit(1)


@app.command()
def render(cluster: Cluster) -> None:
    """Print the objects of a cluster as YAML, as apply would send them, without secret values."""
    from vila_ops.cluster.config import load_cluster
    from vila_ops.cluster.manifests import manifests
    from vila_ops.cluster.render import to_yaml

    typer.echo(to_yaml(manifests(load_cluster(cluster))), nl=False)


@app.command()
def apply(
    cluster: Cluster,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="The API checks everything and keeps nothing.")
    ] = False,
    force_conflicts: Annotated[
        bool, typer.Option("--force-conflicts", help="Take fields that others manage.")
    ] = False,
    wait: Annotated[bool, typer.Option(help="Wait until what was applied is ready.")] = True,
    timeout: Annotated[float, typer.Option(metavar="SECONDS", help="How long.")] = 600.0,
    json: JsonOption = False,
) -> None:
    """Make or change everything that runs need on a cluster.

    Nothing happens to what is as it should be. What a part that is not installed would bring
    (Trainer, Kueue, Prometheus' operator) is skipped, and told. Exit code 1 when something was
    refused, a Secret is missing, or something is not ready in time.
    """
    from vila_ops.cluster.apply import apply as bring
    from vila_ops.cluster.apply import missing_secrets
    from vila_ops.cluster.config import load_cluster
    from vila_ops.cluster.connect import kubernetes_api
    from vila_ops.cluster.generate import generated
    from vila_ops.cluster.manifests import manifests
    from vila_ops.cluster.outcome import GOOD, Done
    from vila_ops.cluster.references import secrets_by_hand

    config = load_cluster(cluster)
    wanted = manifests(config)
    by_hand = secrets_by_hand(wanted)
    api = kubernetes_api(config)
    wanted = generated(wanted, lambda namespace, name: _secret_data(api, namespace, name))
    found: list[Done] = []

    def tell(each: Done) -> None:
        found.append(each)
        if not json:
            _line(each.name, each.outcome, each.detail, each.fix)

    for each in bring(api, wanted, dry_run=dry_run, force=force_conflicts):
        tell(each)
    needed = {place: sorted(keys) for place, keys in by_hand.items()}
    for each in missing_secrets(api, needed):
        tell(each)
    there = {each.name for each in found if each.outcome in GOOD}
    bad = [each for each in found if each.outcome not in (*GOOD, "skipped")]
    late = 0
    if wait and not dry_run:
        late = _wait(api, wanted, there, timeout, quiet=json)
    if json:
        _json([each.as_json() for each in found])
    else:
        _applied_summary([each.outcome for each in found], dry_run)
    if bad or late:
        raise typer.Exit(1)


@app.command()
def bootstrap(
    cluster: Annotated[
        str | None,
        typer.Argument(
            metavar="[CLUSTER]", help="Name or path; default: the store of the environment."
        ),
    ] = None,
    team: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME[=ARN]",
            envvar="VILA_TEAMS",
            help="A team gets s3://BUCKET/teams/NAME and may read the store.",
        ),
    ] = None,
    dvc: Annotated[
        Path | None,
        typer.Option(metavar="PROJECT", help="Set the DVC remote of the project in this folder."),
    ] = None,
    dvc_url: Annotated[
        str | None,
        typer.Option(metavar="URL", help="Where its data goes.  [default: s3://BUCKET/dvc]"),
    ] = None,
    dvc_keys: Annotated[
        bool, typer.Option("--dvc-keys", help="Keep the keys in .dvc/config.local, too.")
    ] = False,
    timeout: Annotated[
        float, typer.Option(metavar="SECONDS", help="Wait so long for the server.")
    ] = 60.0,
    json: JsonOption = False,
) -> None:
    """Make the bucket, its versioning, lifecycle and policies, and DVC's remote.

    It may run again at any time. Exit code 1 when something failed.
    """
    from vila_ops.cluster import keys as keys_
    from vila_ops.cluster.bootstrap import Team, dvc_remote
    from vila_ops.cluster.bootstrap import bootstrap as bring
    from vila_ops.cluster.config import load_cluster
    from vila_ops.cluster.outcome import Done

    teams = [Team.parse(text) for text in team or []]
    if cluster is None:
        place, keys, root = keys_.from_environment()
    else:
        config = load_cluster(cluster)
        place, keys, root = keys_.of_cluster(config, _api_or_none(config))
    found: list[Done] = []

    def tell(each: Done) -> None:
        found.append(each)
        if not json:
            _line(each.name, each.outcome, each.detail, each.fix)

    for each in bring(place, keys, root, teams=teams, patience_s=timeout):
        tell(each)
    if dvc is not None and all(each.outcome != "failed" for each in found):
        url = dvc_url or f"s3://{place.bucket}/dvc"
        tell(dvc_remote(dvc, url, place.endpoint, keys if dvc_keys and keys.access else None))
    if json:
        _json([each.as_json() for each in found])
    if any(each.outcome == "failed" for each in found):
        raise typer.Exit(1)


def _wait(
    api: Any, wanted: list[dict[str, Any]], there: set[str], limit: float, quiet: bool
) -> int:
    """Tell how far workloads are; return how many did not become ready."""
    from vila_ops.cluster.apply import title, wait

    failed = 0
    for each in wait(api, [one for one in wanted if title(one) in there], limit_s=limit):
        failed += each.failed
        outcome = "failed" if each.failed else "ready" if each.done else "waiting"
        detail = f"{each.state}: {each.problem}" if each.problem else each.state
        if not quiet:
            _line(each.name, outcome, detail, each.fix)
    return failed


def _api_or_none(config: ClusterConfig) -> Any:
    """Return the API if there is one to ask: keys may come from the environment alone."""
    from vila_core.errors import UserError
    from vila_ops.cluster.connect import kubernetes_api

    try:
        return kubernetes_api(config)
    except UserError:
        return None


def _secret_data(api: Any, namespace: str, name: str) -> Mapping[str, str] | None:
    from components.kube import objects

    found = objects.find(api, objects.address("v1", "secrets", namespace, name))
    return (found or {}).get("data")


def _print_check(each: Check) -> None:
    from rich.table import Table
    from rich.text import Text

    from vila_ops.cli.doctor import SIGNS as LEVELS

    sign, style = LEVELS[each.level]
    row = Table.grid(padding=(0, 1))
    row.add_column(width=2)
    row.add_column(width=17, overflow="fold")
    row.add_column(overflow="fold")
    row.add_row(Text(sign, style), each.name, Text(each.detail))
    console = _console()
    console.print(row)
    if each.fix:
        # Not broken into lines: it is there to be copied.
        console.print(Text(f"   fix: {each.fix}"), soft_wrap=True)


def _summary(found: list[Check]) -> None:
    counts = {
        "missing": sum(each.level == "error" for each in found),
        "to look at": sum(each.level == "warning" for each in found),
        "could not be checked": sum(each.level == "unknown" for each in found),
    }
    told = ", ".join(f"{count} {name}" for name, count in counts.items() if count)
    typer.echo(told or "nothing is missing")


def _line(name: str, outcome: str, detail: str, fix: str) -> None:
    from rich.text import Text

    console = _console()
    text = Text.assemble((f"{outcome:<10}", SIGNS.get(outcome, "")), name)
    if detail:
        text.append(f": {detail}", "dim")
    console.print(text, soft_wrap=True)
    if fix:
        console.print(Text(f"           fix: {fix}"), soft_wrap=True)


def _applied_summary(outcomes: list[str], dry_run: bool) -> None:
    counts = {name: outcomes.count(name) for name in SIGNS if name in outcomes}
    told = ", ".join(f"{count} {name}" for name, count in counts.items())
    typer.echo(f"{told}{' (dry run: nothing was kept)' if dry_run else ''}")


def _console() -> Any:
    from rich.console import Console

    made = Console(highlight=False)
    return made if made.is_terminal else Console(highlight=False, width=WIDTH)


def _json(value: object) -> None:
    from vila_core.jsonio import dumps

    typer.echo(dumps(value, indent=2))
