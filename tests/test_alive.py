"""What is alive, against paths in a graph that is made of names."""

from __future__ import annotations

import networkx as nx
import pytest
import torch
from torch import Tensor

from lightning_circuits.alive import Alive, readers_of
from lightning_circuits.layout import Layout

LAYOUTS = {
    "one head": Layout(n_layers=1, n_heads=1, d_model=2),
    "per head": Layout(n_layers=4, n_heads=3, d_model=6),
    "per group": Layout(n_layers=3, n_heads=4, d_model=8, n_kv_readers=2),
    "one group": Layout(n_layers=3, n_heads=4, d_model=8, n_kv_readers=1),
    "parallel": Layout(n_layers=4, n_heads=2, d_model=4, parallel=True),
    "coupled": Layout(n_layers=4, n_heads=3, d_model=6, coupled=True),
    "coupled per group": Layout(n_layers=3, n_heads=4, d_model=8, n_kv_readers=2, coupled=True),
    "parallel per group": Layout(n_layers=3, n_heads=4, d_model=8, n_kv_readers=2, parallel=True),
}
layouts = pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
SHARES = [0.0, 0.01, 0.03, 0.1, 0.3, 1.0]


def unit_of(name: str, layout: Layout) -> str:
    """``a1.h3``, ``a1.h3<q>`` and, where heads share keys by twos, ``a1.g1<k>`` to ``a1/1``; where they are coupled, to
    ``a1``; all else as it is."""
    if not name.startswith("a"):
        return name
    layer, place = name.partition("<")[0].split(".")
    if layout.coupled:
        return layer
    number = int(place[1:])
    heads_of_each = layout.n_heads // layout.n_kv_readers
    return f"{layer}/{number if place[0] == 'g' else number // heads_of_each}"


def graph(layout: Layout, open_: Tensor) -> nx.DiGraph:
    """From unit to unit, along open edges."""
    made = nx.DiGraph()
    made.add_nodes_from(unit_of(name, layout) for name in [*layout.writer_names, "logits"])
    for name in layout.edge_names(open_.nonzero()[:, 0]):
        made.add_edge(*(unit_of(end, layout) for end in name.split("->")))
    return made


def drawn(layout: Layout, share: float, seed: int) -> Tensor:
    return torch.rand(layout.n_edges, generator=torch.Generator().manual_seed(seed)) < share


@pytest.mark.parametrize("closed_writes_reference", [False, True])
@pytest.mark.parametrize("share", SHARES)
@layouts
def test_alive_is_what_a_path_leads_from_to_the_logits(
    layout: Layout, share: float, closed_writes_reference: bool
) -> None:
    for seed in range(20):
        open_ = drawn(layout, share, seed)
        ways = graph(layout, open_)
        expected = nx.ancestors(ways, "logits")
        if closed_writes_reference:
            expected &= nx.descendants(ways, "input") | {"input"}
        found = Alive.of(layout, open_, closed_writes_reference)
        alive = [name for name, is_alive in zip(layout.writer_names, found.writers, strict=True) if is_alive]
        assert {unit_of(name, layout) for name in alive} == expected
        assert alive == [name for name in layout.writer_names if unit_of(name, layout) in expected], "all of a unit"


@layouts
def test_the_readers_of_what_is_alive_are_those_of_its_units(layout: Layout) -> None:
    found = Alive.of(layout, drawn(layout, 0.05, seed=1))
    alive = {unit_of(n, layout) for n, is_alive in zip(layout.writer_names, found.writers, strict=True) if is_alive}
    for component, units in zip(layout.components[1:], found.units[1:], strict=True):
        names = layout.reader_names[component.readers]
        expected = [component.kind == "logits" or unit_of(name, layout) in alive for name in names]
        assert readers_of(layout, component, units).tolist() == expected


@layouts
def test_with_every_edge_open_everything_is_alive(layout: Layout) -> None:
    every = Alive.everything(layout)
    found = Alive.of(layout, torch.ones(layout.n_edges, dtype=torch.bool))
    assert every.writers.all() and every.writers.shape == (layout.n_writers,)
    assert [units.tolist() for units in found.units] == [units.tolist() for units in every.units]


def test_with_every_edge_closed_nothing_is_but_the_logits() -> None:
    layout = LAYOUTS["per head"]
    found = Alive.of(layout, torch.zeros(layout.n_edges, dtype=torch.bool))
    assert not found.writers.any() and found.units[-1].all()


def test_an_input_that_nothing_reads_is_dead_and_what_reads_nothing_may_be_alive() -> None:
    layout = LAYOUTS["per head"]
    open_ = torch.zeros(layout.n_edges, dtype=torch.bool)
    open_[[layout.edge_index("m1->m2"), layout.edge_index("m2->logits"), layout.edge_index("input->m0")]] = True
    names = [n for n, alive in zip(layout.writer_names, Alive.of(layout, open_).writers, strict=True) if alive]
    assert names == ["m1", "m2"]
    assert not Alive.of(layout, open_, closed_writes_reference=True).writers.any()
