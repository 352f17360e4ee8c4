"""Runs on a cluster from the command line: submit, follow, resume, and what to tell of them."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from rich.text import Text

    from vila_core.store import Store
    from vila_ops.cluster.diagnose import Finding
    from vila_ops.cluster.submit import Cluster
    from vila_ops.recipes import Recipe
    from vila_ops.view import RunView

ClusterOption = Annotated[
    str | None,
    typer.Option("--cluster", metavar="NAME", help="Cluster of --runner cluster, or its YAML."),
]
ExperimentOption = Annotated[
    str | None, typer.Option("--experiment", help="Experiment in Kubeflow Pipelines.")
]


def target(runner: str, cluster: str | None, store: str | None) -> Cluster | None:
    """Return the cluster that was asked for, open; None for runners of this machine.

    Raises UserError for a runner that does not go with the options.
    """
    from vila_core.errors import UserError
    from vila_ops.cluster.config import cluster_files
    from vila_ops.cluster.submit import open_cluster

    if runner != "cluster":
        if cluster is not None:
            raise UserError(f"--cluster {cluster} goes with: --runner cluster")
        return None
    if cluster is None:
        raise UserError(f"which cluster? --cluster NAME; known: {', '.join(cluster_files())}.")
    given = None if store == os.environ.get("VILA_STORE") else store
    return open_cluster(cluster, given)


def start(
    cluster: Cluster, recipe: Recipe, name: str | None, experiment: str | None, detach: bool
) -> str:
    """Submit a new run and return its id."""
    from vila_ops.cluster import submit

    run_id = submit.start(cluster, recipe, name=name, argv=sys.argv[1:], experiment=experiment)
    tell(cluster.store, run_id, detach)
    return run_id


def schedule(
    cluster: Cluster, recipe: Recipe, name: str | None, experiment: str | None, cron: str
) -> None:
    """Start a recurring run and say where it is."""
    from vila_ops.cluster import submit

    schedule_id, made = submit.schedule(
        cluster, recipe, cron=cron, name=name, argv=sys.argv[1:], experiment=experiment
    )
    typer.echo(schedule_id)
    if made.url:
        typer.echo(f"in Kubeflow Pipelines: {made.url}", err=True)
    typer.echo(f"its runs: {_variables(cluster.store)} vila runs", err=True)
    typer.echo(f"end it with: vila schedules stop {schedule_id}", err=True)


def resume(
    store: Store, run_id: str, cluster: str | None, experiment: str | None, detach: bool
) -> None:
    """Submit a run again. Raises UserError for one that has succeeded, or is running."""
    from vila_core.errors import UserError
    from vila_ops.cluster import submit
    from vila_ops.cluster.follow import standing

    about = submit.read_cluster(store, run_id)
    if cluster is None and about is None:
        raise UserError(f"run {run_id} was never submitted; fix: vila resume {run_id} --cluster …")
    known = standing(store, run_id)
    if known.status == "succeeded":
        raise UserError(f"run {run_id} has succeeded, there is nothing to resume.")
    if known.status == "running":
        note = f" ({known.note})" if known.note else ""
        raise UserError(f"run {run_id} is running{note}; stop it first with: vila stop {run_id}")
    opened = submit.open_again(about, cluster) if about else submit.open_cluster(cluster or "")
    submit.submit(opened, run_id, experiment=experiment)
    tell(opened.store, run_id, detach)


def submit(cluster: Cluster, run_id: str, detach: bool) -> None:
    """Submit a run that is recorded already."""
    from vila_ops.cluster.submit import submit as give

    give(cluster, run_id)
    tell(cluster.store, run_id, detach)


def go_on(store: Store, run_id: str) -> str:
    """Submit a run again if it has ended without success; show it to its end, return how."""
    from vila_ops.cluster.follow import standing

    if standing(store, run_id).status not in ("running", "succeeded"):
        resume(store, run_id, None, None, detach=False)
    return follow(store, run_id, quiet=False)


def tell(store: Store, run_id: str, detach: bool) -> None:
    """Say on stderr where a submitted run is to be seen."""
    from vila_ops.cluster.submit import read_cluster

    kfp = (read_cluster(store, run_id) or {}).get("kfp", {})
    if kfp.get("url"):
        typer.echo(f"in Kubeflow Pipelines: {kfp['url']}", err=True)
    if detach:
        typer.echo(f"follow it with: {_variables(store)} vila logs {run_id} -f", err=True)


def follow(store: Store, run_id: str, *, quiet: bool) -> str:
    """Show a run until it has ended, and return how; Ctrl-C leaves it alone."""
    from vila_core.errors import EXIT_INTERRUPTED
    from vila_ops.cli import follow as shown
    from vila_ops.cluster import follow as followed

    try:
        with shown.display(store, run_id, quiet=quiet):
            return followed.follow(store, run_id)
    except KeyboardInterrupt:
        typer.echo(f"\n{run_id} goes on; stop it with: vila stop {run_id}", err=True)
        raise typer.Exit(EXIT_INTERRUPTED) from None


@dataclass(frozen=True)
class Told:
    """What is to be told of a cluster's run beside its record: where it is, and what is wrong."""

    about: Mapping[str, Any]
    note: str
    findings: Sequence[Finding]

    def as_json(self) -> dict[str, Any]:
        """Return it as `vila show --json` has it."""
        keys = ("cluster", "context", "namespace", "kfp", "store", "submitted_at", "images")
        return {
            "cluster": {key: self.about[key] for key in keys},
            "note": self.note or None,
            "findings": [finding.as_json() for finding in self.findings],
        }

    def text(self) -> Text:
        """Return it for the terminal."""
        from rich.text import Text

        kfp = self.about["kfp"]
        place = f"cluster {self.about['cluster']}, namespace {self.about['namespace']}"
        if kfp.get("url"):
            place += f": {kfp['url']}"
        elif kfp.get("run_id"):
            place += f": run {kfp['run_id']} of Kubeflow Pipelines"
        found = [place, *([f"note: {self.note}"] if self.note else [])]
        for each in self.findings:
            found += [f"{each.task or 'the run'}: {each.kind}: {each.message}", f"  {each.fix}"]
        return Text("\n".join(found))


def look(store: Store, view: RunView) -> tuple[RunView, Told | None]:
    """Return a run as it stands now, and what is to be told of its cluster if it is on one."""
    if view.runner != "cluster":
        return view, None
    from vila_ops.cluster.diagnose import examine
    from vila_ops.cluster.follow import current_view, kept_findings
    from vila_ops.cluster.submit import config_of, read_cluster

    view, note = current_view(store, view.run_id)
    about = read_cluster(store, view.run_id)
    if about is None:
        return view, None
    findings = kept_findings(store, view.run_id)
    if view.status in ("running", "interrupted"):
        found = examine(config_of(about), view.run_id, about["kfp"]["run_id"] or "")
        findings = [each for each in found if each.message not in note]
    return view, Told(about, note, findings)


def _variables(store: Store) -> str:
    """Return the settings that other commands need to see the store."""
    endpoint = os.environ.get("VILA_S3_ENDPOINT", "")
    return f"VILA_STORE={store.uri}" + (f" VILA_S3_ENDPOINT={endpoint}" if endpoint else "")
