"""Metrics that are means: of one number for each prompt, each scoring of edges, or each pair of circuits.

    >>> from lightning_circuits.layout import Layout
    >>> layout = Layout(n_layers=1, n_heads=1, d_model=4)
    >>> true = Circuit(layout, torch.arange(layout.n_edges) < 2)
    >>> metric = EdgeIoU()
    >>> metric.update(true, true)
    >>> metric.update(true, Circuit.full(layout))                       # 2 of 8 edges
    >>> metric.compute()
    tensor(0.6250, dtype=torch.float64)

`KLDivergence` is the mean over prompts of the divergence of circuit and model; `EdgeIoU` and `NodeIoU` the overlap of
circuits, such as that of two seeds; `EdgeAUROC` judges scores where the true circuit is known, as in InterpBench
(Gupta et al. 2024) or in models built by hand: the probability that an edge of the circuit scores higher than one that
is not in it, 1/2 for scores that know nothing.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.functional.classification import binary_auroc

from lightning_circuits.circuit import Circuit
from lightning_circuits.measures import kl_divergence
from lightning_circuits.selection import worth


class Mean(Metric):
    """The mean of all numbers that `add` was given on all processes, a float64 scalar.

    Raises:
        ValueError: from `compute`, if there was none.
    """

    full_state_update = False
    is_differentiable = False

    total: Tensor
    count: Tensor

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.add_state("total", default=torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("count", default=torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    def add(self, values: Tensor | float) -> None:
        """Take in numbers, a scalar or a tensor of any shape."""
        values = torch.as_tensor(values, dtype=torch.float64, device=self.total.device)
        self.total += values.sum()
        self.count += values.numel()

    def compute(self) -> Tensor:
        """The mean of all numbers, a float64 scalar.

        Raises:
            ValueError: nothing was seen.
        """
        if not self.count:
            raise ValueError(f"{type(self).__name__}: no process has seen anything, so there is nothing to measure")
        return self.total / self.count


class KLDivergence(Mean):
    """KL(full model || circuit), summed over the vocabulary, mean over prompts, in nats."""

    higher_is_better = False

    def update(self, circuit_logits: Tensor, full_logits: Tensor) -> None:
        """Logits ``[B, V]`` at the answer position."""
        self.add(kl_divergence(circuit_logits, full_logits))


class TokenEdges(Mean):
    """The edges of a circuit, each once for every token at which it is open, mean over prompts.

    See `Circuit.token_edges`.
    """

    def update(self, circuit: Circuit, live_tokens: Tensor) -> None:
        """Of a batch ``[n_spans, B]``, the tokens of each span that count (see `Ablation.live_tokens`)."""
        self.add(circuit.token_edges(live_tokens))


class EdgeIoU(Mean):
    """Edges in both circuits over edges in either, mean over pairs; 1 for two empty circuits. See `Circuit.iou`."""

    higher_is_better = True

    def update(self, circuit: Circuit, other: Circuit) -> None:
        self.add(circuit.iou(other, of="edges"))


class NodeIoU(Mean):
    """Nodes in both circuits over nodes in either, mean over pairs; 1 if neither has a node. See `Circuit.nodes`."""

    higher_is_better = True

    def update(self, circuit: Circuit, other: Circuit) -> None:
        self.add(circuit.iou(other, of="nodes"))


class EdgeAUROC(Mean):
    """`edge_auroc`, mean over scorings, such as those of several models or seeds, each counting alike."""

    higher_is_better = True

    def update(self, scores: Tensor, true: Circuit, absolute: bool = False) -> None:
        """Scores ``[n_edges]`` and the circuit that they should find."""
        self.add(edge_auroc(scores, true, absolute))


def edge_auroc(scores: Tensor, true: Circuit, absolute: bool = False) -> Tensor:
    """The area under the ROC curve of edge scores against a known circuit, a float64 scalar.

    The probability that an edge of the circuit, drawn at random, scores higher than an edge that is not in it; equal
    scores count half.

        >>> from lightning_circuits.layout import Layout
        >>> layout = Layout(n_layers=1, n_heads=1, d_model=4)
        >>> true = Circuit(layout, torch.arange(layout.n_edges) < 2)
        >>> edge_auroc(-torch.arange(layout.n_edges), true), edge_auroc(torch.zeros(layout.n_edges), true)
        (tensor(1., dtype=torch.float64), tensor(0.5000, dtype=torch.float64))

    Args:
        scores: ``[n_edges]``, any real dtype; infinite scores are fine.
        true: the known circuit.
        absolute: judge |score|.

    Raises:
        ValueError: a score that is NaN; scores of another layout; a circuit of no or of all edges, for then there is
            nothing to tell apart.
    """
    ranked_by = worth(scores, true.layout, absolute).cpu()
    if true.n_edges in (0, true.layout.n_edges):
        raise ValueError(f"an AUROC tells the edges of a circuit from the others, but it has none or all: {true}")
    # Ranks in [0, 1] in place of scores: torchmetrics would squash others with a sigmoid, and make ties of large ones.
    ranks = ranked_by.unique(return_inverse=True)[1].double()
    return binary_auroc(ranks / ranks.max().clamp(min=1), true.members.long()).double()
