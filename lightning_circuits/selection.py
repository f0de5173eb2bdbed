"""From scores to circuits: how many edges, and which.

A search gives every edge a score; a circuit is the best n of them. What "best" means is always said, never guessed:
the highest score, or, with ``absolute``, the largest |score| (attribution scores may be negative: an edge that works
against the behaviour). Equal scores, common when gates saturate, are broken by the lower flat index, so that the same
scores give the same circuit on every machine.

    >>> top_n(torch.tensor([0.5, -3.0, 2.0, 0.5]), 2)
    tensor([ True, False,  True, False])
    >>> top_n(torch.tensor([0.5, -3.0, 2.0, 0.5]), 2, absolute=True)
    tensor([False,  True,  True, False])
    >>> gpt2 = Layout(n_layers=12, n_heads=12, d_model=768)
    >>> size_to_count(0.01, gpt2), size_to_count(200, gpt2)
    (325, 200)
"""

from __future__ import annotations

import torch
from torch import Tensor

from lightning_circuits.layout import Layout


def top_n(scores: Tensor, n: int, absolute: bool = False, layout: Layout | None = None) -> Tensor:
    """The n edges of the highest scores.

    Args:
        scores: ``[n_edges]``, any real dtype; infinite scores are fine.
        n: how many, 0 to all. For a share of the edges see `size_to_count`.
        absolute: rank by |score|.
        layout: only to name the edge in an error.

    Returns:
        bool ``[n_edges]``, on the device of ``scores``, True n times. Of equal scores the lower flat index goes first.

    Raises:
        ValueError: a score that is NaN; scores that are not a vector; more edges than there are.
    """
    if scores.ndim != 1:
        raise ValueError(f"expected a flat vector of scores, got a tensor of shape {tuple(scores.shape)}")
    if not 0 <= n <= len(scores):
        raise ValueError(f"cannot choose {n:,} of {len(scores):,} edges")
    if scores.isnan().any():
        edge = int(scores.isnan().nonzero()[0])
        name = f"edge {edge}" if layout is None else f"edge {layout.edge_names([edge])[0]}"
        raise ValueError(f"the score of {name} is NaN, so the edges cannot be ranked")
    order = torch.sort(scores.abs() if absolute else scores, descending=True, stable=True).indices
    members = torch.zeros_like(scores, dtype=torch.bool)
    members[order[:n]] = True
    return members


def size_to_count(size: float, layout: Layout) -> int:
    """The number of edges that a size stands for: a float in (0, 1] is a share of all edges, rounded; an integer of at
    least 1 is a count. So 1 is a single edge and 1.0 is all of them.

    Raises:
        TypeError: neither an integer nor a float.
        ValueError: outside these ranges, more edges than there are, or a share that rounds to no edge.
    """
    if isinstance(size, bool) or not isinstance(size, int | float):
        raise TypeError(f"the size of a circuit is a number of edges or a share of them, got {size!r}")
    total = layout.n_edges
    if isinstance(size, int):
        if not 1 <= size <= total:
            raise ValueError(f"a circuit of {size:,} edges: a count lies between 1 and the {total:,} edges of {layout}")
        return size
    if not 0 < size <= 1:
        raise ValueError(f"size {size}: a share of the edges lies in (0, 1]; write a number of edges without a point")
    if (count := round(size * total)) == 0:
        raise ValueError(
            f"size {size} of {total:,} edges rounds to 0 edges; the smallest share that gives one: {1 / total:.2g}"
        )
    return count
