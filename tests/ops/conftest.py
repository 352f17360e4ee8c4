import runpy
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from toy_vila import TOYS, Vila

from vila_core.jsonio import dumps

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
