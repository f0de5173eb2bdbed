"""One number for circuits of several sizes: the area under the curve of faithfulness over size.

A method does not give a circuit but a ranking of edges, and with it circuits of any size. With f(x) the faithfulness
of the circuit that has the share x of the edges, MIB (Mueller et al. 2025) judges the ranking by two areas,

    CPR = integral of f(x) dx               the more the better: circuit performance ratio
    CMD = integral of |1 - f(x)| dx         the less the better: circuit-model distance

by trapezoids between the sizes that were measured, .001 to 1, with nothing added at the ends: f = 1 everywhere gives
a CPR of .999, not 1. Half of the weight lies above x = .5, where circuits hold half the model, and CPR rewards
circuits that overshoot (f > 1). So there is beside them

    log area = the mean of f over log x     in which each tenfold of size counts alike; f = 1 gives 1

    >>> sizes = [.001, .002, .005, .01, .02, .05, .1, .2, .5, 1]
    >>> f = [0, 0, .2, .4, .6, .8, .9, 1, 1.1, 1]
    >>> for area in (cpr, cmd, log_area):
    ...     print(f"{area.__name__} {area(sizes, f):.3f}")
    cpr 1.005
    cmd 0.074
    log_area 0.612

NaN in the curve gives NaN: an area with a hole is no area.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

from lightning_circuits.batch import Batch
from lightning_circuits.evaluation.metrics.faithfulness import faithfulness
from lightning_circuits.measures import DEFAULT, MEASURES, AnyMeasure, values

Numbers = Tensor | Sequence[float]


def area_under(sizes: Numbers, values: Numbers) -> Tensor:
    """The area under a curve by trapezoids, from the smallest size given to the largest; a float64 scalar.

    Args:
        sizes: ``[n]``, in any order.
        values: ``[n]``, the curve at these sizes.

    Raises:
        ValueError: not as many values as sizes, or fewer than two different sizes.
    """
    x, y = (torch.as_tensor(each, dtype=torch.float64) for each in (sizes, values))
    if x.ndim != 1 or x.shape != y.shape:
        raise ValueError(f"a curve has a value for each size, got shapes {tuple(x.shape)} and {tuple(y.shape)}")
    if not x.numel() or x.min() == x.max():
        raise ValueError(f"the area under a curve needs at least two different sizes, got {x.tolist()}")
    order = x.argsort()
    return torch.trapezoid(y[order], x[order])


def cpr(sizes: Numbers, f: Numbers) -> Tensor:
    """Circuit performance ratio, as MIB has it: the area under faithfulness ``f [n]`` at shares ``sizes [n]``."""
    return area_under(sizes, f)


def cmd(sizes: Numbers, f: Numbers) -> Tensor:
    """Circuit-model distance, as MIB has it: the area under ``|1 - f|`` for ``f [n]`` at ``sizes [n]``, a scalar.

    It is 0 if no size is off the model.
    """
    return area_under(sizes, (1 - torch.as_tensor(f, dtype=torch.float64)).abs())


def log_area(sizes: Numbers, f: Numbers) -> Tensor:
    """The mean of faithfulness ``f [n]`` over the logarithm of ``sizes [n]``, a scalar: 1 if f is 1 everywhere.

    Raises:
        ValueError: as `area_under`, or a size that is not above 0.
    """
    x = torch.as_tensor(sizes, dtype=torch.float64)
    if not (x > 0).all():
        raise ValueError(f"sizes on a logarithmic scale lie above 0, got {x.tolist()}")
    x = x.log()
    return area_under(x, f) / (x.max() - x.min())


class CPR(Metric):
    """Circuit performance ratio over prompts: `update` for each batch and size, `compute` gives `cpr`, a float64.

    f at each size is a ratio of means over all prompts of all processes, as in `CircuitFaithfulness`, taken over those
    prompts that its size has seen. MIB ranks edges by signed score for CPR, by |score| for CMD.

        >>> metric = CPR(sizes=[0.5, 1.0])
        >>> full, empty = torch.tensor([[2.0, 0.0]]), torch.tensor([[0.0, 0.0]])
        >>> words = {"answers": torch.tensor([[0]]), "distractors": torch.tensor([[1]])}
        >>> metric.update(0.5, torch.tensor([[1.0, 0.0]]), full, empty, words)
        >>> metric.update(1.0, full, full, empty, words)
        >>> metric.compute()                                            # half of 1 wide, 1/2 to 1 high
        tensor(0.3750, dtype=torch.float64)

    NaN if the full and the empty model's means are equal at some size: f is not defined there.

    Args:
        sizes: the shares of edges that will be measured.
        measure: what f is of: a name (`MEASURES`), or a function ``(logits, batch, full_logits) -> [B]``.

    Raises:
        ValueError: fewer than two different sizes, an unknown measure; from `compute`, a size for which no process has
            seen a prompt.
    """

    full_state_update = False
    is_differentiable = False
    higher_is_better = True

    sums: Tensor
    prompts: Tensor

    def __init__(self, sizes: Sequence[float], measure: AnyMeasure = DEFAULT, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.measure = MEASURES.make(measure, "measure")
        self.sizes = [float(size) for size in sizes]
        self.area([1.0] * len(self.sizes))  # refuses sizes that have no area
        # Means over prompts are sums over sums, in float64: adding up in any order and on any process leaves no trace.
        zeros = torch.zeros(len(self.sizes), 3, dtype=torch.float64)
        self.add_state("sums", default=zeros, dist_reduce_fx="sum")
        self.add_state("prompts", default=zeros[:, 0].clone(), dist_reduce_fx="sum")

    def area(self, f: Numbers) -> Tensor:
        """The scalar that faithfulness ``f [n_sizes]`` comes to."""
        return cpr(self.sizes, f)

    def update(
        self, size: float, circuit_logits: Tensor, full_logits: Tensor, empty_logits: Tensor, batch: Batch
    ) -> None:
        """Take in a batch of the circuit of one size.

        Args:
            size: one of ``sizes``.
            circuit_logits: ``[B, V]`` at the answer position, of the circuit.
            full_logits: the same of the full model.
            empty_logits: the same of the empty circuit under the same ablation.
            batch: the prompts, see `CircuitFaithfulness.update`.

        Raises:
            ValueError: a size that was not announced.
        """
        if size not in self.sizes:
            raise ValueError(f"size {size} is none of those of this {type(self).__name__}: {self.sizes}")
        row = self.sizes.index(size)
        for column, logits in enumerate((circuit_logits, full_logits, empty_logits)):
            self.sums[row, column] += values(self.measure, logits, batch, full_logits).double().sum()
        self.prompts[row] += len(full_logits)

    def compute(self) -> Tensor:
        """The area over all prompts seen, a float64 scalar.

        Raises:
            ValueError: a size of which no prompt was seen.
        """
        if missing := [size for size, n in zip(self.sizes, self.prompts.tolist(), strict=True) if not n]:
            raise ValueError(f"{type(self).__name__}: no process has seen a prompt for the sizes {missing}")
        return self.area(faithfulness(*(self.sums / self.prompts[:, None]).cpu().unbind(1)))


class CMD(CPR):
    """Circuit-model distance over prompts; used like `CPR`."""

    higher_is_better = False

    def area(self, f: Numbers) -> Tensor:
        return cmd(self.sizes, f)


class LogArea(CPR):
    """The mean of faithfulness over the logarithm of the size, over prompts; used like `CPR`."""

    def area(self, f: Numbers) -> Tensor:
        return log_area(self.sizes, f)
