"""A checkpoint of 1 GiB to and from an S3 server of this machine, against the minio client's own.

`minio` is `fput_object` and `fget_object` as they come: three parts of 5 MiB at a time, checked by
nothing but the signature. `store` is `Store.upload` and `Store.download` with the file's sha256
given: every part confirmed by the MD5 that the server computed, the whole checked by sha256 in
both directions. Each transfer runs in a fresh process, in turn with the other way; memory is the
peak of its resident set above what it was before the transfer, client and packages loaded.

The server is Ceph's RGW on a sparse file where it is installed, else moto's. What comes down must
be what went up, or the script fails.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import _harness

sys.path.insert(0, str(Path(__file__).parents[1]))  # the servers are those of the tests
from tests import ceph_server, s3_server

WAYS = ("minio up", "store up", "minio down", "store down")
DISK = 24 * 2**30


def transfer(way: str, path: Path, sha256: str) -> dict[str, float]:
    """Move the file once, here; seconds and bytes of memory."""
    import minio

    from vila_core.store import open_store

    who, direction = way.split()
    store = open_store(f"s3://{s3_server.BUCKET}/bench")
    client = minio.Minio(
        os.environ["VILA_S3_ENDPOINT"].removeprefix("http://"),
        os.environ["AWS_ACCESS_KEY_ID"],
        os.environ["AWS_SECRET_ACCESS_KEY"],
        secure=False,
        region=os.environ["AWS_REGION"],
    )
    assert store.etag("none") is None  # everything is imported, a connection is there
    assert not list(client.list_objects(s3_server.BUCKET, prefix="none"))
    name = f"bench/{who}"
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts again from here
    before, wall, cpu = memory("VmRSS"), time.perf_counter(), time.process_time()
    if way == "minio up":
        client.fput_object(s3_server.BUCKET, name, str(path))
    elif way == "minio down":
        client.fget_object(s3_server.BUCKET, name, str(path))
    elif direction == "up":
        store.upload(who, path, sha256=sha256)
    else:
        store.download(who, path, sha256=sha256)
    return {
        "wall": time.perf_counter() - wall,
        "cpu": time.process_time() - cpu,
        "peak": memory("VmHWM") - before,
    }


def memory(field: str) -> int:
    """Return a figure of this process's memory in bytes, as the kernel counts it."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"/proc/self/status has no {field}")


def in_a_process(way: str, path: Path, sha256: str, environment: Mapping[str, str]) -> Any:
    """Run `transfer` in a process of its own."""
    command = [sys.executable, __file__, "--out", "-", "--way", way, str(path), sha256]
    done = subprocess.run(
        command, env={**os.environ, **environment}, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise SystemExit(f"error: {way}: {done.stderr}")
    return json.loads(done.stdout)


def make_file(path: Path, size: int) -> str:
    """Write random bytes; return their sha256."""
    digest = hashlib.sha256()
    with path.open("wb") as file:
        for start in range(0, size, 2**20):
            data = os.urandom(min(2**20, size - start))
            digest.update(data)
            file.write(data)
    return digest.hexdigest()


def digest_of(path: Path) -> str:
    """Return the sha256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and write s3_transfer.json."""

    def add(parser: argparse.ArgumentParser) -> None:
        parser.add_argument("--size", type=int, default=2**30, help="bytes of the file")
        parser.add_argument("--way", nargs=3, help=argparse.SUPPRESS)

    chosen = _harness.options(__doc__, add).parse_args(arguments)
    if chosen.way:
        way, path, sha256 = chosen.way
        print(json.dumps(transfer(way, Path(path), sha256)))
        return 0
    real = not ceph_server.missing()
    server = ceph_server.running(disk=DISK) if real else s3_server.running()
    taken: dict[str, list[dict[str, float]]] = {way: [] for way in WAYS}
    with tempfile.TemporaryDirectory() as scratch, server as environment:
        up, down = Path(scratch) / "up", Path(scratch) / "down"
        sha256 = make_file(up, chosen.size)
        for number in range(chosen.repeats):
            # Each way is as often the first of a pair as the second.
            order = WAYS if number % 2 == 0 else (WAYS[1], WAYS[0], WAYS[3], WAYS[2])
            for way in order:
                going_up = way.endswith("up")
                down.unlink(missing_ok=True)
                found = in_a_process(way, up if going_up else down, sha256, environment)
                if not going_up and digest_of(down) != sha256:
                    raise SystemExit(f"error: {way}: what came down is not what went up")
                taken[way].append(found)
                speed = chosen.size / 2**20 / found["wall"]
                print(
                    f"{way:<11} {speed:7.1f} MiB/s, CPU {found['cpu']:5.2f} s, "
                    f"memory +{found['peak'] / 2**20:5.1f} MiB",
                    flush=True,
                )
    mib = chosen.size / 2**20
    results: dict[str, Any] = {
        way: {
            "wall": _harness.spread([one["wall"] for one in runs], int(mib), "mib"),
            "cpu": _harness.spread([one["cpu"] for one in runs], int(mib), "mib"),
            "peak_bytes": max(one["peak"] for one in runs),
        }
        for way, runs in taken.items()
    }
    ratios = {
        direction: [
            theirs["wall"] / ours["wall"]
            for theirs, ours in zip(
                taken[f"minio {direction}"], taken[f"store {direction}"], strict=True
            )
        ]
        for direction in ("up", "down")
    }
    speed = {
        direction: {
            "median": statistics.median(found),
            "min": min(found),
            "max": max(found),
        }
        for direction, found in ratios.items()
    }
    for direction, found in speed.items():
        print(
            f"{direction:<5} {found['median']:.0%} of the minio client's speed "
            f"({found['min']:.0%} to {found['max']:.0%})"
        )
    _harness.write(
        chosen.out,
        "s3_transfer",
        settings={
            "server": "Ceph RGW, bluestore on a file" if real else "moto",
            "bytes": chosen.size,
            "repeats": chosen.repeats,
        },
        results=results,
        packages=("minio", "urllib3"),
        speed_of_minio=speed,
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
