"""The repository keeps its promises: lock, manifests, documentation, no trace of a machine."""

from __future__ import annotations

import re
import subprocess
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def tracked_files() -> list[Path]:
    listed = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    if listed.returncode != 0:
        pytest.skip("not a git checkout")
    return [ROOT / name for name in listed.stdout.split("\0") if name and (ROOT / name).is_file()]


def locked_versions() -> dict[str, Version]:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pairs = (line.split("==") for line in lines if "==" in line)
    return {canonicalize_name(name): Version(version) for name, version in pairs}


def test_lock_holds_a_version_in_range_for_every_requirement() -> None:
    locked = locked_versions()
    extras = PROJECT["optional-dependencies"].values()
    for text in [*PROJECT["dependencies"], *(item for extra in extras for item in extra)]:
        requirement = Requirement(text)
        name = canonicalize_name(requirement.name)
        assert name in locked, f"{text} is not in constraints.txt; run make lock"
        assert requirement.specifier.contains(locked[name]), f"{text}: locked at {locked[name]}"


def test_every_yaml_parses() -> None:
    for path in tracked_files():
        if path.suffix in {".yaml", ".yml"}:
            assert list(yaml.safe_load_all(path.read_text())), path


def test_kustomizations_name_existing_files() -> None:
    for path in (ROOT / "k8s").rglob("kustomization.yaml"):
        for resource in yaml.safe_load(path.read_text()).get("resources", []):
            assert (path.parent / resource).exists(), f"{path}: {resource}"


def test_links_in_documents_lead_somewhere() -> None:
    for path in tracked_files():
        if path.suffix != ".md":
            continue
        for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", path.read_text()):
            if not target.startswith(("http://", "https://")):
                assert (path.parent / target).exists(), f"{path.relative_to(ROOT)}: {target}"


def test_no_file_is_large_or_names_a_home_directory() -> None:
    home = re.compile(rb"/(home|Users)/[a-z][\w.-]*/|/root/\.")
    for path in tracked_files():
        content = path.read_bytes()
        assert len(content) <= 512_000, f"{path} has {len(content)} bytes"
        if path != Path(__file__):
            assert not home.search(content), f"{path} names a home directory"


def test_make_help_lists_every_target() -> None:
    makefile = (ROOT / "Makefile").read_text()
    phony = set(re.search(r"^\.PHONY: (.*)$", makefile, re.M).group(1).split())  # type: ignore[union-attr]
    described = set(re.findall(r"^([a-z-]+):.*##", makefile, re.M))
    assert phony == described


def test_words_have_one_form() -> None:
    """The glossary's words are used, not their synonyms (docs/reference/glossary.md)."""
    synonyms = {
        "datasource": "corpus",
        "dataloader state": "loader state",
        "model registry entry": "version",
    }
    for path in (ROOT / "docs").rglob("*.md"):
        text = path.read_text().lower()
        for synonym, word in synonyms.items():
            assert synonym not in text, f"{path}: say '{word}', not '{synonym}'"
