"""Runs on a cluster: from a recipe to a run, or a recurring run, of Kubeflow Pipelines.

What KFP is told and what the record says lead to each other: KFP's run is named like ours, and
`runs/<run>/cluster.json` holds where it runs. Nothing is started twice, whatever answer is lost:
what has been asked for is looked for by name before it is asked for again.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from components.runtime import Context, record
from components.runtime.context import TrainJobPlace
from components.runtime.schedules import place, triggered_run
from vila_core.errors import NotFound, StoreError, UserError
from vila_core.jsonio import dumps
from vila_core.store import Store, open_store
from vila_ops.cluster import labels
from vila_ops.cluster.config import ClusterConfig, cluster_files, load_cluster
from vila_ops.cluster.kfp import Kfp, KfpError, NotThere, Version
from vila_ops.cluster.resources import attempts, cluster_yaml, trainjob_place
from vila_ops.recipes import Recipe, config_json, pipeline_files, resolve
from vila_ops.runs import create_run, kept_graph, new_id, new_run

_LONGEST_ID = len(triggered_run("", "0" * 36))
_CRON = re.compile(r"[0-9A-Za-z*/,?#LW-]+")


@dataclass(frozen=True)
class Cluster:
    """A cluster that runs can be sent to, and its store."""

    name: str
    config: ClusterConfig
    kfp: Kfp
    store: Store


@dataclass(frozen=True)
class Submitted:
    """What Kubeflow Pipelines was given: its id of the run or schedule, and where to see it."""

    kfp_id: str
    url: str


def open_cluster(name: str, store: str | None = None) -> Cluster:
    """Return a cluster that answers, by the name or path of its config.

    `store` is the store that the user asked for, if any. Raises UserError for an unknown cluster,
    context or key, another store, and tasks that would run in another namespace than the config
    says; KfpError where KFP does not answer.
    """
    config = load_cluster(name)
    opened = cluster_store(config, store)
    kfp = Kfp.connect(config)
    if not kfp.many_users and config.namespace != config.kfp.namespace:
        raise UserError(
            f"--cluster {name}: namespace: {config.namespace}: this Kubeflow Pipelines has no "
            f"users, it runs every task in its own namespace, {config.kfp.namespace}; fix: set "
            f"namespace: {config.kfp.namespace}, or kfp.namespace if KFP is installed elsewhere."
        )
    return Cluster(name, config, kfp, opened)


def open_again(about: Mapping[str, Any], name: str | None = None) -> Cluster:
    """Return the cluster of a run that was submitted before, or another one of the same store.

    As its config is now, where there still is one: what was wrong in it may have been put right.
    Raises as `open_cluster` does.
    """
    try:
        cluster = open_cluster(name or about["cluster"])
    except UserError:
        if name is not None or about["cluster"] in cluster_files() or _file(about["cluster"]):
            raise
        config = config_of(about)
        return Cluster(about["cluster"], config, Kfp.connect(config), cluster_store(config))
    if cluster.store.uri != about["store"].rstrip("/"):
        raise UserError(
            f"--cluster {cluster.name}: its store is {cluster.store.uri}, the run is in "
            f"{about['store']}: its tasks would not find it."
        )
    return cluster


def _file(name: str) -> bool:
    return Path(name).is_file()


def cluster_store(config: ClusterConfig, given: str | None = None) -> Store:
    """Open the store that a cluster's tasks use, as it is reached from here.

    Raises UserError where another one was asked for: the tasks' records would not be there.
    """
    if given is not None and given.rstrip("/") != config.store.uri.rstrip("/"):
        raise UserError(
            f"--store {given}: the cluster's tasks use {config.store.uri}; fix: leave --store away,"
            " or set store.uri in the cluster's config."
        )
    outside = config.store.external_endpoint or config.store.endpoint
    os.environ.setdefault("VILA_S3_ENDPOINT", outside)
    os.environ.setdefault("AWS_REGION", config.store.region)
    return open_store(config.store.uri)


def start(
    cluster: Cluster,
    recipe: Recipe,
    *,
    name: str | None,
    argv: Sequence[str],
    experiment: str | None = None,
) -> str:
    """Record a new run, submit it, and return its id."""
    check(cluster.config, recipe, name)
    run_id = create_run(cluster.store, recipe, runner="cluster", name=name, argv=argv)
    try:
        submit(cluster, run_id, experiment=experiment)
    except KfpError as error:
        hint = f"it is recorded as {run_id}; go on with: vila resume {run_id}"
        raise type(error)(f"{error}\n  {hint}", error.status) from None
    return run_id


def submit(cluster: Cluster, run_id: str, *, experiment: str | None = None) -> Submitted:
    """Give a recorded run to KFP, or take the run that an earlier try has started there.

    A run that was given to it before is given again, as its next submission: tasks that have their
    result in the record answer from there.
    """
    store, config = cluster.store, cluster.config
    run = record.RunRecord.load(store, run_id).run
    recipe = resolve(
        run["recipe"], run["config"], where=f"run {run_id}", graph=kept_graph(store, run_id)
    )
    number, experiment = _submission(store, run_id, experiment or config.kfp.experiment)
    title = run_id if number == 1 else f"{run_id} #{number}"
    about = _about(cluster, recipe, experiment, title)
    about["submission"] = number
    _write(store, f"runs/{run_id}/cluster.json", about)
    record.begin_cluster(store, run_id, cluster.name)
    context = Context(
        store=config.store.uri,
        run_id=run_id,
        recipe=recipe.name,
        tracking=recipe.tracking,
        nodes=_nodes(config, recipe),
    )
    version, experiment_id = _upload(cluster, recipe, experiment)
    kfp_id = cluster.kfp.run(
        title,
        version,
        experiment_id,
        _parameters(recipe, context),
        service_account=_account(config, recipe),
        description=f"vila show {run_id} --store {config.store.uri}",
    )
    return _told(store, f"runs/{run_id}/cluster.json", about, version, kfp_id)


def schedule(
    cluster: Cluster,
    recipe: Recipe,
    *,
    cron: str,
    name: str | None,
    argv: Sequence[str],
    experiment: str | None = None,
) -> tuple[str, Submitted]:
    """Start a recurring run; return the schedule's id and what KFP was given.

    Every trigger is a run of its own, recorded by its first task. Raises UserError for a cron
    expression that is none.
    """
    store, config = cluster.store, cluster.config
    check(config, recipe, name)
    cron = cron_of(cron)
    run, stem = new_run(recipe, runner="cluster", name=name, argv=argv)
    schedule_id = new_id(stem)
    experiment = experiment or config.kfp.experiment
    about = {**_about(cluster, recipe, experiment, schedule_id), "submission": 1, "cron": cron}
    try:
        if recipe.pipeline not in pipeline_files():
            store.write(place(schedule_id, "pipeline.yaml"), recipe.graph.text.encode())
        _write(store, place(schedule_id, "run.json"), run)
        _write(store, place(schedule_id, "cluster.json"), about)
    except StoreError as error:
        raise UserError(f"{error}\n  fix: see store in the cluster's config") from None
    resolved = resolve(
        run["recipe"], run["config"], where=f"schedule {schedule_id}", graph=recipe.graph
    )
    context = Context(
        store=config.store.uri,
        run_id=stem,
        schedule=schedule_id,
        recipe=recipe.name,
        tracking=recipe.tracking,
        nodes=_nodes(config, recipe),
    )
    version, experiment_id = _upload(cluster, recipe, experiment)
    kfp_id = cluster.kfp.recurring(
        schedule_id,
        version,
        experiment_id,
        _parameters(resolved, context),
        cron=cron,
        service_account=_account(config, recipe),
        description=f"{cron}: vila runs --store {config.store.uri}",
    )
    about["kfp"]["recurring_run_id"] = kfp_id
    submitted = _told(store, place(schedule_id, "cluster.json"), about, version, None)
    return schedule_id, Submitted(kfp_id, submitted.url)


def schedules(store: Store) -> list[dict[str, Any]]:
    """Return the schedules of a store that have not been ended, by id: their cluster.json."""
    found = []
    for schedule_id in store.children("schedules"):
        about = _read(store, place(schedule_id, "cluster.json"))
        if about is not None and "ended_at" not in about:
            found.append({"schedule": schedule_id, **about})
    return found


def end_schedule(store: Store, schedule_id: str) -> None:
    """End a schedule in KFP, and say so in the store. Runs that it has started go on.

    Raises UserError for an unknown one.
    """
    about = _read(store, place(schedule_id, "cluster.json"))
    if about is None:
        known = ", ".join(each["schedule"] for each in schedules(store)) or "none"
        raise UserError(f"there is no schedule '{schedule_id}' in {store.uri}; known: {known}.")
    if about["kfp"].get("recurring_run_id"):
        with contextlib.suppress(NotThere):
            Kfp.connect(config_of(about)).end_recurring(about["kfp"]["recurring_run_id"])
    _write(store, place(schedule_id, "cluster.json"), {**about, "ended_at": record.now()})


def check(config: ClusterConfig, recipe: Recipe, name: str | None) -> None:
    """Raise UserError for what would fail on the cluster only after a long wait."""
    name = name or recipe.name
    most = labels.MOST - _LONGEST_ID
    if len(name) > most:
        raise UserError(f"--name {name!r}: on a cluster at most {most} characters: it is a label.")
    if recipe.tracking.wandb == "online" and config.tracking.wandb_secret is None:
        raise UserError(
            "tracking.wandb: online needs an API key on the cluster; fix: name its Secret in the "
            "cluster's config (tracking.wandb_secret), or --set tracking.wandb=offline."
        )
    cluster_yaml(recipe.graph.spec, config, _nodes(config, recipe))


def cron_of(text: str) -> str:
    """Return KFP's form of a cron expression: six fields, seconds first.

    Five fields, as crontab has them, mean second 0. Raises UserError for anything else.
    """
    fields = text.split()
    if len(fields) not in (5, 6) or not all(_CRON.fullmatch(field) for field in fields):
        raise UserError(
            f"--schedule {text!r}: is no cron expression; fix: five fields (minute hour day month "
            "weekday), such as '0 3 * * *' for every day at 03:00 UTC."
        )
    return " ".join(fields if len(fields) == 6 else ["0", *fields])


def read_cluster(store: Store, run_id: str) -> dict[str, Any] | None:
    """Return `cluster.json` of a run, None where it was never on a cluster."""
    return _read(store, f"runs/{run_id}/cluster.json")


def config_of(about: Mapping[str, Any]) -> ClusterConfig:
    """Return the config that a run was submitted with."""
    return ClusterConfig.model_validate(about["config"])


def note_kfp_run(store: Store, run_id: str, about: Mapping[str, Any], kfp_id: str) -> None:
    """Write which run of KFP's a run is, found after its answer was lost."""
    _told(store, f"runs/{run_id}/cluster.json", about, None, kfp_id)


def _submission(store: Store, run_id: str, experiment: str) -> tuple[int, str]:
    """Return the number of this submission and its experiment: a lost one's, if the last was."""
    before = read_cluster(store, run_id)
    if before is None:
        return 1, experiment
    lost = before["kfp"]["run_id"] is None
    return before["submission"] + (not lost), before["kfp"]["experiment"] if lost else experiment


def _about(cluster: Cluster, recipe: Recipe, experiment: str, title: str) -> dict[str, Any]:
    """Return what `cluster.json` holds, before KFP has answered."""
    config = cluster.config
    tries = {
        task.name: attempts(config.place(task.name, task.stage))
        for task in recipe.graph.tasks.values()
    }
    ui = config.kfp.ui or config.kfp.url
    kfp = {"run_id": None, "name": title, "experiment": experiment, "url": None}
    kfp["ui"] = ui.rstrip("/") if ui else None
    return {
        "cluster": cluster.name,
        "context": config.context,
        "namespace": config.namespace,
        "kfp": kfp,
        "store": config.store.uri,
        "submitted_at": record.now(),
        "config": config.model_dump(mode="json"),
        "images": dict(config.images),
        "attempts": tries,
    }


def _told(
    store: Store, key: str, about: Mapping[str, Any], version: Version | None, kfp_id: str | None
) -> Submitted:
    kfp = {**about["kfp"], "run_id": kfp_id}
    if version is not None:
        kfp |= {"pipeline_id": version.pipeline_id, "version_id": version.version_id}
        kfp["version"] = version.name
    path = f"runs/details/{kfp_id}" if kfp_id else f"recurringrun/details/{kfp['recurring_run_id']}"
    kfp["url"] = f"{kfp['ui']}/#/{path}" if kfp["ui"] else None
    _write(store, key, {**about, "kfp": kfp})
    return Submitted(kfp_id or kfp["recurring_run_id"], kfp["url"] or "")


def _upload(cluster: Cluster, recipe: Recipe, experiment: str) -> tuple[Version, str]:
    """Return the version of the pipeline in KFP, by its content, and the id of the experiment."""
    text = cluster_yaml(recipe.graph.spec, cluster.config, _nodes(cluster.config, recipe))
    digest = hashlib.sha256(text.encode()).hexdigest()
    version = cluster.kfp.version(
        recipe.graph.name,
        digest[:16],
        text,
        f"with the resources of cluster {cluster.name}; sha256 {digest}",
    )
    return version, cluster.kfp.experiment(experiment)


def _parameters(recipe: Recipe, context: Context) -> dict[str, str]:
    values = {
        "context": dumps(context.model_dump(mode="json")),
        **{key: config_json(config) for key, config in recipe.configs.items()},
    }
    # Two braces are Argo's sign for a variable; in JSON they stand in strings only.
    return {key: value.replace("{{", "\\u007b\\u007b") for key, value in values.items()}


def _nodes(config: ClusterConfig, recipe: Recipe) -> dict[str, TrainJobPlace]:
    """Return where the nodes come from of each task that trains on several."""
    found = {}
    for task in recipe.graph.tasks.values():
        train = getattr(recipe.configs[task.config_key], "train", None)
        if getattr(train, "nodes", 1) > 1:
            found[task.name] = trainjob_place(config, task.name, task.stage)
    return found


def _account(config: ClusterConfig, recipe: Recipe) -> str:
    """Return the service account of a run: KFP has one for all its tasks."""
    return config.nodes.service_account if _nodes(config, recipe) else config.service_account


def _write(store: Store, key: str, value: Mapping[str, Any]) -> None:
    store.write(key, (dumps(value, indent=1) + "\n").encode())


def _read(store: Store, key: str) -> dict[str, Any] | None:
    try:
        return json.loads(store.read(key))
    except NotFound:
        return None
