"""One process that trains a small model and prints its true peak memory beside the estimate.

Run as `python peak.py JSON`; Linux only, as the peak is the kernel's (VmHWM), from which what the
imports took is subtracted.
"""

from __future__ import annotations

import itertools
import json
import random
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch

from vila_core.model import VilaForConditionalGeneration, build_preset, freeze, load_preset
from vila_core.model.presets import Preset
from vila_core.train import estimate
from vila_core.train.config import TrainConfig
from vila_core.types import Batch

LLAMA = {"hidden_size": 256, "intermediate_size": 688, "num_hidden_layers": 6, "vocab_size": 4000}
CLIP = {"model_type": "clip_vision_model", "projection_dim": 64, "hidden_size": 96}
MODELS: dict[str, dict[str, dict[str, Any]]] = {
    "miniature": {},
    "llama, clip, linear": {
        "model": {"projector": "linear", "vision_feature_select": "patch"},
        "vision_config": CLIP,
        "text_config": LLAMA,
    },
    "grouped heads, siglip, downsampling": {
        "text_config": {**LLAMA, "num_key_value_heads": 2, "tie_word_embeddings": False}
    },
    "qwen2, siglip, mlp2x_gelu": {
        "model": {"projector": "mlp2x_gelu"},
        "text_config": {**LLAMA, "model_type": "qwen2", "hidden_size": 384, "vocab_size": 2000},
    },
}


def build(name: str, trains: tuple[str, ...], *, device: str = "cpu") -> Any:
    """Return the model `name`, with the parts `trains` unfrozen."""
    values = load_preset("miniature").model_dump()
    for part, changes in MODELS[name].items():
        values[part] = {**values[part], **changes}
    with torch.device(device):
        model = build_preset(Preset.model_validate(values))
    freeze(model, trains)
    return model.train()


def pack(
    model: VilaForConditionalGeneration, samples: list[tuple[int, int]]
) -> tuple[Batch, estimate.Load]:
    """Return a pack of samples of (images, text tokens), and what it holds.

    The second half of each sample's text is supervised.
    """
    generator = torch.Generator().manual_seed(0)
    config = model.config
    ids: list[int] = []
    labels: list[int] = []
    bounds = [0]
    for images, words in samples:
        prefix = [config.image_token_id] * (images * config.tokens_per_image)
        top = config.text_config.vocab_size
        text = torch.randint(0, top, (words,), generator=generator).tolist()
        hidden = len(prefix) + words // 2
        labels += [-100] * hidden + text[words // 2 :]
        ids += prefix + text
        bounds.append(len(ids))
    count = sum(images for images, _ in samples)
    size = config.vision_config.image_size
    tensors = {
        "input_ids": torch.tensor([ids]),
        "labels": torch.tensor([labels]),
        "cu_seqlens": torch.tensor(bounds, dtype=torch.int32),
        "pixel_values": torch.randn(count, 3, size, size, generator=generator),
    }
    supervised = sum(label != -100 for label in labels)
    lengths = [end - start for start, end in itertools.pairwise(bounds)]
    load = estimate.Load(
        packs=1,
        tokens=len(ids),
        images=count,
        supervised=supervised,
        squares=sum(length**2 for length in lengths),
        text_only=float(count == 0),
    )
    return Batch(tensors, supervised, len(ids), count, ("sample",)), load


def status(field: str) -> int:
    """Return a field of /proc/self/status, in bytes."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1]) * 1024
    raise KeyError(field)


class Packs:
    """A `StepSource` of two equal packs per step."""

    fingerprint = "packs"

    def __init__(self, batch: Batch) -> None:
        self.batch = batch

    def initial_state(self) -> dict[str, Any]:
        return {}

    def steps(self, state: Any) -> Any:
        while True:
            yield [self.batch, self.batch], {}


def main(settings: dict[str, Any]) -> None:
    from vila_core.train.loop import fit
    from vila_core.train.loss import vila_loss

    torch.set_num_threads(1)
    random.seed(0)
    trains = tuple(settings["trains"])
    warm = build("miniature", trains)  # what is loaded on first use belongs to the baseline
    config = TrainConfig(
        steps=2,
        lr=1e-4,
        packs_per_step=2,
        save_every=0,
        engine=settings.get("engine", "plain"),
        zero_stage=settings.get("zero_stage", 0),
        precision=settings.get("precision", "fp32"),
        device="cpu",
    )
    with tempfile.TemporaryDirectory() as folder:
        small, _ = pack(warm, [(1, 20)])
        fit(warm, Packs(small), config, loss_fn=vila_loss, out_dir=Path(folder))
    del warm
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    baseline = status("VmRSS")
    model = build(settings["model"], trains)
    batch, load = pack(model, [tuple(sample) for sample in settings["samples"]])
    with tempfile.TemporaryDirectory() as folder:
        fit(model, Packs(batch), config, loss_fn=vila_loss, out_dir=Path(folder))
    measured = status("VmHWM") - baseline
    planned = estimate.memory(
        estimate.shape_of(model),
        load,
        trains,
        precision=config.precision,
        zero_stage=config.zero_stage,
        ranks=1,
        cpu=True,
    ).total()
    print(json.dumps({"measured": measured, "estimate": planned}))


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
