"""How small may a circuit be? The smallest of a ranking that is as faithful as asked, with an interval to say so.

"85 % of the behaviour in 400 edges" is the figure that circuits are quoted by, and the estimate of f alone makes it too
small: of circuits about as good as asked for, the search picks one whose prompts flatter it. So by default the *lower
end* of the bootstrap interval has to clear f.

Circuits of a grid of sizes are judged by exact ablation first, then sizes between the smallest that clears f and the
one before it, by bisection. f need not grow with the size, so the result is the smallest of the circuits looked at, all
of which are given beside it.

    >>> found = smallest_circuit(scored, model, loader, ABLATIONS.make("interchange"), f=0.85)          # doctest: +SKIP
    >>> found.row.edges, found.row.faithfulness_low, len(found.looked_at)                             # doctest: +SKIP
    (402, 0.853, 21)
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from lightning_circuits.ablation import Ablation
from lightning_circuits.arguments import require_choice, require_numbers
from lightning_circuits.batch import Batch
from lightning_circuits.circuit import Circuit
from lightning_circuits.evaluation.rows import Row, evaluate
from lightning_circuits.files.mib import MIB_SIZES
from lightning_circuits.measures import DEFAULT, AnyMeasure
from lightning_circuits.models import CircuitModel
from lightning_circuits.selection import top_n

Bound = Literal["lower", "estimate"]
"""What has to clear f: the lower end of its 95 % interval, or its estimate."""

CLOSE = 1.02
"""Bisection ends where the circuit and the next smaller one that was looked at are this close in edges."""


@dataclass(frozen=True)
class Smallest:
    """The smallest circuit of a ranking that clears f, and its row; the rows of all judged, smallest first."""

    circuit: Circuit
    row: Row
    looked_at: list[Row]


def clears(row: Row, f: float, bound: Bound) -> bool:
    """Whether a circuit is as faithful as asked; never where there is no faithfulness (NaN)."""
    return (row.faithfulness_low if bound == "lower" else row.faithfulness) >= f


def smallest_circuit(
    scored: Circuit,
    model: CircuitModel,
    batches: Iterable[Batch],
    ablation: Ablation,
    f: float = 0.85,
    bound: Bound = "lower",
    measure: AnyMeasure = DEFAULT,
    split: str = "val",
    grid: Sequence[float] = MIB_SIZES,
) -> Smallest:
    """The smallest circuit by a ranking of the edges whose faithfulness clears f.

    Args:
        scored: a circuit with scores; its own edges do not matter. |score| counts where the method's ranking is
            absolute (`Circuit.absolute`).
        model: the frozen model, with the layout of the scores.
        batches: the whole data set; gone through some ten times, so no iterator.
        ablation: a mean ablation already fitted.
        f: what has to be cleared.
        bound: by what.
        measure: faithfulness of what (see `measures`).
        split: what the batches are called in the rows.
        grid: shares of the edges that are judged first. Of a ranking whose curve is known, two will do, one on either
            side of where it clears f.

    Raises:
        ValueError: scores that there are none of; f that is not above 0; no share to begin with, or one outside (0, 1];
            no circuit clears f, of the default grid not the whole model either (on these prompts, full and empty model
            do not differ).
    """
    require_choice("bound", bound, Bound)
    require_numbers(f=f)
    if not 0 < f < math.inf:
        raise ValueError(f"f is {f}: it has to be above 0")
    scores, n_edges = scored.scores, scored.layout.n_edges
    if not grid or not all(0 < share <= 1 for share in grid):
        raise ValueError(f"grid is {grid}: it has to be shares of the edges, above 0 and up to 1")
    if scores is None:
        raise ValueError("the circuit has no scores to rank edges by: take that of a search, or a file that keeps them")

    def judged(counts: Iterable[int]) -> dict[int, Row]:
        members = {str(n): top_n(scores, n, scored.layout, absolute=scored.absolute) for n in counts}
        rows = evaluate(model, batches, members, [ablation], split, controls=False, measure=measure)
        return {int(row.circuit): row for row in rows if row.circuit in members}

    rows = judged(sorted({max(round(share * n_edges), 1) for share in grid}))
    while True:
        clear = [n for n, row in rows.items() if clears(row, f, bound)]
        if not clear:
            largest = "nor the whole model: here it differs too little from the empty one"
            if max(rows) < n_edges:
                largest = f"up to {max(rows):,} edges, the largest of the grid: give it larger ones"
            raise ValueError(f"no circuit has an f of {f}, {largest}")
        best = min(clear)
        below = max((n for n in rows if n < best), default=0)
        middle = round(math.sqrt(max(below, 1) * best))
        if best <= max(below, 1) * CLOSE or middle in (below, best):
            break
        rows |= judged([middle])
    members = top_n(scores, best, scored.layout, absolute=scored.absolute)
    circuit = Circuit(scored.layout, members, scores, scored.metadata, scored.node_scores)
    return Smallest(circuit, rows[best], [rows[n] for n in sorted(rows)])
