"""`python -m vila_ops.driver --store URI RUN_ID`: the driver of a run in the background."""

from __future__ import annotations

import argparse
import sys

from vila_core.errors import VilaError
from vila_core.store import open_store
from vila_ops.driver.run import EXIT_CODES, drive


def main() -> int:
    """Drive the run and return its exit code."""
    parser = argparse.ArgumentParser(prog="vila_ops.driver")
    parser.add_argument("--store", required=True)
    parser.add_argument("run_id")
    options = parser.parse_args()
    try:
        return EXIT_CODES[drive(open_store(options.store), options.run_id)]
    except VilaError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code


if __name__ == "__main__":
    raise SystemExit(main())
