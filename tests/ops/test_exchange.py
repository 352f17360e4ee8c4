"""`vila import` and `vila export` from the command line."""

import json
from pathlib import Path

import pytest
from toy_vila import Vila

from components.registry import Registry, Version
from tests.model.test_layouts import make
from vila_core.model.layouts.files import read_tensors, sha256_of
from vila_core.store import open_store, publish


@pytest.mark.slow
def test_a_registered_model_goes_out_with_proof_and_comes_in_again(vila: Vila, tmp_path: Path):
    ours = make(tmp_path / "made")
    store = open_store(vila.store)
    Registry(store).register(
        Version(
            model="toy",
            number=0,
            artifact=publish(store, ours),
            run_id="r1",
            key="k",
            metrics={},
            evidence={"passed": True, "gates": []},
            lineage={},
        )
    )
    out = tmp_path / "out"
    printed = vila("export", "toy@1", "--layout", "llava", "--to", out, "--max-shard-size", "100KB")
    assert "exported toy@1 (llava)" in printed
    assert "certified: logits differ by at most" in printed
    proof = json.loads((out / "certificate.json").read_text())
    files = {path.name for path in out.iterdir()} - {"certificate.json"}
    assert proof["sha256"] == {name: sha256_of(out / name) for name in files}
    assert "model.safetensors.index.json" in files

    printed = vila("import", out, "--to", tmp_path / "again", "--json")
    found = json.loads(printed.splitlines()[0])  # warnings of libraries follow, on stderr
    assert (found["layout"], found["projector"]) == ("llava", "mlp2x_gelu")
    before, after = read_tensors(ours), read_tensors(tmp_path / "again")
    assert before.keys() == after.keys()
    assert all(before[name].equal(after[name]) for name in before)
    assert "out: exists already" in vila("import", out, "--to", out, code=2)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["import", "nowhere", "--to", "out"], "nowhere: there is no such folder"),
        (["export", "nobody", "--layout", "llava", "--to", "out"], "no runs in"),
        (["export", ".", "--layout", "lava", "--to", "out"], "'lava' is not one of llava, vila15"),
    ],
)
def test_mistakes_leave_nothing(vila: Vila, arguments: list[str], message: str):
    assert message in vila(*arguments, code=2)
    assert not (vila.folder / "out").exists()
