"""From scores to circuits: how many edges, and which.

A search gives every edge a score; a circuit is a choice by these scores. There are three ways to choose:

| way         | the edges                                                                                              |
|-------------|--------------------------------------------------------------------------------------------------------|
| `top_n`     | the n best                                                                                             |
| `threshold` | all that score at least so much                                                                        |
| `greedy`    | n, one after the other from the logits up: the best edge into what is in already                       |

What "best" means is always said, never guessed: the highest score, or, with ``absolute``, the largest |score|
(attribution scores may be negative: an edge that works against the behaviour). Equal scores, common when gates
saturate, are broken by the lower flat index, so that the same scores give the same circuit on every machine. Circuits
of the same scores are nested: a smaller one is a part of a larger one made the same way.

    >>> top_n(torch.tensor([0.5, -3.0, 2.0, 0.5]), 2)
    tensor([ True, False,  True, False])
    >>> top_n(torch.tensor([0.5, -3.0, 2.0, 0.5]), 2, absolute=True)
    tensor([False,  True,  True, False])
    >>> threshold(torch.tensor([0.5, -3.0, 2.0, 0.5]), 0.5)
    tensor([ True, False,  True,  True])
    >>> gpt2 = Layout(n_layers=12, n_heads=12, d_model=768)
    >>> size_to_count(0.01, gpt2), size_to_count(200, gpt2)
    (324, 200)

A share of the edges is as many as fit into it, rounded down, everywhere and as MIB does it: .01 of 32,491 are 324.

The n best edges need not hang together: the best may lead to a head from which nothing goes on. `greedy` never takes
such an edge, whatever it scores.

    >>> scores = torch.zeros(gpt2.n_edges)
    >>> for name, score in {"a0.h1->m2": 9.0, "m5->logits": 2.0, "a3.h0->m5": 1.0}.items():
    ...     scores[gpt2.edge_index(name)] = score
    >>> gpt2.edge_names(top_n(scores, 2).nonzero()[:, 0]), gpt2.edge_names(greedy(scores, 2, gpt2).nonzero()[:, 0])
    (['a0.h1->m2', 'm5->logits'], ['a3.h0->m5', 'm5->logits'])
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor

from lightning_circuits.arguments import require_instance, require_numbers, require_whole_numbers
from lightning_circuits.layout import Layout
from lightning_circuits.nodes import reader_nodes


def top_n(scores: Tensor, n: int, layout: Layout | None = None, *, absolute: bool = False) -> Tensor:
    """The n edges of the highest scores.

    Args:
        scores: ``[n_edges]``, any real dtype; infinite scores are fine.
        n: how many, 0 to all. For a share of the edges see `size_to_count`.
        layout: whose edges they are: of another length they are refused, and errors name the edge.
        absolute: rank by |score|.

    Returns:
        bool ``[n_edges]``, on the device of ``scores``, True n times. Of equal scores the lower flat index goes first.

    Raises:
        ValueError: a score that is NaN; scores that are not a vector, or not of the layout; more edges than there are.
        TypeError: scores that are not real numbers; a number of edges that is none.
    """
    return _first(n, _best_first(scores, n, layout, absolute))


def threshold(scores: Tensor, at_least: float, layout: Layout | None = None, *, absolute: bool = False) -> Tensor:
    """Every edge that scores at least so much, bool ``[n_edges]``; an edge exactly on the threshold is in.

    Args:
        scores: ``[n_edges]``, any real dtype; infinite scores are fine.
        at_least: in the units of the scores; with ``absolute`` of |score|. Compared in the precision of the scores.
        layout: whose edges they are: of another length they are refused, and errors name the edge.
        absolute: compare |score|.

    Raises:
        ValueError: a score or threshold that is NaN; scores that are not a vector, or not of the layout.
        TypeError: scores or a threshold that are not real numbers.
    """
    require_numbers(at_least=at_least)
    if at_least != at_least:
        raise ValueError("a threshold of NaN: no score can be compared with it")
    return worth(scores, layout, absolute) >= at_least


def greedy(scores: Tensor, n: int, layout: Layout, *, absolute: bool = False) -> Tensor:
    """n edges from the logits up: again and again the best edge into a node that is in already.

    At first only the logits are in. A node comes in when an edge from it is chosen, and with it all edges into its
    readers (query, key and value of a head) become candidates. A key or value reader that a group of heads shares is
    open as soon as one of them is in. The result is that of EAP-IG's ``apply_greedy`` before pruning.

    In spans a node comes in span by span, by an edge from it in that span, and opens its readers there; a head its keys
    and values in every span, as they may be attended to from there. So `Circuit.prune` has it. The logits are in at
    first in all spans: where they are read, the scores do not say. (Where they are not, edges into them do nothing, and
    effects are 0.)

    Args:
        scores: ``[n_edges]``, any real dtype; infinite scores are fine.
        n: how many, 0 to all.
        layout: whose edges they are.
        absolute: rank by |score|.

    Returns:
        bool ``[n_edges]``, on the device of ``scores``, True n times. Of equal candidates the lower flat index goes
        first.

    Raises:
        ValueError: a score that is NaN; scores of another layout; more edges than there are.
        TypeError: scores that are not real numbers; a number of edges that is none.

    There is no step per edge, one per node is enough. Let ``place`` be an edge's place among all, best first, and
    ``join[k]`` the place of the edge that brings in the k-th node: the first of all candidates from nodes that are
    still out. Before that edge come exactly the candidates in better places. So an edge that is a candidate from the
    moment k0 on is taken on the way to the first node k >= k0 with ``place <= join[k]``, and on one such way edges go
    by their places.
    """
    order = _best_first(scores, n, layout, absolute).cpu()
    place = torch.empty_like(order)
    place[order] = torch.arange(len(order))
    join, opened = _joins(place, layout)
    # When each edge is taken: on the way to which node.
    way = torch.empty_like(place)
    for span, (ways, places) in enumerate(zip(layout.each_span(way), layout.each_span(place), strict=True)):
        for k0, (start, end) in zip(opened[span].tolist(), pairwise(layout.reader_offset.tolist()), strict=True):
            ways[start:end] = k0 + torch.searchsorted(join[k0:].cummax(0).values, places[start:end])
    return _first(n, order[way[order].sort(stable=True).indices]).to(scores.device)


def worth(scores: Tensor, layout: Layout | None = None, absolute: bool = False) -> Tensor:
    """What edges are ranked by, ``[n_edges]``: the scores or, with ``absolute``, their sizes, once known to be sound.

    Raises:
        ValueError: a score that is NaN; scores that are not a vector, or not of the layout.
        TypeError: scores that are not real numbers.
    """
    require_instance("scores", scores, Tensor)
    if scores.is_complex():
        raise TypeError(f"edges are ranked by real numbers, got scores of {scores.dtype}")
    if layout is not None:
        layout.check(scores)
    if scores.ndim != 1:
        raise ValueError(f"expected a flat vector of scores, got a tensor of shape {tuple(scores.shape)}")
    if scores.isnan().any():
        edge = int(scores.isnan().nonzero()[0])
        name = f"edge {edge}" if layout is None else f"edge {layout.edge_names([edge])[0]}"
        raise ValueError(f"the score of {name} is NaN, so the edges cannot be ranked")
    return scores.detach().abs() if absolute else scores.detach()


def _joins(place: Tensor, layout: Layout) -> tuple[Tensor, Tensor]:
    """In which order nodes come in: the place of the edge that brings in each, ``[n_spans * n_writers]``, and for each
    reader how many nodes are in when its edges become candidates, ``[n_spans, n_readers]``."""
    out = len(place)  # behind all places
    readers_of: list[list[int]] = [[] for _ in range(layout.n_nodes)]
    for reader, node in zip(*(pairs.tolist() for pairs in reader_nodes(layout)), strict=True):
        readers_of[node].append(reader)
    offsets, seen_from_all = layout.reader_offset.tolist(), layout.keys_and_values.tolist()
    every = slice(None)

    places = layout.each_span(place)
    best = torch.full((layout.n_spans, layout.n_writers), out)  # of the candidates from each; `out` where it is in
    inside = torch.zeros_like(best, dtype=torch.bool)
    join = torch.empty(best.numel(), dtype=torch.int64)
    opened = torch.full((layout.n_spans, layout.n_readers), len(join))  # after the last node no other comes
    spans: slice | int = every
    node = layout.n_writers  # the logits
    for k in range(len(join)):
        for reader in readers_of[node]:
            where = every if seen_from_all[reader] else spans
            opened[where, reader].clamp_(max=k)
            candidates = places[where, offsets[reader] : offsets[reader + 1]]
            best[where, : candidates.shape[-1]].clamp_(max=candidates)
        best[inside] = out
        spans, node = divmod(int(best.argmin()), layout.n_writers)
        join[k], inside[spans, node] = best[spans, node], True
    return join, opened


def _best_first(scores: Tensor, n: int, layout: Layout | None, absolute: bool) -> Tensor:
    """The indices of all edges, the best first, of equals the lower index; n is what will be asked of them."""
    require_whole_numbers(n=n)
    values = worth(scores, layout, absolute)
    if not 0 <= n <= len(values):
        raise ValueError(f"cannot choose {n:,} of {len(values):,} edges")
    return values.sort(descending=True, stable=True).indices


def _first(n: int, order: Tensor) -> Tensor:
    """bool: True at the first n indices of an order."""
    return torch.zeros_like(order, dtype=torch.bool).index_fill_(0, order[:n], True)


def size_to_count(size: float, layout: Layout, *, none_allowed: bool = False) -> int:
    """The number of edges that a size stands for: a float in (0, 1] is a share of all edges, an integer of at least 1 a
    count. So 1 is a single edge and 1.0 is all of them.

    A share is never exceeded: it is ``int(share * n_edges)``, to the bit what MIB takes.

    Args:
        size: the share or the count.
        layout: whose edges they are.
        none_allowed: whether a share may round to no edge, as the smallest on a curve may.

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
    count = int(size * total)
    if count == 0 and not none_allowed:
        # Two digits may be 5 % off.
        raise ValueError(
            f"size {size} of {total:,} edges rounds to 0 edges, shares are rounded down; one that gives an edge: "
            f"{1.06 / total:.2g}"
        )
    return count
