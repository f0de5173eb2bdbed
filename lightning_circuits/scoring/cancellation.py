"""What a score without spans hides: effects of an edge at different places of the prompt, which cancel in their sum.

An edge without spans has one score, the sum of its effects over all places. A head that helps at one token and hurts
at another may sum to nothing, and is lost. Scores in spans keep the two apart, and can be added up either way
(`Circuit.without_spans`): the *sum*, which is the score without spans, and the *sum of absolutes* of PEAP (Haklay et
al. 2025). An edge that is among the best by the latter and not by the former has cancelled.

    >>> import torch
    >>> layout = Layout(n_layers=1, n_heads=1, d_model=1).in_spans(["S2", "END"])
    >>> scores = torch.zeros(layout.n_edges)
    >>> for name, score in {"m0->logits@END": 1.0, "a0.h0->m0@S2": 3.0, "a0.h0->m0@END": -3.0}.items():
    ...     scores[layout.edge_index(name)] = score
    >>> layout.plain.edge_names(cancelled_edges(scores, layout, 1).nonzero()[:, 0])
    ['a0.h0->m0']

PEAP counts, of the best 1 % of the edges of IOI, 17 % that are lost so.
"""

from __future__ import annotations

from torch import Tensor

from lightning_circuits.layout import Layout
from lightning_circuits.selection import top_n


def cancelled_edges(scores: Tensor, layout: Layout, n: int) -> Tensor:
    """The edges that are among the n best by the sum of |score| over the spans, and not by the |sum| of the scores.

    Args:
        scores: ``[n_edges]``, effects of edges in spans.
        layout: the layout in spans that they are of.
        n: how many edges without spans, see `selection.size_to_count` of ``layout.plain``.

    Returns:
        bool ``[plain.n_edges]``; their sum over n is the share of the n best edges that is lost.

    Raises:
        ValueError: a layout without spans; scores of another layout, or one that is NaN; more edges than there are.
    """
    if not layout.spans:
        raise ValueError(f"effects cancel over spans, and {layout} has none: score with spans=True")
    effects = layout.each_span(layout.check(scores)).double()
    by_absolutes, by_sum = effects.abs().sum(0), effects.sum(0)
    return top_n(by_absolutes, n, layout.plain) & ~top_n(by_sum, n, layout.plain, absolute=True)
