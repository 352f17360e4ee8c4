"""`vila run RECIPE --runner cluster -d`: seconds from the command to the run's acceptance.

Each is a whole process, against a local server that speaks KFP's API and moto's S3, both on
loopback, so that what is left is the platform's own: interpreter, imports, recipe, documents,
record. `first` uploads a new version of the pipeline, `again` finds it there; `vila --version` is
what every command costs. The processor's seconds are those of the command's own process.

Every submission must have started exactly one run and `first` one version, or the script fails.
"""

from __future__ import annotations

import argparse
import resource
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import _harness  # first: sets the number of threads

ROOT = Path(__file__).parents[1]


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add this benchmark's own options."""
    parser.add_argument("--recipe", default="quickstart")


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, and write the report."""
    options = _harness.options(__doc__, add_options).parse_args(arguments)
    sys.path.insert(0, str(ROOT))  # the servers are those of the tests
    from tests import s3_server
    from tests.api_server import running
    from tests.cluster.places import Site

    taken: dict[str, list[_harness.Timed[Any]]] = {"vila --version": [], "first": [], "again": []}
    with (
        running() as server,
        s3_server.running() as environment,
        tempfile.TemporaryDirectory() as folder,
    ):
        site = Site(server, Path(folder), environment, Path(folder) / "none.yaml")
        laptop = site.laptop()
        for turn in range(options.repeats):
            cluster = site.write_cluster(defaults={"cpu": str(turn + 1), "memory": "2Gi"})
            command = ("run", options.recipe, "--runner", "cluster", "--cluster", cluster, "-d")
            taken["vila --version"].append(_timed(laptop, "--version"))
            taken["first"].append(_timed(laptop, *command))
            taken["again"].append(_timed(laptop, *command))
        kept = server.kfp.objects
        counts = (len(kept["runs"]), len(kept["versions"]))
    if counts != (2 * options.repeats, options.repeats):
        print(f"error: {counts[0]} runs and {counts[1]} versions were made", file=sys.stderr)
        return 1
    results = {way: _harness.both(found, 1, "submissions") for way, found in taken.items()}
    for way, found in results.items():
        print(f"{way:<16} {found['wall']['median_s']:.2f} s, CPU {found['cpu']['median_s']:.2f} s")
    _harness.write(
        options.out,
        "submit",
        settings={"recipe": options.recipe, "repeats": options.repeats},
        results=results,
        packages=("kfp", "kubernetes", "minio"),
    )
    return 0


def _timed(laptop: Any, *command: object) -> _harness.Timed[str]:
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    printed = laptop(*command)
    wall, after = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return _harness.Timed(wall, cpu, printed)


if __name__ == "__main__":
    sys.exit(main())
