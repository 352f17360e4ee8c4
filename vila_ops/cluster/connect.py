"""The Kubernetes API of a cluster's config: a kubeconfig context, or the pod's own account."""

from __future__ import annotations

import difflib
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from components.kube.client import Patience, by_kubeconfig, in_cluster, in_pod
from vila_core.errors import UserError, require
from vila_ops.cluster.config import ClusterConfig

if TYPE_CHECKING:
    from kubernetes.client import ApiClient


def kubernetes_api(config: ClusterConfig, patience: Patience | None = None) -> ApiClient:
    """Return a client for the cluster: `context` of the kubeconfig, the current one if unset.

    In a pod without a kubeconfig the service account is used, whatever the context. The files are
    those of KUBECONFIG, else ~/.kube/config. Nothing is sent yet. Raises UserError for a missing
    or broken kubeconfig and an unknown context; what its requests raise is a ClusterError.
    """
    require("kubernetes", extra="pipeline", why="talk to a cluster")
    files = kubeconfig_files()
    if not files and in_pod():
        return in_cluster(patience)
    context = _context(files, config.context)
    return by_kubeconfig(_names(files), context, patience)


def kubeconfig_files() -> list[Path]:
    """Return the kubeconfig files that there are."""
    named = os.environ.get("KUBECONFIG") or str(Path.home() / ".kube" / "config")
    paths = [Path(part).expanduser() for part in named.split(os.pathsep) if part]
    return [path for path in paths if path.is_file()]


def contexts(files: list[Path]) -> tuple[list[str], str | None]:
    """Return the names of the contexts in kubeconfig files, and the current one."""
    names: dict[str, None] = {}
    current = None
    for path in files:
        values = _read(path)
        names |= dict.fromkeys(str(entry["name"]) for entry in values.get("contexts") or [])
        current = values.get("current-context") or current
    return list(names), current


def _context(files: list[Path], wanted: str | None) -> str:
    if not files:
        named = os.environ.get("KUBECONFIG") or "~/.kube/config"
        raise UserError(
            f"there is no kubeconfig ({named}); fix: get one from the cluster's administrator and "
            "set KUBECONFIG to its path."
        )
    names, current = contexts(files)
    context = wanted or current
    if context is None:
        raise UserError(
            f"{_names(files)}: has no current context; fix: set `context` in the cluster's config"
            f" to one of: {', '.join(names) or 'none is there'}."
        )
    if context in names:
        return context
    close = difflib.get_close_matches(context, names, n=1)
    hint = f"did you mean '{close[0]}'?" if close else f"known: {', '.join(names) or 'none'}."
    raise UserError(
        f"context {context}: is not in {_names(files)}; {hint} (set `context` in the cluster's "
        "config, or KUBECONFIG)"
    )


def _read(path: Path) -> dict[str, Any]:
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        problem = str(error).splitlines()[0]
        raise UserError(f"{path}: can't be read as a kubeconfig: {problem}.") from None
    if not isinstance(values, dict):
        raise UserError(f"{path}: is not a kubeconfig: a mapping is needed at the top.")
    return values


def _names(files: list[Path]) -> str:
    return os.pathsep.join(map(str, files))
