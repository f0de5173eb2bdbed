"""Random circuits that are made of paths: whole paths, in every span as many edges as asked for, by seed."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lightning_circuits.circuit import Circuit
from lightning_circuits.evaluation.random_circuits import (
    Sight,
    draw_paths,
    edges_on_paths,
    paths_like,
    random_paths,
    superfluous_edges,
)
from lightning_circuits.layout import Layout
from tests.support.gates import generator
from tests.support.made_circuits import of_edges

LAYOUTS = [Layout(3, 2, 4), Layout(2, 4, 8, 2), Layout(1, 1, 1), Layout(12, 12, 768), Layout(3, 2, 4, parallel=True)]
SPANS = ["S2", "S2..END", "END"]
FORWARD = Sight(torch.tensor([False, False, True]), torch.ones(3, 3).tril().bool())
"""The logits are read at END alone, and spans stand in their order."""


def of_size(layout: Layout, n: int) -> Circuit:
    return Circuit.random(layout, n, seed=0)


def in_each_span(layout: Layout, members: torch.Tensor) -> list[int]:
    return [int(each.sum()) for each in layout.each_span(members)]


@pytest.mark.parametrize("layout", [*LAYOUTS, LAYOUTS[0].in_spans(SPANS), LAYOUTS[1].in_spans(SPANS)], ids=str)
def test_random_paths_are_paths(layout: Layout) -> None:
    for path in draw_paths(layout, 40, generator(), Sight.everywhere(layout)):
        names = [name.partition("@")[0] for name in layout.edge_names(path)]
        assert names[0].endswith("->logits") and names[-1].startswith("input->")
        members = torch.zeros(layout.n_edges, dtype=torch.bool)
        members[path] = True
        assert Circuit(layout, members).prune().n_edges == len(path) == len(set(path))


@pytest.mark.parametrize("plain", LAYOUTS[:3], ids=str)
def test_paths_in_spans_go_only_back_from_where_the_logits_are_read(plain: Layout) -> None:
    layout = plain.in_spans(SPANS)
    entered = set()
    for path in draw_paths(layout, 200, generator(), FORWARD):
        edges = [name.split("@") for name in layout.edge_names(path)]
        places = [SPANS.index(span) for _, span in edges]
        assert edges[0][0].endswith("->logits") and SPANS[places[0]] == "END"
        for (edge, _), (above, below) in zip(edges[1:], pairwise(places), strict=True):
            assert below <= above and (below == above or edge.endswith(("<k>", "<v>")))
        entered |= set(places)
    assert entered == {0, 1, 2}


@pytest.mark.parametrize("layout", [*LAYOUTS[:3], LAYOUTS[2].in_spans(SPANS)], ids=str)
def test_random_paths_come_in_every_size_and_lead_to_the_logits(layout: Layout) -> None:
    for n in range(layout.n_edges + 1):
        circuit = Circuit(layout, random_paths(of_size(layout, n), generator(n)))
        assert circuit.n_edges == n and circuit.prune() == circuit
    one, same, other = (random_paths(of_size(layout, layout.n_edges // 2), generator(seed)) for seed in (1, 1, 2))
    assert torch.equal(one, same) and not torch.equal(one, other)


@given(layout=st.sampled_from(LAYOUTS[:3]), forward=st.booleans(), seed=st.integers(0, 2**32), share=st.floats(0, 1))
@settings(deadline=None, max_examples=60)
def test_random_paths_match_a_circuit_in_every_span(layout: Layout, forward: bool, seed: int, share: float) -> None:
    """That they can be followed in any prompt is what is asked of every edge, not only of what `prune` sees."""
    layout = layout.in_spans(SPANS)
    sight = FORWARD if forward else Sight.everywhere(layout)
    usable = edges_on_paths(layout, sight)
    drawn = torch.rand(layout.n_edges, generator=generator(seed)) < share
    circuit = Circuit(layout, drawn & usable)
    # A circuit that no path is left of may be none that paths match.
    circuit = Circuit(layout, by_walking(layout, circuit.members, sight))
    rival = random_paths(circuit, generator(seed), sight)
    assert in_each_span(layout, rival) == in_each_span(layout, circuit.members)
    assert Circuit(layout, rival).prune() == Circuit(layout, rival)
    assert torch.equal(by_walking(layout, rival, sight), rival)


def by_walking(layout: Layout, members: torch.Tensor, sight: Sight) -> torch.Tensor:
    """The members on ways from the input to the logits: followed edge by edge, up and down, by their names."""
    names = layout.edge_names(members.nonzero()[:, 0])
    edges = {name: (*name.partition("@")[0].split("->"), SPANS.index(name.partition("@")[2])) for name in names}
    per_group = layout.n_heads // layout.n_kv_readers

    def nodes(reader: str, span: int) -> set[tuple[str, int]]:
        """Which nodes, each in which span, put out what a reader has read in a span."""
        node, _, kind = reader.rstrip(">").partition("<")
        if kind not in ("k", "v"):
            return {(node, span)}
        layer, _, reads = node.partition(".")
        heads = [f"{layer}.h{int(reads[1:]) * per_group + i}" for i in range(per_group)]  # per head, a group is one
        return {(head, by) for head in heads for by in range(len(SPANS)) if sight.sees[by, span]}

    ends = {("logits", span) for span in range(len(SPANS)) if sight.read[span]}
    reached, leads = {("input", span) for span in range(len(SPANS))}, set(ends)
    for _ in range(2 * layout.n_layers + 2):
        for writer, reader, span in edges.values():
            if (writer, span) in reached:
                reached |= nodes(reader, span)
            if nodes(reader, span) & leads:
                leads.add((writer, span))
    kept = [name for name, (w, r, span) in edges.items() if (w, span) in reached and nodes(r, span) & leads]
    return of_edges(layout, *kept).members


def test_random_paths_fill_large_models_and_differ_by_seed() -> None:
    gpt2 = LAYOUTS[3]
    one, other = (random_paths(of_size(gpt2, 1000), generator(seed)) for seed in (0, 1))
    assert one.sum() == other.sum() == 1000 and not torch.equal(one, other)
    assert random_paths(of_size(gpt2, 16_000), generator()).sum() == 16_000


def test_superfluous_edges_are_new_and_on_a_path() -> None:
    layout = LAYOUTS[0]
    circuit = Circuit(layout, random_paths(of_size(layout, layout.n_edges - 1), generator()))
    for members, edge in superfluous_edges(circuit, 5, generator(), Sight.everywhere(layout)):
        assert not circuit.members[edge] and members[edge] and bool((circuit.members <= members).all())


@pytest.mark.parametrize("plain", LAYOUTS[:3], ids=str)
def test_edges_on_paths_lead_to_where_the_logits_are_read(plain: Layout) -> None:
    layout = plain.in_spans(SPANS)
    members = edges_on_paths(layout, FORWARD)
    names = layout.edge_names(members.nonzero()[:, 0])
    last = f"m{layout.n_layers - 1}"  # at S2 it would be read by the logits alone
    assert {name for name in names if "logits" in name} == {f"{w}->logits@END" for w in layout.writer_names}
    assert f"input->{last}@END" in names and f"input->{last}@S2" not in names
    assert torch.equal(random_paths(Circuit(layout, members), generator(), FORWARD), members)
    for each in (layout, plain):
        assert edges_on_paths(each, Sight.everywhere(each)).all()


def test_a_circuit_that_no_paths_match_is_refused() -> None:
    layout = LAYOUTS[0].in_spans(SPANS)
    for names in (["input->a0.h0<k>@S2"], [f"{writer}->logits@S2" for writer in layout.writer_names]):
        with pytest.raises(ValueError, match=rf"{len(names)} of \d+ in S2, 0 of .* 0 of .* prune it first"):
            random_paths(of_edges(layout, *names), generator(), FORWARD)
    with pytest.raises(ValueError, match=r"100 of \d\d in S2, .* 100 of 100 in END"):
        random_paths(Circuit.full(layout), generator(), FORWARD)


def test_a_circuit_that_leaves_no_path_has_no_superfluous_edge() -> None:
    layout = LAYOUTS[2].in_spans(SPANS)
    every = Sight.everywhere(layout)
    for members, sight in ((edges_on_paths(layout, FORWARD), FORWARD), (Circuit.full(layout).members, every)):
        with pytest.raises(ValueError, match="holds every edge on a path"):
            superfluous_edges(Circuit(layout, members), 1, generator(), sight)


def test_what_is_seen_is_read_from_the_prompts() -> None:
    layout = LAYOUTS[2].in_spans(["END", "S2"])
    batch: Any = {"spans": torch.tensor([[0, 1, 2, -1], [0, 0, 1, 2]]), "span_names": ("S2", "BETWEEN", "END")}
    sight = Sight.of(layout, [batch | {"positions": torch.tensor([2, 3])}])
    assert sight.read.tolist() == [True, False] and sight.sees.tolist() == [[True, True], [False, True]]
    sight = Sight.of(layout, [batch | {"positions": torch.tensor([at, 3])} for at in (2, 0)])
    assert sight.read.tolist() == [True, True]
    back = batch | {"spans": batch["spans"].flip(1), "positions": torch.tensor([1, 0])}  # as some prompts have it
    assert Sight.of(layout, [batch | {"positions": torch.tensor([2, 3])}, back]).sees.all()
    with pytest.raises(ValueError, match="no prompt is read in one of the spans END, S2"):
        Sight.of(layout, [batch | {"positions": torch.tensor([1, 2])}])


def test_a_match_begins_where_the_circuit_is_read() -> None:
    layout = LAYOUTS[0].in_spans(SPANS)
    at_end = Circuit(layout, random_paths(of_size(layout, 60), generator(), FORWARD))
    match = paths_like(at_end, generator(1))
    assert match == match.prune() and match != at_end
    assert in_each_span(layout, match.members) == in_each_span(layout, at_end.members)
    into_logits = {name for name in match.edge_names() if "->logits" in name}
    assert into_logits and all(name.endswith("@END") for name in into_logits)
