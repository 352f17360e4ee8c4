"""From text with `<image>` places and images to the model's tensors. Needs no torchvision."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import torch
from PIL import Image
from transformers import AutoTokenizer, BatchEncoding, PreTrainedTokenizerBase

from vila_core.errors import UserError
from vila_core.jsonio import dumps

IMAGE_TOKEN = "<image>"
FILE_NAME = "processor_config.json"
Fit = Literal["resize", "pad", "crop"]


class VilaProcessor:
    """The tokenizer and the image preprocessing of one model.

    `fit` says how an image becomes a square of `image_size` pixels: `resize` (distorts), `pad` (to
    a centred square of the mean colour, as the released code does) or `crop` (its centre square).
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        *,
        image_size: int,
        tokens_per_image: int,
        mean: Sequence[float],
        std: Sequence[float],
        fit: Fit = "pad",
    ) -> None:
        self.tokenizer = tokenizer
        self.image_size = image_size
        self.tokens_per_image = tokens_per_image
        self.mean, self.std = tuple(mean), tuple(std)
        self.fit: Fit = fit
        self.image_token_id = int(tokenizer.convert_tokens_to_ids(IMAGE_TOKEN))  # type: ignore[arg-type]
        self._scale_C11 = 1 / (255 * torch.tensor(self.std)).reshape(3, 1, 1)
        self._shift_C11 = -torch.tensor(self.mean).reshape(3, 1, 1) / torch.tensor(
            self.std
        ).reshape(3, 1, 1)

    def image_transform(self, image: Image.Image) -> torch.Tensor:
        """Return an image as a normalised float32 tensor (3, image_size, image_size)."""
        image = _square(image.convert("RGB"), self.fit, self.mean)
        if image.size != (self.image_size, self.image_size):
            image = image.resize((self.image_size, self.image_size), Image.Resampling.BICUBIC)
        pixels_HWC = torch.from_numpy(np.array(image))
        return pixels_HWC.permute(2, 0, 1).float() * self._scale_C11 + self._shift_C11

    def expand(self, text: str) -> str:
        """Repeat each `<image>` once per visual token."""
        return text.replace(IMAGE_TOKEN, IMAGE_TOKEN * self.tokens_per_image)

    def __call__(
        self,
        text: str | Sequence[str],
        images: Sequence[Image.Image] | Sequence[Sequence[Image.Image]] = (),
    ) -> BatchEncoding:
        """Encode prompts, left-padded for generation, and their images in reading order.

        `images` is one list for one text, or one list per text. Returns `input_ids` and
        `attention_mask` (B, T), and `pixel_values` (N, 3, H, W) when there are images. Raises
        ValueError when a text's `<image>` places differ from its images in number.
        """
        texts = [text] if isinstance(text, str) else list(text)
        lists = [images] if isinstance(text, str) else list(images) or [()] * len(texts)
        per_text = cast("list[Sequence[Image.Image]]", lists)
        if len(per_text) != len(texts):
            raise ValueError(f"{len(texts)} texts came with {len(per_text)} lists of images")
        for one, its_images in zip(texts, per_text, strict=True):
            places = one.count(IMAGE_TOKEN)
            if places != len(its_images):
                raise ValueError(
                    f"{places} {IMAGE_TOKEN} places, {len(its_images)} images: {one[:80]!r}"
                )
        encoded = self.tokenizer(
            [self.expand(one) for one in texts],
            padding=True,
            padding_side="left",
            return_tensors="pt",
            return_token_type_ids=False,
        )
        pixels = [self.image_transform(image) for its_images in per_text for image in its_images]
        if pixels:
            encoded["pixel_values"] = torch.stack(pixels)
        return encoded

    def save_pretrained(self, folder: str | Path) -> None:
        """Write the tokenizer and processor_config.json."""
        self.tokenizer.save_pretrained(folder)
        values = {
            "processor_class": type(self).__name__,
            "image_size": self.image_size,
            "tokens_per_image": self.tokens_per_image,
            "mean": self.mean,
            "std": self.std,
            "fit": self.fit,
        }
        (Path(folder) / FILE_NAME).write_text(dumps(values, indent=2) + "\n")

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> VilaProcessor:
        """Load what `save_pretrained` wrote. Raises UserError if it is not there."""
        path = Path(folder) / FILE_NAME
        try:
            values: dict[str, Any] = json.loads(path.read_text())
        except (OSError, ValueError):
            raise UserError(
                f"{folder}: is not a VILA model folder: no readable {FILE_NAME}"
            ) from None
        values.pop("processor_class", None)
        return cls(load_tokenizer(folder), **values)


def load_tokenizer(folder: str | Path) -> PreTrainedTokenizerBase:
    """Load a tokenizer; give it `<image>`, beyond the vocabulary, and padding, where missing."""
    tokenizer = AutoTokenizer.from_pretrained(str(folder), local_files_only=True)
    if IMAGE_TOKEN not in tokenizer.get_vocab():
        tokenizer.add_special_tokens({"additional_special_tokens": [IMAGE_TOKEN]})
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def _square(image: Image.Image, fit: Fit, mean: Sequence[float]) -> Image.Image:
    width, height = image.size
    if width == height or fit == "resize":
        return image
    if fit == "crop":
        side = min(width, height)
        left, top = (width - side) // 2, (height - side) // 2
        return image.crop((left, top, left + side, top + side))
    side = max(width, height)
    canvas = Image.new("RGB", (side, side), tuple(round(255 * value) for value in mean))
    canvas.paste(image, ((side - width) // 2, (side - height) // 2))
    return canvas
