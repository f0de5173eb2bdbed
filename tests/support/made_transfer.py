"""A transfer matrix made up for the tests of tables and figures, without a model: its circuits are random edges."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

from lightning_circuits.circuit import Circuit
from lightning_circuits.evaluation.overlap import overlap
from lightning_circuits.evaluation.transfer import (
    EXACT_NULLS,
    RANDOM,
    SHARED,
    SharedPart,
    Transfer,
    TransferRow,
    match_of,
)
from lightning_circuits.layout import Layout
from tests.support.made_curves import make_row

LAYOUT = Layout(6, 4, 8)


def f_of(data: str, circuit: str, data_names: Sequence[str], names: Sequence[str]) -> float:
    """1 for the full model, .9 on its own task, some tenths elsewhere, other for every cell; little for controls."""
    if circuit in ("full", "empty"):
        return float(circuit == "full")
    if circuit not in names:
        return 0.01 * data_names.index(data) - 0.02
    return 0.9 if circuit == data else 0.1 * names.index(circuit) - 0.03 * data_names.index(data)


def make_transfer(
    names: Sequence[str] = ("ioi", "capital", "gender"),
    data: Sequence[str] | None = None,
    ablations: Sequence[str] = ("interchange",),
) -> Transfer:
    """Circuits of these names on data of the same, or of other names."""
    data_names = names if data is None else data
    columns = ("full", "empty", *names, RANDOM, *map(match_of, names))
    rows = [
        TransferRow(**vars(make_row(circuit, ablation, 100, f_of(each, circuit, data_names, names))), data=each)
        for each in data_names
        for ablation in ablations
        for circuit in columns
    ]
    circuits = {name: Circuit.random(LAYOUT, 80, seed) for seed, name in enumerate(names)}
    shared = [
        SharedPart(a, b, overlap(circuits[a], circuits[b], of, null))
        for a, b in combinations(names, 2)
        for of in SHARED
        for null in EXACT_NULLS
    ]
    return Transfer(list(names), list(data_names), list(ablations), rows, shared)
