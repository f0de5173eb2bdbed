"""What an object was made with is read again from what it keeps, whoever wrote its class."""

from __future__ import annotations

import json
import re
from enum import Enum
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from lightning_circuits.arguments import UNKNOWN, as_data, hash_of_numbers, options_of
from lightning_circuits.gates import Gate, HardConcrete, L0Penalty
from lightning_circuits.measures import kl_divergence
from lightning_circuits.objectives import KL, MatchLogitDifference


class Priced(Gate):
    def __init__(self, price: float = 1.0, *rest: Any, **more: Any) -> None:
        super().__init__()
        self.price = price


class Dear(Priced):
    """Settles what its base leaves open."""

    def __init__(self, colour: str = "red") -> None:
        super().__init__(price=9.0)
        self.colour = colour


class Forgets:
    def __init__(self, call: int) -> None:
        self.left = call


class Colour(Enum):
    RED = 1
    BLUE = 2


def weighted(weight: float) -> Any:
    def objective(logits: Any, batch: Any, full_logits: Any) -> Any:
        return weight * kl_divergence(logits, full_logits)

    return objective


def test_options_are_read_from_all_classes_above() -> None:
    assert options_of(Priced(2.0)) == {"price": 2.0}
    assert options_of(Dear("blue")) == {"colour": "blue", "price": 9.0}
    assert options_of(HardConcrete(L0Penalty(3.0))) == {
        "sparsity": {"class": "L0Penalty", "weight": 3.0}, "start_at": 2.0,
    }  # fmt: skip
    assert options_of(HardConcrete(), leave_out=["sparsity"]) == {"start_at": 2.0}


def test_what_is_not_kept_is_unknown() -> None:
    assert options_of(Forgets(3)) == {"call": UNKNOWN}
    assert as_data(lambda logits, batch, full: logits) == UNKNOWN


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (1, 2), (0.5, 0.25), (True, 1.5), ("a", "b"), (None, 0), ([1, 2], [2, 1]), ({"a": 1}, {"a": 2}), ({1}, {2}),
        (Path("a"), Path("b")), (Colour.RED, Colour.BLUE), (torch.float32, torch.float64), (KL(), Priced()),
        (MatchLogitDifference(0.1), MatchLogitDifference(0.2)), (torch.zeros(3), torch.ones(3)), (KL, Priced),
        (torch.zeros(3), torch.zeros(3, dtype=torch.float64)), (torch.zeros(3), torch.zeros(1, 3)),
        (np.zeros(3), np.ones(3)), (np.float32(0.5), np.float32(0.25)), (kl_divergence, weighted),
        (weighted(1), weighted(2)), (partial(kl_divergence, 1), partial(kl_divergence, 2)),
        (partial(weighted, weight=1), partial(weighted, weight=2)),
        (MatchLogitDifference(0.1).__call__, MatchLogitDifference(0.2).__call__), (nn.Dropout(0.1), nn.Dropout(0.2)),
    ],
    ids=lambda value: re.sub(r" at 0x[0-9a-f]+", "", str(value)),  # the same in every process
)  # fmt: skip
def test_other_values_are_other_plain_data(one: Any, other: Any) -> None:
    said, other_said = as_data(one), as_data(other)
    assert said != other_said and said == as_data(one)
    assert json.loads(json.dumps([said, other_said])) == [said, other_said]


def test_classes_of_the_same_name_are_told_apart_by_their_modules() -> None:
    class KL:
        pass

    assert as_data(KL())["class"].startswith("tests.test_arguments.")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.bool, torch.int64, torch.complex64], ids=str)
def test_the_hash_of_numbers_is_of_their_values_alone(dtype: torch.dtype) -> None:
    numbers = torch.arange(12).reshape(3, 4).to(dtype)
    strided = numbers.t().contiguous().t()
    assert not strided.is_contiguous() and hash_of_numbers(strided) == hash_of_numbers(numbers)
    changed = numbers.clone()
    changed[2, 3] = 0
    assert hash_of_numbers(changed) != hash_of_numbers(numbers)
    assert hash_of_numbers(numbers[0, 0]) != hash_of_numbers(numbers[0, 1])


def test_the_hash_of_numbers_does_not_depend_on_the_parts() -> None:
    numbers = torch.arange(2**24, dtype=torch.int16)  # two parts
    changed = numbers.clone()
    changed[-1] += 1
    assert hash_of_numbers(numbers) == hash_of_numbers(numbers.clone()) != hash_of_numbers(changed)
