"""Prepared corpora against evaluation sets that came later."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from tests.data.make import noise, write_corpus
from vila_core.data.dedupe import DedupeConfig, EvalItem, SignaturesBuilder, Signer, recheck
from vila_core.data.sample import Image, Sample, Text, make_sample
from vila_core.errors import Damaged, UserError

BYTES = DedupeConfig(perceptual=False)
QUESTION = "which of the seven old bridges over the river was rebuilt after the great flood of 1910"


def sample(corpus: str, number: int, text: str, *images: bytes) -> Sample:
    parts = [*(Image(n) for n in range(len(images))), Text(text)]
    return make_sample(f"{corpus}/0/{number:06d}", "caption", parts, images)


def prepared(
    folder: Path, name: str, samples: Sequence[Sample], config: DedupeConfig = BYTES
) -> Path:
    """A corpus with its signatures, as prepare leaves it."""
    write_corpus(folder, name, samples)
    builder, sign = SignaturesBuilder(config), Signer(config)
    for one in samples:
        builder.add(sign(one))
    path = folder / name / "signatures.npz"
    builder.build().save(path)
    manifest = json.loads((folder / name / "manifest.json").read_text())
    manifest["signatures_sha256"] = hashlib.sha256(path.read_bytes()).hexdigest()
    (folder / name / "manifest.json").write_text(json.dumps(manifest))
    return folder / name


def test_a_new_set_is_compared_with_what_was_prepared_before_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    c = prepared(tmp_path, "c", [sample("c", n, f"number {n}", noise(n, 16)) for n in range(5)])
    d = prepared(tmp_path, "d", [sample("d", n, QUESTION) for n in range(2)])
    for shard in (*c.glob("*.tar"), *d.glob("*.tar")):
        shard.unlink()  # nothing of them is read
    items = [EvalItem("q0", ("short",), (noise(3, 16),)), EvalItem("q1", (QUESTION,), ())]
    found = recheck([c, d], {"bench": items, "empty": []})
    assert (found.samples, found.found) == (7, 3)
    assert found.to_json()["contaminated"] == {
        "c": {"image of an evaluation set": 1},
        "d": {"text of an evaluation set": 2},
    }
    assert [one.key for one in found.examples] == ["c/0/000003", "d/0/000000", "d/0/000001"]
    assert found.evals["empty"].nothing
    assert not recheck([c, d], {"bench": []}).found
    monkeypatch.setenv("VILA_CACHE", str(tmp_path / "cache"))
    remote = recheck([f"file://{tmp_path}/c", d], {"bench": items})
    assert remote.to_json()["examples"] == found.to_json()["examples"]


def test_each_corpus_is_compared_as_it_was_prepared(tmp_path: Path) -> None:
    text = " ".join(QUESTION.split()[:8])
    loose = BYTES.model_copy(update={"words": 5, "share": 0.1})
    c = prepared(tmp_path, "c", [sample("c", 0, text)])
    d = prepared(tmp_path, "d", [sample("d", 0, text)], loose)
    found = recheck([c, d], {"bench": [EvalItem("q1", (QUESTION,), ())]})
    assert [one.key for one in found.examples] == ["d/0/000000"]


def test_what_cannot_be_compared_is_refused(tmp_path: Path) -> None:
    write_corpus(tmp_path, "old", [sample("old", 0, "red circle")])
    with pytest.raises(UserError, match=r"corpus 'old' .*without signatures.npz.*prepare it again"):
        recheck([tmp_path / "old"], {})
    folder = prepared(tmp_path, "c", [sample("c", 0, "red circle")])
    builder = SignaturesBuilder(BYTES)
    builder.build().save(folder / "signatures.npz")
    with pytest.raises(Damaged, match=r"c/signatures.npz: holds 0 samples, the index 1"):
        recheck([folder], {"bench": []})
    builder.add(Signer(BYTES)(sample("c", 0, "red circle")))
    table = builder.build()
    replace(table, scheme=table.scheme.replace("bytes", "looks")).save(folder / "signatures.npz")
    with pytest.raises(UserError, match=r"corpus 'c': .*can't be compared by this version"):
        recheck([folder], {"bench": []})
