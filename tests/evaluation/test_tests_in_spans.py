"""Knock-outs, contributions and hypothesis tests of circuits in spans, against the forward with loops and names."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from lightning_circuits.ablation import ABLATIONS
from lightning_circuits.batch import FIELDS
from lightning_circuits.circuit import Circuit
from lightning_circuits.evaluation import hypotheses
from lightning_circuits.evaluation.completeness import (
    circuit_parts,
    cut_edges,
    greedy_knockout,
    measure_contributions,
    measure_knockouts,
    random_knockouts,
)
from lightning_circuits.evaluation.hypotheses import examine
from lightning_circuits.evaluation.per_prompt import measured
from lightning_circuits.evaluation.stability import (
    bootstrap_stability,
    pairwise_stability,
    scores_per_batch,
    stability_of_scores,
)
from lightning_circuits.layout import Layout
from lightning_circuits.models import CircuitModel
from lightning_circuits.objectives import LogitDifference
from lightning_circuits.scoring.gradients import gradient_scores
from tests.support.gated import SPANS, random_spans, second_opinion, wrapped
from tests.support.oracle import Pairs, pairs

INTERCHANGE = ABLATIONS.make("interchange")


@pytest.fixture(scope="module")
def prompts() -> tuple[Pairs, Any]:
    """Two prompts whose every token is in a span, as the oracle and as a data module has them."""
    two = pairs("left")
    answers = {"answers": torch.tensor([[1], [3]]), "distractors": torch.tensor([[2], [4]])}
    return two, vars(two) | answers | {"spans": random_spans(two, least=0), "span_names": SPANS}


@pytest.fixture(scope="module")
def model() -> CircuitModel:
    return wrapped("gpt2", "head", torch.float64).in_spans(SPANS)


@pytest.fixture(scope="module")
def circuit(model: CircuitModel) -> Circuit:
    drawn = torch.rand(model.layout.n_edges, generator=torch.Generator().manual_seed(0))
    return Circuit(model.layout, drawn < 0.5)


def by_oracle(model: CircuitModel, open_edges: set[str], prompts: tuple[Pairs, Any]) -> Tensor:
    """Logit differences ``[2]`` with the edges of these names open, by loops over tokens."""
    two, batch = prompts
    layout = model.layout
    gates = torch.tensor([float(name in open_edges) for name in layout.edge_names(range(layout.n_edges))])
    named = [[None if span < 0 else SPANS[span] for span in row] for row in batch["spans"].tolist()]
    logits, _ = second_opinion(model, gates.double(), two, None, named, layout)
    rows = torch.arange(2)
    return logits[rows, batch["answers"][:, 0]] - logits[rows, batch["distractors"][:, 0]]


def everything(model: CircuitModel) -> set[str]:
    return set(model.layout.edge_names(range(model.layout.n_edges)))


def leaves(node: str, edge: str) -> bool:
    """Whether an edge leaves a node, ``m0`` in all spans, ``m0@END`` in one."""
    (source, _, span), (writer, _, at) = edge.replace("@", "->").split("->"), node.partition("@")
    return source == writer and at in ("", span)


def test_a_node_is_knocked_out_in_all_spans_or_in_the_one_that_is_said(
    model: CircuitModel, circuit: Circuit, prompts: tuple[Pairs, Any]
) -> None:
    """One prompt is read in a span and the other in another: what is cut in one alone shows in numbers of its own."""
    nodes = ["a0.h1", "a0.h1@S2", "a0.h1@END", "m0"]
    found = measure_knockouts(model, [prompts[1]], circuit, [[node] for node in nodes], INTERCHANGE)
    own = set(circuit.edge_names())
    for node, knockout in zip(nodes, found, strict=True):
        cut = {edge for edge in everything(model) if leaves(node, edge)}
        assert set(model.layout.edge_names(cut_edges(model.layout, [node]).nonzero()[:, 0])) == cut
        for value, open_edges in ((knockout.full, everything(model) - cut), (knockout.circuit, own - cut)):
            assert value == pytest.approx(float(by_oracle(model, open_edges, prompts).mean()), abs=1e-9)
    assert len({round(knockout.full, 6) for knockout in found}) == 4


def test_parts_of_a_circuit_in_spans(circuit: Circuit) -> None:
    edges, nodes, placed = (circuit_parts(circuit, of) for of in ("edges", "nodes", "nodes-in-spans"))
    assert edges == circuit.edge_names()
    left = {(*edge.partition("->")[::2],) for edge in edges}
    of_spans = {f"{writer}@{reader.partition('@')[2]}" for writer, reader in left if writer != "input"}
    assert set(placed) == of_spans and len(placed) == len(of_spans)
    assert set(nodes) == {name.partition("@")[0] for name in placed} and len(nodes) < len(placed)
    with pytest.raises(ValueError, match=r"the circuit has no spans, .* of='nodes'"):
        circuit_parts(circuit.without_spans(), "nodes-in-spans")


@pytest.mark.parametrize("name", ["a0.h1@NOWHERE", "a0.h1@", "a9.h1@END", "END"])
def test_what_is_no_node_in_a_span_is_refused(model: CircuitModel, name: str) -> None:
    with pytest.raises(ValueError, match=f"cannot knock out '{name}'.*'a0.h1@END'"):
        cut_edges(model.layout, [name])
    with pytest.raises(ValueError, match="no span 'NOWHERE'"):
        cut_edges(model.layout, ["a0.h1->m1@NOWHERE"])
    with pytest.raises(ValueError, match="has no such node"):
        cut_edges(model.layout.plain, ["a0.h1@END"])


def test_contributions_are_of_every_edge_in_its_span(
    model: CircuitModel, circuit: Circuit, prompts: tuple[Pairs, Any]
) -> None:
    """The logits are read in one span of each prompt: in others an edge into them contributes nothing."""
    few = Circuit(circuit.layout, circuit.members & (torch.arange(circuit.layout.n_edges) % 5 == 0))
    found = measure_contributions(model, [prompts[1]], few, INTERCHANGE)
    assert found.parts == few.edge_names()
    own = set(few.edge_names())
    base, empty = (by_oracle(model, names, prompts) for names in (own, set()))
    behaviour = float((by_oracle(model, everything(model), prompts) - empty).mean())
    for at in range(0, len(found.parts), 9):
        lost = (base - by_oracle(model, own - {found.parts[at]}, prompts)).mean()
        assert float(found.values[at]) == pytest.approx(float(lost) / behaviour, abs=1e-8)
    values = dict(zip(found.parts, found.values.tolist(), strict=True))
    read = {SPANS[int(row[at])] for row, at in zip(prompts[1]["spans"], prompts[1]["positions"], strict=True)}
    elsewhere = [name for name in values if "->logits@" in name and name.partition("@")[2] not in read]
    assert all(values[name] == pytest.approx(0, abs=1e-12) for name in elsewhere)
    placed = measure_contributions(model, [prompts[1]], few, INTERCHANGE, of="nodes-in-spans")
    assert placed.parts == circuit_parts(few, "nodes-in-spans") and placed.values.abs().max() > 1e-3


def test_knockouts_are_drawn_and_grown_of_any_parts(
    model: CircuitModel, circuit: Circuit, prompts: tuple[Pairs, Any]
) -> None:
    for of in ("edges", "nodes", "nodes-in-spans"):
        assert {name for drawn in random_knockouts(circuit, 20, of=of) for name in drawn} == set(
            circuit_parts(circuit, of)
        )
    path = greedy_knockout(model, [prompts[1]], circuit, INTERCHANGE, steps=2, of="nodes-in-spans", candidates=3)
    assert len(path[-1].parts) == 2 and all("@" in part for part in path[-1].parts)


def test_a_circuit_of_other_spans_is_not_run(model: CircuitModel, circuit: Circuit, prompts: tuple[Pairs, Any]) -> None:
    for layout in (model.layout.plain, model.layout.in_spans(["S2", "END"])):
        with pytest.raises(ValueError, match=r"of another layout: spans .*circuit\.without_spans\(how='any'\)"):
            measured(model, [prompts[1]], [Circuit.full(layout)], INTERCHANGE)
        with pytest.raises(ValueError, match=r"another layout: spans"):
            examine(model, [prompts[1]], Circuit.random(layout, 5, seed=0), INTERCHANGE)


def test_the_five_tests_take_edges_in_their_spans(
    model: CircuitModel, prompts: tuple[Pairs, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where no answer is read, edges into the logits are idle in the circuit and not drawn into random ones."""
    _, batch = prompts
    four: Any = {name: value.repeat(2, *[1] * (value.ndim - 1)) for name, value in batch.items() if name in FIELDS}
    spans = torch.zeros_like(four["clean_ids"]) - (four["attention_mask"] == 0).long()
    spans[:, -2:] = 2  # all are read at END
    four |= {"spans": spans, "span_names": SPANS}
    members = gradient_scores(model, four, INTERCHANGE, LogitDifference()).edges.abs() > 0.3
    idle = [f"{writer}->logits@S2" for writer in ("input", "m0")]
    members[[model.layout.edge_index(name) for name in idle]] = True
    run: list[Tensor] = []

    def noted(model: CircuitModel, batches: Any, circuits: Any, ablation: Any, measure: Any) -> Tensor:
        run.extend(circuits)
        return measured(model, batches, circuits, ablation, measure)

    monkeypatch.setattr(hypotheses, "measured", noted)
    report = examine(model, iter([four]), Circuit(model.layout, members), INTERCHANGE, n_random=9, permutations=10)
    changes = dict(zip(model.layout.edge_names(report.edges), report.changes.tolist(), strict=True))
    assert all(changes[name] == 0 for name in idle) and max(changes.values()) > 0
    assert report["minimality"].statistic == 0
    for rival in run[3:12]:
        assert {name.partition("@")[2] for name in Circuit(model.layout, rival).edge_names() if "logits" in name} == {
            "END"
        }
        of_each = (model.layout.each_span(each).sum(1).tolist() for each in (rival, members))
        assert next(of_each) == next(of_each)


# ---- stability -------------------------------------------------------------------------------------------------------

LAYOUT = Layout(2, 2, 8).in_spans(["S2", "END"])


def test_stability_tells_an_edge_in_one_span_from_it_in_another() -> None:
    plain = Circuit.random(LAYOUT.plain, 10, seed=0)
    half = LAYOUT.plain.n_edges
    s2, end = (Circuit(LAYOUT, plain.members.repeat(2) & (torch.arange(2 * half) // half == at)) for at in range(2))
    assert pairwise_stability([s2, end]).mean == 0 and pairwise_stability([s2, s2]).mean == 1
    assert pairwise_stability([s2.without_spans(), end.without_spans()]).mean == 1
    # By chance two circuits of 10 of the 92 edges in spans share 100 / 92.
    assert pairwise_stability([s2, end]).chance == pytest.approx((100 / 92) / (20 - 100 / 92))
    for other in (plain, Circuit.full(LAYOUT.plain.in_spans(["S2", "S1"]))):
        with pytest.raises(ValueError, match=r"circuit 1 is of another layout: spans .*without_spans"):
            pairwise_stability([s2, other])


def test_scores_in_spans_are_drawn_again_as_they_are(model: CircuitModel, prompts: tuple[Pairs, Any]) -> None:
    _, batch = prompts
    ones = [{key: value[i : i + 1] for key, value in batch.items()} | {"span_names": SPANS} for i in range(2)]
    kept = scores_per_batch(lambda one: gradient_scores(model, one, INTERCHANGE, LogitDifference()), ones)
    assert kept.sums.shape == (2, model.layout.n_edges)
    (found,) = bootstrap_stability(kept, [20], draws=6, absolute=True)
    (of_both,) = stability_of_scores(kept.sums, [20], absolute=True)
    assert of_both.mean < found.mean < 1 and found.edges == 20
