"""Versions and aliases reach the Hugging Face Hub and W&B through their own libraries."""

from __future__ import annotations

import dataclasses
import inspect
import json
import time
from pathlib import Path
from typing import Any

import pytest
from hub import TOKEN, Hub, hubbing

from components.registry import Registry, Version
from vila_core.errors import UserError
from vila_core.store import Store, publish
from vila_ops.registry import outbox, wandb_mirror
from vila_ops.registry.delivering import Undelivered
from vila_ops.registry.mirror_child import in_child
from vila_ops.registry.mirror_settings import HuggingFace, MirrorSettings, Wandb


@pytest.fixture(autouse=True)
def online(monkeypatch: pytest.MonkeyPatch) -> None:
    """The libraries are offline in tests: here they talk to this machine."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    monkeypatch.setenv("HF_HUB_DISABLE_TELEMETRY", "1")
    monkeypatch.setenv("TEST_HF_TOKEN", TOKEN)
    monkeypatch.setenv("TEST_WANDB_KEY", "0" * 40)


def versions(store: Store, folder: Path) -> Registry:
    """Two versions; the second one has a file less."""
    registry = Registry(store)
    for number in (1, 2):
        made = folder / str(number)
        made.mkdir()
        (made / "config.json").write_text(json.dumps({"number": number}))
        (made / "model.safetensors").write_bytes(bytes(100 * number))
        if number == 1:
            (made / "extra.json").write_text("{}")
        lineage = {"tasks": {"sft": {"stage": "sft", "key": "k" * 64}}, "code_digest": "c"}
        metrics = {"vqa/accuracy@0": 0.5}
        registry.register(
            Version("mini", 0, publish(store, made), f"r{number}", "key", metrics, {}, lineage)
        )
    return registry


def hub_target(hub: Hub, **more: Any) -> HuggingFace:
    values = {"repo": "team/{model}", "endpoint": hub.url, "token": {"env": "TEST_HF_TOKEN"}}
    return HuggingFace.model_validate({**values, **more})


def mirror(store: Store, hub: Hub, registry: Registry, to: int, **more: Any) -> Any:
    entry = registry.move("mini", "champion", to, why="x")
    return in_child(store, hub_target(hub, **more), "hub", "mini", entry)


@pytest.mark.slow
def test_the_hub_gets_versions_as_tags_and_aliases_that_move(store: Store, tmp_path: Path) -> None:
    registry = versions(store, tmp_path)
    with hubbing() as hub:
        first = mirror(store, hub, registry, 1)
        assert first["repo"] == "team/mini"
        assert hub.tags == {"version-1": first["commit"], "champion": first["commit"]}
        files = hub.commits[first["commit"]]
        assert files["model.safetensors"] == bytes(100)
        assert files["README.md"].startswith(b"---\nlicense: other")
        assert json.loads(files["vila-version.json"])["artifact"]["sha256"]
        second = mirror(store, hub, registry, 2)
        assert hub.tags["champion"] == second["commit"] != first["commit"]
        assert "extra.json" not in hub.commits[second["commit"]]  # it is exactly version 2
        uploads = sum("/commit/" in call for call in hub.calls)
        back = mirror(store, hub, registry, 1)  # a rollback: nothing is uploaded again
        assert back["commit"] == first["commit"] == hub.tags["champion"]
        assert sum("/commit/" in call for call in hub.calls) == uploads == 2
        again = in_child(store, hub_target(hub), "hub", "mini", registry.history("mini")[-1])
        assert again == back


@pytest.mark.slow
def test_a_hub_that_fails_is_tried_again(store: Store, tmp_path: Path) -> None:
    registry = versions(store, tmp_path)
    with hubbing() as hub:
        settings = MirrorSettings(huggingface={"hub": hub_target(hub)})
        hub.refuse = [(429, {"Retry-After": "77"})] * 20
        outbox._begin(store, "mini", "hub", 0)
        registry.move("mini", "champion", 1, why="x")
        begun = time.time()
        failed = outbox.deliver(store, settings).failed
        assert "429" in failed[0]
        (status,) = outbox.statuses(store, settings)
        assert status.state == "failing"
        from datetime import datetime

        assert datetime.fromisoformat(str(status.next_try)).timestamp() >= begun + 77
        assert TOKEN not in store.read("registry/mini/outbox/hub.json").decode()
        hub.refuse = []
        assert outbox.deliver(store, settings, again=True).sent == ["hub mini 1"]


@pytest.mark.slow
def test_a_hub_that_does_not_answer_in_time_is_given_up_for_now(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import socket

    registry = versions(store, tmp_path)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        hub = Hub(url=f"http://127.0.0.1:{silent.getsockname()[1]}")
        entry = registry.move("mini", "champion", 1, why="x")
        begun = time.monotonic()
        with pytest.raises(Undelivered, match="was not done within 4 s"):
            in_child(store, hub_target(hub, timeout_s=4), "hub", "mini", entry)
        assert time.monotonic() - begun < 10


@pytest.mark.slow
def test_wrong_credentials_and_names_are_told(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry = versions(store, tmp_path)
    with hubbing() as hub:
        entry = registry.move("mini", "main", 1, why="x")
        with pytest.raises(Undelivered, match="'main' can't be a tag"):
            in_child(store, hub_target(hub), "hub", "mini", entry)
        monkeypatch.setenv("TEST_HF_TOKEN", "hf_wrong_token_value")
        with pytest.raises(Undelivered, match="401") as raised:
            in_child(store, hub_target(hub), "hub", "mini", entry)
        assert "hf_wrong_token_value" not in str(raised.value)
        monkeypatch.delenv("TEST_HF_TOKEN")
        with pytest.raises(Undelivered, match=r"huggingface.hub.token: the variable TEST_HF_TOKEN"):
            in_child(store, hub_target(hub), "hub", "mini", entry)


@dataclasses.dataclass
class FakeRun:
    """W&B's run, as far as a mirror asks: what it is told is kept."""

    settings: Any
    offline: bool = False
    logged: list[Any] = dataclasses.field(default_factory=list)
    linked: list[Any] = dataclasses.field(default_factory=list)
    finished: list[int] = dataclasses.field(default_factory=list)

    def log_artifact(self, artifact: Any, aliases: list[str]) -> Any:
        self.logged.append((artifact, aliases))
        return FakeLogged(artifact)

    def link_artifact(self, artifact: Any, target_path: str, aliases: list[str]) -> None:
        self.linked.append((artifact, target_path, aliases))

    def finish(self, exit_code: int = 0) -> None:
        self.finished.append(exit_code)


@dataclasses.dataclass
class FakeLogged:
    artifact: Any

    @property
    def qualified_name(self) -> str:
        return f"team/project/{self.artifact.name}:v0"

    def wait(self, timeout: int) -> FakeLogged:
        return self


def wandb_target(**more: Any) -> Wandb:
    values = {"project": "p", "registry": "model", "api_key": {"env": "TEST_WANDB_KEY"}}
    return Wandb.model_validate({**values, **more})


def test_wandb_gets_the_artifact_linked_with_the_alias(store: Store, tmp_path: Path) -> None:
    registry = versions(store, tmp_path)
    entry = registry.move("mini", "champion", 2, why="x")
    asked: dict[str, Any] = {}
    runs: list[FakeRun] = []

    def init(**values: Any) -> FakeRun:
        asked.update(values)
        runs.append(FakeRun(values["settings"]))
        return runs[-1]

    done = wandb_mirror.mirror(store, wandb_target(), "wb", "mini", entry, init=init)
    assert done["collection"] == "wandb-registry-model/mini"
    ((artifact, aliases),) = runs[0].logged
    assert aliases == ["version-2"]
    assert (artifact.name, artifact.type) == ("mini", "model")
    entries = artifact.manifest.entries
    assert {"config.json", "model.safetensors", "README.md", "vila-version.json"} <= set(entries)
    assert artifact.metadata["artifact_sha256"] == registry.version("mini", 2).artifact.sha256
    assert artifact.metadata["tasks"] == {"sft": "k" * 64}
    assert artifact.metadata["metrics"] == {"vqa/accuracy@0": 0.5}
    ((_, path, linked),) = runs[0].linked
    assert path == "wandb-registry-model/mini"
    assert linked == ["champion", "version-2"]
    assert runs[0].finished == [0]
    assert asked["project"] == "p"
    assert asked["settings"].api_key == "0" * 40
    first = (asked["id"], artifact.digest)
    wandb_mirror.mirror(store, wandb_target(), "wb", "mini", entry, init=init)
    assert (asked["id"], runs[1].logged[0][0].digest) == first  # another try adds nothing


def test_the_real_library_takes_calls_like_those_of_the_fake() -> None:
    import wandb

    for real, fake in ((wandb.Run, FakeRun), (wandb.Artifact, FakeLogged)):
        for name in ("log_artifact", "link_artifact", "finish", "wait"):
            if hasattr(fake, name):
                asked = list(inspect.signature(getattr(fake, name)).parameters)
                taken = inspect.signature(getattr(real, name)).parameters
                wanted = [part for part in asked[1:] if part != "artifact"]
                assert set(wanted) <= set(taken), name
    assert "qualified_name" in dir(wandb.Artifact)
    assert {"project", "entity", "job_type", "name", "id", "resume", "dir", "settings"} <= set(
        inspect.signature(wandb.init).parameters
    )


def test_a_run_of_wandb_is_ended_when_something_fails(store: Store, tmp_path: Path) -> None:
    registry = versions(store, tmp_path)
    entry = registry.move("mini", "champion", 2, why="x")
    runs: list[FakeRun] = []

    class Failing(FakeRun):
        def link_artifact(self, artifact: Any, target_path: str, aliases: list[str]) -> None:
            raise ValueError("no such registry")

    def init(**values: Any) -> FakeRun:
        runs.append(Failing(values["settings"]))
        return runs[-1]

    with pytest.raises(ValueError, match="no such registry"):
        wandb_mirror.mirror(store, wandb_target(), "wb", "mini", entry, init=init)
    assert runs[0].finished == [1]


@pytest.mark.slow
def test_the_real_library_takes_all_of_it_as_far_as_it_goes_without_a_server(
    store: Store, tmp_path: Path
) -> None:
    """Offline (as all tests are) W&B starts and ends a run; the mirror says why it stops there."""
    registry = versions(store, tmp_path)
    entry = registry.move("mini", "champion", 2, why="x")
    with pytest.raises(Undelivered, match="W&B is offline here"):
        in_child(store, wandb_target(timeout_s=60), "wb", "mini", entry)


@pytest.mark.slow
def test_the_real_library_logs_the_artifact_offline(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import wandb

    registry = versions(store, tmp_path)
    folder = tmp_path / "folder"
    version = registry.version("mini", 1)
    wandb_mirror.write_folder(store, version, folder, "ours")
    artifact = wandb_mirror.artifact_of(store, version, folder)
    settings = wandb.Settings(silent=True, console="off", x_disable_stats=True)
    with wandb.init(mode="offline", dir=str(tmp_path), project="p", settings=settings) as run:
        run.log_artifact(artifact, aliases=[wandb_mirror.own_alias(version)])
    (kept,) = tmp_path.glob("wandb/offline-run-*/*.wandb")
    # W&B's service writes the file by itself, on a busy machine after the run was finished.
    until = time.monotonic() + 60
    while b"version-1" not in kept.read_bytes():
        assert time.monotonic() < until
        time.sleep(0.1)


def test_a_key_that_is_not_there_is_told(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("TEST_WANDB_KEY")
    entry = versions(store, tmp_path).move("mini", "champion", 1, why="x")
    with pytest.raises(UserError, match=r"wandb.wb.api_key: the variable TEST_WANDB_KEY"):
        wandb_mirror.mirror(store, wandb_target(), "wb", "mini", entry)


def test_a_child_that_dies_is_told(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    entry = versions(store, tmp_path).move("mini", "champion", 1, why="x")
    monkeypatch.setattr("sys.executable", "/bin/false")
    with pytest.raises(Undelivered, match="its process ended with 1: without a word"):
        in_child(store, wandb_target(), "wb", "mini", entry)
