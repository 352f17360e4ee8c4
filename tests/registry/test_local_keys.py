"""Who gets a signing key by running a recipe: people on their own machine, and nobody else."""

from __future__ import annotations

from pathlib import Path

import pytest

from components.registry import Registry, keys
from components.registry.verify import verified_version
from components.runtime.record import RunRecord, create_run
from tests.registry.test_gates import register
from vila_core.errors import UserError
from vila_core.store import Store, open_store
from vila_ops.ask import refer


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))


def run(tmp_path: Path, runner: str) -> Store:
    store = open_store(tmp_path / f"store-{runner}")
    create_run(store, {"run_id": "r1", "config_digest": "c0ffee", "runner": runner})
    (tmp_path / runner).mkdir()
    register(store, tmp_path / runner, [])
    return store


@pytest.mark.parametrize("runner", ["inline", "subprocess"])
def test_a_run_on_this_machine_makes_a_key_and_signs(tmp_path: Path, runner: str) -> None:
    store = run(tmp_path, runner)
    key = keys.own_key()
    assert key is not None
    version = verified_version(store, "mini@candidate")
    assert version.signature is not None
    assert Registry(store).history("mini")[0].signature is not None
    log = RunRecord.load(store, "r1").tasks["register"][0].log(store)
    assert f"made a signing key for versions: {key.path}" in log
    assert key.path.read_text().splitlines()[1] not in log


@pytest.mark.parametrize("runner", ["container", "cluster"])
def test_no_other_runner_does(tmp_path: Path, runner: str) -> None:
    store = run(tmp_path, runner)
    assert keys.own_key() is None
    assert Registry(store).version("mini", 1).signature is None


def test_a_machine_without_the_package_registers_unsigned(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert keys.first_key() == (None, False)


def test_ask_takes_no_unsigned_version_where_somebody_is_trusted(tmp_path: Path) -> None:
    store = run(tmp_path, "cluster")
    assert refer(store, "mini@candidate", allow_unsigned=False).origin == "mini@1"
    keys.own_key(create=True)
    with pytest.raises(UserError, match="mini@1: is not signed"):
        refer(store, "mini@candidate", allow_unsigned=False)
    assert refer(store, "mini@candidate", allow_unsigned=True).origin == "mini@1"
