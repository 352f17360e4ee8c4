"""A laptop, and a cluster with its store, for tests of runs on clusters."""

from __future__ import annotations

import os
import subprocess
import sys
import uuid
from pathlib import Path
from typing import Any

import pytest

from tests import s3_server
from tests.api_server import ApiServer
from vila_core.jsonio import dumps
from vila_core.store import Store, open_store

ROOT = Path(__file__).parents[2]
IMAGE = Path(__file__).parent / "pod_image"
TOYS = ROOT / "tests" / "ops" / "toys"


class Laptop:
    """A machine from which runs are sent: its own home, kubeconfig and variables."""

    def __init__(self, folder: Path, environment: dict[str, str], store: str) -> None:
        folder.mkdir()
        self.folder = folder
        self.env = {
            **os.environ,
            **environment,
            "HOME": str(folder),
            "PYTHONPATH": python_path(),
            "COLUMNS": "120",
            "NO_COLOR": "1",
            "VILA_STORE": store,
        }

    def start(self, *args: object) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "vila_ops.cli.main", *map(str, args)],
            env=self.env,
            cwd=self.folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def __call__(self, *args: object, code: int = 0) -> str:
        """Run a vila command and return what it printed; its exit code must be `code`."""
        process = self.start(*args)
        out, err = process.communicate(timeout=120)
        assert process.returncode == code, f"exit {process.returncode}\n{out}\n{err}"
        assert "Traceback" not in out + err
        self.err = err
        return out


class Site:
    """A test API server with the objects that the manifests put there, and a store in S3."""

    def __init__(
        self, server: ApiServer, folder: Path, environment: dict[str, str], pipeline: Path
    ) -> None:
        self.server = server
        self.folder = folder
        self.s3 = environment
        self.uri = f"s3://{s3_server.BUCKET}/{uuid.uuid4().hex}"
        self.kubeconfig = server.kubeconfig(folder / "kubeconfig", context="prod")
        self.put("Secret", "vila-store-credentials", "stringData", **s3_server.CREDENTIALS)
        held = {"VILA_S3_ENDPOINT": environment["VILA_S3_ENDPOINT"], "AWS_REGION": "us-east-1"}
        self.put("ConfigMap", "vila-store", "data", **held)
        self.recipe = folder / "toy.yaml"
        self.recipe.write_text(
            f"description: toys\npipeline: {pipeline}\ntracking: {{wandb: off}}\n"
            "source: {count: 4}\ngrow: {steps: 3}\ngrow_twin: {steps: 2}\n"
        )
        self.cluster = self.write_cluster()

    def put(self, kind: str, name: str, field: str, **values: str) -> None:
        meta = {"name": name, "namespace": "kubeflow"}
        self.server.kube.add({"apiVersion": "v1", "kind": kind, "metadata": meta, field: values})

    def write_cluster(self, name: str = "prod", **more: Any) -> Path:
        """Write a cluster's config with these keys beside (or in place of) the usual ones."""
        path = self.folder / f"{name}.yaml"
        images = {role: f"registry.example/{role}:1" for role in ("data", "train", "eval", "ops")}
        values = {
            "context": "prod",
            "store": {"uri": self.uri, "endpoint": self.s3["VILA_S3_ENDPOINT"]},
            "images": images,
            "defaults": {"cpu": "1", "memory": "2Gi"},
            "kfp": {"ui": "https://kfp.example"},
        }
        path.write_text(dumps({**values, **more}))
        return path

    def laptop(self, name: str = "laptop", kubeconfig: Path | None = None) -> Laptop:
        config = kubeconfig or self.kubeconfig
        return Laptop(self.folder / name, {**self.s3, "KUBECONFIG": str(config)}, self.uri)

    def store(self, monkeypatch: pytest.MonkeyPatch) -> Store:
        for key, value in {**self.s3, "KUBECONFIG": str(self.kubeconfig)}.items():
            monkeypatch.setenv(key, value)
        return open_store(self.uri)


def python_path() -> str:
    return os.pathsep.join([str(IMAGE), str(TOYS), str(ROOT)])
