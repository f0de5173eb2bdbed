"""The largest of many numbers, against sorting them all."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lightning_circuits.weights.choosing import largest

FLOATS = st.floats(width=32, allow_nan=False) | st.sampled_from([0.0, -0.0, 1.0, -1.0, float("inf"), -float("inf")])


@given(st.lists(FLOATS, min_size=1, max_size=40), st.data())
def test_they_are_the_first_of_a_stable_sort(numbers: list[float], data: st.DataObject) -> None:
    n = data.draw(st.integers(0, len(numbers)))
    cut = data.draw(st.integers(0, len(numbers)))
    parts = {"a": torch.tensor(numbers[:cut]), "b": torch.tensor(numbers[cut:])}
    found = largest(parts, n)
    best = sorted(range(len(numbers)), key=lambda i: -numbers[i])[:n]
    assert torch.cat([found["a"], found["b"]]).nonzero()[:, 0].tolist() == sorted(best)


@pytest.mark.parametrize(("n", "message"), [(-1, "-1 of 2 weights"), (3, "3 of 2 weights")])
def test_a_number_that_cannot_be_chosen(n: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        largest({"a": torch.zeros(2)}, n)


def test_what_has_no_rank_is_named() -> None:
    with pytest.raises(ValueError, match="b holds NaN"):
        largest({"a": torch.zeros(2), "b": torch.tensor([torch.nan])}, 1)
