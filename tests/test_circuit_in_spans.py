"""Circuits in spans held against circuits in others or in none, by names and sets; and what becomes of their scores."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lightning_circuits.circuit import Circuit
from lightning_circuits.layout import Layout

PLAIN = [Layout(2, 2, 4), Layout(2, 4, 8, 2)]
SPANS: list[tuple[str, ...]] = [(), ("END",), ("S2", "END"), ("S2", "S2..END", "END")]


@st.composite
def pairs(draw: st.DrawFn) -> tuple[Circuit, Circuit]:
    """Two circuits of one model, each in spans of its own."""
    plain = draw(st.sampled_from(PLAIN))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**32)))
    made = []
    for _ in range(2):
        layout = plain.in_spans(draw(st.sampled_from(SPANS)))
        density = draw(st.sampled_from([0.0, 0.05, 0.3, 1.0]))
        made.append(Circuit(layout, torch.rand(layout.n_edges, generator=generator) < density))
    return made[0], made[1]


def without(circuit: Circuit, of: str) -> set[str]:
    """The names of what is compared, without spans; a node has an edge that enters and one that leaves it."""
    edges = {name.partition("@")[0] for name in circuit.edge_names()}
    if of == "edges-in-any-span":
        return edges
    n_heads, per_group = circuit.layout.n_heads, circuit.layout.n_heads // circuit.layout.n_kv_readers
    ends = [edge.split("->") for edge in edges]
    entered = {"input"}
    for _, reader in ends:
        node = reader.partition("<")[0]
        block, _, group = node.partition(".g")
        heads = [f"{block}.h{head}" for head in range(n_heads) if group and head // per_group == int(group)]
        entered |= set(heads or [node])
    return entered & {writer for writer, _ in ends} | entered & {"logits"}


@given(pairs(), st.sampled_from(["edges-in-any-span", "nodes"]))
def test_overlap_whatever_the_spans(pair: tuple[Circuit, Circuit], of: Any) -> None:
    one, two = pair
    a, b = without(one, of), without(two, of)
    assert one.iou(two, of) == two.iou(one, of) == (len(a & b) / len(a | b) if a | b else 1)
    assert one.precision(two, of) == two.recall(one, of) == (len(a & b) / len(a) if a else 1)


@given(pairs())
def test_edges_of_different_spans_do_not_compare_and_the_way_out_is_said(pair: tuple[Circuit, Circuit]) -> None:
    one, two = pair
    for compare in (one.iou, one.precision, one.recall, one.union, one.intersection, one.issubset):
        if one.layout == two.layout:
            compare(two)
            continue
        there, here = (", ".join(each.layout.spans) or "no spans" for each in (two, one))
        with pytest.raises(ValueError, match=rf"apart in {there}, this one in {here}: .*of='edges-in-any-span'.*'any'"):
            compare(two)


def test_an_edge_in_one_span_is_not_the_edge_in_another() -> None:
    layout = PLAIN[0].in_spans(["S2", "END"])
    s2, end = (
        Circuit(layout, torch.arange(layout.n_edges) == layout.edge_index(f"a0.h1->m1@{span}")) for span in layout.spans
    )
    assert s2.iou(end) == 0.0 and s2.iou(end, of="edges-in-any-span") == 1.0
    assert s2.without_spans().iou(end, of="edges-in-any-span") == 1.0


@pytest.mark.parametrize("of", ["edges", "edges-in-any-span", "nodes"])
def test_other_models_do_not_compare_by_anything(of: Any) -> None:
    placed = Circuit.full(PLAIN[0]).in_spans(["END"])
    with pytest.raises(ValueError, match="n_heads 4 against 2"):
        placed.iou(Circuit.full(Layout(2, 4, 4)).in_spans(["END"]), of)


# ---- scores ----------------------------------------------------------------------------------------------------------

METADATA = {"method": "EAP", "ranking": "absolute", "scores_are": "effects", "spans": ["S2", "END"], "n_edges": 92}


def scored(**metadata: Any) -> Circuit:
    layout = PLAIN[0].in_spans(["S2", "END"])
    scores = torch.randn(layout.n_edges, generator=torch.Generator().manual_seed(0))
    return Circuit(layout, scores > 0.5, scores, METADATA | metadata, torch.arange(layout.n_writers).float())


def test_effects_add_up_by_their_sum_or_by_the_sum_of_their_absolutes() -> None:
    circuit = scored()
    effects = dict(zip(circuit.layout.edge_names(range(circuit.layout.n_edges)), circuit.scores.tolist(), strict=True))
    total, absolutes = (circuit.without_spans("any", scores=how) for how in ("sum", "sum-of-absolutes"))
    assert total == absolutes == circuit.without_spans("any") and total.layout == PLAIN[0]
    for edge, name in enumerate(PLAIN[0].edge_names(range(PLAIN[0].n_edges))):
        here = [effects[f"{name}@{span}"] for span in ("S2", "END")]
        assert total.scores[edge] == pytest.approx(sum(here), abs=1e-6)
        assert absolutes.scores[edge] == pytest.approx(sum(map(abs, here)), abs=1e-6)
    assert torch.equal(total.node_scores, circuit.node_scores) and absolutes.node_scores is None
    assert total.metadata["scores_are"] == "effects" and absolutes.metadata["scores_are"] == "ranks"
    assert circuit.without_spans("all").scores is None


def test_a_circuit_says_how_it_lost_its_spans_and_nothing_of_what_it_was_in_them(tmp_path: Path) -> None:
    circuit = scored(size=0.3, edges=30, edges_pruned=20, measured=[{"edges": 30}])
    for how, scores in itertools.product(("any", "all"), ("sum", None)):
        path = circuit.without_spans(how, scores=scores).save(tmp_path / "plain.json")
        assert {key: value for key, value in Circuit.load(path).metadata.items() if key != "versions"} == {
            "method": "EAP",
            "ranking": "absolute",
            "scores_are": "effects",
            "without_spans": {"spans": ["S2", "END"], "edges": how, "scores": scores},
        }
    assert set(Circuit.full(PLAIN[0]).in_spans(["END"]).metadata) == set()
    again = circuit.without_spans().in_spans(["S2", "END"])
    assert "measured" not in again.metadata and again.metadata["method"] == "EAP"


def test_scores_that_do_not_add_up_are_refused() -> None:
    circuit = scored()
    with pytest.raises(ValueError, match="the circuit has no scores"):
        Circuit(circuit.layout, circuit.members).without_spans(scores="sum")
    with pytest.raises(ValueError, match=r"only effects add up over spans, .* has scores that are ranks"):
        scored(scores_are="ranks").without_spans(scores="sum-of-absolutes")
    with pytest.raises(ValueError, match="'sum' or the 'sum-of-absolutes' over them, not 'mean'"):
        circuit.without_spans(scores="mean")  # type: ignore[arg-type]


def test_a_circuit_ranks_as_its_search_did() -> None:
    assert scored().absolute and not scored(ranking="signed").absolute
    assert not Circuit.full(PLAIN[0]).absolute  # of another tool: by score
