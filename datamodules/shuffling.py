"""An order that is the same on every machine: of training prompts, of splits, of words."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any


def shuffled(items: Sequence[Any], *key: str | int) -> list[Any]:
    """`items` in an order that `key` alone decides, on every machine and Python version.

    Of the standard generator only `random()` is promised to stay as it is, hence no `shuffle`.
    """
    rng = random.Random(" ".join(map(str, key)))
    return sorted(items, key=lambda _: rng.random())
