"""Downloading images: per second and by CPU time, from servers on this machine.

`kept` stores 512 x 384 JPEGs with a photo's spectrum as they come, `re-encoded` at a shorter side
of 336, `48 px` tiny ones: what a request costs without its image. `far` waits 100 ms before each
answer, as distant hosts do. Everything is on: robots.txt of each host, checked addresses, limits of
time, a full decode of each image, the tar, the table. The servers are processes of their own, which
share the cores.
"""

from __future__ import annotations

import argparse
import io
import multiprocessing
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import _harness  # first: sets the number of threads
import decode
import numpy as np
import prepare
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from vila_core.config import validate
from vila_core.data.download.run import download
from vila_core.data.download.settings import DownloadConfig


def medium_jpeg(rng: np.random.Generator) -> bytes:
    """A photo-like JPEG of 512 x 384."""
    file = io.BytesIO()
    with Image.open(io.BytesIO(decode.make_jpeg(rng))) as image:
        image.resize((512, 384)).save(file, "JPEG", quality=85)
    return file.getvalue()


def serve(files: Sequence[bytes], pause_s: float, tell: Connection) -> None:
    """Serve the files for ever; tells its port first."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def do_GET(self) -> None:
            if self.path == "/robots.txt":
                self.send_error(404)
                return
            body = files[int(self.path[1:].partition(".")[0]) % len(files)]
            time.sleep(pause_s)
            self.wfile.write(
                b"HTTP/1.1 200 OK\r\nContent-Type: image/jpeg\r\nContent-Length: %d\r\n\r\n"
                % len(body)
                + body
            )

        def log_message(self, format: str, *args: object) -> None:
            pass

    class Server(ThreadingHTTPServer):
        daemon_threads = True
        request_queue_size = 1024

    server = Server(("127.0.0.1", 0), Handler)
    tell.send(server.server_port)
    server.serve_forever()


def fetch(folder: Path, ports: Sequence[int], count: int, **values: Any) -> None:
    """Fetch so many images from the servers in turn, into a folder that is thrown away."""
    urls = [f"http://127.0.0.1:{ports[n % len(ports)]}/{n}.jpg" for n in range(count)]
    table = pa.table({"id": list(range(count)), "url": urls, "text": ["a red square"] * count})
    pq.write_table(table, folder / "pairs.parquet")
    section = {
        "format": "coyo",
        "path": str(folder / "pairs.parquet"),
        "allow_private": ["127.0.0.0/8"],
        "shard_rows": 1000,
        **values,
    }
    out = folder / "out"
    report = download(validate(DownloadConfig, section, where="benchmark"), out)
    assert report.images == count, report
    shutil.rmtree(out)


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--images", type=int, default=3000, help="images of each way")
    parser.add_argument("--servers", type=int, default=8, help="hosts that they are spread over")


def main(arguments: Sequence[str] | None = None) -> int:
    options = _harness.options(__doc__, add_options).parse_args(arguments)
    rng = np.random.default_rng(0)
    medium = [medium_jpeg(rng) for _ in range(32)]
    small = [prepare.small_jpeg(rng) for _ in range(32)]
    context = multiprocessing.get_context("fork")
    servers: list[Any] = []

    def start(files: Sequence[bytes], pause_s: float) -> list[int]:
        ports = []
        for _ in range(options.servers):
            ours, theirs = context.Pipe()
            servers.append(context.Process(target=serve, args=(files, pause_s, theirs)))
            servers[-1].daemon = True
            servers[-1].start()
            ports.append(ours.recv())
        return ports

    near, far, tiny = start(medium, 0.0), start(medium, 0.1), start(small, 0.0)
    with tempfile.TemporaryDirectory() as root:
        run = partial(fetch, Path(root))
        count, wide = options.images, {"threads": 128, "per_host": 16}
        ways = {
            "kept": partial(run, near, count),
            "re-encoded": partial(run, near, count, reencode={"side": 336}),
            "48 px": partial(run, tiny, count),
            "far": partial(run, far, count, **wide),
        }
        run(near, 200)  # imports and files are warm from here on
        taken = _harness.in_turn(ways, options.repeats)
    for server in servers:
        server.terminate()
        server.join()
    results = {name: _harness.both(times, count, "images") for name, times in taken.items()}
    for name, result in results.items():
        wall, cpu = (result[by]["images_per_s"] for by in ("wall", "cpu"))
        print(f"{name:<12}{wall:10,.0f} images/s by wall, {cpu:10,.0f} by CPU time")
    _harness.write(
        options.out,
        "download",
        settings={
            "images": options.images,
            "servers": options.servers,
            "repeats": options.repeats,
            "mean_bytes": round(sum(map(len, medium)) / len(medium)),
        },
        results=results,
        packages=("numpy", "pillow", "pyarrow", "urllib3"),
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
