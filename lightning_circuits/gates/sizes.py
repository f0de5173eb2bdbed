"""Which sizes of circuits top-k gates are trained for, step by step.

Sizes are shares of all edges. `progress` is how far training is, from 0 to 1.

    >>> sizes = SizeRange(0.003, 0.2)
    >>> [round(sizes.size(number, progress=1.0), 3) for number in range(5)]
    [0.003, 0.04, 0.008, 0.108, 0.022]
"""

from __future__ import annotations

from typing import Literal

from lightning_circuits.arguments import require_choice, require_numbers

Law = Literal["log-uniform", "uniform"]

GOLDEN_RATIO = (5**0.5 - 1) / 2
"""Its multiples modulo 1 fill [0, 1) more evenly than those of any other number, however many one takes."""


class SizeRange:
    """Sizes for top-k gates: each step trains the circuit of another size, so one ranking serves all sizes.

    The sizes are not drawn at random but spread evenly, by multiples of the golden ratio: steps that follow each
    other are small, middling and large. The processes of one step take the same size, as one process would. At random,
    a training of a few hundred steps is short of some size at its end (5 %: KL .131 against .091 in
    `benchmarks/ioi_smollm2.py`, seed 0).

    The range opens downwards: it begins at ``high`` alone, and its lower end falls geometrically to ``low`` in the
    first ``warmup`` of training. A large circuit has to be right before a small one can be sought within it, and is
    trained longest. With all sizes from the start, circuits of 5 % came out a fifth worse (KL .094 against .077 in
    `benchmarks/ioi_smollm2.py`), those of 0.5 to 2 % alike.

    Args:
        low: the smallest share of the edges.
        high: the largest share of the edges.
        law: ``log-uniform``, as many steps between 1 and 2 % as between 10 and 20 %, or ``uniform``, which leaves the
            sparse end almost untrained.
        warmup: the part of training in which the range opens; 0 for all sizes from the start.

    Raises:
        ValueError: not ``0 < low <= high <= 1``, an unknown law, or a warmup outside [0, 1].
        TypeError: an argument that is not a number.
    """

    def __init__(self, low: float = 0.001, high: float = 0.2, law: Law = "log-uniform", warmup: float = 0.5) -> None:
        require_numbers(low=low, high=high, warmup=warmup)
        if not 0 < low <= high <= 1:
            raise ValueError(f"sizes are shares of the edges with 0 < low <= high <= 1, got low={low}, high={high}")
        require_choice("law", law, Law)
        if not 0 <= warmup <= 1:
            raise ValueError(f"warmup is a share of training in [0, 1], got {warmup}")
        self.low, self.high, self.law, self.warmup = low, high, law, warmup

    def size(self, number: int, progress: float) -> float:
        """The size for a step by its number, ``progress`` in [0, 1] of the way through training."""
        opened = min(1.0, progress / self.warmup) if self.warmup else 1.0
        low = self.high * (self.low / self.high) ** opened
        u = number * GOLDEN_RATIO % 1
        return low + u * (self.high - low) if self.law == "uniform" else low * (self.high / low) ** u
