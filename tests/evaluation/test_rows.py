"""The rows that a circuit comes with, and their numbers against independent runs of the model."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from lightning_circuits.ablation import ABLATIONS
from lightning_circuits.circuit import Circuit
from lightning_circuits.datamodules import IOIDataModule
from lightning_circuits.evaluation import exact
from lightning_circuits.evaluation.rows import Row, evaluate
from lightning_circuits.masked import masked_logits
from lightning_circuits.models import CircuitModel, wrap

Rows = dict[tuple[str, str], Row]


@pytest.fixture(scope="module")
def data() -> IOIDataModule:
    return IOIDataModule("tiny-ioi", n_train=12, n_val=20, n_test=8, batch_size=8)


def circuit_of(model: CircuitModel, n: int = 240) -> Circuit:
    return Circuit.random(model.layout, n, seed=11)


def keyed(rows: list[Row]) -> Rows:
    assert len({(row.ablation, row.circuit) for row in rows}) == len(rows)
    return {(row.ablation, row.circuit): row for row in rows}


def numbers(row: Row) -> list[float]:
    return list(row.scalars().values())


def hugging_face(model: CircuitModel, batch: dict[str, Tensor], which: str) -> Tensor:
    """The stock model's logits at the answer, one prompt at a time, without padding."""
    logits = []
    for ids, mask in zip(batch[which], batch["attention_mask"], strict=True):
        logits.append(model.model(input_ids=ids[mask.bool()][None]).logits[0, -1])
    return torch.stack(logits)


def difference(logits: Tensor, batch: dict[str, Tensor]) -> Tensor:
    rows = torch.arange(len(logits))
    return logits[rows, batch["answers"][:, 0]] - logits[rows, batch["distractors"][:, 0]]


def test_each_circuit_comes_with_its_controls(model: CircuitModel, data: IOIDataModule) -> None:
    circuit = circuit_of(model)
    rows = evaluate(
        model, data.val_dataloader(), {"half": circuit}, [ABLATIONS.make("interchange"), ABLATIONS.make("zero")]
    )
    names = ["full", "empty", "half", "half random", "half complement"]
    assert [(row.ablation, row.circuit) for row in rows] == [
        *[("interchange", name) for name in names],
        *[("zero", name) for name in [*names[:3], "half pruned", *names[3:]]],
    ]
    found, total = keyed(rows), model.layout.n_edges
    assert {row.prompts for row in rows} == {20} and {row.split for row in rows} == {"val"}
    for ablation in ("interchange", "zero"):
        edges = {name: found[ablation, name].edges for name in names}
        assert edges == {
            "full": total,
            "empty": 0,
            "half": 240,
            "half random": 240,
            "half complement": total - 240,
        }
        assert found[ablation, "half"].edges_pruned == circuit.prune().n_edges < 240
        assert found[ablation, "half"].size == 240 / total
    pruned = found["zero", "half pruned"]
    assert pruned.edges == pruned.edges_pruned == circuit.prune().n_edges


def test_full_and_empty_are_the_stock_model_on_clean_and_corrupt_prompts(
    model: CircuitModel, data: IOIDataModule
) -> None:
    found = keyed(evaluate(model, data.val_dataloader(), {}, [ABLATIONS.make("interchange")]))
    full, empty, kl = [], [], []
    for batch in data.val_dataloader():
        clean, corrupt = (hugging_face(model, batch, which) for which in ("clean_ids", "corrupt_ids"))
        full.append(difference(clean, batch))
        empty.append(difference(corrupt, batch))
        kl.append(torch.nn.functional.kl_div(corrupt.log_softmax(-1), clean.softmax(-1), reduction="none").sum(-1))
    row = found["interchange", "full"]
    assert row.logit_difference == pytest.approx(torch.cat(full).mean().item(), abs=1e-4)
    assert (row.faithfulness, row.kl, row.agreement_when_right, row.overshoot) == (
        1,
        pytest.approx(0, abs=1e-6),
        1,
        False,
    )
    row = found["interchange", "empty"]
    assert row.logit_difference == pytest.approx(torch.cat(empty).mean().item(), abs=1e-4)
    assert row.faithfulness == row.faithfulness_median == 0
    assert row.kl == pytest.approx(torch.cat(kl).mean().item(), abs=1e-4)


def test_a_circuit_of_all_edges_or_none_is_full_or_empty(model: CircuitModel, data: IOIDataModule) -> None:
    circuits = {"all": Circuit.full(model.layout), "none": Circuit.empty(model.layout)}
    ablation = ABLATIONS.make("mean")
    ablation.fit(model, data.train_dataloader())
    found = keyed(evaluate(model, data.val_dataloader(), circuits, [ablation]))
    for name, same in (("all", "full"), ("none", "empty"), ("all complement", "empty"), ("none complement", "full")):
        assert numbers(found["mean", name]) == pytest.approx(numbers(found["mean", same]), abs=1e-3, nan_ok=True)


def test_pruning_changes_nothing_under_interchange_and_something_under_zero_ablation(
    model: CircuitModel, data: IOIDataModule
) -> None:
    circuit = circuit_of(model, 120)
    ablations = [ABLATIONS.make("interchange"), ABLATIONS.make("zero")]
    circuits = {"c": circuit, "by hand": circuit.prune()}
    found = keyed(evaluate(model, data.val_dataloader(), circuits, ablations))
    by_ablation = {a: (found[a, "c"].kl, found[a, "by hand"].kl) for a in ("interchange", "zero")}
    assert by_ablation["interchange"][0] == pytest.approx(by_ablation["interchange"][1], abs=1e-4)
    assert by_ablation["zero"][0] != pytest.approx(by_ablation["zero"][1], abs=1e-3)
    assert numbers(found["zero", "c pruned"]) == pytest.approx(
        numbers(found["zero", "by hand"]), rel=0, abs=0, nan_ok=True
    )


def test_several_ablations_in_one_pass_give_what_each_gives_alone(model: CircuitModel, data: IOIDataModule) -> None:
    circuits = {"a": circuit_of(model), "b": circuit_of(model, 60).members}
    ablations = [ABLATIONS.make(name) for name in ("zero", "interchange", "mean-positional")]
    ablations[2].fit(model, data.train_dataloader())
    together = evaluate(model, data.val_dataloader(), circuits, ablations)
    alone = [row for ablation in ablations for row in evaluate(model, data.val_dataloader(), circuits, [ablation])]
    assert [row.to_dict() for row in together] == [row.to_dict() for row in alone]


def test_stock_runs_are_made_once_a_batch(
    model: CircuitModel, data: IOIDataModule, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []
    run_pair = CircuitModel.run_pair
    monkeypatch.setattr(CircuitModel, "run_pair", lambda *args: calls.append(1) or run_pair(*args))
    circuits = {"a": circuit_of(model), "b": circuit_of(model, 60)}
    evaluate(model, data.val_dataloader(), circuits, [ABLATIONS.make("interchange"), ABLATIONS.make("zero")])
    assert len(calls) == 3  # 20 prompts in batches of 8


def test_what_a_batch_and_an_ablation_have_in_common_is_computed_once(
    model: CircuitModel, data: IOIDataModule, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = {"reference_streams": 0, "masked_stream": 0}

    def counted(function: Callable[..., Tensor], *args: Any) -> Tensor:
        calls[function.__name__] += 1
        return function(*args)

    for name in calls:
        monkeypatch.setattr(exact, name, partial(counted, getattr(exact, name)))
    circuits = {"a": circuit_of(model), "all": Circuit.full(model.layout), "none": Circuit.empty(model.layout)}
    ablations = [ABLATIONS.make("interchange"), ABLATIONS.make("zero")]
    evaluate(model, data.val_dataloader(), circuits, ablations, controls=False)
    # Three batches under two ablations; under zero ablation `a` is pruned to another circuit. All edges and none of
    # them need no run.
    assert calls == {"reference_streams": 6, "masked_stream": 3 * (1 + 2)}


@pytest.mark.parametrize("ablation", ["interchange", "zero", "mean-positional"])
def test_every_row_is_what_the_masked_computation_says(model: CircuitModel, data: IOIDataModule, ablation: str) -> None:
    """Each circuit by itself, on references of its own; the empty one too, by a run with every gate closed."""
    circuits = {"large": circuit_of(model, 400), "small": circuit_of(model, 20)}
    cut = ABLATIONS.make(ablation)
    cut.fit(model, data.train_dataloader())
    found = keyed(evaluate(model, data.val_dataloader(), circuits, [cut]))
    circuits |= {"full": Circuit.full(model.layout), "empty": Circuit.empty(model.layout)}
    circuits |= {"small complement": circuits["small"].complement()}
    for name, circuit in circuits.items():
        differences = []
        for batch in data.val_dataloader():
            reference = cut.reference(batch, model.run_pair(batch)[1]).clone()
            prompts = batch["clean_ids"], batch["attention_mask"], batch["positions"]
            differences.append(difference(masked_logits(model, circuit.members.float(), *prompts, reference), batch))
        assert found[ablation, name].logit_difference == pytest.approx(torch.cat(differences).mean().item(), abs=1e-4)


def test_the_interval_holds_the_faithfulness_of_all_prompts(model: CircuitModel, data: IOIDataModule) -> None:
    rows = keyed(evaluate(model, data.val_dataloader(), {"c": circuit_of(model)}, [ABLATIONS.make("interchange")]))
    for row in rows.values():
        assert row.faithfulness_low <= row.faithfulness <= row.faithfulness_high
    row = rows["interchange", "c"]
    assert row.faithfulness_low < row.faithfulness < row.faithfulness_high
    assert (rows["interchange", "full"].faithfulness_low, rows["interchange", "empty"].faithfulness_high) == (1, 0)


def probability(logits: Tensor, batch: Any, full_logits: Tensor) -> Tensor:
    """Of one's own: of the first answer alone."""
    return logits.double().softmax(-1)[torch.arange(len(logits)), batch["answers"][:, 0]]


@pytest.mark.parametrize("measure", ["probability_difference", "kl", probability])
def test_f_is_of_the_measure_that_is_asked_for_and_all_else_stays(
    model: CircuitModel, data: IOIDataModule, measure: Any
) -> None:
    """Against the masked computation's logits, and by definitions written here."""
    circuit, cut = circuit_of(model, 400), ABLATIONS.make("interchange")
    [row] = [
        r for r in evaluate(model, data.val_dataloader(), {"c": circuit}, [cut], measure=measure) if r.circuit == "c"
    ]
    said: dict[str, list[Tensor]] = {"c": [], "full": [], "empty": []}
    for batch in data.val_dataloader():
        full = hugging_face(model, batch, "clean_ids")
        corrupt = model.run_pair(batch)[1]
        prompts = batch["clean_ids"], batch["attention_mask"], batch["positions"]
        masked = masked_logits(model, circuit.members.float(), *prompts, corrupt)
        for name, logits in (("c", masked), ("full", full), ("empty", hugging_face(model, batch, "corrupt_ids"))):
            p, rows = logits.double().softmax(-1), torch.arange(len(logits))
            right, wrong = p[rows, batch["answers"][:, 0]], p[rows, batch["distractors"][:, 0]]
            of_full = full.double().softmax(-1)
            by_hand = {
                "probability_difference": right - wrong,
                "kl": (of_full * (of_full / p).log()).sum(-1),
                "probability": right,
            }
            said[name].append(by_hand[row.measure])
    c, full_mean, empty = (torch.cat(said[name]).mean().item() for name in ("c", "full", "empty"))
    assert row.value == pytest.approx(c, abs=1e-4) and row.difference == pytest.approx(c - full_mean, abs=1e-4)
    assert row.faithfulness == pytest.approx((c - empty) / (full_mean - empty), abs=1e-3)
    assert math.isnan(row.ratio) if measure == "kl" else row.ratio == pytest.approx(c / full_mean, abs=1e-3)
    rows = keyed(evaluate(model, data.val_dataloader(), {"c": circuit}, [cut]))
    plain = rows["interchange", "c"]
    assert plain.measure == "logit_difference" and plain.value == plain.logit_difference == row.logit_difference
    assert (plain.kl, plain.accuracy, plain.agreement_when_right) == (row.kl, row.accuracy, row.agreement_when_right)
    assert rows["interchange", "full"].ratio == 1 and rows["interchange", "full"].difference_high == 0


def test_a_measure_that_is_none_is_refused_before_the_model_runs(model: CircuitModel) -> None:
    batches = iter(())  # would be refused later
    with pytest.raises(ValueError, match="unknown measure 'logits'"):
        evaluate(model, batches, {}, [ABLATIONS.make("zero")], measure="logits")
    with pytest.raises(ValueError, match="has no name"):
        evaluate(model, batches, {}, [ABLATIONS.make("zero")], measure=lambda logits, batch, full: logits[:, 0])


@pytest.mark.parametrize("world_size", [2, 3])
def test_ranks_share_out_the_batches_without_repeating_one(
    model: CircuitModel, data: IOIDataModule, world_size: int
) -> None:
    """Without a process group nothing is gathered, so each rank's own share can be seen."""
    shares = [
        keyed(
            evaluate(
                model, data.val_dataloader(), {}, [ABLATIONS.make("interchange")], rank=rank, world_size=world_size
            )
        )["interchange", "empty"]
        for rank in range(world_size)
    ]
    whole = keyed(evaluate(model, data.val_dataloader(), {}, [ABLATIONS.make("interchange")]))["interchange", "empty"]
    assert [row.prompts for row in shares] == {2: [12, 8], 3: [8, 8, 4]}[world_size]
    assert sum(row.kl * row.prompts for row in shares) / 20 == pytest.approx(whole.kl, rel=1e-6)


def test_random_circuits_follow_from_the_seed(model: CircuitModel, data: IOIDataModule) -> None:
    def random_row(seed: int) -> dict[str, Any]:
        rows = evaluate(model, data.val_dataloader(), {"c": circuit_of(model)}, [ABLATIONS.make("zero")], seed=seed)
        return keyed(rows)["zero", "c random"].to_dict()

    assert random_row(1) == random_row(1) != random_row(2)


def test_the_controls_can_be_left_out(model: CircuitModel, data: IOIDataModule) -> None:
    ablations = [ABLATIONS.make("interchange"), ABLATIONS.make("zero")]
    alone = evaluate(model, data.val_dataloader(), {"c": circuit_of(model)}, ablations, controls=False)
    together = evaluate(model, data.val_dataloader(), {"c": circuit_of(model)}, ablations)
    left_out = [row for row in together if row.circuit in ("c random", "c complement")]
    assert len(left_out) == 4
    assert [row.to_dict() for row in alone] == [row.to_dict() for row in together if row not in left_out]


def test_what_cannot_be_evaluated_is_refused(model: CircuitModel, data: IOIDataModule) -> None:
    loader, ablations = data.val_dataloader(), [ABLATIONS.make("interchange")]
    with pytest.raises(ValueError, match="no batches in the test split"):
        evaluate(model, [], {}, ablations, split="test")
    other = Circuit.empty(wrap(model.model).layout.__class__(1, 4, 64))
    with pytest.raises(ValueError, match="circuit 'x' is of another layout: n_layers 1 against 4"):
        evaluate(model, loader, {"x": other}, ablations)
    with pytest.raises(TypeError, match="bool"):
        evaluate(model, loader, {"soft": torch.rand(model.layout.n_edges)}, ablations)
    with pytest.raises(ValueError, match="there is a row 'full' already"):
        evaluate(model, loader, {"full": circuit_of(model)}, ablations)


def a_row(**values: Any) -> Row:
    names = [
        "faithfulness",
        "faithfulness_low",
        "faithfulness_high",
        "faithfulness_q1",
        "faithfulness_median",
        "faithfulness_q3",
        "kl",
        "accuracy",
    ]
    names += ["agreement_when_right", "agreement_when_wrong", "logit_difference"]
    fixed = {"circuit": "1%", "ablation": "mean", "split": "val", "size": 0.01, "edges": 1325, "edges_pruned": 301}
    return Row(**{**fixed, "prompts": 50, **dict.fromkeys(names, 0.5), **values})


@pytest.mark.parametrize(("f", "over"), [(0.9, False), (1.0, False), (1.0001, False), (1.02, True), (math.nan, False)])
def test_faithfulness_above_one_is_marked(f: float, over: bool) -> None:
    row = a_row(faithfulness=f)
    assert row.overshoot is over
    assert row.scalars()["overshoot"] == float(over)


def test_rows_are_plain_json() -> None:
    row = a_row(agreement_when_wrong=math.nan)
    plain = json.loads(json.dumps(row.to_dict(), allow_nan=False))
    assert plain["agreement_when_wrong"] is None and plain["circuit"] == "1%" and plain["overshoot"] is False
