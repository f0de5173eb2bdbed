"""Circuits on each other's tasks: cells are those of evaluate, controls match, hand-set models have a known matrix."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Iterator

import pytest
import torch

from lightning_circuits.ablation import ABLATIONS, MeanAblation
from lightning_circuits.circuit import Circuit
from lightning_circuits.datamodules import IOIDataModule
from lightning_circuits.evaluation.overlap import overlap
from lightning_circuits.evaluation.rows import evaluate
from lightning_circuits.evaluation.transfer import EXACT_NULLS, SHARED, Transfer, match_of, transfer
from lightning_circuits.layout import Layout
from lightning_circuits.models import CircuitModel, wrap
from tests.support.ground_truth import Induction
from tests.support.ioi_circuit import ioi_circuit

TASKS = ("third-name", "s2-io-flip")


@pytest.fixture(scope="module")
def data() -> dict[str, IOIDataModule]:
    return {
        corruption: IOIDataModule("tiny-ioi", n_train=24, n_val=20, n_test=8, batch_size=12, corruption=corruption)
        for corruption in TASKS
    }


@pytest.fixture(scope="module")
def circuits(model: CircuitModel, data: dict[str, IOIDataModule]) -> dict[str, Circuit]:
    sizes = dict(zip(TASKS, (40, 60), strict=True))
    return {name: ioi_circuit(model, data[name].train_dataloader(), sizes[name]) for name in TASKS}


@pytest.fixture(scope="module")
def found(model: CircuitModel, data: dict[str, IOIDataModule], circuits: dict[str, Circuit]) -> Transfer:
    loaders = {name: module.val_dataloader() for name, module in data.items()}
    return transfer(model, circuits, loaders, ["interchange", "zero"], seed=3)


def members(layout: Layout, edges: set[str]) -> Circuit:
    chosen = torch.zeros(layout.n_edges, dtype=torch.bool)
    chosen[[layout.edge_index(edge) for edge in edges]] = True
    return Circuit(layout, chosen)


def test_of_a_model_set_by_hand_the_matrix_is_known() -> None:
    """Each kind of pair needs edges of its own, and one that all share; all of them together do every task."""
    task = Induction()
    model = wrap(task.model())
    circuits = {kind: members(model.layout, task.interchange[kind]) for kind in task.kinds}
    circuits["whole"] = members(model.layout, task.zero)
    found = transfer(model, circuits, {kind: [task.batch(16, kind)] for kind in task.kinds})
    for data in task.kinds:
        f = {circuit: found.row(data, circuit).faithfulness for circuit in circuits}
        expected = {circuit: float(circuit in (data, "whole")) for circuit in circuits}
        assert f == pytest.approx(expected, abs=0.02), data
        assert found.row(data, "empty").faithfulness == 0 and found.row(data, "full").faithfulness == 1
    # All three circuits share what the logits read, and so a node or more: overlap, and no transfer.
    pairs = found.pairs("interchange", "nodes", "layer")
    assert {(pair.row.data, pair.row.circuit) for pair in pairs} == {
        (data, circuit) for data in task.kinds for circuit in circuits if circuit != data
    }
    assert min(pair.overlap.iou for pair in pairs) > 0.3


def test_circuits_of_two_corruptions_do_their_own_task(found: Transfer) -> None:
    for name in TASKS:
        own = found.row(name, name)
        assert own.faithfulness > 0.85 and own.faithfulness_low > found.row(name, match_of(name)).faithfulness_high
        assert abs(found.row(name, "random").faithfulness) < 0.1


def test_cells_are_the_rows_of_evaluate(
    found: Transfer, model: CircuitModel, data: dict[str, IOIDataModule], circuits: dict[str, Circuit]
) -> None:
    assert len({(row.data, row.ablation, row.circuit) for row in found.rows}) == len(found.rows)
    for name in TASKS:
        ablations = [ABLATIONS.make("interchange"), ABLATIONS.make("zero")]
        rows = evaluate(model, data[name].val_dataloader(), circuits, ablations, controls=False)
        for row in rows:
            cell = found.row(name, row.circuit, row.ablation)
            numbers = cell.scalars()
            assert numbers == pytest.approx(row.scalars(), nan_ok=True) and cell.split == row.split == "val"


def test_controls_are_as_large_as_what_they_are_held_against(found: Transfer, circuits: dict[str, Circuit]) -> None:
    assert found.controls == ["random", "third-name paths", "s2-io-flip paths"]
    random = found.row("third-name", "random")
    assert random.edges == max(circuit.n_edges for circuit in circuits.values()) > random.edges_pruned
    for name, circuit in circuits.items():
        match = found.row("third-name", match_of(name))
        assert match.edges == match.edges_pruned == circuit.prune().n_edges


def test_a_match_is_of_what_is_left_after_pruning(model: CircuitModel, data: dict[str, IOIDataModule]) -> None:
    loose = Circuit.random(model.layout, 240, seed=11)
    found = transfer(model, {"loose": loose}, {"ioi": data["third-name"].val_dataloader()})
    assert found.row("ioi", "loose paths").edges == loose.prune().n_edges < 240
    assert found.row("ioi", "random").edges == 240
    assert found.shared == [] and found.pairs("interchange", "nodes", "size") == []
    assert math.isnan(found.correlation("interchange", "nodes", "size").iou)


def test_what_is_shared_is_overlap(found: Transfer, circuits: dict[str, Circuit]) -> None:
    a, b = circuits.values()
    said = {(part.overlap.of, part.overlap.null): part for part in found.shared}
    assert said.keys() == {(of, null) for of in ("nodes", "edges") for null in ("size", "layer")}
    for (of, null), part in said.items():
        assert part.overlap == overlap(a, b, of, null) and {part.a, part.b} == set(TASKS)
        for pair in found.pairs("zero", of, null):
            assert pair.overlap == part.overlap and pair.row == found.row(pair.row.data, pair.row.circuit, "zero")


def test_correlation_is_that_of_ranks(model: CircuitModel, data: dict[str, IOIDataModule]) -> None:
    """Of three circuits, one within the other, whose six pairs can be ranked by hand."""
    scored = ioi_circuit(model, data["third-name"].train_dataloader(), 200)
    order = scored.scores.where(scored.members, -math.inf).argsort(descending=True)
    circuits = {}
    for name, n in (("small", 40), ("middle", 80), ("large", 160)):
        chosen = torch.zeros(model.layout.n_edges, dtype=torch.bool)
        chosen[order[:n]] = True
        circuits[name] = Circuit(model.layout, chosen)
    batches = list(data["third-name"].val_dataloader())
    found = transfer(model, circuits, dict.fromkeys(circuits, batches))
    pairs = found.pairs("interchange", "edges", "size")
    assert len(pairs) == 6

    def ranks(values: list[float]) -> list[float]:
        return [sum(v < w for v in values) + (sum(v == w for v in values) + 1) / 2 for w in values]

    f = ranks([found.row(pair.row.data, pair.row.circuit).faithfulness for pair in pairs])
    iou = ranks([circuits[pair.row.data].iou(circuits[pair.row.circuit]) for pair in pairs])
    correlation = found.correlation("interchange", "edges", "size")
    assert correlation.pairs == 6 and correlation.iou == pytest.approx(statistics.correlation(iou, f))
    assert len(found.correlations) == len(SHARED) * len(EXACT_NULLS)


def test_means_are_of_the_data_of_each_row(
    model: CircuitModel, data: dict[str, IOIDataModule], circuits: dict[str, Circuit]
) -> None:
    flip = IOIDataModule("tiny-ioi", n_train=5, n_val=4, n_test=4, batch_size=4, seed=7)
    loaders = {"many": data["third-name"].val_dataloader(), "few": data["third-name"].val_dataloader()}
    references = {"many": data["third-name"].train_dataloader(), "few": flip.train_dataloader()}
    found = transfer(model, circuits, loaders, [MeanAblation()], references=references)
    for name in loaders:
        fitted = MeanAblation()
        fitted.fit(model, references[name])
        expected = evaluate(model, loaders[name], circuits, [fitted], controls=False)[2]
        assert found.row(name, "third-name").faithfulness == pytest.approx(expected.faithfulness, rel=1e-5)
    assert found.row("many", "third-name").faithfulness != found.row("few", "third-name").faithfulness
    with pytest.raises(ValueError, match="a reference for each data, and 'few' have none"):
        transfer(model, circuits, loaders, ["mean"], references={"many": references["many"]})


def test_circuits_in_spans_have_controls_in_the_same_spans(model: CircuitModel) -> None:
    data = IOIDataModule("tiny-ioi", n_train=8, n_val=6, n_test=4, batch_size=6, spans="roles")
    placed = model.in_spans(["S2", "S2..END", "END"])
    circuits = {name: Circuit.random(placed.layout, n, seed=n) for name, n in (("a", 400), ("b", 300))}
    found = transfer(placed, circuits, {"a": data.val_dataloader()})
    for name, circuit in circuits.items():
        match = found.row("a", match_of(name))
        assert match.edges == match.edges_pruned == circuit.prune().n_edges
    assert found.row("a", "full").faithfulness == 1 and found.row("a", "random").edges == 400


def test_every_number_is_plain_json(found: Transfer) -> None:
    content = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert content["circuits"] == content["data"] == list(TASKS) and content["ablations"] == ["interchange", "zero"]
    assert len(content["rows"]) == len(found.rows)
    assert {"data", "circuit", "ablation", "split", "prompts", "edges", "edges_pruned"} <= content["rows"][0].keys()
    assert content["correlations"][0] == {
        "ablation": "interchange", "of": "nodes", "null": "size", "pairs": 2, "iou": None, "z": None,
    }  # fmt: skip


def unread() -> Iterator[None]:
    raise AssertionError("prompts were read before the mistake was found")
    yield


@pytest.mark.parametrize(
    ("circuits", "ablations", "said"),
    [
        ({}, ["interchange"], "at least one circuit"),
        ({"a": Circuit.full(Layout(1, 2, 8))}, ["interchange"], "circuit 'a'"),
        ({"a": Circuit.empty(Layout(4, 4, 64))}, ["interchange"], "circuit 'a' has no path from the input"),
        ({"random": Circuit.full(Layout(4, 4, 64))}, ["interchange"], "circuit 'random' is called like"),
        ({n: Circuit.full(Layout(4, 4, 64)) for n in ("a", "a paths")}, ["interchange"], "circuit 'a paths' is called"),
        ({"full": Circuit.full(Layout(4, 4, 64))}, ["interchange"], "there is a row 'full' already"),
        ({"a": Circuit.full(Layout(4, 4, 64))}, ["nonsense"], "unknown ablation 'nonsense'"),
        ({"a": Circuit.full(Layout(4, 4, 64))}, [], "one ablation"),
    ],
)
def test_mistakes_are_said_before_anything_is_run(
    circuits: dict[str, Circuit], ablations: list[str], said: str, model: CircuitModel
) -> None:
    with pytest.raises(ValueError, match=said):
        transfer(model, circuits, {"ioi": unread()}, ablations)
