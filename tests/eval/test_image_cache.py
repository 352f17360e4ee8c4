"""Images that are shown again go through the vision tower once, and answers stay the same."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.eval.test_generate import ask, noise, prompts, seeing_generator
from vila_core.eval.generate import Generator
from vila_core.eval.image_cache import ImageFeatures

CPU = torch.device("cpu")
SIZE = 4 * 5 * 4  # bytes of an image's features below


@pytest.fixture
def images(tmp_path: Path) -> list[Path]:
    return noise(tmp_path)


def caching() -> tuple[Generator, list[int]]:
    """The model with a cache, and the numbers of images that its tower is shown at a time."""
    made = seeing_generator()
    shown: list[int] = []

    def see(pixels: torch.Tensor) -> torch.Tensor:
        shown.append(len(pixels))
        return made.model.tower_features(pixels)

    return Generator(made.model, made.tokenizer, made.expand, made.load_image, see=see), shown


@pytest.mark.parametrize("size", [1, 7, 128])
@pytest.mark.parametrize("blind", [False, True])
def test_answers_and_likelihoods_stay_and_the_tower_sees_each_image_once(
    images: list[Path], size: int, blind: bool
) -> None:
    asked, choices = prompts(30, images), [[" red", " blue . green"]] * 30
    cached, shown = caching()
    plain = seeing_generator()
    for _ in range(2):
        assert ask(cached, asked, size, blind=blind) == ask(plain, asked, size, blind=blind)
        nats = [
            dict(pair for batch in each.likelihoods(asked, choices, blind=blind) for pair in batch)
            for each in (cached, plain)
        ]
        for n in range(30):
            assert nats[0][n] == pytest.approx(nats[1][n], abs=1e-4)
    assert sum(shown) == (1 if blind else 3)


def counted(most_bytes: int) -> tuple[ImageFeatures, list[str]]:
    loaded: list[str] = []

    def load(image: object) -> torch.Tensor:
        loaded.append(str(image))
        return torch.full((3, 2, 2), float(ord(str(image))))

    def see(pixels: torch.Tensor) -> torch.Tensor:
        return pixels[:, 0, :1, :1].expand(-1, 4, 5)

    return ImageFeatures(load, see, most_bytes), loaded


def show(features: ImageFeatures, names: str) -> str:
    found = features.of([Path(name) for name in names], False, CPU)
    assert found.shape == (len(names), 4, 5)
    return "".join(chr(int(one[0, 0])) for one in found)


def test_the_cache_has_a_bound_and_drops_what_was_not_shown_for_longest() -> None:
    features, loaded = counted(2 * SIZE)
    for names in ("aab", "a", "ac", "ca", "b", "abcd"):
        assert show(features, names) == names
    # `c` took the place of `b`, which then took that of `c`: the last shown was `a`.
    assert "".join(loaded) == "abcbcd"
    features, loaded = counted(SIZE - 1)
    assert show(features, "aa") + show(features, "a") == "aaa"
    assert loaded == ["a", "a"]


def test_no_image_is_grey() -> None:
    features, _ = counted(10 * SIZE)
    assert show(features, "a") == "a"
    blind = features.of([Path("a"), Path("b")], True, CPU)
    assert blind.shape == (2, 4, 5)
    assert not blind.any()
