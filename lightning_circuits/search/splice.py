"""Where training stops paying: how many of the best edges go by the ranking that was learned.

Training finds the few edges that matter, and spoils the order of the many after them, which hardly have a gradient.
From some size on, the best learned edges filled up in the order that training began with, an attribution's, make a
circuit that is nearer to the model than the learned one. Which size that is differs from task to task. So candidates
are judged as all circuits are, by exact ablation, on validation prompts:

    >>> learned, start = torch.tensor([3.0, 9.0, 8.0, 7.0]), torch.tensor([4.0, 1.0, 2.0, 3.0])
    >>> learned.argsort(descending=True).tolist(), spliced(learned, start, 2).argsort(descending=True).tolist()
    ([1, 2, 3, 0], [1, 2, 0, 3])

One of the candidates is that training did not pay at all.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import Tensor

from lightning_circuits.ablation import Ablation
from lightning_circuits.batch import Batch, with_prompts
from lightning_circuits.evaluation.exact import ExactAblation, captured_runs
from lightning_circuits.files.mib import SHARES
from lightning_circuits.measures import kl
from lightning_circuits.models import CircuitModel
from lightning_circuits.progress import progress
from lightning_circuits.selection import top_n

PROMPTS = 64
"""How many prompts rankings are judged on at most. All are judged on the same ones, which takes fewer."""

SMALLEST = 1e-5
"""Nats of KL, over all prompts, below which no circuit is nearer to the model than another."""


def spliced(learned: Tensor, start: Tensor, n: int) -> Tensor:
    """The n best edges as they were learned, and below them the rest in the order of the start; float32 ``[n_edges]``.

    Args:
        learned: ``[n_edges]``.
        start: ``[n_edges]``. Of equals, here and there, the lower index goes first.
        n: 0 to all.
    """
    order = learned.sort(descending=True, stable=True).indices
    rest = order[n:].sort().values
    rest = rest[start[rest].sort(descending=True, stable=True).indices]
    lowest = learned[order[:n]].min() if n else learned.new_zeros(())
    below = torch.arange(1, len(rest) + 1, device=learned.device) / len(learned)
    # steps that float32 keeps apart, however many edges there are
    return learned.index_copy(0, rest, lowest - math.log(len(learned)) * below.to(learned.dtype))


@torch.no_grad()
def where_learning_pays(
    model: CircuitModel, learned: Tensor, start: Tensor, up_to: float, ablation: Ablation, batches: Iterable[Batch]
) -> int:
    """How many of the best learned edges to take before those of the start.

    The ranking is taken whose circuits are nearest to the model, by the mean over `SHARES` of the logarithm of KL:
    where all are near counts as much as where none is. Of rankings that are equally near, as all are if there are no
    prompts, it is the one with the most of what was learned.

    Args:
        model: the frozen model.
        learned: ``[n_edges]``.
        start: ``[n_edges]``.
        up_to: the largest share of the edges that was learned for; no candidate is larger.
        ablation: what cut edges carry, fitted.
        batches: validation prompts, of which the first `PROMPTS` or so are taken.
    """
    counts = [n for share in SHARES if (n := int(share * len(learned)))]
    largest = round(up_to * len(learned))
    candidates = [largest, *(n for n in reversed(counts) if n < largest), 0]
    circuits = dict[tuple[int, int], Tensor]()
    for candidate in candidates:
        ranking = spliced(learned, start, candidate)
        for n in counts:
            # A circuit of no more edges than are as learned is the same in all rankings.
            if (of := (n, min(n, candidate))) not in circuits:
                circuits[of] = top_n(ranking, n, model.layout)
    total, runs = dict.fromkeys(circuits, 0.0), captured_runs(model)
    taken = list(with_prompts(batches, PROMPTS))
    with progress("Seeing how far training pays", len(taken) * len(circuits)) as bar:
        for batch in map(model.receive, taken):
            full_logits, corrupt = model.run_pair(batch)
            exact = ExactAblation(model, batch, full_logits, ablation, corrupt, runs)
            for of, members in circuits.items():
                found = kl(exact.logits(members), batch, full_logits).sum().item()
                total[of] += found if math.isfinite(found) else math.inf
                bar.advance()

    def far(candidate: int) -> float:
        return sum(math.log(max(total[n, min(n, candidate)], SMALLEST)) for n in counts)

    return min(candidates, key=far)
