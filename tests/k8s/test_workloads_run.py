"""What the manifests start does start: their commands, with their environment and their files."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.k8s.rendered import K8S, objects, one
from vila_ops.cluster.generate import generated
from vila_ops.cluster.patch import Manifest

Answer = tuple[int, str]


class Container:
    """The one container of a workload, as a process: its files are below `root`."""

    def __init__(self, made: list[Manifest], kind: str, name: str, root: Path) -> None:
        self.spec = one(made, kind, name)["spec"]["template"]["spec"]
        (self.container,) = self.spec["containers"]
        self._made, self._root = made, root
        self._namespace = one(made, kind, name)["metadata"]["namespace"]
        self._secrets()

    def environment(self, **over: str) -> dict[str, str]:
        found: dict[str, str] = {}
        for source in self.container["envFrom"]:
            found |= self.object("ConfigMap", source["configMapRef"]["name"])["data"]
        for variable in self.container["env"]:
            if "value" in variable:
                found[variable["name"]] = self._inside(variable["value"])
            else:
                source = variable["valueFrom"]["secretKeyRef"]
                secret = self.object("Secret", source["name"])["stringData"]
                found[variable["name"]] = secret[source["key"]]
        cache = self._root / "cache"
        cache.mkdir(exist_ok=True)
        return {
            **found,
            "PATH": os.environ["PATH"],
            "PYTHONPATH": str(K8S.parent),
            "HOME": str(self._root),
            "VILA_CACHE": str(cache),
            **over,
        }

    def command(self, **replaced: str) -> list[str]:
        program, *arguments = self.container["command"]
        assert program == "vila"
        words = [replaced.get(word, word) for word in arguments]
        return [sys.executable, "-m", "vila_ops.cli.main", *words]

    def port(self, probe: str) -> int:
        named = {port["name"]: port["containerPort"] for port in self.container["ports"]}
        return named[self.container[probe]["httpGet"]["port"]]

    def object(self, kind: str, name: str) -> Manifest:
        (found,) = (
            item
            for item in self._made
            if item["kind"] == kind
            and item["metadata"]["name"] == name
            and item["metadata"]["namespace"] == self._namespace
        )
        return found

    def _secrets(self) -> None:
        for volume in self.spec["volumes"]:
            if "secret" not in volume:
                continue
            data = self.object("Secret", volume["secret"]["secretName"])["stringData"]
            (path,) = (
                mount["mountPath"]
                for mount in self.container["volumeMounts"]
                if mount["name"] == volume["name"]
            )
            folder = self._root / path.lstrip("/")
            folder.mkdir(parents=True)
            for item in volume["secret"]["items"]:
                (folder / item["path"]).write_text(data[item["key"]])

    def _inside(self, value: str) -> str:
        return f"{self._root}{value}" if value.startswith("/") else value


def made() -> list[Manifest]:
    return generated(objects("kind"), lambda namespace, name: None)


@pytest.fixture
def served(tmp_path: Path, s3_environment: dict[str, str]) -> Iterator[tuple[Container, str]]:
    """The dashboard's Deployment as a process, on a port that is free."""
    dashboard = Container(made(), "Deployment", "vila-dashboard", tmp_path)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    environment = dashboard.environment(
        VILA_S3_ENDPOINT=s3_environment["VILA_S3_ENDPOINT"], VILA_STORE="s3://vila-tests/platform"
    )
    log = (tmp_path / "log.txt").open("w")
    process = subprocess.Popen(
        dashboard.command(**{"8080": port, "0.0.0.0": "127.0.0.1"}),
        env=environment,
        cwd=tmp_path,
        stdout=log,
        stderr=log,
    )
    try:
        yield dashboard, f"http://127.0.0.1:{port}"
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0, (tmp_path / "log.txt").read_text()
    finally:
        process.kill()
        process.wait()
        log.close()


def get(url: str, token: str | None = None) -> Answer:
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    try:
        with urllib.request.urlopen(
            urllib.request.Request(url, headers=headers), timeout=10
        ) as got:
            return got.status, got.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


def until(url: str, code: int, limit_s: float) -> None:
    deadline = time.monotonic() + limit_s
    while True:
        try:
            if get(url)[0] == code:
                return
        except OSError:
            pass
        assert time.monotonic() < deadline, f"{url} did not answer {code} within {limit_s:.0f} s"
        time.sleep(0.2)


@pytest.mark.slow
def test_the_dashboard_serves_its_probes_and_prometheus(served: tuple[Container, str]) -> None:
    dashboard, address = served
    for name in ("startupProbe", "readinessProbe", "livenessProbe"):
        probe = dashboard.container[name]
        assert dashboard.port(name) == 8080
        patience = probe.get("failureThreshold", 3) * probe["periodSeconds"]
        until(address + probe["httpGet"]["path"], 200, patience)
    (endpoint,) = one(objects("gpu-cluster"), "ServiceMonitor", "vila-dashboard")["spec"][
        "endpoints"
    ]
    wanted = endpoint["authorization"]["credentials"]
    token = dashboard.object("Secret", wanted["name"])["stringData"][wanted["key"]]
    assert get(address + endpoint["path"])[0] == 401
    code, text = get(address + endpoint["path"], token)
    assert code == 200
    assert "vila_store_up 1" in text
    assert get(f"{address}/", token)[0] == 200


def with_keys() -> list[Manifest]:
    """The GPU cluster's objects, with the Secret that External Secrets would have made."""
    keys = {"AWS_ACCESS_KEY_ID": "runs", "AWS_SECRET_ACCESS_KEY": "runs-secret"}
    metadata = {"name": "vila-store-credentials", "namespace": "vila"}
    secret = {"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "stringData": keys}
    return [*objects("gpu-cluster"), secret]


@pytest.mark.slow
def test_the_bootstrap_sets_the_store_up_and_may_run_again(
    tmp_path: Path, s3_environment: dict[str, str]
) -> None:
    job = Container(with_keys(), "Job", "vila-bootstrap", tmp_path)
    environment = job.environment(
        VILA_S3_ENDPOINT=s3_environment["VILA_S3_ENDPOINT"], VILA_STORE="s3://vila-made/platform"
    )
    printed = []
    for _ in range(2):
        done = subprocess.run(
            job.command(), env=environment, cwd=tmp_path, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stdout + done.stderr
        printed.append([line.split()[:2] for line in done.stdout.splitlines()])
    parts = ["bucket:", "versioning:", "lifecycle:"]
    assert printed[0] == [["created", part] for part in parts]
    assert printed[1] == [["unchanged", part] for part in parts]
