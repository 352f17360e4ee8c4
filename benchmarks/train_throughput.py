"""Training throughput: packs through our model against transformers' LLaVA on padded batches.

One 6.0 M-parameter VLM with the same weights on both sides (CLIP-shaped tower 3 x 128, 48 px in
patches of 8: 36 visual tokens; MLP projector; Llama-shaped language model 4 x 256, 4,096 words),
the same samples (75% captions, 25% interleaved documents with 1 to 4 images), AdamW (fused) with
clipping at 1. As in VILA's pre-training, projector and language model train and the tower is
frozen, on both sides; `--train all` trains the tower too. Timed is what follows the data: forward,
backward, update.

Useful tokens are those of samples, image tokens included; padding is not. Two baselines: padded
batches of 8 in random order (transformers' default) and sorted by length. Ours takes packs of 4,096
tokens from the planner of training. Each side has a process of its own; they take turns. Before
anything is timed, the summed losses of both sides over all samples must agree, or the script fails.
"""

from __future__ import annotations

import argparse
import multiprocessing
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass

import _harness  # first: sets the number of threads
import numpy as np
import torch
from transformers import LlavaConfig, LlavaForConditionalGeneration

from vila_core.data.collate import collate
from vila_core.data.encode import IGNORE, Encoded
from vila_core.data.packing import pack_window
from vila_core.model import VilaConfig, VilaForConditionalGeneration, freeze
from vila_core.train.config import TrainConfig
from vila_core.train.engine import create_engine
from vila_core.train.loss import vila_loss
from vila_core.types import Batch

WORDS, IMAGE_ID, VISUAL = 4096, 4096, 36
TOWER = {
    "model_type": "clip_vision_model",
    "hidden_size": 128,
    "intermediate_size": 512,
    "num_hidden_layers": 4,  # the last one is not read (feature layer -2), as in LLaVA
    "num_attention_heads": 4,
    "image_size": 48,
    "patch_size": 8,
    "projection_dim": 128,
}
TEXT = {
    "model_type": "llama",
    "vocab_size": WORDS,
    "hidden_size": 256,
    "intermediate_size": 688,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "max_position_embeddings": 4096,
    "tie_word_embeddings": False,
}
PACK_TOKENS, PACK_IMAGES, PADDED_BATCH = 4096, 256, 8
RANDOM, SORTED = "padded, random order", "padded, sorted by length"
PADDED = (RANDOM, SORTED)


@dataclass(frozen=True)
class Made:
    """One sample, encoded: ids and labels with the image places expanded, and its images."""

    encoded: Encoded
    pixels: tuple[torch.Tensor, ...]


def make_samples(count: int, seed: int) -> list[Made]:
    """Three captions (one image, about 25 words) to one document: 1 to 4 images with 30 to 160
    words before, between and after them."""
    rng = np.random.default_rng(seed)
    made = []
    for number in range(count):
        if number % 4:
            images, texts = 1, [0, int(rng.integers(15, 36))]
        else:
            images = int(rng.integers(1, 5))
            texts = rng.integers(30, 161, images + 1).tolist()
        ids: list[int] = [1]
        for place, words in enumerate(texts):
            ids += [IMAGE_ID] * (VISUAL if place else 0) + rng.integers(4, WORDS, words).tolist()
        ids_T = np.array(ids, dtype=np.int64)
        labels_T = np.where(ids_T == IMAGE_ID, IGNORE, ids_T)
        labels_T[0] = IGNORE
        (at,) = np.nonzero(ids_T == IMAGE_ID)
        encoded = Encoded(ids_T, labels_T, at[::VISUAL], tuple(range(images)))
        pixels = tuple(
            torch.from_numpy(rng.normal(size=(3, 48, 48)).astype(np.float32)) for _ in range(images)
        )
        made.append(Made(encoded, pixels))
    return made


def make_models(train: str) -> tuple[VilaForConditionalGeneration, LlavaForConditionalGeneration]:
    """Both libraries' model with the same weights and the same parts frozen."""
    torch.manual_seed(0)
    ours = VilaForConditionalGeneration(
        VilaConfig(
            vision_config=TOWER, text_config=TEXT, projector="mlp2x_gelu", image_token_id=IMAGE_ID
        )
    )
    config = LlavaConfig(
        vision_config=TOWER,
        text_config={**TEXT, "vocab_size": WORDS + 1},
        vision_feature_layer=-2,
        vision_feature_select_strategy="default",
        image_token_index=IMAGE_ID,
    )
    theirs = LlavaForConditionalGeneration(config)
    theirs.model.vision_tower.load_state_dict(ours.vision_tower.state_dict())
    for mine, name in ((0, "linear_1"), (2, "linear_2")):
        layer = getattr(theirs.model.multi_modal_projector, name)
        layer.load_state_dict(ours.projector[mine].state_dict())  # type: ignore[index]
    state = ours.language_model.model.state_dict()
    grown = torch.zeros(WORDS + 1, TEXT["hidden_size"])
    grown[:WORDS] = state.pop("embed_tokens.weight")
    theirs.model.language_model.load_state_dict({**state, "embed_tokens.weight": grown})
    head = torch.full((WORDS + 1, TEXT["hidden_size"]), 0.0)
    head[:WORDS] = ours.language_model.lm_head.weight.detach()
    theirs.lm_head.load_state_dict({"weight": head})
    parts = ["projector", "language_model", *(["vision_tower"] if train == "all" else [])]
    freeze(ours, parts)
    theirs.model.vision_tower.requires_grad_(train == "all")
    return ours.train(), theirs.train()


def padded(samples: Sequence[Made], batch_size: int) -> list[dict[str, torch.Tensor]]:
    """Right-padded batches as transformers' collators make them."""
    batches = []
    for start in range(0, len(samples), batch_size):
        some = samples[start : start + batch_size]
        longest = max(len(one.encoded.input_ids) for one in some)
        ids = torch.zeros(len(some), longest, dtype=torch.int64)
        labels = torch.full_like(ids, IGNORE)
        mask = torch.zeros_like(ids)
        for row, one in enumerate(some):
            length = len(one.encoded.input_ids)
            ids[row, :length] = torch.from_numpy(one.encoded.input_ids)
            labels[row, :length] = torch.from_numpy(one.encoded.labels)
            mask[row, :length] = 1
        batches.append(
            {
                "input_ids": ids,
                "labels": labels,
                "attention_mask": mask,
                "pixel_values": torch.stack([p for one in some for p in one.pixels]),
            }
        )
    return batches


def packed(samples: Sequence[Made], pack_tokens: int) -> list[Batch]:
    """Packs as training plans them."""
    lengths = [len(one.encoded.input_ids) for one in samples]
    images = [len(one.pixels) for one in samples]
    batches = []
    for pack in pack_window(lengths, images, pack_tokens, PACK_IMAGES):
        some = [samples[number] for number in pack]
        pixels = [p for one in some for p in one.pixels]
        keys = [f"bench/00000/{number:06d}" for number in pack]
        batches.append(collate([one.encoded for one in some], pixels, keys, (3, 48, 48)))
    return batches


def train_theirs(
    model: LlavaForConditionalGeneration, batches: list[dict[str, torch.Tensor]], bf16: bool
) -> None:
    """The loop that transformers' Trainer runs: mean loss per batch, clip, AdamW."""
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-4, fused=True)
    for batch in batches:
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=bf16):
            loss = model(**batch).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad()


def train_ours(model: VilaForConditionalGeneration, batches: list[Batch], bf16: bool) -> None:
    """One pack per step through the engine and the loss of training."""
    config = TrainConfig(
        steps=len(batches), lr=1e-4, device="cpu", precision="bf16" if bf16 else "fp32"
    )
    engine = create_engine(model, config)
    for batch in batches:
        engine.backward(batch, vila_loss, scale=1.0 / batch.supervised, last=True)
        engine.update(1.0)


def loss_sums(
    ours: VilaForConditionalGeneration,
    theirs: LlavaForConditionalGeneration,
    samples: Sequence[Made],
) -> tuple[float, float]:
    """The loss over all samples, summed, by each side. The logit of theirs' one word more, the
    image token, is left out."""
    with torch.no_grad():
        mine = sum(float(vila_loss(ours, batch)) for batch in packed(samples, PACK_TOKENS))
        other = 0.0
        for batch in padded(samples, PADDED_BATCH):
            labels = batch.pop("labels")[:, 1:]
            logits = theirs(**batch).logits[:, :-1, :WORDS]
            chosen = labels != IGNORE
            other += float(
                torch.nn.functional.cross_entropy(logits[chosen], labels[chosen], reduction="sum")
            )
    return mine, other


class Side:
    """One library's model and batches, in a process of its own."""

    current: Side

    def __init__(self, side: str, samples: int, train: str) -> None:
        torch.set_num_threads(1)
        made = make_samples(samples, seed=0)
        order = np.random.default_rng(1).permutation(len(made)).tolist()
        shuffled = [made[number] for number in order]
        by_length = sorted(shuffled, key=lambda one: len(one.encoded.input_ids))
        ours, theirs = make_models(train)
        self.ways: dict[str, Callable[[], None]] = {}
        for precision in ("fp32", "bf16"):
            low = precision == "bf16"
            if side == "ours":
                packs = packed(shuffled, PACK_TOKENS)
                self.ways[f"{precision}, ours"] = lambda low=low, packs=packs: train_ours(
                    ours, packs, low
                )
                continue
            for name, some in ((RANDOM, shuffled), (SORTED, by_length)):
                batches = padded(some, PADDED_BATCH)
                self.ways[f"{precision}, {name}"] = lambda low=low, batches=batches: train_theirs(
                    theirs, batches, low
                )


def start_side(side: str, samples: int, train: str) -> None:
    """Prepare a worker process."""
    Side.current = Side(side, samples, train)


def run_way(name: str) -> _harness.Timed[None]:
    """Measure one way inside of its process."""
    return _harness.measure(Side.current.ways[name])


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of this benchmark."""
    parser.add_argument("--samples", type=int, default=80)
    parser.add_argument("--train", choices=("pretrain", "all"), default="pretrain")


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and write train_throughput.json."""
    options = _harness.options(__doc__, add_options).parse_args(arguments)
    torch.set_num_threads(1)
    samples = make_samples(options.samples, seed=0)
    tokens = sum(len(one.encoded.input_ids) for one in samples)
    ours, theirs = make_models(options.train)
    mine, other = loss_sums(ours, theirs, samples)
    if abs(mine - other) > 1e-5 * abs(other):
        print(f"error: the losses differ: ours {mine}, theirs {other}", file=sys.stderr)
        return 1
    context = multiprocessing.get_context("spawn")
    workers = {
        side: ProcessPoolExecutor(
            1, context, initializer=start_side, initargs=(side, options.samples, options.train)
        )
        for side in ("ours", "transformers")
    }
    names = [f"{precision}, {way}" for precision in ("fp32", "bf16") for way in (*PADDED, "ours")]
    times: dict[str, list[_harness.Timed[None]]] = {name: [] for name in names}
    for turn in range(options.repeats + 1):
        for name in names:  # in turn, so that a busy moment hits all of them
            worker = workers["ours" if name.endswith("ours") else "transformers"]
            taken = worker.submit(run_way, name).result()
            if turn:  # the first is for imports, allocator and kernels
                times[name].append(taken)
    for worker in workers.values():
        worker.shutdown()
    results = {name: _harness.both(taken, tokens, "useful_tokens") for name, taken in times.items()}
    ratios = {
        f"{precision}, against {way}": results[f"{precision}, {way}"]["cpu"]["median_s"]
        / results[f"{precision}, ours"]["cpu"]["median_s"]
        for precision in ("fp32", "bf16")
        for way in PADDED
    }
    for name, result in results.items():
        cpu = result["cpu"]
        print(
            f"{name:<32} {cpu['useful_tokens_per_s']:7.0f} useful tokens per CPU second"
            f"  ({cpu['min_s']:.2f} to {cpu['max_s']:.2f} s)"
        )
    for name, ratio in ratios.items():
        print(f"ours, {name:<40} {ratio:.2f} x")
    packs = len(packed(samples, PACK_TOKENS))
    _harness.write(
        options.out,
        "train_throughput",
        settings={
            "samples": len(samples),
            "useful_tokens": tokens,
            "parameters": sum(p.numel() for p in ours.parameters()),
            "trains": options.train,
            "pack_tokens": PACK_TOKENS,
            "pack_fill": tokens / (packs * PACK_TOKENS),
            "padded_batch": PADDED_BATCH,
            "packs": packs,
            "loss_sum": {"ours": mine, "transformers": other},
            "repeats": options.repeats,
        },
        results=results,
        packages=("torch", "transformers", "numpy"),
        ratios_cpu=ratios,
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
