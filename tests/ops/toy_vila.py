"""The command line as a process of its own, that knows the toy pipeline."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

TOYS = Path(__file__).parent / "toys"
ROOT = Path(__file__).parents[2]


class Vila:
    """The command line, run as a process of its own, with a store of its own."""

    def __init__(self, folder: Path) -> None:
        self.store = folder / "store"
        self.folder = folder
        (folder / "tmp").mkdir()
        self.env = {
            **os.environ,
            "VILA_STORE": str(self.store),
            # This checkout, whichever one the environment has installed.
            "PYTHONPATH": os.pathsep.join([str(TOYS), str(ROOT)]),
            "COLUMNS": "80",
            "TMPDIR": str(folder / "tmp"),  # what killed drivers leave behind goes with the test
            "NO_COLOR": "1",
        }

    def start(self, *args: object) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "vila_ops.cli.main", *map(str, args)],
            env=self.env,
            cwd=self.folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def __call__(self, *args: object, code: int = 0) -> str:
        """Run a command and return what it printed; its exit code must be `code`."""
        process = self.start(*args)
        out, err = process.communicate(timeout=180)
        assert process.returncode == code, f"exit {process.returncode}\n{out}\n{err}"
        assert "Traceback" not in out + err
        return out + err
