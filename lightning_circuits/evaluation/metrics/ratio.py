"""A circuit's measure over the model's: the plain ratio F(C) / F(M), and the difference F(C) - F(M).

Much of the field calls this ratio faithfulness. It has no empty circuit in it: what the ablation does by itself counts
as the circuit's, so it is 1 for a circuit that does nothing wherever the ablation does what the model does. Nor does it
mean anything where F(M) is near 0 (a task that the model cannot do; KL, of which the full model has none): there the
difference says what there is to say, and the ratio is NaN (`FLOOR`).

    >>> circuit, full = torch.tensor([3.0, 5.0]), torch.tensor([4.0, 6.0])
    >>> found = beside_the_model(circuit, full)
    >>> [f"{found[name]:.2f}" for name in ("ratio", "ratio_low", "ratio_high", "difference")]
    ['0.80', '0.75', '0.83', '-1.00']
"""

from __future__ import annotations

import torch
from torch import Tensor

from lightning_circuits.evaluation.metrics.bootstrap import interval_of, resampled_means

FLOOR = 3
"""The ratio is absent where F(M) is nearer to 0 than so many of its standard errors over prompts.

From there on its sign is not sure: one in some 700 draws of as many prompts would have turned it, and the ratio with
it. No bound in logits would do, since measures have scales of their own: a probability difference of .06 may be all
that a model has, and known to a hundredth.
"""


def beside_the_model(circuit: Tensor, full: Tensor) -> dict[str, Tensor]:
    """Ratio and difference of the means of a measure, each with its 95 % interval, float64 scalars by name.

    ``ratio``, ``ratio_low``, ``ratio_high`` are NaN below the `FLOOR`. The intervals are a bootstrap's over prompts
    (`bootstrap`), both of the same resamples.

    Args:
        circuit: the measure of the circuit on n >= 1 prompts, ``[n]``.
        full: ``[n]``, that of the model.
    """
    pairs = torch.stack([circuit, full], dim=1).cpu().double()
    error = pairs[:, 1].std(correction=0) / len(pairs) ** 0.5  # of a mean, among resamples
    known = pairs[:, 1].mean().abs() > FLOOR * error
    means, resampled = pairs.mean(0), resampled_means(pairs)
    ratio_low, ratio_high = interval_of(resampled[:, 0] / resampled[:, 1])
    difference_low, difference_high = interval_of(resampled[:, 0] - resampled[:, 1])
    ratios = {"ratio": means[0] / means[1], "ratio_low": ratio_low, "ratio_high": ratio_high}
    return {name: torch.where(known, value, torch.nan) for name, value in ratios.items()} | {
        "difference": means[0] - means[1],
        "difference_low": difference_low,
        "difference_high": difference_high,
    }
