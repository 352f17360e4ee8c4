"""The pages on images and on installing without the internet say what the scripts do."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest
from page_commands import ROOT

from vila_ops.cluster.config import ROLES, load_cluster

PAGE = (ROOT / "docs" / "reference" / "images.md").read_text(encoding="utf-8")
AIR_GAPPED = (ROOT / "docs" / "how-to" / "air-gapped.md").read_text(encoding="utf-8")


def test_the_table_has_the_extras_of_each_role() -> None:
    rows = dict(re.findall(r"^\| `vila-platform/(\w+)` \|[^|]*\|([^|]*)\|", PAGE, flags=re.M))
    assert rows.keys() == set(ROLES)
    for role, cell in rows.items():
        dockerfile = (ROOT / "images" / f"{role}.Dockerfile").read_text(encoding="utf-8")
        *_, extras = re.findall(r"install\.py --extras (\S+)", dockerfile)
        assert re.findall(r"`([^`]+)`", cell) == extras.split(",")


def test_every_setting_of_a_build_is_told() -> None:
    script = [sys.executable, str(ROOT / "images" / "build.py"), "--help"]
    told = subprocess.run(script, capture_output=True, text=True, check=True).stdout
    options = set(re.findall(r"--[a-z-]+", told)) - {"--help", "--out"}
    table = PAGE.split("## Settings of a build")[1].split("\n\n`pip.conf`")[0]
    assert set(re.findall(r"`(--[a-z-]+)`", table)) - {"--network"} == options
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    source = (ROOT / "images" / "build.py").read_text(encoding="utf-8")
    for name in re.findall(r"`([A-Z]+_?[A-Z]*)`", table):
        assert name in source
        if not name.startswith("IMAGE_P") and name != "IMAGE_TAG":
            assert name in makefile


def test_the_labels_are_those_of_the_images() -> None:
    dockerfile = (ROOT / "images" / "data.Dockerfile").read_text(encoding="utf-8")
    for label in re.findall(r"(dev\.vila[\w.]+|org\.opencontainers\.image\.\w+)=", dockerfile):
        short = label.replace("org.opencontainers.image", "")
        assert f"`{label}`" in PAGE or f"`{short}`" in PAGE


@pytest.mark.parametrize("page", [PAGE, AIR_GAPPED], ids=["images", "air-gapped"])
def test_commands_name_targets_and_variables_that_exist(page: str) -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    commands = re.findall(r"^    make ([a-z-]+)(.*)$", page, flags=re.M)
    assert commands
    for target, rest in commands:
        assert re.search(rf"^{target}:", makefile, flags=re.M)
        for name in re.findall(r"([A-Z_]+)=", rest):
            assert name in makefile
        shown = subprocess.run(
            ["make", "-n", f"PYTHON={sys.executable}", target],
            cwd=ROOT, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert shown.returncode == 0, shown.stderr


def test_the_config_of_images_is_one_that_loads() -> None:
    block = AIR_GAPPED.split("    images:\n")[1].split("\n\n")[0]
    for role in ROLES:
        assert f"      {role}: registry.internal.example.com/vila-platform/{role}@sha256:" in block
    assert "image_pull_secrets: [vila-registry]" in block
    assert load_cluster("gpu-cluster").image_pull_secrets == ()  # a field that there is


def test_what_is_said_when_something_is_wrong_is_what_is_told() -> None:
    install = (ROOT / "images" / "install.py").read_text(encoding="utf-8")
    assert "the base image has torch {torch.version}, the package needs {text}" in install
    assert "the base image has torch …, the package needs …" in AIR_GAPPED


def test_the_limits_of_sizes_are_those_that_ci_holds_images_to() -> None:
    source = (ROOT / "tests" / "images" / "test_images.py").read_text(encoding="utf-8")
    limits = dict(re.findall(r'"(\w+)": (\d+)', source.split("MEGABYTES = ")[1].split("\n")[0]))
    told = re.findall(r"^\| (\w+) \| ([\d,]+) MB \| ([\d,]+) MB \|", PAGE, flags=re.M)
    assert {role: most.replace(",", "") for role, _, most in told} == limits
    for _, size, most in told:
        assert int(size.replace(",", "")) <= int(most.replace(",", ""))
