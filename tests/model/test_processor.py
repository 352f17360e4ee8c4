"""Images and prompts: CLIP's own pixels, places counted, saved and loaded."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from tests.model.folders import MEAN, STD, make_tokenizer
from vila_core.errors import UserError
from vila_core.model import VilaProcessor


def make(**settings: object) -> VilaProcessor:
    tokenizer = make_tokenizer()
    tokenizer.add_special_tokens({"additional_special_tokens": ["<image>"]})
    values = {"image_size": 24, "tokens_per_image": 3, "mean": MEAN, "std": STD, **settings}
    return VilaProcessor(tokenizer, **values)  # type: ignore[arg-type]


def picture(width: int, height: int) -> Image.Image:
    pixels = np.random.default_rng(width).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


@pytest.mark.parametrize("size", [(24, 24), (60, 60), (61, 40), (30, 97), (10, 17)])
def test_crop_gives_the_pixels_of_clips_own_processor(size: tuple[int, int]) -> None:
    theirs = CLIPImageProcessorPil(
        size={"shortest_edge": 24},
        crop_size={"height": 24, "width": 24},
        image_mean=MEAN,
        image_std=STD,
    )
    wanted = theirs(picture(*size), return_tensors="pt")["pixel_values"][0]
    ours = make(fit="crop").image_transform(picture(*size))
    assert ours.dtype == torch.float32
    torch.testing.assert_close(ours, wanted, atol=1e-5, rtol=0)


def test_prompts_are_padded_on_the_left_and_images_stand_in_order() -> None:
    processor = make()
    images = [picture(24, 24), picture(40, 24), picture(24, 50)]
    out = processor(["w4 <image> w5<image>", "<image> w6"], [images[:2], images[2:]])
    place = processor.image_token_id
    assert out["input_ids"].tolist() == [
        [4, place, place, place, 5, place, place, place],
        [0, 0, 0, 0, place, place, place, 6],
    ]
    assert out["attention_mask"].tolist() == [[1] * 8, [0] * 4 + [1] * 4]
    assert out["pixel_values"].shape == (3, 3, 24, 24)
    for image, pixels in zip(images, out["pixel_values"], strict=True):
        assert torch.equal(pixels, processor.image_transform(image))
    assert "pixel_values" not in processor("w4 w5")


def test_places_and_images_that_differ_are_named() -> None:
    processor = make()
    with pytest.raises(ValueError, match="2 <image> places, 1 images: 'w4 <image> <image>'"):
        processor("w4 <image> <image>", [picture(9, 9)])
    with pytest.raises(ValueError, match="one list of images each"):
        processor(["<image>", "<image>"], [picture(9, 9), picture(9, 9)])
    with pytest.raises(ValueError, match="2 texts came with 1 lists"):
        processor(["<image>", "<image>"], [[picture(9, 9)]])


def test_a_saved_processor_does_the_same(tmp_path: Path) -> None:
    processor = make(fit="crop", resample=2)
    processor.save_pretrained(tmp_path)
    again = VilaProcessor.from_pretrained(tmp_path)
    image = picture(50, 30)
    assert torch.equal(processor.image_transform(image), again.image_transform(image))
    assert not torch.equal(make(fit="crop").image_transform(image), again.image_transform(image))
    one, other = (each("w4 <image>", [image]) for each in (processor, again))
    assert torch.equal(one["input_ids"], other["input_ids"])
    stored = json.loads((tmp_path / "processor_config.json").read_text())
    assert (stored["fit"], stored["resample"]) == ("crop", 2)
    (tmp_path / "processor_config.json").unlink()
    with pytest.raises(UserError, match=r"no readable processor_config\.json"):
        VilaProcessor.from_pretrained(tmp_path)


def test_transparent_grey_and_palette_images_become_colour() -> None:
    for mode in ("L", "LA", "P", "RGBA", "CMYK", "1"):
        assert make().image_transform(picture(30, 20).convert(mode)).shape == (3, 24, 24)
