"""Overlap and its nulls against all sets of a tiny layout, whole numbers of any length, and what draws must be."""

from __future__ import annotations

import json
import math
from collections import Counter
from itertools import combinations
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lightning_circuits.circuit import Circuit
from lightning_circuits.evaluation.overlap import Overlap, overlap
from lightning_circuits.evaluation.random_circuits import Sight, random_paths
from lightning_circuits.files.numbers import from_json
from lightning_circuits.layout import Layout

TINY = Layout(2, 1, 1)
PARALLEL = Layout(2, 1, 1, parallel=True)
GROUPED = Layout(1, 2, 4, 1)
GPT2 = Layout(12, 12, 768)


def chosen(layout: Layout, n: int, seed: int) -> Circuit:
    return Circuit.random(layout, n, seed)


# ---- what is in common -----------------------------------------------------------------------------------------------


@given(st.integers(0, 1000), st.integers(1, 20), st.integers(1, 20), st.sampled_from(["size", "layer"]))
def test_counts_and_shares_by_the_names_of_edges(seed: int, n: int, m: int, null: Any) -> None:
    a, b = chosen(TINY, n, seed), chosen(TINY, m, seed + 1)
    ours, theirs = set(a.edge_names()), set(b.edge_names())
    found, turned = overlap(a, b, null=null), overlap(b, a, null=null)
    assert (found.in_a, found.in_b, found.both) == (len(ours), len(theirs), len(ours & theirs))
    assert found.iou == turned.iou == len(ours & theirs) / len(ours | theirs)
    assert found.precision == turned.recall == len(ours & theirs) / len(ours)
    assert found.recall == turned.precision == len(ours & theirs) / len(theirs)
    assert found.expected == pytest.approx(turned.expected) and found.log10_p == pytest.approx(turned.log10_p)


# ---- what is known exactly -------------------------------------------------------------------------------------------


def kind(name: str, null: str) -> tuple[str, ...]:
    """What another edge or node has to share with this one, by its name, to be drawn in its place."""
    name, _, span = name.partition("@")
    layers = ["".join(c for c in node.partition(".")[0] if c.isdigit()) or node for node in name.split("->")]
    return (span, *(layers if null == "layer" else []))


def by_enumeration(every: list[str], ours: set[str], theirs: set[str], null: str) -> tuple[float, ...]:
    """Mean, deviation, 95 % interval, and p of the IoU with all sets like theirs, each as likely as any other."""

    def iou(other: set[str]) -> float:
        return len(ours & other) / len(ours | other)

    like = Counter(kind(name, null) for name in theirs)
    sets = map(set, combinations(every, len(theirs)))
    values = sorted(iou(other) for other in sets if Counter(kind(name, null) for name in other) == like)
    n = len(values)
    mean = sum(values) / n
    low, high = (next(v for i, v in enumerate(values, 1) if i / n >= share - 1e-9) for share in (0.025, 0.975))
    deviation = math.sqrt(sum((value - mean) ** 2 for value in values) / n)
    return mean, deviation, low, high, sum(value >= iou(theirs) for value in values) / n


@pytest.mark.parametrize("null", ["size", "layer"])
@pytest.mark.parametrize("layout", [TINY, PARALLEL, GROUPED, GROUPED.in_spans(["S2", "END"])], ids=str)
def test_nulls_of_edges_are_those_of_all_sets(layout: Layout, null: Any) -> None:
    every = layout.edge_names(range(layout.n_edges))
    for seed, (n, m) in enumerate([(1, 1), (7, 4), (9, 3), (layout.n_edges, 2)]):
        a, b = chosen(layout, n, seed), chosen(layout, m, seed + 10)
        found = overlap(a, b, null=null)
        expected = by_enumeration(every, set(a.edge_names()), set(b.edge_names()), null)
        assert (found.expected, found.std, found.low, found.high, found.p) == pytest.approx(expected, abs=1e-9)
        assert found.draws == 0


@pytest.mark.parametrize("null", ["size", "layer"])
@pytest.mark.parametrize("layout", [TINY, PARALLEL, GROUPED, Layout(3, 2, 4)], ids=str)
def test_nulls_of_nodes_are_those_of_all_sets(layout: Layout, null: Any) -> None:
    every = [*layout.writer_names, "logits"]
    tried = 0
    for seed in range(12):
        a, b = chosen(layout, layout.n_edges // 3, seed), chosen(layout, layout.n_edges // 4, seed + 20)
        if a.n_nodes and b.n_nodes:
            tried += 1
            found = overlap(a, b, of="nodes", null=null)
            expected = by_enumeration(every, set(a.node_names()), set(b.node_names()), null)
            assert (found.expected, found.std, found.low, found.high, found.p) == pytest.approx(expected, abs=1e-9)
    assert tried > 5


def test_edges_in_any_span_are_drawn_without_spans() -> None:
    a, b = chosen(GROUPED.in_spans(["S2", "END"]), 9, 0), chosen(GROUPED, 6, 1)
    for null in ("size", "layer"):
        found = overlap(a, b, of="edges-in-any-span", null=null)
        assert found == overlap(a.without_spans(), b, of="edges-in-any-span", null=null)
        plain = overlap(a.without_spans(), b, null=null)
        assert (found.iou, found.expected, found.std, found.log10_p) == (
            plain.iou,
            plain.expected,
            plain.std,
            plain.log10_p,
        )


@pytest.mark.parametrize(("n", "m", "both"), [(324, 324, 3), (324, 1000, 200), (2000, 2000, 1500), (5, 30_000, 5)])
def test_p_in_whole_numbers(n: int, m: int, both: int) -> None:
    """1,500 of 2,000 edges in common are of a p that no float holds; whole numbers of Python hold any."""
    total = GPT2.n_edges
    a, b = torch.zeros(2, total, dtype=torch.bool)
    a[:n] = True
    b[n - both : n - both + m] = True
    ways = sum(math.comb(n, k) * math.comb(total - n, m - k) for k in range(both, min(n, m) + 1))
    found = overlap(Circuit(GPT2, a), Circuit(GPT2, b))
    assert found.log10_p == pytest.approx(math.log10(ways) - math.log10(math.comb(total, m)), rel=1e-9, abs=1e-9)
    assert found.p == (pytest.approx(10**found.log10_p) if found.log10_p > -300 else 0.0)
    # The mean of a hypergeometric count is nm / total, and the IoU near what it gives.
    assert found.expected == pytest.approx((n * m / total) / (n + m - n * m / total), rel=0.1)


def test_an_overlap_by_layers_alone_is_none_by_layer() -> None:
    """Two circuits that agree in the layers of their edges, and in nothing else, exceed only the null of size."""
    layout = Layout(6, 6, 8)
    names = layout.edge_names(range(layout.n_edges))
    between = torch.tensor([name.startswith("a0.") and "a1." in name for name in names]).nonzero()[:, 0]
    a, b = torch.zeros(2, layout.n_edges, dtype=torch.bool)
    generator = torch.Generator().manual_seed(0)
    for members in (a, b):
        members[between[torch.randperm(len(between), generator=generator)[:40]]] = True
    one, other = Circuit(layout, a), Circuit(layout, b)
    assert overlap(one, other).p < 1e-6 and overlap(one, other).z > 10
    assert overlap(one, other, null="layer").p > 0.01 and abs(overlap(one, other, null="layer").z) < 3


# ---- random paths ----------------------------------------------------------------------------------------------------


def test_of_a_circuit_what_leads_nowhere_is_left_out_under_paths() -> None:
    layout = Layout(3, 2, 4)
    a, b = chosen(layout, 60, 0), chosen(layout, 50, 1)
    found = overlap(a, b, null="paths", draws=5)
    assert (found.in_a, found.in_b) == (a.prune().n_edges, b.prune().n_edges) != (60, 50)
    assert found.iou == a.prune().iou(b.prune()) and found == overlap(a.prune(), b.prune(), null="paths", draws=5)


def test_pairs_of_random_paths_are_rarely_beyond_chance() -> None:
    """Of 30 p-values of pairs that are what the null says, 3 are expected up to .1; above 10 with chance 1e-4."""
    layout, generator = Layout(4, 4, 8), torch.Generator().manual_seed(7)
    ps: dict[Any, list[float]] = {"edges": [], "nodes": []}
    some = chosen(layout, 40, 0)
    for seed in range(30):
        a, b = (Circuit(layout, random_paths(some, generator)) for _ in range(2))
        for of, found in ps.items():
            found.append(overlap(a, b, of=of, null="paths", draws=19, seed=seed).p)
    for found in ps.values():
        assert sum(p <= 0.1 for p in found) <= 10 and sum(p >= 0.5 for p in found) >= 6 and min(found) >= 1 / 20


def test_of_one_edge_there_is_one_path() -> None:
    edge = torch.arange(TINY.n_edges) == TINY.edge_index("input->logits")
    found = overlap(Circuit(TINY, edge), Circuit(TINY, edge), null="paths", draws=3)
    assert (found.iou, found.expected, found.low, found.high, found.p, found.draws) == (1, 1, 1, 1, 1, 3)
    assert math.isnan(found.z) and found.to_dict()["z"] is None


def test_paths_begin_where_the_circuits_are_read() -> None:
    """A circuit that is read at END is held against paths that are: else they would share less with each other."""
    layout = Layout(2, 2, 4).in_spans(["S2", "END"])
    names = layout.edge_names(range(layout.n_edges))
    at_end = torch.tensor([name.endswith("->logits@END") for name in names])
    at_end |= torch.tensor([name.startswith("input->") and "<v>" not in name for name in names])
    at_end &= ~torch.tensor([name.endswith("->logits@S2") for name in names])
    circuit = Circuit(layout, at_end).prune()
    sight = Sight(torch.tensor([False, True]), torch.ones(2, 2, dtype=torch.bool))
    whole = Circuit(layout, random_paths(circuit, torch.Generator().manual_seed(0), sight))
    alike, elsewhere = (
        overlap(circuit, other, null="paths", draws=60).expected
        for other in (whole, Circuit(layout, torch.tensor(["->logits@S2" in n or "input->" in n for n in names])))
    )
    assert alike > elsewhere + 0.05


def test_draws_are_those_of_their_seed() -> None:
    a, b = chosen(Layout(3, 2, 4), 60, 0), chosen(Layout(3, 2, 4), 50, 1)
    one, again, other = (overlap(a, b, null="paths", draws=20, seed=seed) for seed in (0, 0, 1))
    assert one == again != other and one.iou == other.iou


# ---- refused, and written --------------------------------------------------------------------------------------------


def test_a_file_has_all_of_it_and_what_follows() -> None:
    found = overlap(chosen(GPT2, 400, 0), chosen(GPT2, 300, 1), of="nodes", null="layer")
    written = json.loads(json.dumps(found.to_dict()))
    assert from_json(Overlap, written) == found
    assert (written["p"], written["z"]) == (found.p, found.z)
    assert found.z == pytest.approx((found.iou - found.expected) / found.std)


def test_what_cannot_be_compared_is_refused() -> None:
    a, b = chosen(TINY, 5, 0), chosen(TINY, 5, 1)
    with pytest.raises(ValueError, match="the other circuit is of another layout: n_heads 2 against 1"):
        overlap(a, chosen(Layout(2, 2, 1), 5, 0), of="nodes")
    with pytest.raises(ValueError, match=r"tells edges apart in END, this one in no spans: .*edges-in-any-span"):
        overlap(a, a.in_spans(["END"]))
    with pytest.raises(ValueError, match="circuit b has no edges, so that it has nothing in common"):
        overlap(a, Circuit.empty(TINY))
    lone = Circuit(TINY, torch.arange(TINY.n_edges) == TINY.edge_index("a0.h0->m1"))
    with pytest.raises(ValueError, match="circuit a has no nodes, so"):
        overlap(lone, b, of="nodes")
    with pytest.raises(ValueError, match="circuit a has no edges once it is pruned"):
        overlap(lone, b, null="paths")
    with pytest.raises(ValueError, match="null is one of 'size', 'layer', 'paths', got 'none'"):
        overlap(a, b, null="none")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"compared by is one of .* got 'heads'"):
        overlap(a, b, of="heads")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="at least one draw, got 0"):
        overlap(a, b, draws=0)
    with pytest.raises(ValueError, match="seed takes a whole number from 0 up, got -1"):
        overlap(a, b, seed=-1)
    with pytest.raises(TypeError, match=r"draws takes a whole number, got 1\.5"):
        overlap(a, b, draws=1.5)  # type: ignore[arg-type]
