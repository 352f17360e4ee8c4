"""Settings for every test: one thread, no network, nothing of the user's store, account or keys."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

from tests import api_server as kubernetes_server
from tests import ceph_server, s3_server
from vila_core.store import Store

if TYPE_CHECKING:
    from playwright.sync_api import Browser

os.environ.update(
    OMP_NUM_THREADS="1",
    HF_HUB_OFFLINE="1",
    HF_DATASETS_OFFLINE="1",
    TOKENIZERS_PARALLELISM="false",
    WANDB_MODE="offline",
    DS_ACCELERATOR="cpu",
    COLUMNS="80",
)
os.environ.pop("VILA_STORE", None)
_settings = tempfile.TemporaryDirectory(prefix="vila-tests-")
os.environ["XDG_CONFIG_HOME"] = _settings.name
for _name in (
    "VILA_REGISTRY_CONFIG",
    "VILA_SIGNING_KEY",
    "VILA_TRUSTED_KEYS",
    "VILA_TRUSTED_IDENTITIES",
    "VILA_SIGN_KEYLESS",
):
    os.environ.pop(_name, None)


@pytest.fixture(scope="session")
def s3_environment() -> Iterator[dict[str, str]]:
    with s3_server.running() as environment:
        yield environment


@pytest.fixture
def s3_store(s3_environment: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> Store:
    s3_server.without_versions(s3_environment)
    return s3_server.fresh_store(s3_environment, monkeypatch)


@pytest.fixture(scope="session")
def real_environment() -> Iterator[dict[str, str]]:
    if missing := ceph_server.missing():
        pytest.skip(f"Ceph's RGW is not installed: no {', '.join(missing)}")
    with ceph_server.running() as environment:
        yield environment


@pytest.fixture
def real_store(real_environment: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> Store:
    return s3_server.fresh_store(real_environment, monkeypatch)


@pytest.fixture
def api_server() -> Iterator[kubernetes_server.ApiServer]:
    with kubernetes_server.running() as server:
        yield server


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Debian's Chromium. Playwright allows one at a time, and keeps an event loop while it runs."""
    from playwright.sync_api import sync_playwright

    path = shutil.which("chromium")
    if path is None:
        if os.environ.get("VILA_TEST_BROWSER") == "required":
            pytest.fail("chromium is not installed")
        pytest.skip("chromium is not installed (Debian: apt-get install chromium)")
    with sync_playwright() as playwright:
        launched = playwright.chromium.launch(
            executable_path=path, args=["--no-sandbox"] if os.geteuid() == 0 else []
        )
        yield launched
        launched.close()
