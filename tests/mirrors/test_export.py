"""An export is whole and certified, and its certificate is kept with the version."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
from huggingface_hub import ModelCard
from typer.testing import CliRunner

from components.registry import Registry, Version
from components.registry.certificates import certificates, certifies, keep_certificate
from vila_core.config import validate
from vila_core.errors import UserError
from vila_core.jsonio import digest
from vila_core.store import ArtifactRef, Store, publish
from vila_ops.cli.main import app
from vila_ops.registry.export import export, write_folder
from vila_ops.registry.mirror_settings import MirrorSettings

TO_TRANSFORMERS = ("--layout", "transformers")


def toy(store: Store, folder: Path, run_id: str = "r1", projector: str = "mlp2x_gelu") -> Version:
    from tests.model.test_layouts import make

    artifact = publish(store, make(folder, projector=projector))
    return Registry(store).register(Version("toy", 0, artifact, run_id, "k", {}, {}, {}))


@pytest.mark.slow
def test_an_export_for_transformers_loads_there(store: Store, tmp_path: Path) -> None:
    from transformers import LlavaForConditionalGeneration

    version = toy(store, tmp_path / "made")
    out = tmp_path / "out"
    place = ["--store", str(store.uri)]
    done = CliRunner().invoke(
        app,
        ["registry", "export", "toy@1", "--to", str(out), *TO_TRANSFORMERS, "--json", *place],
    )
    assert done.exit_code == 0, done.output
    proof = json.loads(done.output.splitlines()[-1])["certificate"]
    assert proof == json.loads((out / "certificate.json").read_text())
    model = LlavaForConditionalGeneration.from_pretrained(out)
    assert model.config.image_token_index is not None
    kept = certificates(store, "toy", 1)
    assert list(kept) == ["transformers"]
    assert kept["transformers"]["certificate"] == proof
    assert certifies(kept["transformers"], version)
    assert not certifies(kept["transformers"] | {"artifact": "0" * 64}, version)
    record = json.loads((out / "vila-version.json").read_text())
    assert digest(record) == version.digest()
    read = ModelCard((out / "README.md").read_text())
    assert read.data.library_name == "transformers"
    assert "LlavaForConditionalGeneration.from_pretrained" in read.text
    assert "*.safetensors filter=lfs" in (out / ".gitattributes").read_text()
    again = CliRunner().invoke(
        app, ["registry", "export", "toy@1", "--to", str(out), *TO_TRANSFORMERS, *place]
    )
    assert "exists already" in str(again.exception)
    first = dict(kept["transformers"])
    export(store, "toy@1", tmp_path / "second", "transformers")
    assert certificates(store, "toy", 1)["transformers"] == first  # the first proof stays


@pytest.mark.slow
@pytest.mark.parametrize("layout", ["llava", "vila15"])
def test_an_export_for_other_code_comes_back(store: Store, tmp_path: Path, layout: str) -> None:
    from vila_core.model.layouts import exchange
    from vila_core.model.layouts.files import read_tensors

    version = toy(store, tmp_path / "made")
    export(store, "toy@1", tmp_path / "out", layout)
    exchange.import_model(tmp_path / "out", tmp_path / "back")
    before, after = read_tensors(tmp_path / "made" / "ours"), read_tensors(tmp_path / "back")
    assert before.keys() == after.keys()
    assert all(before[name].equal(after[name]) for name in before)
    assert certifies(certificates(store, "toy", 1)[layout], version)


@pytest.mark.slow
def test_what_can_not_be_exported_leaves_nothing(store: Store, tmp_path: Path) -> None:
    toy(store, tmp_path / "made")
    with pytest.raises(UserError, match="layout 'onnx' is not one of llava, vila15, transformers"):
        export(store, "toy@1", tmp_path / "out", "onnx")
    (tmp_path / "there").mkdir()
    with pytest.raises(UserError, match="exists already"):
        export(store, "toy@1", tmp_path / "there", "transformers")
    toy(store, tmp_path / "other", run_id="r2", projector="mlp_downsample")
    with pytest.raises(UserError, match="no place for the projector 'mlp_downsample'"):
        export(store, "toy@2", tmp_path / "out", "transformers")
    assert not (tmp_path / "out").exists()
    assert not list(tmp_path.glob(".out*"))
    assert certificates(store, "toy", 2) == {}


def test_our_own_layout_is_the_artifacts_files(store: Store, tmp_path: Path) -> None:
    made = tmp_path / "made"
    made.mkdir()
    (made / "config.json").write_text("{}")
    version = Registry(store).register(
        Version("toy", 0, publish(store, made), "r1", "k", {}, {}, {})
    )
    write_folder(store, version, tmp_path / "out", "ours")
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {"config.json", "README.md", "vila-version.json", ".gitattributes"}
    assert (tmp_path / "out" / "README.md").stat().st_mode & 0o200


def test_a_certificate_of_another_model_or_without_prompts_is_none(store: Store) -> None:
    artifact = ArtifactRef("", "a" * 64)
    version = Registry(store).register(Version("toy", 0, artifact, "r", "k", {}, {}, {}))
    rows = [{"max_abs_difference": 1e-6, "tolerance": 1e-5}]
    kept = keep_certificate(store, version, {"layout": "transformers", "prompts": rows})
    assert certifies(kept, version)
    assert certificates(store, "toy", 1) == {"transformers": kept}
    assert not certifies({**kept, "certificate": {}}, version)
    worse = {"prompts": [{"max_abs_difference": 1e-4, "tolerance": 1e-5}]}
    assert not certifies({**kept, "certificate": worse}, version)
    not_a_number = {"prompts": [{"max_abs_difference": float("nan"), "tolerance": 1e-5}]}
    assert not certifies({**kept, "certificate": not_a_number}, version)
    other = dataclasses.replace(version, artifact=ArtifactRef("", "b" * 64))
    assert not certifies(kept, other)


def test_a_certificate_says_itself_of_which_layout_it_is(store: Store) -> None:
    """Files were once named by other words: `hf.json` holds a proof of the layout transformers."""
    version = Version("toy", 1, ArtifactRef("", "a" * 64), "r1", "k", {}, {}, {})
    rows = [{"max_abs_difference": 1e-6, "tolerance": 1e-5}]
    kept = keep_certificate(store, version, {"layout": "transformers", "prompts": rows})
    folder = store.local_path("registry/toy/certificates/1")
    assert folder is not None
    (folder / "transformers.json").rename(folder / "hf.json")
    assert certificates(store, "toy", 1) == {"transformers": kept}
    for bad in ("{", "[]", '{"certificate": {}}', '{"certificate": {"layout": "hf"}}'):
        (folder / "vila.json").write_text(bad)
        with pytest.raises(ValueError, match=r"certificates/1/vila.json is no certificate \("):
            certificates(store, "toy", 1)


@pytest.mark.parametrize("layout", ["hf", "vila"])
def test_words_of_an_earlier_time_are_refused_with_those_of_now(layout: str) -> None:
    value = {"huggingface": {"hub": {"repo": "me/x", "layout": layout}}}
    with pytest.raises(UserError, match="'ours', 'llava', 'vila15', 'transformers'"):
        validate(MirrorSettings, value, where="registry.yaml")
