"""Images and prompts: CLIP's own pixels, places counted, saved and loaded."""

from __future__ import annotations

import io
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
def test_crop_is_clips_own_processor_but_for_rounding(size: tuple[int, int]) -> None:
    theirs = CLIPImageProcessorPil(
        size={"shortest_edge": 24},
        crop_size={"height": 24, "width": 24},
        image_mean=MEAN,
        image_std=STD,
    )
    wanted = theirs(natural(*size), return_tensors="pt")["pixel_values"][0]
    ours = make(fit="crop").image_transform(natural(*size))
    assert ours.dtype == torch.float32
    levels = (ours - wanted).abs() * 255 * torch.tensor(STD).reshape(3, 1, 1)
    # theirs resizes with Pillow; where nothing is resized, nothing differs
    assert levels.max() < (0.01 if size == (24, 24) else 2.01)
    assert levels.mean() < 0.25


def by_pillow(image: Image.Image, fit: str, goal: int, resample: int) -> np.ndarray:
    """The definition of the three fits: full decode, Pillow's resize; (goal, goal, 3)."""
    width, height = image.size
    if fit == "pad":
        side = max(width, height)
        square = Image.new("RGB", (side, side), tuple(round(255 * v) for v in MEAN))
        square.paste(image, ((side - width) // 2, (side - height) // 2))
        image = square
    if fit == "crop":
        shorter = min(width, height)
        width, height = goal * width // shorter, goal * height // shorter
        left, top = (width - goal) // 2, (height - goal) // 2
        box = (left, top, left + goal, top + goal)
        return np.asarray(image.resize((width, height), resample).crop(box)).astype(float)
    return np.asarray(image.resize((goal, goal), resample)).astype(float)


def levels_of(pixels_CHW: torch.Tensor) -> np.ndarray:
    """Undo the normalisation: (H, W, 3) in 0 to 255."""
    back = pixels_CHW * torch.tensor(STD).reshape(3, 1, 1) + torch.tensor(MEAN).reshape(3, 1, 1)
    return (255 * back).permute(1, 2, 0).numpy()


def natural(width: int, height: int) -> Image.Image:
    """Noise on all scales, the finer the weaker: a spectrum like a photo's."""
    rng = np.random.default_rng(width)
    total = np.zeros((height, width, 3))
    for level in range(1, 8):
        cells = rng.normal(size=(max(height >> level, 2), max(width >> level, 2), 3))
        shade = Image.fromarray((128 + 40 * cells).clip(0, 255).astype(np.uint8))
        wide = shade.resize((width, height), Image.Resampling.BICUBIC)
        total += (np.asarray(wide).astype(float) - 128) * 2.0 ** (level - 7)
    return Image.fromarray((128 + total).clip(0, 255).astype(np.uint8))


@pytest.mark.parametrize("resample", [0, 1, 2, 3, 4, 5])
@pytest.mark.parametrize("fit", ["resize", "pad", "crop"])
def test_pixels_are_within_two_levels_of_pillows(fit: str, resample: int) -> None:
    for size in ((160, 120), (96, 200), (40, 40), (51, 33)):
        image = natural(*size)
        processor = make(fit=fit, resample=resample, image_size=48)
        found = levels_of(processor.image_transform(image))
        off = np.abs(found - by_pillow(image, fit, 48, resample))
        assert off.max() < (2.01 if resample in (1, 2, 3) else 0.01), (size, off.max())
        assert off.mean() < 0.25  # rounding between the two passes, whose order differs


@pytest.mark.parametrize("fit", ["resize", "pad", "crop"])
def test_scaled_decoding_stays_near_the_full_decode(fit: str) -> None:
    processor = make(fit=fit, image_size=48)
    for size in ((410, 300), (200, 500), (128, 128)):
        file = io.BytesIO()
        natural(*size).save(file, "JPEG", quality=90)
        image = Image.open(file).convert("RGB")
        found = levels_of(processor.transform_bytes(file.getvalue()))
        off = np.abs(found - by_pillow(image, fit, 48, 3))
        assert off.mean() < 1, (size, off.mean())
        assert off.max() < (40 if fit == "pad" else 16), (size, off.max())  # the padding's edge


@pytest.mark.parametrize("fit", ["resize", "pad", "crop"])
def test_an_image_of_the_right_size_keeps_its_pixels_to_the_bit(fit: str) -> None:
    image, file = picture(24, 24), io.BytesIO()
    image.save(file, "PNG")
    pixels_HWC = torch.from_numpy(np.array(image))
    scale = 1 / (255 * torch.tensor(STD)).reshape(3, 1, 1)
    shift = -torch.tensor(MEAN).reshape(3, 1, 1) / torch.tensor(STD).reshape(3, 1, 1)
    wanted = pixels_HWC.permute(2, 0, 1).float() * scale + shift
    processor = make(fit=fit)
    assert torch.equal(processor.image_transform(image), wanted)
    assert torch.equal(processor.transform_bytes(file.getvalue()), wanted)


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


def test_encoded_images_are_decoded_as_in_training() -> None:
    processor = make()
    file = io.BytesIO()
    natural(410, 300).save(file, "JPEG", quality=90)
    data, whole = file.getvalue(), natural(410, 300)
    (one, other) = processor("<image> <image>", [data, whole])["pixel_values"]
    assert torch.equal(one, processor.transform_bytes(data))
    assert torch.equal(other, processor.image_transform(whole))
    with pytest.raises(ValueError, match="one list of images each"):
        processor(["<image>", "<image>"], [data, data])


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
