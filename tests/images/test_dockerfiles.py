"""The Dockerfiles of the roles are one recipe: they differ in what a role is, and nowhere else."""

from __future__ import annotations

import fnmatch
import inspect
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement

from components import _decorator
from vila_ops.cluster.config import ROLES

IMAGES = Path(__file__).parents[2] / "images"
ROOT = IMAGES.parent


def dockerfile(role: str) -> str:
    return (IMAGES / f"{role}.Dockerfile").read_text(encoding="utf-8")


def shared(role: str) -> list[str]:
    """What is left of a Dockerfile without what makes up its role."""
    text = dockerfile(role).replace("\\\n", "")
    text = re.sub(r"^(# .*\n)+ARG BASE_IMAGE", "ARG BASE_IMAGE", text)
    text = re.sub(r"# The same step in train and eval.*\nRUN .* --extras train\n", "", text)
    text = re.sub(r"python install\.py .*", "python install.py", text)
    text = re.sub(r"^(EXPOSE|ENV TRANSFORMERS|# transformers).*\n", "", text, flags=re.M)
    text = re.sub(r'description="[^"]*"', "", text)
    text = text.replace(f"/{role}", "/ROLE").replace(f'"{role}"', '"ROLE"')
    return text.replace(f"--role {role}", "--role ROLE").splitlines()


def test_there_is_one_for_each_role_and_no_other() -> None:
    assert {path.name for path in IMAGES.glob("*Dockerfile*")} == {f"{r}.Dockerfile" for r in ROLES}
    assert inspect.get_annotations(_decorator.component, eval_str=True)["role"].__args__ == ROLES


@pytest.mark.parametrize("role", ROLES)
def test_all_are_one_recipe(role: str) -> None:
    assert shared(role) == shared("data")


def test_train_and_eval_begin_alike_so_that_torch_is_installed_once() -> None:
    texts = [dockerfile(role).split("ARG BASE_IMAGE=", 1)[1] for role in ("train", "eval")]
    first, second = (text.partition(" --extras train\n") for text in texts)
    assert first[:2] == second[:2]
    assert first[1]


@pytest.mark.parametrize("role", ROLES)
def test_what_is_installed_is_in_the_lock(role: str) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    locked = (ROOT / "constraints.txt").read_text().lower()
    *_, line = re.findall(r"python install\.py (.*)", dockerfile(role))
    options = dict(zip(line.split()[::2], line.split()[1::2], strict=True))
    assert options.pop("--extras").split(",")
    for names in options.values():
        for name in names.split(","):
            assert f"\n{Requirement(name).name}==" in locked
    for extra in line.split()[1].split(","):
        assert extra in project["optional-dependencies"]


@pytest.mark.parametrize("role", ROLES)
def test_the_whole_package_is_in_it(role: str) -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    for pattern in settings["packages"]["find"]["include"]:
        name = pattern.rstrip("*")
        assert f"\nCOPY {name} /opt/vila/{name}\n" in dockerfile(role)


def test_what_is_needed_is_all_there_before_the_tools_settings() -> None:
    script, text = re.findall(r"sed '(.*)' /pyproject", dockerfile("data"))[0], "pyproject.toml"
    kept = subprocess.run(
        ["sed", script, text], cwd=ROOT, capture_output=True, text=True, check=True
    )
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    needs = tomllib.loads(kept.stdout)
    assert needs["project"]["dependencies"] == project["dependencies"]
    assert needs["project"]["optional-dependencies"] == project["optional-dependencies"]
    assert "tool" not in needs


def test_only_the_commands_image_holds_all_of_kfp() -> None:
    for role in ("data", "train", "eval"):
        assert "--no-deps kfp" in dockerfile(role)
        assert "pipeline" not in dockerfile(role).split("install.py --extras ")[-1].split()[0]


def test_nothing_secret_or_built_is_sent_to_the_engine() -> None:
    kept = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line[:1] == "!"]
    copied = set(re.findall(r"^COPY (?!--)(.*) \S+$", dockerfile("data"), flags=re.M))
    assert {name.strip("!") for name in kept} == {n for line in copied for n in line.split()}
    assert not any(fnmatch.fnmatch(".git", name[1:]) for name in kept)


def test_containers_conf_and_workflows_name_the_same_place() -> None:
    conf = tomllib.loads((IMAGES / "containers.conf").read_text())
    assert conf["engine"]["runtime"] == "runc"
    assert "images/containers.conf" in (ROOT / ".ci" / "run").read_text()


@pytest.mark.parametrize("path", sorted((ROOT / "configs" / "clusters").glob("*.yaml")))
def test_clusters_use_images_of_these_names(path: Path) -> None:
    for role, image in yaml.safe_load(path.read_text())["images"].items():
        assert re.search(rf"(^|/)vila-platform/{role}(:|@)", image)


def test_scripts_need_the_standard_library_alone() -> None:
    for name in ("build", "install", "sbom"):
        source = (IMAGES / f"{name}.py").read_text(encoding="utf-8")
        for module in re.findall(r"^(?:from|import) (\w+)", source, flags=re.M):
            assert module in sys.stdlib_module_names
