"""Train the miniature's vision tower as SigLIP is trained: pictures against their captions.

Batch shapes: N pairs, L tokens of the longest caption, D embedding width.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F
from transformers import SiglipTextConfig, SiglipTextModel, SiglipVisionConfig, SiglipVisionModel

from vila_core.jsonio import digest, dumps
from vila_core.miniature.config import TowerConfig
from vila_core.miniature.digits import load_digits, render_digits
from vila_core.miniature.scenes import IMAGE_SIZE, draw_scene, render
from vila_core.miniature.words import VOCABULARY_SIZE, build_tokenizer
from vila_core.types import Batch

STREAM = 5
_MEAN = _STD = 0.5


class PicturePairs(nn.Module):
    """A vision tower beside a small text tower, joined by the pairwise sigmoid loss.

    Only the vision tower is kept after training, as with CLIP and SigLIP.
    """

    def __init__(self, vision: Mapping[str, Any]) -> None:
        super().__init__()
        self.vision = SiglipVisionModel(SiglipVisionConfig(**vision))
        # Attention starts as doing nothing, so that a patch's feature stays about that patch. With
        # the usual start every feature holds a mean of all, and the language model, which sees
        # only features, can hardly tell which colour belongs to which shape.
        for name, weight in self.vision.named_parameters():
            if name.endswith("self_attn.out_proj.weight"):
                nn.init.zeros_(weight)
        width = self.vision.config.hidden_size
        self.text = SiglipTextModel(
            SiglipTextConfig(
                vocab_size=VOCABULARY_SIZE,
                hidden_size=width,
                intermediate_size=2 * width,
                num_hidden_layers=1,
                num_attention_heads=4,
                max_position_embeddings=32,
                projection_size=width,
                pad_token_id=0,
                bos_token_id=1,
                eos_token_id=2,
            )
        )
        self.from_vision = nn.Linear(width, width)
        self.from_text = nn.Linear(width, width)
        # SigLIP (arXiv 2303.15343, section 3.2) starts from log 10 and -10 for batches of 16k and
        # more; the smaller bias is for batches of about a hundred.
        self.log_scale = nn.Parameter(torch.tensor(2.3))
        self.bias = nn.Parameter(torch.tensor(-5.0))

    def forward(
        self, pixel_values: torch.Tensor, input_ids: torch.Tensor, attention_mask: torch.Tensor
    ) -> torch.Tensor:
        """Return the similarity of every picture with every caption: (N, N), before the sigmoid."""
        seen_ND = self.vision(pixel_values).last_hidden_state.mean(1)
        read_NLD = self.text(input_ids, attention_mask=attention_mask).last_hidden_state
        mask_NL1 = attention_mask[..., None].to(read_NLD.dtype)
        read_ND = (read_NLD * mask_NL1).sum(1) / mask_NL1.sum(1)
        seen_ND = F.normalize(self.from_vision(seen_ND), dim=-1)
        read_ND = F.normalize(self.from_text(read_ND), dim=-1)
        return seen_ND @ read_ND.T * self.log_scale.exp() + self.bias


def sigmoid_loss(model: nn.Module, batch: Batch) -> torch.Tensor:
    """Return SigLIP's loss, summed over the pictures of the batch.

    Captions of this small world come twice in a batch; a picture matches each of its equals.
    """
    tensors = dict(batch.tensors)
    captions_N = tensors.pop("captions")
    logits_NN = model(**tensors)
    same_NN = captions_N[:, None] == captions_N[None, :]
    return -F.logsigmoid(torch.where(same_NN, logits_NN, -logits_NN)).sum()


class PairSource:
    """Batches of pictures and captions from a pool that is drawn once from the seed."""

    def __init__(self, config: TowerConfig) -> None:
        rng = np.random.default_rng([STREAM, config.seed])
        train, _ = load_digits()
        digits = round(config.pool * config.digit_share)
        single = round(config.pool * config.single_share)
        counts = [1] * single + [2 + n % 2 for n in range(config.pool - digits - single)]
        scenes = [draw_scene(rng, count) for count in counts]
        scans = train.take(rng.permutation(np.resize(np.arange(len(train)), digits)))
        captions = [scene.caption for scene in scenes]
        captions += [f"digit {label}" for label in scans.labels_N]
        self._pixels = np.concatenate([render(scenes, rng), render_digits(scans, rng)])
        encoded = build_tokenizer()(
            [f"{caption} ." for caption in captions],
            padding=True,
            padding_side="right",
            return_tensors="pt",
        )
        self._ids, self._mask = encoded["input_ids"], encoded["attention_mask"]
        numbers = {caption: n for n, caption in enumerate(dict.fromkeys(captions))}
        self._captions = torch.tensor([numbers[caption] for caption in captions])
        self._config = config
        self.fingerprint = digest({"pairs": config.model_dump(mode="json", exclude={"vision"})})

    def initial_state(self) -> dict[str, Any]:
        """Return the state before the first step."""
        return {"step": 0}

    def steps(self, state: Mapping[str, Any]) -> Iterator[tuple[list[Batch], dict[str, Any]]]:
        """Yield one batch per step; which pictures it holds follows from the step's number."""
        step = int(state["step"])
        while True:
            rng = np.random.default_rng([STREAM, self._config.seed, step])
            step += 1
            yield (
                [self._batch(rng.integers(len(self._pixels), size=self._config.batch))],
                {"step": step},
            )

    def _batch(self, chosen: np.ndarray) -> Batch:
        rows = torch.from_numpy(chosen)
        longest = int(self._mask[rows].sum(1).max())
        tensors = {
            "pixel_values": to_tensor(self._pixels[chosen]),
            "input_ids": self._ids[rows, :longest],
            "attention_mask": self._mask[rows, :longest],
            "captions": self._captions[rows],
        }
        count = len(chosen)
        tokens = int(self._mask[rows].sum())
        return Batch(tensors, supervised=count, num_tokens=tokens, num_images=count)


def to_tensor(pixels_NYXC: np.ndarray) -> torch.Tensor:
    """Return uint8 pictures (N, H, W, 3) as the tower takes them: float (N, 3, H, W), -1 to 1."""
    pixels = torch.from_numpy(pixels_NYXC).permute(0, 3, 1, 2).float() / 255
    return (pixels - _MEAN) / _STD


def save_tower(model: PicturePairs, folder: Path) -> None:
    """Write the vision tower as a transformers folder, with what its images need."""
    model.vision.save_pretrained(folder)
    settings = {
        "image_processor_type": "SiglipImageProcessor",
        "do_resize": True,
        "size": {"height": IMAGE_SIZE, "width": IMAGE_SIZE},
        "resample": 3,
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": [_MEAN] * 3,
        "image_std": [_STD] * 3,
    }
    (folder / "preprocessor_config.json").write_text(dumps(settings, indent=2) + "\n")
