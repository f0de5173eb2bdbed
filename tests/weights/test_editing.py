"""Edits inside of masks: which weights move, how far, and what is left behind."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from lightning_circuits.batch import Batch
from lightning_circuits.models import CircuitModel, wrap
from lightning_circuits.models.loading import load_model
from lightning_circuits.search.identity import WeightsHash
from lightning_circuits.weights.editing import Probes, masked_finetune, same_budget
from lightning_circuits.weights.space import WeightSpace
from lightning_circuits.weights.weight_circuit import WeightCircuit

LR, EPSILON = 0.05, 0.01


@pytest.fixture
def model() -> CircuitModel:
    return wrap(load_model("tiny-ioi"))


def fact(answer: int = 40, distractor: int = 50) -> Batch:
    ids = torch.tensor([[10, 60, 21, 90, 33]])
    return {
        "clean_ids": ids,
        "corrupt_ids": ids + 1,
        "attention_mask": torch.ones_like(ids),
        "positions": torch.tensor([4]),
        "answers": torch.tensor([[answer]]),
        "distractors": torch.tensor([[distractor]]),
    }


def other(seed: int) -> Batch:
    return {**fact(), "clean_ids": torch.randint(5, 200, (1, 5), generator=torch.Generator().manual_seed(seed))}


def half(model: CircuitModel) -> WeightCircuit:
    space = WeightSpace.of(model)
    generator = torch.Generator().manual_seed(0)
    return WeightCircuit.of(
        space, {each.name: torch.rand(each.shape, generator=generator) < 0.5 for each in space.tensors}
    )


def weights(model: CircuitModel) -> dict[str, Tensor]:
    return {name: parameter.data.clone() for name, parameter in model.model.named_parameters()}


@pytest.mark.parametrize("rest", ["zero", "keep"])
def test_only_free_weights_move_and_no_farther_than_epsilon(model: CircuitModel, rest: Any) -> None:
    circuit, own, before = half(model), weights(model), WeightsHash()(model.model)
    with masked_finetune(model, fact(), circuit, 6, LR, EPSILON, rest) as edit:
        edited = weights(model)
    assert WeightsHash()(model.model) == before and not any(p.requires_grad for p in model.model.parameters())
    masks = {tensor.name: mask for tensor, mask in circuit.masks()}
    for name, values in own.items():
        if name not in masks:
            assert torch.equal(edited[name], values)  # embeddings do not learn
            continue
        mask = masks[name]
        pruned = torch.zeros_like(values) if rest == "zero" else values
        assert torch.equal(edited[name][~mask], pruned[~mask])
        assert (edited[name] - values)[mask].abs().max() <= EPSILON * 1.001
    farthest = max(float((edited[name] - own[name])[mask].abs().max()) for name, mask in masks.items())
    assert edit.farthest == pytest.approx(farthest, rel=1e-3) and edit.farthest == pytest.approx(EPSILON, rel=0.01)
    assert edit.steps == 6 and edit.free == circuit.n_weights and edit.losses[-1] < edit.losses[0]
    assert edit.after.new_nll < edit.before.new_nll


def test_steps_are_those_of_sgd_written_out(model: CircuitModel) -> None:
    circuit = half(model)
    reference = wrap(load_model("tiny-ioi"))
    parameters = circuit.space.parameters(reference.model)
    start = {name: parameter.data.clone() for name, parameter in parameters.items()}
    optimizer = torch.optim.SGD([parameter.requires_grad_() for parameter in parameters.values()], lr=LR)
    for _ in range(3):
        optimizer.zero_grad()
        logits = reference.model(input_ids=fact()["clean_ids"]).logits[0, -1]
        (-logits.log_softmax(-1)[40]).backward()
        for tensor, mask in circuit.masks():
            parameters[tensor.name].grad.mul_(mask)  # type: ignore[union-attr]
        optimizer.step()
        with torch.no_grad():
            for name, parameter in parameters.items():
                parameter.copy_(start[name] + (parameter - start[name]).clamp(-EPSILON, EPSILON))
    with masked_finetune(model, fact(), circuit, 3, LR, EPSILON, "keep"):
        for name, parameter in circuit.space.parameters(model.model).items():
            torch.testing.assert_close(parameter.data, parameters[name].data, atol=1e-6, rtol=1e-4)


def test_an_edit_stops_where_it_is_good_enough(model: CircuitModel) -> None:
    space = WeightSpace.of(model)
    with masked_finetune(model, fact(), space, 40, 0.5, 1.0, "keep") as whole:
        pass
    aim = (whole.before.new_nll + whole.after.new_nll) / 2
    with masked_finetune(model, fact(), space, 40, 0.5, 1.0, "keep", stop_below=aim) as edit:
        pass
    assert edit.steps < 40 and edit.after.new_nll <= aim < edit.losses[edit.steps - 1]


def test_what_else_is_looked_at(model: CircuitModel) -> None:
    ids = torch.tensor([[7, 8, 9, 60]])
    probes = Probes(
        [other(1), other(2)], [other(3), other(4)], [{"input_ids": ids, "attention_mask": torch.ones_like(ids)}]
    )
    with masked_finetune(model, fact(), WeightSpace.of(model), 3, LR, EPSILON, "keep", probes=probes) as edit:
        for name, batches in (("paraphrase", probes.paraphrases),):
            logs = [model.model(input_ids=batch["clean_ids"]).logits[0, -1].log_softmax(-1) for batch in batches]
            new = -sum(float(each[40]) for each in logs) / len(logs)
            assert getattr(edit.after, f"{name}_new_nll") == pytest.approx(new, abs=1e-4)
    assert edit.before.neighbours == 1.0 and 0 <= edit.after.neighbours <= 1
    assert edit.before.text_nll != edit.after.text_nll
    assert edit.to_dict()["after"]["text_nll"] == edit.after.text_nll
    with masked_finetune(model, fact(), WeightSpace.of(model), 1, LR, EPSILON) as alone:
        pass
    assert alone.to_dict()["after"]["neighbours"] is None and alone.to_dict()["after"]["text_nll"] is None


def test_budgets_are_matched_by_how_far_all_weights_go_together() -> None:
    assert same_budget(5e-4, free=50, of=100) * 50 == pytest.approx(5e-4 * 100)


def several_tokens() -> Batch:
    batch: Any = {name: value.repeat(2, *[1] * (value.ndim - 1)) for name, value in fact().items()}  # type: ignore[attr-defined]
    return {**batch, "continues": torch.tensor([0, 1])}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": 0}, "steps has to be positive"),
        ({"lr": -1.0}, "lr has to be positive"),
        ({"epsilon": 0.0}, "epsilon has to be positive"),
        ({"rest": "mean"}, "rest is one of 'zero', 'keep'"),
    ],
)
def test_numbers_that_make_no_edit(model: CircuitModel, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message), masked_finetune(model, fact(), WeightSpace.of(model), **options):
        pass


def test_facts_of_several_tokens_and_empty_circuits_are_refused(model: CircuitModel) -> None:
    space, before = WeightSpace.of(model), WeightsHash()(model.model)
    several = masked_finetune(model, several_tokens(), space)
    with pytest.raises(ValueError, match="an edit is of a fact whose objects are single tokens"), several:
        pass
    none = WeightCircuit.of(space, {each.name: torch.zeros(each.shape, dtype=torch.bool) for each in space.tensors})
    with pytest.raises(ValueError, match="no weight may move"), masked_finetune(model, fact(), none):
        pass
    with (
        pytest.raises(FloatingPointError, match="lower lr"),
        masked_finetune(model, fact(), space, 20, 1e30, 1e30, "keep"),
    ):
        pass
    assert WeightsHash()(model.model) == before
