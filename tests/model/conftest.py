from __future__ import annotations

import pytest
import torch

from vila_core.model import VilaForConditionalGeneration, build_preset, load_preset


@pytest.fixture
def model() -> VilaForConditionalGeneration:
    """The miniature model with random weights, spread enough that greedy answers vary."""
    torch.manual_seed(0)
    made = build_preset(load_preset("miniature"))
    with torch.no_grad():
        for parameter in made.parameters():
            if parameter.dim() > 1:
                parameter.normal_(std=0.2)
    return made.eval()


def sample(model: VilaForConditionalGeneration, images: int, words: int, seed: int) -> list[int]:
    """Ids of a sample: images, each after two words, then words."""
    generator = torch.Generator().manual_seed(seed)
    config = model.config

    def draw(n: int) -> list[int]:
        return torch.randint(0, config.text_config.vocab_size, (n,), generator=generator).tolist()

    ids: list[int] = []
    for _ in range(images):
        ids += draw(2) + [config.image_token_id] * config.tokens_per_image
    return ids + draw(words)
