from __future__ import annotations

import itertools
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.data.make import (
    IMAGE_ID,
    captions,
    documents,
    encoder,
    metaspace_tokenizer,
    pixels,
    texts,
    write_corpus,
)
from vila_core.data.corpus import Corpus
from vila_core.data.encode import IGNORE, Encoder
from vila_core.data.loader import PackLoader
from vila_core.errors import Damaged, UserError
from vila_core.train.engine import to_device
from vila_core.types import Batch, StepSource

WEIGHTS = {"coyo": 0.5, "mmc4": 0.3, "flan": 0.2}
Corpora = Mapping[str, Corpus]


@pytest.fixture(scope="module")
def corpora(tmp_path_factory: pytest.TempPathFactory) -> Corpora:
    folder = tmp_path_factory.mktemp("corpora")
    return {
        "coyo": write_corpus(folder, "coyo", captions("coyo", 60), shard_samples=25),
        "mmc4": write_corpus(folder, "mmc4", documents("mmc4", 30)),
        "flan": write_corpus(folder, "flan", texts("flan", 40), template="plain"),
    }


def loader(corpora: Corpora, **settings: Any) -> PackLoader:
    values: dict[str, Any] = {
        "pack_tokens": 120,
        "pack_images": 12,
        "packs_per_step": 4,
        "window": 50,
        "seed": 3,
    }
    values |= settings
    weights = values.pop("weights", WEIGHTS)
    return PackLoader(corpora, weights, values.pop("encoder", encoder()), pixels, **values)


def take(source: PackLoader, count: int, state: Any = None) -> list[tuple[list[Batch], Any]]:
    return list(itertools.islice(source.steps(state or source.initial_state()), count))


def same(one: Batch, other: Batch) -> bool:
    tensors = one.tensors.keys() == other.tensors.keys() and all(
        torch.equal(value, other.tensors[name]) for name, value in one.tensors.items()
    )
    facts = [(b.supervised, b.num_tokens, b.num_images, b.sample_keys) for b in (one, other)]
    return tensors and facts[0] == facts[1]


def test_a_batch_is_its_samples_end_to_end(corpora: Corpora) -> None:
    source = loader(corpora)
    for batches, _ in take(source, 6):
        assert len(batches) == 4
        for batch in batches:
            check_batch(batch, corpora)
    protocol: StepSource = source
    assert len(protocol.fingerprint) == 64


def check_batch(batch: Batch, corpora: Corpora) -> None:
    tensors = batch.tensors
    length = batch.num_tokens
    assert length <= 120
    assert batch.num_images <= 12
    assert batch.num_image_tokens == (tensors["input_ids"] == IMAGE_ID).sum()
    assert batch.num_image_tokens == 4 * batch.num_images
    assert sum(batch.sample_lengths) == batch.num_tokens
    assert sum(batch.sample_images) == batch.num_images
    assert len(batch.sample_keys) == len(batch.sample_lengths) == len(batch.sample_images)
    shapes = {name: tuple(value.shape) for name, value in tensors.items()}
    assert shapes == {
        "input_ids": (1, length),
        "labels": (1, length),
        "position_ids": (1, length),
        "cu_seqlens": (len(batch.sample_keys) + 1,),
        "pixel_values": (batch.num_images, 3, 8, 8),
    }
    assert tensors["cu_seqlens"].dtype == torch.int32
    assert tensors["pixel_values"].dtype == torch.float32
    starts = tensors["cu_seqlens"].tolist()
    image = 0
    for key, (start, stop) in zip(batch.sample_keys, itertools.pairwise(starts), strict=True):
        corpus = corpora[key.split("/")[0]]
        sample = corpus.read(corpus.find(key))
        alone = encoder(corpus.template).encode(sample)
        assert tensors["input_ids"][0, start:stop].tolist() == alone.input_ids.tolist()
        assert tensors["labels"][0, start:stop].tolist() == alone.labels.tolist()
        assert tensors["labels"][0, start] == IGNORE
        assert tensors["position_ids"][0, start:stop].tolist() == list(range(stop - start))
        for stored in sample.images:
            assert torch.equal(tensors["pixel_values"][image], pixels(stored))
            image += 1
    assert (starts[0], starts[-1], image) == (0, length, batch.num_images)
    assert batch.supervised == (tensors["labels"] != IGNORE).sum()


def test_packs_without_images(corpora: Corpora) -> None:
    (batches, _), *_ = take(loader(corpora, weights={"flan": 1}, pack_images=0), 1)
    assert {tuple(batch.tensors["pixel_values"].shape) for batch in batches} == {(0, 3, 8, 8)}


STEPS = 10


@pytest.fixture(scope="module")
def straight(corpora: Corpora) -> list[tuple[list[Batch], Any]]:
    return take(loader(corpora), STEPS)


def joined(hands: list[list[Batch]], plan: list[Any]) -> list[Batch]:
    """The batches of all ranks in global pack order."""
    found = {batch.sample_keys: batch for hand in hands for batch in hand}
    return [found[keys] for keys in plan]


@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize("world", [1, 2, 4])
def test_the_order_is_the_same_for_any_number_of_ranks_and_workers(
    corpora: Corpora, straight: list[tuple[list[Batch], Any]], world: int, num_workers: int
) -> None:
    ranks = [
        take(loader(corpora, rank=rank, world=world, num_workers=num_workers), STEPS)
        for rank in range(world)
    ]
    for step, (expected, state) in enumerate(straight):
        hands = [rows[step][0] for rows in ranks]
        assert [len(hand) for hand in hands] == [4 // world] * world
        order = [batch.sample_keys for batch in expected]
        assert all(map(same, joined(hands, order), expected))
        assert sum(len(hand) for hand in hands) == len(expected)
        assert all(rows[step][1] == state for rows in ranks)


def test_resume_is_exact_from_any_step(
    corpora: Corpora, straight: list[tuple[list[Batch], Any]]
) -> None:
    for step in range(STEPS - 1):
        state = json.loads(json.dumps(straight[step][1]))
        found = take(loader(corpora), STEPS - step - 1, state)
        for (batches, after), (expected, expected_after) in zip(
            found, straight[step + 1 :], strict=True
        ):
            assert all(map(same, batches, expected))
            assert after == expected_after


def test_resume_with_workers_and_other_ranks(
    corpora: Corpora, straight: list[tuple[list[Batch], Any]]
) -> None:
    state = straight[4][1]
    ranks = [take(loader(corpora, rank=r, world=2, num_workers=1), 3, state) for r in (0, 1)]
    for number in range(3):
        expected = straight[5 + number][0]
        hands = [rows[number][0] for rows in ranks]
        assert all(map(same, joined(hands, [b.sample_keys for b in expected]), expected))


def test_the_state_is_small_and_counts_what_was_consumed(
    corpora: Corpora, straight: list[tuple[list[Batch], Any]]
) -> None:
    state = straight[-1][1]
    assert len(json.dumps(state)) < 500
    batches = [batch for step, _ in straight for batch in step]
    consumed = state["consumed"].values()
    assert sum(row["tokens"] for row in consumed) == sum(batch.num_tokens for batch in batches)
    assert sum(row["supervised"] for row in consumed) == sum(batch.supervised for batch in batches)
    assert sum(row["images"] for row in consumed) == sum(batch.num_images for batch in batches)
    assert sum(row["samples"] for row in consumed) == sum(len(b.sample_keys) for b in batches)
    assert state["plan"]["packs"] == len(batches)


def test_realised_shares(corpora: Corpora) -> None:
    source = loader(corpora)
    plan = source.plan(source.initial_state())
    _, state = next(itertools.islice(plan, 300, None))
    realised = source.realised(state)
    for name, weight in WEIGHTS.items():
        assert realised[name]["tokens_share"] == pytest.approx(weight, abs=0.005)
        assert realised[name]["epochs"] == realised[name]["samples"] / len(corpora[name])
    for kind in ("tokens_share", "supervised_share", "images_share"):
        assert sum(row[kind] for row in realised.values()) == pytest.approx(1)
    assert realised["flan"]["images_share"] == 0
    fresh = source.realised(source.initial_state())
    assert fresh["coyo"]["tokens_share"] == 0


def test_shares_of_supervised_tokens(corpora: Corpora) -> None:
    source = loader(corpora, mixture_by="supervised")
    _, state = next(itertools.islice(source.plan(source.initial_state()), 300, None))
    realised = source.realised(state)
    for name, weight in WEIGHTS.items():
        assert realised[name]["supervised_share"] == pytest.approx(weight, abs=0.005)
    assert abs(realised["coyo"]["tokens_share"] - 0.5) > 0.01, "the modes differ on these corpora"
    lines = source.table(state)
    assert len(lines) == 4
    assert len({len(line) for line in lines}) == 1
    assert lines[1].startswith("mixture by supervised tokens: coyo")
    assert "50.00%" in lines[1]
    assert f"{realised['coyo']['epochs']:.2f}" in lines[1]


def test_a_corpus_without_supervision_has_no_share_of_it(tmp_path: Path) -> None:
    corpus = write_corpus(tmp_path, "coyo", captions("coyo", 5))
    corpus.index.num_supervised[:] = 0
    with pytest.raises(UserError, match=r"mixture\.coyo: no token of this corpus is supervised"):
        loader({"coyo": corpus}, weights={"coyo": 1}, mixture_by="supervised")


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_limited_mixture_ends_and_says_so(corpora: Corpora, num_workers: int) -> None:
    limits = {"coyo": 2, "mmc4": 0.5, "flan": 1.25}
    source = loader(corpora, max_epochs=limits, num_workers=num_workers)
    steps = sum(1 for _ in source.plan(source.initial_state()))
    rows = source.steps(source.initial_state())
    taken = list(itertools.islice(rows, steps))
    with pytest.raises(UserError, match="no more data: coyo has 60 samples for 2 epochs"):
        next(rows)
    realised = source.realised(taken[-1][1])
    assert all(realised[name]["epochs"] <= limit for name, limit in limits.items())
    assert realised["coyo"]["samples"] > 100, "only the unfinished last step is missing"
    source.check_enough(steps)
    with pytest.raises(UserError) as caught:
        source.check_enough(steps + 1)
    text = str(caught.value)
    assert f"max_epochs: {steps + 1} steps need {4 * (steps + 1)} packs" in text
    assert f"({steps} steps): coyo has 60 samples for 2 epochs, flan has" in text


def test_one_corpus_without_a_limit_is_enough(corpora: Corpora) -> None:
    source = loader(corpora, max_epochs={"coyo": 1, "mmc4": 1})
    source.check_enough(10**9)
    _, state = next(itertools.islice(source.plan(source.initial_state()), 100, None))
    realised = source.realised(state)
    assert realised["coyo"]["epochs"] == realised["mmc4"]["epochs"] == 1
    assert realised["flan"]["epochs"] > 5


def test_nothing_is_dropped(corpora: Corpora) -> None:
    """After an epoch's worth of draws every sample was in a batch."""
    source = loader(corpora, weights={"mmc4": 1}, window=30)
    keys = [key for batches, _ in take(source, 12) for b in batches for key in b.sample_keys]
    assert sorted(keys[:30]) == [f"mmc4/00000/{n:06d}" for n in range(30)]


def test_the_trainings_random_state_is_not_touched(corpora: Corpora) -> None:
    for num_workers in (0, 1):
        torch.manual_seed(0)
        np.random.seed(0)
        before = torch.get_rng_state()
        take(loader(corpora, num_workers=num_workers), 2)
        assert torch.equal(torch.get_rng_state(), before)


def test_the_fingerprint_tells_what_decides_the_order(corpora: Corpora) -> None:
    base = loader(corpora).fingerprint
    for same_order in (
        {"num_workers": 2},
        {"rank": 1, "world": 2},
        {"weights": dict(reversed(WEIGHTS.items()))},
    ):
        assert loader(corpora, **same_order).fingerprint == base
    for other in (
        {"seed": 4},
        {"window": 51},
        {"pack_tokens": 121},
        {"pack_images": 13},
        {"weights": WEIGHTS | {"coyo": 0.6}},
        {"mixture_by": "supervised"},
        {"max_epochs": {"coyo": 3}},
        {"encoder": encoder(tokens_per_image=3)},
    ):
        assert loader(corpora, **other).fingerprint != base


def test_the_order_of_the_weights_does_not_matter(corpora: Corpora) -> None:
    """A config may come back from JSON with its keys sorted."""
    one = loader(corpora)
    other = loader(corpora, weights=dict(reversed(WEIGHTS.items())))
    plans = [next(source.plan(source.initial_state())) for source in (one, other)]
    assert plans[0] == plans[1]


def test_without_a_window_packs_are_nearly_full(corpora: Corpora) -> None:
    source = loader(corpora, window=None, pack_tokens=500, pack_images=200)
    packs = [
        p for step, _ in itertools.islice(source.plan(source.initial_state()), 50) for p in step
    ]
    assert sum(pack.num_tokens for pack in packs) / (500 * len(packs)) > 0.96


@pytest.mark.parametrize("num_workers", [0, 1])
def test_another_tokenizer_than_the_counting_one_is_told(
    corpora: Corpora, num_workers: int
) -> None:
    other = Encoder(metaspace_tokenizer(), "miniature", 9999, 4)
    source = loader(corpora, encoder=other, num_workers=num_workers)
    with pytest.raises(
        UserError, match=r"0000\d\d: \d+ tokens, but the index counted \d+\."
    ) as caught:
        take(source, 1)
    assert "Traceback" not in str(caught.value)


@pytest.mark.parametrize("num_workers", [0, 1])
def test_a_damaged_shard_is_told_with_the_key(tmp_path: Path, num_workers: int) -> None:
    corpus = write_corpus(tmp_path, "coyo", captions("coyo", 5))
    path = tmp_path / "coyo/coyo-00000.tar"
    data = bytearray(path.read_bytes())
    data[int(corpus.index.offset[2]) + int(corpus.index.size[2]) - 20] ^= 1
    path.write_bytes(data)
    source = loader({"coyo": corpus}, weights={"coyo": 1}, num_workers=num_workers)
    with pytest.raises(Damaged, match="coyo/00000/000002"):
        take(source, 4)


def test_samples_larger_than_a_pack_are_refused_by_name(corpora: Corpora) -> None:
    with pytest.raises(UserError) as caught:
        loader(corpora, pack_tokens=20)
    text = str(caught.value)
    assert "pack_tokens: 20 tokens are too few for 14 of 30 samples of 'mmc4'" in text
    assert "mmc4/00000/000003, has 28" in text
    with pytest.raises(UserError, match="pack_images: 3 images are too few for 7 of 30 samples"):
        loader(corpora, pack_images=3)


def test_bad_settings(corpora: Corpora) -> None:
    with pytest.raises(UserError, match=r"4 packs can't be dealt evenly to 3 ranks"):
        loader(corpora, world=3)
    with pytest.raises(UserError, match="no corpus 'coio' in the data"):
        loader(corpora, weights={"coio": 1})


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("num_workers", [0, 2])
def test_pinned_batches_are_the_same_batches_in_page_locked_memory(
    corpora: Corpora, num_workers: int
) -> None:
    plain = take(loader(corpora), 3)
    pinned = take(loader(corpora, pin=True, num_workers=num_workers), 3)
    for (plain_step, _), (pinned_step, _) in zip(plain, pinned, strict=True):
        for one, other in zip(plain_step, pinned_step, strict=True):
            assert one.sample_keys == other.sample_keys
            assert one.sample_lengths == other.sample_lengths
            for name, tensor in one.tensors.items():
                assert other.tensors[name].is_pinned()
                assert torch.equal(other.tensors[name], tensor)
            moved = to_device(other, torch.device("cuda"))
            torch.cuda.synchronize()
            assert torch.equal(moved.tensors["pixel_values"].cpu(), one.tensors["pixel_values"])
