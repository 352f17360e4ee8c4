from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.api_server import ApiServer
from tests.cluster.ailing import Cluster
from tests.cluster.places import Site, python_path
from vila_ops.cluster.config import load_cluster

pytest.importorskip("kubernetes", reason="the extra 'pipeline' is not installed")


@pytest.fixture(scope="session")
def toy_pipeline(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The toy pipeline, compiled by kfp in a process of its own."""
    path = tmp_path_factory.mktemp("toys") / "toy.yaml"
    code = (
        "from kfp import compiler; from toy_pipeline import toy; import sys; "
        "compiler.Compiler().compile(toy, sys.argv[1])"
    )
    subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code, str(path)],
        env={**os.environ, "PYTHONPATH": python_path()},
        check=True,
    )
    return path


@pytest.fixture
def site(
    api_server: ApiServer, tmp_path: Path, s3_environment: dict[str, str], toy_pipeline: Path
) -> Site:
    return Site(api_server, tmp_path, s3_environment, toy_pipeline)


@pytest.fixture
def engine(site: Site) -> Iterator[Any]:
    """Kubeflow Pipelines at work on what it was given."""
    from tests.cluster.engine import Engine

    made = Engine(site.server, site.folder / "kfp")
    site.server.kfp.cancel_at_once = False
    yield made
    made.close()


@pytest.fixture(scope="session")
def toys() -> None:
    """The toy stages, in this process too."""
    import runpy

    runpy.run_path(str(Path(__file__).parents[1] / "ops" / "toys" / "sitecustomize.py"))


@pytest.fixture
def cluster(api_server: ApiServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cluster:
    monkeypatch.setenv("KUBECONFIG", str(api_server.kubeconfig(tmp_path / "config")))
    return Cluster(api_server, load_cluster("gpu-cluster").model_copy(update={"context": "test"}))
