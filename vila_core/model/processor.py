"""From text with `<image>` places and images to the model's tensors. Needs no torchvision."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from transformers import AddedToken, AutoTokenizer, BatchEncoding, PreTrainedTokenizerBase

from vila_core.errors import UserError
from vila_core.images import decode
from vila_core.jsonio import dumps

IMAGE_TOKEN = "<image>"
FILE_NAME = "processor_config.json"
Fit = Literal["resize", "pad", "crop"]
Shown = Image.Image | bytes  # an image, or the content of its file
_TORCH_FILTERS = {
    Image.Resampling.BILINEAR: "bilinear",
    Image.Resampling.BICUBIC: "bicubic",
    Image.Resampling.LANCZOS: "lanczos",
}
"""Pillow's filters that torch has too, antialiased and on uint8."""


class VilaProcessor:
    """The tokenizer and the image preprocessing of one model.

    `fit` says how an image becomes a square of `image_size` pixels: `resize` (distorts), `pad` (to
    a centred square of the mean colour, as the released code does) or `crop` (the shorter side is
    resized, the centre cut out, as CLIP's own processor does). `resample` is Pillow's filter; torch
    applies it to bytes, three times as fast as Pillow and within 2 of 255 levels of it. An image
    that has the size already keeps its pixels to the bit.
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
        resample: int = Image.Resampling.BICUBIC,
    ) -> None:
        self.tokenizer = tokenizer
        self.image_size = image_size
        self.tokens_per_image = tokens_per_image
        self.mean, self.std = tuple(mean), tuple(std)
        self.fit: Fit = fit
        self.resample = Image.Resampling(resample)
        self.image_token_id = int(tokenizer.convert_tokens_to_ids(IMAGE_TOKEN))  # type: ignore[arg-type]
        self._scale_C11 = 1 / (255 * torch.tensor(self.std)).reshape(3, 1, 1)
        self._shift_C11 = -torch.tensor(self.mean).reshape(3, 1, 1) / torch.tensor(
            self.std
        ).reshape(3, 1, 1)

    def image_transform(self, image: Image.Image) -> torch.Tensor:
        """Return an image as a normalised float32 tensor (3, image_size, image_size)."""
        pixels_HWC = self._square(image.convert("RGB"))
        return pixels_HWC.permute(2, 0, 1).float() * self._scale_C11 + self._shift_C11

    def transform_bytes(self, data: bytes) -> torch.Tensor:
        """Return an encoded image (a file's content) as `image_transform` does; the fast way.

        A JPEG is decoded at the smallest scale that still has `image_size` pixels on its shorter
        side. Training, evaluation and `vila ask` read images by this. Raises BadImage.
        """
        return self.image_transform(decode(data, at_least=self.image_size))

    def _pixels(self, image: Shown) -> torch.Tensor:
        if isinstance(image, bytes):
            return self.transform_bytes(image)
        return self.image_transform(image)

    def _square(self, image: Image.Image) -> torch.Tensor:
        """Return the image as a square of `image_size` pixels, (H, W, 3) uint8."""
        goal, (width, height) = self.image_size, image.size
        if width != height and self.fit == "pad":
            side = max(width, height)
            canvas = Image.new("RGB", (side, side), tuple(round(255 * v) for v in self.mean))
            canvas.paste(image, ((side - width) // 2, (side - height) // 2))
            image = canvas
        if width != height and self.fit == "crop":
            shorter = min(width, height)
            width, height = goal * width // shorter, goal * height // shorter
            left, top = (width - goal) // 2, (height - goal) // 2
            resized_HWC = self._resized(image, width, height)
            return resized_HWC[top : top + goal, left : left + goal]
        return self._resized(image, goal, goal)

    def _resized(self, image: Image.Image, width: int, height: int) -> torch.Tensor:
        """Return an RGB image resized with antialiasing, (height, width, 3) uint8."""
        mode = _TORCH_FILTERS.get(self.resample)
        if image.size != (width, height) and mode is None:
            image = image.resize((width, height), self.resample)
        pixels_HWC = torch.from_numpy(np.array(image))
        if image.size == (width, height):
            return pixels_HWC
        pixels_1CHW = pixels_HWC.permute(2, 0, 1)[None]  # in memory still HWC, torch's fast case
        resized_1CHW = F.interpolate(pixels_1CHW, (height, width), mode=mode or "", antialias=True)
        return resized_1CHW[0].permute(1, 2, 0)

    def expand(self, text: str) -> str:
        """Repeat each `<image>` once per visual token."""
        return text.replace(IMAGE_TOKEN, IMAGE_TOKEN * self.tokens_per_image)

    def __call__(
        self,
        text: str | Sequence[str],
        images: Sequence[Shown] | Sequence[Sequence[Shown]] = (),
        *,
        add_special_tokens: bool = True,
    ) -> BatchEncoding:
        """Encode prompts, left-padded for generation, and their images in reading order.

        `images` is one list for one text, or one list per text; encoded ones (bytes) are decoded as
        in training. Without `add_special_tokens` the
        tokenizer adds no BOS: a prompt of its own chat template has it already.

        Returns `input_ids` and `attention_mask` (B, T), and `pixel_values` (N, 3, H, W) when there
        are images. Raises ValueError when a text's `<image>` places differ from its images in
        number, and BadImage.
        """
        texts = [text] if isinstance(text, str) else list(text)
        lists = [images] if isinstance(text, str) else list(images) or [()] * len(texts)
        per_text = cast("list[Sequence[Shown]]", lists)
        if len(per_text) != len(texts):
            raise ValueError(f"{len(texts)} texts came with {len(per_text)} lists of images")
        for one, its_images in zip(texts, per_text, strict=True):
            if isinstance(its_images, Image.Image | bytes):
                raise ValueError("several texts need one list of images each, not one flat list")
            places = one.count(IMAGE_TOKEN)
            if places != len(its_images):
                raise ValueError(
                    f"{places} {IMAGE_TOKEN} places, {len(its_images)} images: {one[:80]!r}"
                )
        encoded = self.tokenizer(
            [self.expand(one) for one in texts],
            add_special_tokens=add_special_tokens,
            padding=True,
            padding_side="left",
            return_tensors="pt",
            return_token_type_ids=False,
        )
        pixels = [self._pixels(image) for its_images in per_text for image in its_images]
        if pixels:
            encoded["pixel_values"] = torch.stack(pixels)
        return encoded

    def settings(self) -> dict[str, Any]:
        """Return what decides how an image becomes pixels and takes places, as JSON-able values."""
        return {
            "image_size": self.image_size,
            "tokens_per_image": self.tokens_per_image,
            "mean": self.mean,
            "std": self.std,
            "fit": self.fit,
            "resample": int(self.resample),
        }

    def save_pretrained(self, folder: str | Path) -> None:
        """Write the tokenizer and processor_config.json."""
        self.tokenizer.save_pretrained(folder)
        values = {"processor_class": type(self).__name__, **self.settings()}
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


def load_tokenizer(folder: str | Path, *, vocabulary: int = 0) -> PreTrainedTokenizerBase:
    """Load a tokenizer; give it `<image>` as a special token, and padding, where missing.

    `vocabulary` is the number of the language model's embeddings. Raises UserError when the folder
    holds no tokenizer.
    """
    try:
        tokenizer = AutoTokenizer.from_pretrained(
            str(folder), local_files_only=True, trust_remote_code=False
        )
    except (OSError, ValueError, KeyError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise UserError(f"{folder}: holds no tokenizer that can be loaded: {reason}") from None
    if IMAGE_TOKEN not in tokenizer.get_vocab():
        # Some models have more embeddings than words (Qwen's): fill the ids up to the last one, so
        # that `<image>` comes after it.
        fillers = [f"<unused-row-{number}>" for number in range(len(tokenizer), vocabulary)]
        tokenizer.add_tokens([AddedToken(name, special=True) for name in fillers])
        tokenizer.add_special_tokens({"additional_special_tokens": [IMAGE_TOKEN]})
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer
