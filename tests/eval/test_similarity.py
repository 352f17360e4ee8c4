"""Similarity of token sets against values worked out by hand, and a loop written out."""

from __future__ import annotations

import math

import pytest
import torch

from vila_core.eval.similarity import compare, match, pairwise_cosine


def test_the_two_one_sided_terms_differ() -> None:
    visual = torch.tensor([[1.0, 0.0], [0.0, 5.0]])
    text = torch.tensor([[3.0, 3.0], [0.0, 1.0], [2.0, 0.0]])
    found = compare(visual, text)
    assert found.visual_to_text == pytest.approx(1.0)  # both visual tokens have their text token
    assert found.text_to_visual == pytest.approx((math.sqrt(0.5) + 1 + 1) / 3)
    assert found.cosine == pytest.approx((math.sqrt(0.5) + 0 + 1 + math.sqrt(0.5) + 1 + 0) / 6)
    assert found.chamfer == pytest.approx((found.visual_to_text + found.text_to_visual) / 2)
    assert found.distance == pytest.approx(1 - found.chamfer)


def test_chamfer_is_what_the_loops_give() -> None:
    generator = torch.Generator().manual_seed(3)
    visual = torch.randn(5, 8, generator=generator)
    text = torch.randn(7, 8, generator=generator)

    def distance(left: torch.Tensor, right: torch.Tensor) -> float:
        cosine = (left @ right) / (left.norm() * right.norm())
        return 1 - float(cosine)

    forth = sum(min(distance(v, t) for t in text) for v in visual) / len(visual)
    back = sum(min(distance(v, t) for v in visual) for t in text) / len(text)
    assert compare(visual, text).distance == pytest.approx((forth + back) / 2, abs=1e-6)


def test_lengths_play_no_part_and_sets_have_no_order() -> None:
    generator = torch.Generator().manual_seed(4)
    visual = torch.randn(4, 6, generator=generator)
    text = torch.randn(3, 6, generator=generator)
    found = compare(visual, text)
    other = compare(7 * visual.flip(0), 0.01 * text.flip(0))
    assert other.chamfer == pytest.approx(found.chamfer, abs=1e-6)
    assert other.cosine == pytest.approx(found.cosine, abs=1e-6)
    # Turned around, the two terms change places.
    assert compare(text, visual).text_to_visual == pytest.approx(found.visual_to_text, abs=1e-6)


def test_the_same_set_is_at_distance_0_and_a_zero_vector_is_no_error() -> None:
    tokens = torch.eye(3)
    assert compare(tokens, tokens).distance == pytest.approx(0)
    assert pairwise_cosine(torch.zeros(1, 3), tokens).tolist() == [[0, 0, 0]]


def test_a_set_without_tokens_is_refused() -> None:
    with pytest.raises(ValueError, match="0 visual and 2 text tokens"):
        compare(torch.zeros(0, 3), torch.eye(3)[:2])


def test_match_sees_through_a_shared_direction() -> None:
    """Raw cosines are near 1 for all pairs here; what is said is in the small rest."""
    words = torch.eye(4)[:3] * 0.1
    shared = torch.tensor([0.0, 0.0, 0.0, 10.0])
    right = torch.tensor([0, 1, 2, 2, 1, 0])
    images = words[right] + shared
    assert match(images, words - shared, right) == [True] * 6
    wrong = (right + 1) % 3
    assert match(images, words - shared, wrong) == [False] * 6
