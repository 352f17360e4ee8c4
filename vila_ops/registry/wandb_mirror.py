"""The mirror in W&B's registry: a version is an artifact, linked to a collection with its alias."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from components.registry import HistoryEntry, Registry, Version
from components.runtime.secrets import mask
from vila_core.errors import require
from vila_core.jsonio import digest
from vila_core.layouts import OURS
from vila_core.store import Store
from vila_ops.registry.delivering import Undelivered
from vila_ops.registry.export import write_folder
from vila_ops.registry.measured import measured
from vila_ops.registry.mirror_settings import Wandb

MOST_METRICS = 40
"""W&B takes a hundred keys of metadata in all."""


def mirror(
    store: Store,
    target: Wandb,
    name: str,
    model: str,
    entry: HistoryEntry,
    *,
    init: Callable[..., Any] | None = None,
) -> dict[str, Any]:
    """Log the version of a move as an artifact and link it to its collection with the alias.

    The same files make the same artifact version, however often they are logged. Raises
    Undelivered where W&B is offline, UserError for a key that is not there, and W&B's own errors.
    """
    require("wandb", extra="train", why="mirror to W&B")
    import wandb

    version = Registry(store).version(model, entry.version)
    key = target.api_key.read(f"wandb.{name}.api_key")
    settings = wandb.Settings(
        silent=True,
        console="off",
        x_disable_stats=True,
        disable_code=True,
        disable_git=True,
        api_key=key,  # not by wandb.login, which would write it into the user's netrc
        init_timeout=target.timeout_s / 2,
    )
    if target.base_url:
        settings.base_url = target.base_url
    with tempfile.TemporaryDirectory(prefix="vila-wandb-") as scratch:
        folder = Path(scratch) / "folder"
        write_folder(store, version, folder, OURS)
        run = (init or wandb.init)(
            project=target.project,
            entity=target.entity,
            job_type="vila-registry",
            name=f"{version.name} {entry.kind} {entry.alias}",
            id=digest([model, entry.seq, entry.digest()])[:16],  # another try is the same run
            resume="allow",
            dir=scratch,
            settings=settings,
        )
        try:
            if run.settings.mode == "offline" or run.offline:
                raise Undelivered("W&B is offline here (WANDB_MODE); nothing reaches it")
            artifact = artifact_of(store, version, folder)
            logged = run.log_artifact(artifact, aliases=[own_alias(version)])
            logged.wait(timeout=int(target.timeout_s))
            path = collection_path(target, model)
            run.link_artifact(logged, path, aliases=[str(entry.alias), own_alias(version)])
        except BaseException:
            run.finish(exit_code=1)
            raise
        run.finish()
    return {"collection": path, "artifact": str(logged.qualified_name)}


def artifact_of(store: Store, version: Version, folder: Path) -> Any:
    """Return the W&B artifact of a version whose files are in `folder`."""
    import wandb

    artifact = wandb.Artifact(
        name=version.model,
        type="model",
        description=f"{version.name} of the registry in run {version.run_id}",
        metadata=metadata(store, version),
    )
    artifact.add_dir(str(folder))
    return artifact


def metadata(store: Store, version: Version) -> dict[str, Any]:
    """Return the lineage and digests of a version, and its main metrics."""
    rows = measured(store, version).rows[:MOST_METRICS]
    tasks = version.lineage.get("tasks") or {}
    return mask(
        {
            "version": version.name,
            "artifact_sha256": version.artifact.sha256,
            "run_id": version.run_id,
            "code_digest": version.lineage.get("code_digest"),
            "config_digest": version.lineage.get("config_digest"),
            "results_sha256": version.results,
            "gates_passed": bool(version.evidence.get("passed")),
            "tasks": {name: str(entry.get("key")) for name, entry in tasks.items()},
            "metrics": {row.key: row.value for row in rows},
        }
    )


def own_alias(version: Version) -> str:
    """Return the alias that a version keeps; W&B has `v3` and the like for its own counting."""
    return f"version-{version.number}"


def collection_path(target: Wandb, model: str) -> str:
    """Return where in W&B's registry the artifact is linked."""
    collection = target.collection.replace("{model}", model)
    return f"wandb-registry-{target.registry}/{collection}"
