"""A production S3 server for tests: Ceph's RGW over one monitor and one OSD in memory.

Debian packages (`apt-get install --no-install-recommends ceph-mon ceph-osd radosgw ceph-common`);
everything listens on 127.0.0.1 and lives in one folder. What a fake server lets through, it
refuses: wrong signatures, wrong MD5, expired URLs.
"""

from __future__ import annotations

import base64
import contextlib
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from minio import Minio

from tests.s3_server import BUCKET

REAL = pytest.param("real", marks=(pytest.mark.needs_s3_real, pytest.mark.slow))
"""The parameter of tests that also run against this server, by the fixtures `real_…`."""

COMMANDS = (
    "ceph",
    "ceph-authtool",
    "ceph-mon",
    "ceph-osd",
    "monmaptool",
    "radosgw",
    "radosgw-admin",
)
CREDENTIALS = {"AWS_ACCESS_KEY_ID": "ceph-tester", "AWS_SECRET_ACCESS_KEY": "ceph-tester-secret"}
_WAIT_S = 90.0

_CONFIG = """
[global]
fsid = {fsid}
mon host = [v2:127.0.0.1:{mon},v1:127.0.0.1:{mon_old}]
public addr = 127.0.0.1
cluster addr = 127.0.0.1
run dir = {folder}
admin socket = {folder}/$name.asok
log file = {folder}/$name.log
keyring = {folder}/keyring
osd pool default size = 1
osd pool default min size = 1
osd crush chooseleaf type = 0
osd pool default pg num = 1
osd pool default pg autoscale mode = off
mon allow pool size one = true
mon max pg per osd = 1000
mon data avail crit = 1
mon data = {folder}/mon
[osd]
osd data = {folder}/osd
{device}
[client.rgw.a]
rgw frontends = beast endpoint=127.0.0.1:{port}
rgw enable usage log = false
rgw enable ops log = false
rgw gc obj min wait = 5
rgw gc processor period = 5
rgw crypt require ssl = false
rgw crypt s3 kms backend = testing
rgw crypt s3 kms encryption keys = {kms_key}={kms_secret}
"""
KMS_KEY = "vila-tests-key"
_IN_MEMORY = "osd objectstore = memstore\nmemstore device bytes = 4294967296"
_ON_DISK = "osd objectstore = bluestore\nbluestore block size = {size}"


def missing() -> list[str]:
    """Return the commands that aren't installed."""
    return [name for name in COMMANDS if shutil.which(name) is None]


@contextlib.contextmanager
def running(*, disk: int | None = None) -> Iterator[dict[str, str]]:
    """Start the server with one bucket; yield the environment that reaches it.

    Objects are in memory, at most 4 GiB, or in a sparse file of `disk` bytes.
    """
    folder = Path(tempfile.mkdtemp(prefix="vila-ceph-"))  # short: sockets' paths are limited
    cluster = _Cluster(folder, disk)
    try:
        cluster.start()
        client = Minio(cluster.address, *CREDENTIALS.values(), secure=False, region="us-east-1")
        client.make_bucket(BUCKET)
        yield {
            **CREDENTIALS,
            "VILA_S3_ENDPOINT": f"http://{cluster.address}",
            "AWS_REGION": "us-east-1",
        }
    finally:
        cluster.stop()
        shutil.rmtree(folder, ignore_errors=True)


class _Cluster:
    def __init__(self, folder: Path, disk: int | None) -> None:
        self._folder = folder
        self._config = str(folder / "ceph.conf")
        self._daemons: list[subprocess.Popen[bytes]] = []
        ports = _free_ports(3)
        self.address = f"127.0.0.1:{ports[2]}"
        self._mon = f"[v2:127.0.0.1:{ports[0]},v1:127.0.0.1:{ports[1]}]"
        self._fsid = str(uuid.uuid4())
        (folder / "ceph.conf").write_text(
            _CONFIG.format(
                folder=folder,
                fsid=self._fsid,
                mon=ports[0],
                mon_old=ports[1],
                port=ports[2],
                device=_IN_MEMORY if disk is None else _ON_DISK.format(size=disk),
                kms_key=KMS_KEY,
                kms_secret=base64.b64encode(os.urandom(32)).decode(),
            )
        )

    def start(self) -> None:
        """Start monitor, OSD and gateway, and make the user. Raises RuntimeError."""
        keyring, monmap = str(self._folder / "keyring"), str(self._folder / "monmap")
        self._keys(keyring)
        self._run("monmaptool", "--create", "--addv", "a", self._mon, "--fsid", self._fsid, monmap)
        self._run("ceph-mon", "--mkfs", "-i", "a", "--monmap", monmap, "--keyring", keyring)
        self._serve("ceph-mon", "-f", "-i", "a")
        self._run("ceph", "osd", "create")
        (self._folder / "osd").mkdir()
        self._run("ceph-osd", "-i", "0", "--mkfs")
        self._serve("ceph-osd", "-f", "-i", "0")
        self._serve("radosgw", "-f", "-n", "client.rgw.a")
        names = ("--uid=tester", "--display-name=tester")
        keys = (
            f"--access-key={CREDENTIALS['AWS_ACCESS_KEY_ID']}",
            f"--secret-key={CREDENTIALS['AWS_SECRET_ACCESS_KEY']}",
        )
        self._run("radosgw-admin", "user", "create", *names, *keys)
        self._wait_for_gateway()

    def stop(self) -> None:
        """End the daemons, the last first."""
        for daemon in reversed(self._daemons):
            with contextlib.suppress(ProcessLookupError):
                daemon.send_signal(signal.SIGKILL)
            daemon.wait()

    def _keys(self, keyring: str) -> None:
        every = ["--cap", "mon", "allow *", "--cap", "osd", "allow *"]
        who = {
            "mon.": ["--cap", "mon", "allow *"],
            "client.admin": [*every, "--cap", "mgr", "allow *"],
            "osd.0": ["--cap", "mon", "allow profile osd", "--cap", "osd", "allow *"],
            "client.rgw.a": ["--cap", "mon", "allow rw", "--cap", "osd", "allow rwx"],
        }
        for number, (name, caps) in enumerate(who.items()):
            create = [] if number else ["--create-keyring"]
            self._run("ceph-authtool", *create, keyring, "--gen-key", "-n", name, *caps)

    def _run(self, program: str, *words: str) -> None:
        done = subprocess.run(
            self._command(program, words), capture_output=True, text=True, timeout=_WAIT_S
        )
        if done.returncode:
            raise RuntimeError(f"{program} {' '.join(words[:2])}: {done.stderr[-2000:]}")

    def _serve(self, program: str, *words: str) -> None:
        with (self._folder / f"{program}.out").open("wb") as out:
            self._daemons.append(
                subprocess.Popen(
                    self._command(program, words), stdout=out, stderr=subprocess.STDOUT
                )
            )

    def _command(self, program: str, words: Sequence[str]) -> list[str]:
        if program in ("ceph-authtool", "monmaptool"):
            return [program, *words]
        own = ["--setuser", "root", "--setgroup", "root"] if program in _OWN_USER else []
        return [program, "-c", self._config, *words, *own]

    def _wait_for_gateway(self) -> None:
        deadline = time.monotonic() + _WAIT_S
        host, port = self.address.split(":")
        while True:
            for daemon in self._daemons:
                if daemon.poll() is not None:
                    raise RuntimeError(f"{daemon.args!r} ended: see its output in {self._folder}")
            try:
                with socket.create_connection((host, int(port)), timeout=1):
                    return
            except OSError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.1)


_OWN_USER = ("ceph-mon", "radosgw") if hasattr(os, "geteuid") and os.geteuid() == 0 else ()


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        probes = [stack.enter_context(socket.socket()) for _ in range(count)]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [probe.getsockname()[1] for probe in probes]
