"""The formation of a circuit, made up for the tests of files and figures, without a model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch

from lightning_circuits.evaluation.formation import Formation, Moment
from lightning_circuits.layout import Layout
from tests.support.made_curves import make_row

LAYOUT = Layout(2, 2, 8)


def make_formation(
    sizes: Mapping[str, int] | None = None,
    steps: Sequence[int] = (0, 10, 30),
    f: Sequence[float] = (0.1, 0.5, 0.95),
    name: str = "val",
    **options: Any,
) -> Formation:
    """Circuits of so many edges at each step, of which a part is that of the last; better and better.

    ``name``: of everything that has one.
    """
    sizes = {"10 edges": 10, "20 edges": 20} if sizes is None else sizes
    generator, last = torch.Generator().manual_seed(0), torch.randperm(LAYOUT.n_edges)
    moments = []
    for number, (step, value) in enumerate(zip(steps, f, strict=True)):
        keep = (number + 1) / len(steps)
        rows = [make_row("full", name, LAYOUT.n_edges, 1.0, name), make_row("empty", name, 0, 0.0, name)]
        members = {}
        for size, n in sizes.items():
            kept = last[: round(keep * n)]
            rest = last[n:][torch.randperm(len(last) - n, generator=generator)][: n - len(kept)]
            members[size] = torch.zeros(LAYOUT.n_edges, dtype=torch.bool)
            members[size][torch.cat([kept, rest])] = True
            rows.append(make_row(size, name, n, value, name))
        moments.append(Moment(step, [replace(row, ablation=name) for row in rows], members))
    given: dict[str, Any] = {"method": "EAP", "model": "gpt2", "layout": LAYOUT, "faithfulness": 0.9}
    return Formation(**{**given, "moments": moments, **options})
