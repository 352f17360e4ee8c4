"""`pull`: a verified folder, whole or not at all, that others can read."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from components.registry import Registry, Version, keys
from components.registry.signing import VALID, Trust, examine, of_version
from tests.model.test_layouts import make
from vila_core.errors import Damaged, Unreachable, UserError
from vila_core.store import Store, open_store, publish, ref_of
from vila_ops.ask import find_model
from vila_ops.registry.pull import pull


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    keys.own_key(create=True)


def register(store: Store, folder: Path, run_id: str = "r1") -> Version:
    registry = Registry(store)
    artifact = publish(store, folder)
    version = registry.register(
        Version("mini", 0, artifact, run_id, "key", {"vqa/accuracy@0": 0.5}, {}, {})
    )
    registry.move("mini", "candidate", version.number, why="x")
    return version


def bare(folder: Path, content: bytes = b"weights") -> Path:
    (folder / "below").mkdir(parents=True)
    (folder / "model.safetensors").write_bytes(content)
    (folder / "below" / "config.json").write_text("{}")
    return folder


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store(tmp_path / "store")


def content(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


TOLD = {"README.md", "vila-version.json", "vila-version.sigstore.json", "vila-prompt.json"}


def test_a_pulled_folder_holds_model_card_record_and_signature(
    store: Store, tmp_path: Path
) -> None:
    version = register(store, bare(tmp_path / "model"))
    out = tmp_path / "deep" / "out"
    pulled = pull(store, "mini@candidate", out)
    assert (pulled.path, pulled.version, pulled.fresh) == (out, version, True)
    found = content(out)
    assert found.keys() == TOLD | {"model.safetensors", "below/config.json", "manifest.json"}
    assert found["model.safetensors"] == b"weights"
    assert "mini" in found["README.md"].decode()
    record = json.loads(found["vila-version.json"])
    assert (record["model"], record["number"]) == ("mini", 1)
    assert [path.name for path in out.parent.iterdir()] == ["out"]
    assert (out / "model.safetensors").stat().st_mode & 0o777 == 0o644


def test_the_folder_can_be_verified_without_the_store(store: Store, tmp_path: Path) -> None:
    """The sha256 of two files stand in a statement that the key has signed."""
    register(store, bare(tmp_path / "model"))
    out = pull(store, "mini@1", tmp_path / "out").path
    bundle = json.loads((out / "vila-version.sigstore.json").read_text())
    version = Registry(store).version("mini", 1)
    statement = of_version(version)
    assert examine([bundle], statement, Trust(keys.trusted_keys())).state == VALID
    digests = {hashlib.sha256(data).hexdigest() for data in content(out).values()}
    assert set(statement.subjects.values()) <= digests
    for entry in json.loads((out / "manifest.json").read_text())["files"]:
        data = (out / entry["path"]).read_bytes()
        assert hashlib.sha256(data).hexdigest() == entry["sha256"]


def test_the_same_again_changes_nothing_and_damage_is_mended(store: Store, tmp_path: Path) -> None:
    register(store, bare(tmp_path / "model"))
    out = pull(store, "mini@1", tmp_path / "out").path
    before = content(out)
    stamp = (out / "model.safetensors").stat().st_mtime_ns
    assert pull(store, "mini@candidate", out).fresh is False
    assert (out / "model.safetensors").stat().st_mtime_ns == stamp
    (out / "model.safetensors").write_bytes(b"Weights")
    assert pull(store, "mini@1", out).fresh is True
    assert content(out) == before


@pytest.mark.parametrize("what", ["other files", "another version", "a file"])
def test_what_is_there_is_never_replaced(store: Store, tmp_path: Path, what: str) -> None:
    register(store, bare(tmp_path / "model"))
    register(store, bare(tmp_path / "model2", b"other"), "r2")
    out = tmp_path / "out"
    if what == "another version":
        pull(store, "mini@2", out)
    elif what == "other files":
        out.mkdir()
        (out / "thesis.tex").write_text("years of work")
    else:
        out.write_text("years of work")
    before = content(tmp_path) if what == "a file" else content(out)
    with pytest.raises(
        UserError, match=r"out: is (not empty, and not mini@1|there and is no fold)"
    ):
        pull(store, "mini@1", out)
    assert (content(tmp_path) if what == "a file" else content(out)) == before


def test_an_empty_folder_is_filled(store: Store, tmp_path: Path) -> None:
    register(store, bare(tmp_path / "model"))
    (tmp_path / "out").mkdir()
    assert pull(store, "mini@1", tmp_path / "out").fresh


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.name.startswith((".", "out")))


def test_a_tampered_blob_is_refused_and_leaves_nothing(store: Store, tmp_path: Path) -> None:
    version = register(store, bare(tmp_path / "model"))
    path = tmp_path / "store" / "artifacts" / version.artifact.sha256 / "model.safetensors"
    path.chmod(0o644)
    path.write_bytes(b"Weights")
    with pytest.raises(
        Damaged, match=r"model.safetensors: does not match its digest.\n  fix: vila"
    ):
        pull(store, "mini@1", tmp_path / "out")
    assert names(tmp_path) == []
    path.unlink()
    with pytest.raises(Damaged, match=r"model.safetensors is missing"):
        pull(store, "mini@1", tmp_path / "out")
    (path.parent / "manifest.json").chmod(0o644)
    (path.parent / "manifest.json").write_text("{}")
    with pytest.raises(Damaged, match=r"manifest.json was changed"):
        pull(store, "mini@1", tmp_path / "out")
    assert names(tmp_path) == []


def test_a_manifest_that_leads_elsewhere_is_refused(store: Store, tmp_path: Path) -> None:
    """Even where its digest is right: whoever publishes may be the attacker."""
    digest = hashlib.sha256(b"x").hexdigest()
    for bad in ("../../../escaped", "/escaped", "a/../../b"):
        manifest = json.dumps({"files": [{"path": bad, "size": 1, "sha256": digest}]}).encode()
        sha256 = hashlib.sha256(manifest).hexdigest()
        store.write(f"artifacts/{sha256}/manifest.json", manifest)
        registry = Registry(store)
        version = registry.register(
            Version("mini", 0, ref_of(store, sha256), bad, "key", {}, {}, {})
        )
        with pytest.raises(Damaged, match="its manifest names a file"):
            pull(store, version.name, tmp_path / "out")
    assert names(tmp_path) == []


def test_unsigned_versions_need_permission(store: Store, tmp_path: Path) -> None:
    register(store, bare(tmp_path / "model"))
    place = "registry/mini/versions/1.json"
    value = json.loads(store.read(place))
    store.write(place, json.dumps({**value, "signature": None}).encode())
    with pytest.raises(UserError, match="mini@1: is not signed"):
        pull(store, "mini@1", tmp_path / "out")
    assert names(tmp_path) == []
    assert pull(store, "mini@1", tmp_path / "out", allow_unsigned=True).fresh
    assert not (tmp_path / "out" / "vila-version.sigstore.json").exists()


def test_a_pull_that_broke_off_goes_on(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    register(store, bare(tmp_path / "model"))
    real: Callable[..., None] = store.download
    asked: list[str] = []

    def download(key: str, path: Path, *, sha256: str | None = None) -> None:
        asked.append(key.rpartition("/")[2])
        if len(asked) == 2:
            raise Unreachable("the server does not answer")
        real(key, path, sha256=sha256)

    monkeypatch.setattr(store, "download", download)
    with pytest.raises(Unreachable):
        pull(store, "mini@1", tmp_path / "out")
    assert not (tmp_path / "out").exists()
    assert pull(store, "mini@1", tmp_path / "out").fresh
    assert asked == ["config.json", "model.safetensors", "model.safetensors"]
    assert names(tmp_path) == ["out"]


def test_two_pulls_to_one_place(store: Store, tmp_path: Path) -> None:
    register(store, bare(tmp_path / "model"))
    out = tmp_path / "out"

    def say(text: str) -> None:
        with pytest.raises(UserError, match="another pull is writing it"):
            pull(store, "mini@1", out)

    assert pull(store, "mini@1", out, say=say).fresh


def test_pulling_from_a_bucket(s3_store: Store, tmp_path: Path) -> None:
    register(s3_store, bare(tmp_path / "model"))
    out = pull(s3_store, "mini@candidate", tmp_path / "out").path
    assert (out / "model.safetensors").read_bytes() == b"weights"
    assert pull(s3_store, "mini@candidate", out).fresh is False


def test_unknown_layouts(store: Store, tmp_path: Path) -> None:
    register(store, bare(tmp_path / "model"))
    with pytest.raises(UserError, match="layout 'onnx' is not one of ours, llava"):
        pull(store, "mini@1", tmp_path / "out", layout="onnx")


def test_a_folder_of_an_earlier_time_is_left_alone(store: Store, tmp_path: Path) -> None:
    """Our own layout was once called vila there."""
    register(store, bare(tmp_path / "model"))
    out = pull(store, "mini@1", tmp_path / "out").path
    prompt = out / "vila-prompt.json"
    prompt.write_text(prompt.read_text().replace('"ours"', '"vila"'))
    with pytest.raises(UserError, match=r"not mini@1 \(ours\).\n  fix: remove it"):
        pull(store, "mini@1", out)


@pytest.mark.slow
def test_ask_transformers_and_vllms_loader_read_it(store: Store, tmp_path: Path) -> None:
    """Ours by our loader; as transformers' LLaVA by its class, with the names that vLLM maps."""
    from transformers import AutoProcessor, LlavaForConditionalGeneration

    from vila_core.model import load

    register(store, make(tmp_path / "made"))
    ours = pull(store, "mini@candidate", tmp_path / "out").path
    found = find_model(store, str(ours))
    assert found.folder == ours
    load(found.folder)

    theirs = pull(store, "mini@candidate", tmp_path / "out-hf", layout="transformers").path
    proof = json.loads((theirs / "certificate.json").read_text())
    assert proof["max_abs_difference"] <= proof["tolerance"]
    LlavaForConditionalGeneration.from_pretrained(theirs)
    AutoProcessor.from_pretrained(theirs)
    config = json.loads((theirs / "config.json").read_text())
    assert (config["model_type"], config["architectures"]) == (
        "llava",
        ["LlavaForConditionalGeneration"],
    )
    assert content(theirs).keys() >= TOLD
    assert pull(store, "mini@candidate", theirs, layout="transformers").fresh is False
    with pytest.raises(UserError, match=r"not mini@1 \(ours\)"):
        pull(store, "mini@candidate", theirs)
