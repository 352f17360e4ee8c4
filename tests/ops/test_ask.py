"""`vila ask`'s way from files to the model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from tests.train.test_train_stages import make_parts
from vila_core.images import decode
from vila_core.model import build, save
from vila_core.model.presets import load_preset
from vila_ops import ask as asking


def test_the_model_sees_the_pixels_that_training_would_show_it(tmp_path: Path) -> None:
    parts = make_parts(tmp_path)
    preset = load_preset("miniature").model
    model, processor = build(parts["vision_tower"], parts["language_model"], preset)
    save(model, processor, tmp_path / "model")
    levels = np.random.default_rng(0).integers(0, 256, (200, 300, 3), dtype=np.uint8)
    photo = tmp_path / "photo.jpg"
    Image.fromarray(levels).save(photo)
    seen: list[torch.Tensor] = []

    def note(module: torch.nn.Module, inputs: Any) -> None:
        if isinstance(module, torch.nn.Conv2d):  # the tower's patches
            seen.append(inputs[0])

    images = asking.read_images([str(photo)])
    found = asking.Found(tmp_path / "model", "miniature", "here")
    handle = torch.nn.modules.module.register_module_forward_pre_hook(note)
    try:
        asking.ask(found, images, "q color of circle", template=None, max_new_tokens=2)
    finally:
        handle.remove()
    (pixels,) = seen
    trained_on = processor.transform_bytes(photo.read_bytes())
    assert torch.equal(pixels, trained_on[None])
    whole = processor.image_transform(decode(photo.read_bytes()))
    assert not torch.equal(trained_on, whole), "a JPEG this large is decoded at a smaller scale"
