"""Would another seed, or other prompts, have given the same circuit?

How alike two circuits are is their Jaccard index: edges in both over edges in either. How stable a method is, is the
mean over all pairs of circuits that it might as well have given, with its spread. They come from other seeds

    >>> from lightning_circuits.layout import Layout
    >>> layout = Layout(n_layers=2, n_heads=2, d_model=8)
    >>> seeds = [Circuit.random(layout, 23, seed) for seed in range(5)]
    >>> found = pairwise_stability(seeds)
    >>> round(found.mean, 2), round(found.chance, 2), found.pairs
    (0.33, 0.33, 10)

or, without another run, from other prompts: the bootstrap. An attribution is a sum over examples; with the share of
each batch kept apart, the batches are drawn again with replacement, and every draw gives scores and a circuit. Batches
of one example make it the bootstrap over examples; larger ones are cheaper, and coarser.

    >>> kept = scores_per_batch(search.attribute, loader)                                          # doctest: +SKIP
    >>> rich.print(stability_table(bootstrap_stability(kept, [324, 1624], draws=100)))             # doctest: +SKIP

A Jaccard index means little without its level by chance: two random circuits with half of all edges share a third.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from lightning_circuits.batch import Batch, n_prompts
from lightning_circuits.circuit import Circuit
from lightning_circuits.selection import top_n


@dataclass(frozen=True)
class Stability:
    """The Jaccard indices of all pairs of circuits: their mean, standard deviation (over pairs, NaN of one pair),
    smallest and largest. ``edges`` is the mean number of edges of a circuit, ``chance`` what random circuits of these
    sizes have in common on average."""

    mean: float
    std: float
    lowest: float
    highest: float
    circuits: int
    edges: float
    chance: float

    @property
    def pairs(self) -> int:
        return self.circuits * (self.circuits - 1) // 2


def jaccard(members: Tensor) -> Tensor:
    """The Jaccard index of every pair, bool ``[n_circuits, n_edges]`` to float64 ``[n_circuits, n_circuits]``.

    Two empty circuits are alike: 1.
    """
    both = torch.zeros(len(members), len(members), dtype=torch.float64)
    for some in members.split(2**16, dim=1):  # counts below 2**24 are exact in float32
        both += (some.float() @ some.float().T).double()
    sizes = both.diagonal()
    either = sizes[:, None] + sizes - both
    return torch.where(either == 0, 1.0, both / either)


def pairwise_stability(circuits: Sequence[Circuit | Tensor]) -> Stability:
    """How alike circuits are, pair by pair: of several seeds, say, at one size.

    Args:
        circuits: at least two, of one layout, or their members, bool ``[n_edges]``.

    Raises:
        ValueError: fewer than two circuits, or circuits of different layouts.
        TypeError: members that are not bool.
    """
    if len(circuits) < 2:
        raise ValueError(f"stability is of at least two circuits, got {len(circuits)}")
    layouts = [circuit.layout for circuit in circuits if isinstance(circuit, Circuit)]
    for number, layout in enumerate(layouts):
        layouts[0].require(layout, f"circuit {number}")
    members = [circuit.members if isinstance(circuit, Circuit) else circuit for circuit in circuits]
    if odd := [row for row in members if row.dtype != torch.bool]:
        raise TypeError(f"the members of a circuit are a bool tensor, got {odd[0].dtype}; choose edges first")
    if len(lengths := {len(row) for row in members}) > 1:
        raise ValueError(f"circuits of different layouts cannot be compared: they are of {sorted(lengths)} edges")
    return _summary(torch.stack([row.cpu() for row in members]))


def stability_of_scores(scores: Tensor, sizes: Sequence[int], *, absolute: bool = False) -> list[Stability]:
    """How alike the top-n circuits of several score vectors are, for each size n.

    Args:
        scores: ``[n_vectors, n_edges]``, from other seeds, prompts, or methods.
        sizes: numbers of edges.
        absolute: rank by |score|.

    Raises:
        ValueError: fewer than two vectors; a score that is NaN; a size that no circuit can have.
    """
    if scores.ndim != 2 or len(scores) < 2:
        raise ValueError(f"stability is of at least two score vectors [n, n_edges], got shape {tuple(scores.shape)}")
    return [_summary(torch.stack([top_n(row, n, absolute=absolute) for row in scores]).cpu()) for n in sizes]


def _summary(members: Tensor) -> Stability:
    n, total = members.shape
    index = jaccard(members)
    pairs = index[torch.ones(n, n, dtype=torch.bool).triu(1)]
    sizes = members.sum(1).double()
    # Two random circuits of a and b edges have ab / total in common on average.
    shared = (sizes[:, None] * sizes / total)[torch.ones(n, n, dtype=torch.bool).triu(1)]
    either = (sizes[:, None] + sizes)[torch.ones(n, n, dtype=torch.bool).triu(1)] - shared
    chance = torch.where(either == 0, 1.0, shared / either).mean()
    spread = float(pairs.std()) if len(pairs) > 1 else float("nan")
    low, high = float(pairs.min()), float(pairs.max())
    return Stability(float(pairs.mean()), spread, low, high, n, float(sizes.mean()), float(chance))


# ---- the bootstrap ---------------------------------------------------------------------------------------------------


class BatchScores(NamedTuple):
    """What each batch adds to the scores: ``sums`` float32 ``[n_batches, n_edges]``, sums over the batch's examples,
    and ``examples`` int64 ``[n_batches]``, how many those were."""

    sums: Tensor
    examples: Tensor


def scores_per_batch(attribute: Callable[[Batch], tuple[Tensor, Tensor]], batches: Iterable[Batch]) -> BatchScores:
    """Attribute batch by batch, and keep the batches apart.

    Args:
        attribute: ``batch -> (edges [n_edges], writers [n_writers])``, sums over the batch's examples; the method of
            that name of an attribution search.
        batches: with examples in ``clean_ids``; the smaller, the finer is the bootstrap.

    Raises:
        ValueError: no batches, or scores that are not a vector of the same length from each.
    """
    sums: list[Tensor] = []
    examples: list[int] = []
    for batch in batches:
        edges, _ = attribute(batch)
        if edges.ndim != 1 or (sums and edges.shape != sums[0].shape):
            raise ValueError(f"batch {len(sums)}: expected a flat vector of scores, got shape {tuple(edges.shape)}")
        sums.append(edges.detach().float().cpu())
        examples.append(n_prompts(batch))
    if not sums:
        raise ValueError("no batches to attribute; a loader can be gone through again, an iterator cannot")
    return BatchScores(torch.stack(sums), torch.tensor(examples))


def resampled_scores(kept: BatchScores, draws: int = 100, seed: int = 0) -> Iterable[Tensor]:
    """Mean scores over batches drawn with replacement, as many as there are: ``draws`` float32 vectors ``[n_edges]``.

    A draw's scores are the sums of its batches over the examples of its batches.

    Raises:
        ValueError: fewer than two batches, which leave nothing to draw; counts that do not fit the sums.
    """
    n = len(kept.sums)
    if n < 2:
        raise ValueError(f"a bootstrap draws from at least two batches, got {n}; use a smaller batch size")
    if kept.examples.shape != (n,) or int(kept.examples.min()) < 1:
        raise ValueError(f"expected a number of examples, at least 1, for each of the {n} batches")
    generator = torch.Generator().manual_seed(seed)
    for _ in range(draws):
        times = torch.bincount(torch.randint(n, (n,), generator=generator), minlength=n)
        yield times.to(kept.sums.dtype) @ kept.sums / int(times @ kept.examples)


def bootstrap_stability(
    kept: BatchScores, sizes: Sequence[int], draws: int = 100, seed: int = 0, *, absolute: bool = False
) -> list[Stability]:
    """How alike the circuits are that other prompts would have given, for each size.

    Args:
        kept: from `scores_per_batch`.
        sizes: numbers of edges; see `selection.size_to_count`.
        draws: how many times the batches are drawn again.
        seed: of the draws.
        absolute: rank by |score|.

    Raises:
        ValueError: fewer than two batches or draws; a score that is NaN; a size that no circuit can have.
    """
    if draws < 2:
        raise ValueError(f"stability is of at least two draws, got {draws}")
    members: list[list[Tensor]] = [[] for _ in sizes]
    for scores in resampled_scores(kept, draws, seed):
        for rows, n in zip(members, sizes, strict=True):
            rows.append(top_n(scores, n, absolute=absolute))
    return [_summary(torch.stack(rows)) for rows in members]
