"""The scripts that build images: what they take from the machine, from the base, and throw away."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import venv
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[2]


def script(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"image_{name}", ROOT / "images" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look there
    spec.loader.exec_module(module)
    return module


build, install, sbom = script("build"), script("install"), script("sbom")


def test_the_machines_pip_settings_go_into_the_build(tmp_path: Path) -> None:
    wheels, ca = tmp_path / "wheels", tmp_path / "ca.pem"
    wheels.mkdir()
    ca.write_text("x")
    settings = build.parse_pip_settings(
        f":env:.cert='{ca}'\n:env:.disable-pip-version-check='1'\n"
        f"global.cert='/old.pem'\nglobal.find-links='{tmp_path}/gone {wheels}'\n"
        "global.index-url='https://user:word@mirror.test/simple'\n"
        f"global.extra-index-url='file://{tmp_path} https://more.test/simple'\n"
    )
    assert settings.wheels == wheels
    assert settings.ca == ca
    assert settings.text().splitlines() == [
        "[global]",
        "index-url = https://user:word@mirror.test/simple",
        "extra-index-url = https://more.test/simple",
        "cert = /run/secrets/ca_bundle",
    ]
    assert build.parse_pip_settings("").text() == "[global]\n"


@pytest.mark.parametrize("engine", build.ENGINES)
def test_secrets_are_named_by_file_and_never_by_value(engine: str, tmp_path: Path) -> None:
    request = build.Request(
        engine=engine,
        base="python:3.11-slim",
        prefix="registry.test/vila",
        tag="1",
        arguments={"REVISION": "abc"},
        wheels=tmp_path,
        secrets={"pip_conf": tmp_path / "pip.conf"},
        options=("--network=host",),
    )
    command = request.command("train")
    assert command[:3] == [engine, "build", "-f"]
    assert "registry.test/vila/train:1" in command
    assert f"id=pip_conf,src={tmp_path}/pip.conf" in command
    assert f"wheels={tmp_path}" in command
    assert command[-2:] == ["--network=host", "."]


def builder(tmp_path: Path, *arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(ROOT / "images" / "build.py"), *arguments],
        env={"PATH": str(tmp_path), "HOME": str(tmp_path), **env},
        capture_output=True,
        text=True,
        check=False,
    )


def test_without_an_engine_or_with_a_wrong_role_it_says_what_to_do(tmp_path: Path) -> None:
    done = builder(tmp_path)
    assert done.returncode == 2
    assert "no container engine found (podman, docker, buildah)" in done.stderr
    done = builder(tmp_path, "trian")
    assert "there is no role trian; there are data, train, eval, ops" in done.stderr
    done = builder(tmp_path, "--wheels", str(tmp_path / "none"))
    assert f"{tmp_path}/none: there is no such file or folder" in done.stderr


def test_it_builds_role_by_role_and_stops_at_a_failure(tmp_path: Path) -> None:
    """An engine in the shape of podman that writes down what it was told."""
    log = tmp_path / "log"
    engine = tmp_path / "podman"
    engine.write_text(
        f'#!/bin/sh\necho "$@" >> {log}\n'
        'case "$*" in *eval.Dockerfile*) exit 125;; "image inspect"*) echo 123000000;;'
        " run*) echo '{}';; esac\n"
    )
    engine.chmod(0o755)
    path = os.pathsep.join([str(tmp_path), os.environ["PATH"]])
    done = builder(tmp_path, "ops", "eval", "data", "--out", str(tmp_path / "out"), PATH=path)
    assert done.returncode == 2
    assert "vila-platform/ops:latest: 123 MB" in done.stdout
    assert "podman could not build vila-platform/eval:latest" in done.stderr
    lines = log.read_text()
    assert "data.Dockerfile" not in lines
    assert "LOCK_DIGEST=" in lines
    assert json.loads((tmp_path / "out" / "ops.cdx.json").read_text()) == {}


def test_extras_become_requirements_with_locked_versions() -> None:
    found = install.requirements(ROOT / "pyproject.toml", ["train", "lora"])
    names = {install.requirement_name(text) for text in found}
    assert {"numpy", "torch", "peft"} <= names
    lock = install.locked(ROOT / "constraints.txt")
    install.check_locked(found, lock)
    with pytest.raises(install.Unfit, match=r"no extra trian; there are .*train"):
        install.requirements(ROOT / "pyproject.toml", ["trian"])
    with pytest.raises(install.Unfit, match=r"no version of left-pad; run make lock"):
        install.check_locked(["numpy", "left-pad"], lock)


@pytest.fixture(scope="module")
def cuda_like(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Python as in a CUDA base image: it brings a torch with a local version of its own."""
    folder = tmp_path_factory.mktemp("base")
    venv.create(folder, symlinks=True, with_pip=False)
    (site,) = (folder / "lib").glob("python*/site-packages")
    (site / "torch").mkdir()
    (site / "torch" / "__init__.py").write_text("__version__ = '2.13.0+cu130'\n")
    info = site / "torch-2.13.0+cu130.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: torch\nVersion: 2.13.0+cu130\n")
    (info / "RECORD").write_text("")
    (info / "INSTALLER").write_text("pip\n")
    return folder / "bin" / "python"


def installed(python: Path, source: Path, venv: Path) -> subprocess.CompletedProcess[str]:
    """Run install.py by the base's Python on a project that needs torch and nothing else."""
    command = [str(python), str(ROOT / "images" / "install.py"), "--extras", "train"]
    command += ["--source", str(source), "--venv", str(venv), "--app", str(source)]
    environment = {**os.environ, "PIP_ARGS": "--no-index"}  # so a torch could come from nowhere
    environment.pop("PIP_FIND_LINKS", None)
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


def project(folder: Path, torch: str) -> Path:
    folder.mkdir()
    (folder / "pyproject.toml").write_text(
        f'[project]\ndependencies = []\n[project.optional-dependencies]\ntrain = ["{torch}"]\n'
    )
    (folder / "constraints.txt").write_text("torch==2.13.9\n")
    return folder


@pytest.mark.slow
def test_the_torch_of_a_base_image_is_kept(cuda_like: Path, tmp_path: Path) -> None:
    source, target = project(tmp_path / "src", "torch>=2.13,<2.14"), tmp_path / "venv"
    done = installed(cuda_like, source, target)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "torch 2.13.0+cu130 is the base image's" in done.stdout
    (site,) = (target / "lib").glob("python*/site-packages")
    assert not (site / "torch").exists()
    code = "import torch; print(torch.__version__, torch.__file__)"
    seen = subprocess.run([target / "bin" / "python", "-c", code], capture_output=True, text=True)
    assert seen.stdout.split()[0] == "2.13.0+cu130", seen.stderr
    assert str(cuda_like.parents[1]) in seen.stdout


@pytest.mark.slow
def test_a_base_image_with_another_torch_is_refused(cuda_like: Path, tmp_path: Path) -> None:
    done = installed(cuda_like, project(tmp_path / "src", "torch>=2.14"), tmp_path / "venv")
    assert done.returncode == 2
    assert "the base image has torch 2.13.0+cu130, the package needs torch>=2.14" in done.stderr
    assert "BASE_IMAGE" in done.stderr
    assert "Traceback" not in done.stderr


def test_only_what_is_of_no_use_is_removed(tmp_path: Path) -> None:
    kept = [
        "pyarrow/libarrow_python.so.2600",
        "pyarrow/libarrow_substrait.so.2600",
        "torch/bin/torch_shm_manager",
        "torch/testing/__init__.py",
        "transformers/models/auto/modeling_auto.py",
        "transformers/models/llama/tokenization_llama.py",
    ]
    useless = ["pyarrow/libarrow_python.so", "pyarrow/libarrow_python.so.2600.1.0",
               "pyarrow/_s3fs.cpython-311-x86_64-linux-gnu.so", "torch/bin/HashStoreTest",
               "torch/include/a.h", "numpy/lib/tests/test_a.py"]  # fmt: skip
    models = ["transformers/models/llama/modeling_llama.py"]
    for name in kept + useless + models:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("12345678")
    assert install.remove(install.unused(tmp_path, without_torch=False)) == 8 * len(useless)
    assert install.remove(install.unused(tmp_path, without_torch=True)) == 8
    left = {str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*") if p.is_file()}
    assert left == set(kept)


def test_the_bill_names_packages_of_python_and_of_the_distribution(tmp_path: Path) -> None:
    status = tmp_path / "status"
    status.write_text(
        "Package: libc6\nStatus: install ok installed\nArchitecture: amd64\n"
        "Version: 2.36-9+deb12u10\n"
        "\nPackage: gone\nStatus: deinstall ok config-files\nArchitecture: amd64\nVersion: 1\n"
    )
    (libc,) = sbom.system_packages(status)
    assert libc["purl"].endswith("/libc6@2.36-9%2Bdeb12u10?arch=amd64")
    assert list(sbom.system_packages(tmp_path / "none")) == []
    bill = sbom.sbom("train")
    refs = [item["bom-ref"] for item in bill["components"]]
    assert len(refs) == len(set(refs))
    assert any(ref.startswith("pkg:pypi/pytest@") for ref in refs)
    assert sbom.sbom("train") == bill
