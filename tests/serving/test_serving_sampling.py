"""Words are drawn as asked for: from the right distribution, and the same again by a seed."""

from __future__ import annotations

from collections import Counter

import pytest
import torch

from vila_ops.serving.sampling import Sampling, choose

LOGITS = torch.log(torch.tensor([[0.5, 0.25, 0.15, 0.07, 0.03]]))


def draws(count: int, **how: float) -> Counter[int]:
    one = Sampling(seed=7, **how)  # type: ignore[arg-type]
    return Counter(choose(LOGITS, [one])[0] for _ in range(count))


def test_temperature_zero_takes_the_likeliest() -> None:
    assert set(draws(50, temperature=0.0)) == {0}
    assert set(draws(50, temperature=1.0, top_p=0.0)) == {0}
    assert set(draws(50, temperature=1e-9)) == {0}


@pytest.mark.parametrize(
    ("how", "expected"),
    [
        ({"temperature": 1.0}, [0.5, 0.25, 0.15, 0.07, 0.03]),
        # Squares of the probabilities, to the sum of one.
        ({"temperature": 0.5}, [0.7356, 0.1839, 0.0662, 0.0144, 0.0026]),
        # The fewest words whose sum is at least top_p: two of 0.75, three of 0.9.
        ({"temperature": 1.0, "top_p": 0.75}, [2 / 3, 1 / 3, 0, 0, 0]),
        ({"temperature": 1.0, "top_p": 0.76}, [0.5 / 0.9, 0.25 / 0.9, 0.15 / 0.9, 0, 0]),
        ({"temperature": 1.0, "top_p": 0.01}, [1, 0, 0, 0, 0]),
    ],
)
def test_words_come_as_often_as_they_should(how: dict[str, float], expected: list[float]) -> None:
    count = 4_000
    found = draws(count, **how)
    for word, probability in enumerate(expected):
        if probability in (0, 1):
            assert found[word] == count * probability
        else:
            spread = (probability * (1 - probability) / count) ** 0.5
            assert abs(found[word] / count - probability) < 4.5 * spread


def test_a_seed_draws_the_same_whoever_else_is_there() -> None:
    torch.manual_seed(0)
    steps = [torch.randn(3, 50) for _ in range(30)]

    def alone(seed: int | None) -> list[int]:
        one = Sampling(1.0, 0.9, seed)
        return [choose(step[1:2], [one])[0] for step in steps]

    others = [Sampling(1.0, 0.5, 1), Sampling(1.0, 0.9, 42), Sampling()]
    together = [choose(step, others)[1] for step in steps]
    assert together == alone(42)
    assert alone(43) != together
    assert alone(None) != alone(None)


def test_a_greedy_neighbour_draws_nothing() -> None:
    torch.manual_seed(1)
    logits = torch.randn(2, 50)
    assert choose(logits, [Sampling(), Sampling(1.0, 1.0, 3)])[0] == int(logits[0].argmax())


def test_what_is_no_number_is_told() -> None:
    logits = torch.tensor([[0.0, 1.0], [float("nan"), 1.0], [float("-inf")] * 2, [0.0, -torch.inf]])
    hot = Sampling(1.0, 0.5, 0)
    assert choose(logits, [Sampling()] * 4) == [1, -1, -1, 0]
    assert choose(logits[[1, 3]], [hot, hot]) == [-1, 0]
