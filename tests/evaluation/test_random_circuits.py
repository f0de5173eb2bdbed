"""Random circuits that are made of paths: whole paths, of every size, the same for a seed."""

from __future__ import annotations

import doctest
from typing import Any

import pytest
import torch

from lightning_circuits.circuit import Circuit
from lightning_circuits.evaluation import random_circuits
from lightning_circuits.evaluation.random_circuits import (
    draw_paths,
    edges_on_paths,
    random_paths,
    spans_read,
    superfluous_edges,
    whole_paths,
)
from lightning_circuits.layout import Layout

LAYOUTS = [Layout(3, 2, 4), Layout(2, 4, 8, 2), Layout(1, 1, 1), Layout(12, 12, 768)]
SPANS = ["S2", "S2..END", "END"]


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_doctest() -> None:
    result = doctest.testmod(random_circuits)
    assert result.attempted and not result.failed


@pytest.mark.parametrize("layout", [*LAYOUTS, LAYOUTS[0].in_spans(SPANS), LAYOUTS[1].in_spans(SPANS)], ids=str)
def test_random_paths_are_paths(layout: Layout) -> None:
    for path in draw_paths(layout, 40, generator()):
        names = [name.partition("@")[0] for name in layout.edge_names(path)]
        assert names[0].endswith("->logits") and names[-1].startswith("input->")
        members = torch.zeros(layout.n_edges, dtype=torch.bool)
        members[path] = True
        assert Circuit(layout, members).prune().n_edges == len(path) == len(set(path))


@pytest.mark.parametrize("layout", [*LAYOUTS[:3], LAYOUTS[2].in_spans(SPANS)], ids=str)
def test_random_paths_come_in_every_size_and_hang_together(layout: Layout) -> None:
    for n in range(layout.n_edges + 1):
        circuit = Circuit(layout, random_paths(layout, n, seed=n))
        assert circuit.n_edges == n
        longest = layout.n_streams  # an edge into a component of each stream
        assert circuit.prune().n_edges >= n - longest  # only the last path may be cut short
    assert torch.equal(random_paths(layout, 3, seed=1), random_paths(layout, 3, seed=1))


def test_random_paths_fill_large_models_and_differ_by_seed() -> None:
    gpt2 = LAYOUTS[3]
    one, other = random_paths(gpt2, 1000, seed=0), random_paths(gpt2, 1000, seed=1)
    assert one.sum() == other.sum() == 1000 and not torch.equal(one, other)
    assert random_paths(gpt2, 16_000, seed=0).sum() == 16_000
    with pytest.raises(ValueError, match="32,492 of the 32,491"):
        random_paths(gpt2, 32_492)


def test_superfluous_edges_are_new_and_on_a_path() -> None:
    layout = LAYOUTS[0]
    circuit = Circuit(layout, random_paths(layout, layout.n_edges - 1, seed=0))
    for members, edge in superfluous_edges(circuit, 5, generator()):
        assert not circuit.members[edge] and members[edge] and bool((circuit.members <= members).all())


@pytest.mark.parametrize("plain", LAYOUTS[:3], ids=str)
def test_paths_in_spans_end_where_the_logits_are_read(plain: Layout) -> None:
    layout = plain.in_spans(SPANS)
    for path in draw_paths(layout, 40, generator(), read_in=[2]):
        assert layout.edge_names(path[:1])[0].endswith("->logits@END")
    members = edges_on_paths(layout, [2])
    names = layout.edge_names(members.nonzero()[:, 0])
    last = f"m{layout.n_layers - 1}"  # at S2 it would be read by the logits alone
    assert {name for name in names if "logits" in name} == {f"{w}->logits@END" for w in layout.writer_names}
    assert f"input->{last}@END" in names and f"input->{last}@S2" not in names
    assert torch.equal(random_paths(layout, len(names), read_in=[2]), members)
    with pytest.raises(ValueError, match=f"{len(names) + 1:,} edges: {len(names):,} of .* lie on paths"):
        random_paths(layout, len(names) + 1, read_in=[2])
    assert edges_on_paths(layout).all() and edges_on_paths(plain).all()


def test_a_circuit_that_leaves_no_path_has_no_superfluous_edge() -> None:
    layout = LAYOUTS[2].in_spans(SPANS)
    for members, read_in in ((edges_on_paths(layout, [2]), [2]), (Circuit.full(layout).members, None)):
        with pytest.raises(ValueError, match="holds every edge on a path"):
            superfluous_edges(Circuit(layout, members), 1, generator(), read_in)


def test_the_spans_that_answers_are_read_in_are_those_of_the_positions() -> None:
    layout = LAYOUTS[2].in_spans(["END", "S2"])
    batch: Any = {"spans": torch.tensor([[0, 1, 2, -1], [0, 0, 1, 2]]), "span_names": ("S2", "BETWEEN", "END")}
    assert spans_read(layout, [batch | {"positions": torch.tensor([2, 3])}]) == [0]
    assert spans_read(layout, [batch | {"positions": torch.tensor([at, 3])} for at in (2, 0)]) == [0, 1]
    assert spans_read(layout.plain, []) is None
    with pytest.raises(ValueError, match="no prompt is read in one of the spans END, S2"):
        spans_read(layout, [batch | {"positions": torch.tensor([1, 2])}])


@pytest.mark.parametrize("layout", [*LAYOUTS[:3], *(plain.in_spans(SPANS) for plain in LAYOUTS[:2])], ids=str)
def test_whole_paths_are_their_own_prune(layout: Layout) -> None:
    short = 0
    for n in range(0, layout.n_edges + 1, 3):
        circuit = Circuit(layout, whole_paths(layout, n, generator(n)))
        assert circuit == circuit.prune() and n - layout.n_streams < circuit.n_edges <= n
        short += circuit.n_edges < n
    assert short <= 1 + layout.n_edges // 30  # of most sizes there are some


def test_whole_paths_begin_where_they_are_told_and_differ_by_generator() -> None:
    layout = LAYOUTS[0].in_spans(SPANS)
    one, other = (whole_paths(layout, 40, generator(seed), [2]) for seed in (0, 1))
    assert not torch.equal(one, other) and torch.equal(one, whole_paths(layout, 40, generator(0), [2]))
    names = layout.edge_names((one | other).nonzero()[:, 0])
    assert {name.partition("@")[2] for name in names if "->logits" in name} == {"END"}
    assert whole_paths(LAYOUTS[3], 1000, generator()).sum() == 1000
