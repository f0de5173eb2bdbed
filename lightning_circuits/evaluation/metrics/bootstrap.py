"""How far a mean over prompts can be trusted: a percentile bootstrap.

`RESAMPLES` data sets of n prompts are drawn from the n that there are, with repetition, and whatever is made of means
is made of the means of each; its interval holds the middle 95 % of what comes out. It does not depend on the order of
the prompts, so not on how processes shared them out, nor does drawing touch anybody else's random numbers. A single
prompt gives an interval without width.

    >>> interval_of(resampled_means(torch.tensor([[1.0], [3.0]]))[:, 0])
    tensor([1., 3.], dtype=torch.float64)
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

RESAMPLES = 1_000
"""Data sets that the bootstrap draws."""


class Estimate(NamedTuple):
    """A number and its 95 % interval over prompts; all NaN for a number that does not exist."""

    value: float
    low: float
    high: float

    def named(self, name: str) -> dict[str, float]:
        """As rows have it: ``name``, ``name_low`` and ``name_high``."""
        return {name: self.value, f"{name}_low": self.low, f"{name}_high": self.high}


def resampled_means(columns: Tensor, seed: int = 0) -> Tensor:
    """The means of every resample, float64 ``[RESAMPLES, n_columns]``.

    Args:
        columns: numbers of n >= 1 prompts, ``[n, n_columns]``; each resample draws the same prompts for all columns.
        seed: of the draws.
    """
    rows = columns.cpu().double()
    for column in range(rows.shape[1]):  # sorted, so that equal prompts draw equal numbers
        rows = rows[rows[:, column].argsort(stable=True)]
    n, generator = len(rows), torch.Generator().manual_seed(seed)
    means = torch.empty(RESAMPLES, rows.shape[1], dtype=torch.float64)
    for part in means.split(max(1, 2**20 // n)):  # as many at a time as take a few megabytes
        drawn = torch.randint(n, (len(part), n), generator=generator)
        times = torch.zeros(drawn.shape).double().scatter_add_(1, drawn, torch.ones(drawn.shape).double())
        part.copy_(times @ rows / n)
    return means


def interval_of(resamples: Tensor) -> Tensor:
    """The middle 95 % of what resamples ``[RESAMPLES]`` came to, ``[2]``: those that are NaN are left out, and if all
    are, so is the interval."""
    return resamples.nanquantile(torch.tensor([0.025, 0.975]).double())


def estimate(value: Tensor, resamples: Tensor) -> Estimate:
    """A scalar, and the interval of what resamples ``[RESAMPLES]`` came to in its place."""
    return Estimate(float(value), *interval_of(resamples).tolist())


def mean_estimate(values: Tensor) -> Estimate:
    """The mean of numbers of n >= 1 prompts, ``[n]``."""
    return estimate(values.double().mean(), resampled_means(values[:, None])[:, 0])
