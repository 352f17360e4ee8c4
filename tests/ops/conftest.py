import os
import runpy
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from vila_core.jsonio import dumps

TOYS = Path(__file__).parent / "toys"
ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(TOYS))  # for toy_pipeline
runpy.run_path(str(TOYS / "sitecustomize.py"))


@pytest.fixture(scope="session")
def toy_pipeline(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The toy pipeline, compiled by kfp."""
    from kfp import compiler
    from toy_pipeline import toy

    path = tmp_path_factory.mktemp("toys") / "toy.yaml"
    compiler.Compiler().compile(toy, str(path))
    return path


@pytest.fixture
def recipe(tmp_path: Path, toy_pipeline: Path) -> Path:
    """A recipe for the toy pipeline."""
    path = tmp_path / "recipes" / "toy.yaml"
    path.parent.mkdir()
    path.write_text(
        f"description: toys\npipeline: {toy_pipeline}\ntracking: {{wandb: off}}\n"
        "source: {count: 4}\ngrow: {steps: 3}\ngrow_twin: {steps: 2}\n"
    )
    return path


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


@pytest.fixture
def vila(tmp_path: Path) -> Vila:
    return Vila(tmp_path)


@pytest.fixture
def write_yaml(tmp_path: Path) -> Callable[..., Path]:
    """Write a YAML file from keywords (JSON is YAML)."""

    def write(name: str, **values: object) -> Path:
        path = tmp_path / name
        path.write_text(dumps(values))
        return path

    return write
