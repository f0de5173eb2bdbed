"""An order that is written down once."""

from __future__ import annotations

from lightning_circuits.datamodules.shuffling import shuffled


def test_shuffled_is_the_same_everywhere() -> None:
    assert shuffled(range(8), "a", 1) == [1, 7, 4, 0, 5, 2, 3, 6] != shuffled(range(8), "a", 2)
