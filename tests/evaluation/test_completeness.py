"""Scores of single prompts, knock-outs and contributions, against runs of the model made in other ways."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping

import pytest
import torch
from torch import Tensor

from lightning_circuits.ablation import ABLATIONS
from lightning_circuits.batch import first_prompts
from lightning_circuits.circuit import Circuit
from lightning_circuits.datamodules import IOIDataModule
from lightning_circuits.evaluation import completeness as module
from lightning_circuits.evaluation.completeness import (
    circuit_parts,
    cut_edges,
    greedy_knockout,
    measure_contributions,
    measure_knockouts,
    random_knockouts,
)
from lightning_circuits.evaluation.per_prompt import measured
from lightning_circuits.evaluation.rows import evaluate
from lightning_circuits.layout import Layout
from lightning_circuits.models import CircuitModel
from tests.support.made_circuits import of_edges
from tests.support.oracle import Pairs, oracle

INTERCHANGE = ABLATIONS.make("interchange")


@pytest.fixture(scope="module")
def data() -> IOIDataModule:
    data = IOIDataModule("tiny-ioi", n_train=16, n_val=12, n_test=8, batch_size=8)
    data.setup()
    return data


def by_oracle(model: CircuitModel, gates: Mapping[str, float], batch: dict[str, Tensor], n: int) -> Tensor:
    """Logit differences of the first n prompts, by the slow forward with loops and names."""
    few = Pairs(*(batch[key][:n] for key in ("clean_ids", "corrupt_ids", "attention_mask", "positions")))
    reference = oracle(model.model, defaultdict(lambda: 1.0), few.corrupt_ids, few).writers
    logits, rows = oracle(model.model, gates, few.clean_ids, few, reference).logits, torch.arange(n)
    return (logits[rows, batch["answers"][:n, 0]] - logits[rows, batch["distractors"][:n, 0]]).double()


# ---- scores of single prompts ----------------------------------------------------------------------------------------


def test_scores_are_those_of_the_oracle(model: CircuitModel, data: IOIDataModule, circuit: Circuit) -> None:
    batch = next(iter(data.val_dataloader()))
    scores = measured(model, [batch], [Circuit.full(model.layout), circuit.members], INTERCHANGE)
    gates = {name: 0.0 for name in model.layout.edge_names(range(model.layout.n_edges))}
    kept = gates | dict.fromkeys(circuit.edge_names(), 1.0)
    expected = torch.stack([by_oracle(model, defaultdict(lambda: 1.0), batch, 2), by_oracle(model, kept, batch, 2)])
    torch.testing.assert_close(scores[:, :2], expected, rtol=0, atol=2e-4)


def test_means_of_scores_are_what_evaluate_says(model: CircuitModel, data: IOIDataModule, circuit: Circuit) -> None:
    loader = data.val_dataloader()
    runs = [Circuit.full(model.layout), Circuit.empty(model.layout), circuit, circuit.complement()]
    for name in ("interchange", "zero"):
        scores = measured(model, loader, runs, ABLATIONS.make(name))
        assert scores.shape == (4, 12) and scores.dtype == torch.float64
        rows = {row.circuit: row for row in evaluate(model, loader, {"c": circuit}, [ABLATIONS.make(name)])}
        expected = [rows[key].logit_difference for key in ("full", "empty", "c", "c complement")]
        assert scores.mean(1).tolist() == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("measure", ["probability_difference", "kl"])
def test_another_measure_is_what_all_of_them_are_by(
    model: CircuitModel, data: IOIDataModule, circuit: Circuit, measure: str
) -> None:
    loader = data.val_dataloader()
    [nothing] = measure_knockouts(model, loader, circuit, [[]], INTERCHANGE, measure)
    rows = {row.circuit: row for row in evaluate(model, loader, {"c": circuit}, [INTERCHANGE], measure=measure)}
    assert [nothing.circuit, nothing.full] == pytest.approx([rows["c"].value, rows["full"].value], abs=1e-5)
    assert nothing.behaviour == pytest.approx(rows["full"].value - rows["empty"].value, abs=1e-5)
    found = measure_contributions(model, loader, circuit, INTERCHANGE, of="nodes", measure=measure)
    assert found.faithfulness == pytest.approx(rows["c"].faithfulness, abs=1e-4)
    assert nothing.measure == found.measure == rows["c"].measure == measure
    [worst] = greedy_knockout(model, loader, circuit, INTERCHANGE, steps=1, candidates=2, measure=measure)
    assert worst.measure == measure and worst.behaviour == pytest.approx(nothing.behaviour)


def test_batches_do_not_change_the_scores(model: CircuitModel, data: IOIDataModule, circuit: Circuit) -> None:
    whole = IOIDataModule("tiny-ioi", n_train=16, n_val=12, n_test=8, batch_size=12)
    whole.setup()
    assert len(data.val_dataloader()) == 2 and len(whole.val_dataloader()) == 1
    torch.testing.assert_close(
        measured(model, data.val_dataloader(), [circuit], INTERCHANGE),
        measured(model, whole.val_dataloader(), [circuit], INTERCHANGE),
        rtol=0,
        atol=1e-4,
    )


def test_what_cannot_be_run_is_refused(model: CircuitModel, data: IOIDataModule) -> None:
    loader = data.val_dataloader()
    with pytest.raises(ValueError, match="no circuits to run"):
        measured(model, loader, [], INTERCHANGE)
    with pytest.raises(ValueError, match="no batches to run"):
        measured(model, iter([]), [Circuit.empty(model.layout)], INTERCHANGE)
    with pytest.raises(TypeError, match=r"bool tensor, got torch\.float32"):
        measured(model, loader, [torch.rand(model.layout.n_edges)], INTERCHANGE)
    with pytest.raises(ValueError, match="n_layers 1 against 4"):
        measured(model, loader, [Circuit.empty(Layout(1, 4, 64))], INTERCHANGE)
    with pytest.raises(ValueError, match="479 edges"):
        measured(model, loader, [torch.zeros(5, dtype=torch.bool)], INTERCHANGE)


# ---- parts -----------------------------------------------------------------------------------------------------------


def test_parts_are_the_circuits_heads_mlps_and_edges() -> None:
    layout = Layout(2, 2, 4)
    circuit = of_edges(layout, "input->a0.h1<v>", "a0.h1->m1", "m1->logits")
    assert circuit_parts(circuit, "edges") == ["input->a0.h1<v>", "a0.h1->m1", "m1->logits"]
    assert circuit_parts(circuit, "nodes") == ["a0.h1", "m1"]
    with pytest.raises(ValueError, match="its 'edges', its 'nodes' or its 'nodes-in-spans', not 'heads'"):
        circuit_parts(circuit, "heads")


def test_to_cut_a_node_is_to_cut_all_that_leaves_it() -> None:
    layout = Layout(2, 2, 4)
    found = layout.edge_names(cut_edges(layout, ["a0.h1", "input->m0"]).nonzero()[:, 0])
    expected = [name for name in layout.edge_names(range(layout.n_edges)) if name.startswith("a0.h1->")]
    assert set(found) == {*expected, "input->m0"} and not cut_edges(layout, []).any()
    with pytest.raises(ValueError, match=r"cannot knock out 'a0\.h7'"):
        cut_edges(layout, ["a0.h7"])
    with pytest.raises(ValueError, match="m1 does not come before m0"):
        cut_edges(layout, ["m1->m0"])


def test_random_sets_are_even_over_all_subsets() -> None:
    circuit = of_edges(Layout(2, 2, 4), "a0.h1->m1", "m0->m1", "m1->logits")
    drawn = random_knockouts(circuit, 4000, of="edges", seed=1)
    counts = torch.tensor([sum(tuple(k) == subset for k in drawn) for subset in {tuple(k) for k in drawn}])
    assert len(counts) == 8 and (counts - 500).abs().max() < 5 * 500**0.5
    assert random_knockouts(circuit, 3, seed=2) == random_knockouts(circuit, 3, seed=2)
    found = sum(map(len, random_knockouts(circuit, 1000, of="edges", probability=0.1))) / 3000
    assert found == pytest.approx(0.1, abs=0.03)
    for wrong in (0.0, 1.1):
        with pytest.raises(ValueError, match="probability that a part"):
            random_knockouts(circuit, 3, probability=wrong)


# ---- completeness ----------------------------------------------------------------------------------------------------


def test_knockouts_are_those_of_the_oracle(model: CircuitModel, data: IOIDataModule, circuit: Circuit) -> None:
    """One head out of the circuit and out of the model: its output is the corrupt prompt's, everywhere."""
    node = circuit_parts(circuit, "nodes")[1]
    batch = first_prompts(next(iter(data.val_dataloader())), 2)
    [found] = measure_knockouts(model, [batch], circuit, [[node]], INTERCHANGE)
    names = model.layout.edge_names(range(model.layout.n_edges))
    of_model = {name: float(not name.startswith(f"{node}->")) for name in names}
    of_circuit = {name: of_model[name] * (name in set(circuit.edge_names())) for name in names}
    assert found.full == pytest.approx(float(by_oracle(model, of_model, batch, 2).mean()), abs=2e-4)
    assert found.circuit == pytest.approx(float(by_oracle(model, of_circuit, batch, 2).mean()), abs=2e-4)


def test_the_full_model_is_complete_and_the_empty_set_asks_for_faithfulness(
    model: CircuitModel, data: IOIDataModule, circuit: Circuit
) -> None:
    loader = data.val_dataloader()
    everything = Circuit.full(model.layout)
    for knockout in measure_knockouts(model, loader, everything, random_knockouts(everything, 4), INTERCHANGE):
        assert knockout.incompleteness == 0
    [nothing] = measure_knockouts(model, loader, circuit, [[]], INTERCHANGE)
    full, empty, own = measured(model, loader, [everything, Circuit.empty(model.layout), circuit], INTERCHANGE).mean(1)
    assert nothing.incompleteness == pytest.approx(abs(float(own - full)), abs=1e-9)
    assert nothing.relative_incompleteness == pytest.approx(abs(float((own - full) / (full - empty))), abs=1e-9)
    [gone] = measure_knockouts(model, loader, circuit, [circuit.edge_names()], INTERCHANGE)
    assert gone.circuit == pytest.approx(float(empty), abs=1e-4)


def test_greedy_takes_the_worst_of_all_each_time(model: CircuitModel, data: IOIDataModule, circuit: Circuit) -> None:
    loader, names = data.val_dataloader(), circuit_parts(circuit, "nodes")
    path = greedy_knockout(model, loader, circuit, INTERCHANGE, steps=2)
    singles = measure_knockouts(model, loader, circuit, [[name] for name in names], INTERCHANGE)
    assert path[0].incompleteness == max(k.incompleteness for k in singles)
    pairs = [(path[0].parts[0], name) for name in names if name != path[0].parts[0]]
    seconds = measure_knockouts(model, loader, circuit, pairs, INTERCHANGE)
    assert path[1] == max(seconds, key=lambda k: k.incompleteness) and path[1].parts[0] == path[0].parts[0]


def test_greedy_with_few_candidates_ends_when_nothing_is_left(model: CircuitModel, data: IOIDataModule) -> None:
    small = of_edges(model.layout, "m0->logits", "a3.h1->logits")
    options = dict(steps=9, of="edges", candidates=1, seed=3)
    path = greedy_knockout(model, data.val_dataloader(), small, INTERCHANGE, **options)
    assert [len(k.parts) for k in path] == [1, 2] and set(path[1].parts) == set(small.edge_names())
    assert greedy_knockout(model, data.val_dataloader(), small, INTERCHANGE, **options) == path
    for wrong in ({"steps": 0}, {"candidates": 0}):
        with pytest.raises(ValueError, match="at least 1 step and 1 candidate"):
            greedy_knockout(model, data.val_dataloader(), small, INTERCHANGE, **wrong)


def test_parts_that_the_circuit_does_not_have(model: CircuitModel, data: IOIDataModule) -> None:
    small = of_edges(model.layout, "m0->logits")
    for name in ("a3.h1->logits", "a1.h0", "input", "nonsense"):
        with pytest.raises(ValueError, match=f"cannot knock out '{name}': the circuit has no such"):
            measure_knockouts(model, data.val_dataloader(), small, [["m0"], [name]], INTERCHANGE)


# ---- minimality ------------------------------------------------------------------------------------------------------


def test_contributions_are_differences_of_faithfulness(
    model: CircuitModel, data: IOIDataModule, circuit: Circuit
) -> None:
    idle = "a0.h0->a3.h0<q>"  # a3.h0 does not reach the logits in this circuit
    padded = circuit | of_edges(model.layout, idle)
    assert padded.n_edges == circuit.n_edges + 1 and padded.prune() == circuit
    found = measure_contributions(model, data.val_dataloader(), padded, INTERCHANGE)
    assert found.parts == padded.edge_names() and found.values.shape == found.errors.shape == (padded.n_edges,)
    values = dict(zip(found.parts, found.values.tolist(), strict=True))
    assert values[idle] == pytest.approx(0, abs=1e-5)
    best = max(values, key=lambda name: values[name])
    without = Circuit(model.layout, padded.members & ~cut_edges(model.layout, [best]))
    rows = evaluate(model, data.val_dataloader(), {"c": padded, "w": without}, [INTERCHANGE], controls=False)
    f = {row.circuit: row.faithfulness for row in rows}
    assert found.faithfulness == pytest.approx(f["c"], abs=1e-4)
    assert values[best] == pytest.approx(f["c"] - f["w"], abs=1e-4) and values[best] > 0.5


def test_contributions_by_hand() -> None:
    """Full 4, empty 0 on average, so a part's contribution is a quarter of what cutting it costs."""
    scores = torch.tensor([[3.0, 5.0], [0.0, 0.0], [4.0, 4.0], [2.0, 4.0], [5.0, 5.0]], dtype=torch.float64)
    found = module._contributions(["a", "b"], scores)
    assert found.values.tolist() == [0.25, -0.25] and found.faithfulness == 1
    assert found.errors.tolist() == pytest.approx([0.25, 0.0])  # of 0.5 and 0: std 0.354 / sqrt(2)
    scores[0] = scores[1]
    assert module._contributions(["a", "b"], scores).values.isnan().all()
    assert module._contributions(["a"], scores[:4, :1]).errors.isnan().all()


def test_nodes_contribute_too(model: CircuitModel, data: IOIDataModule, circuit: Circuit) -> None:
    found = measure_contributions(model, data.val_dataloader(), circuit, INTERCHANGE, of="nodes")
    assert found.parts == circuit_parts(circuit, "nodes") and float(found.values.max()) > 0.5
