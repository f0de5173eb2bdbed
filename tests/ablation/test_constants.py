"""What stands in for writers whatever the prompt is, against what stands in on a prompt."""

from __future__ import annotations

import pytest
import torch

from lightning_circuits.ablation import ABLATIONS, OptimalAblation
from lightning_circuits.models.context import position_ids
from tests.support.extracted import fitted, prompts, random_circuit
from tests.support.gated import wrapped

MODEL = wrapped("llama-gqa", "head", torch.float32)


@pytest.mark.parametrize("name", ["zero", "mean", "mean-positional"])
@pytest.mark.parametrize("padding", ["left", "ragged"])
def test_they_are_the_reference_of_every_token(name: str, padding: str) -> None:
    ablation, batch = fitted(name, MODEL), prompts(padding)
    constants = ablation.constants(MODEL.layout)
    reference = ablation.reference(batch, torch.randn(MODEL.layout.n_writers, *batch["clean_ids"].shape, 24))
    by_position = name == "mean-positional"
    assert constants.shape == (MODEL.layout.n_writers, 5 if by_position else 1, 24)
    slots = position_ids(batch["attention_mask"]) if by_position else torch.zeros_like(batch["clean_ids"])
    assert torch.equal(constants[:, slots], reference)


def test_optimal_ones_are_those_of_the_circuit() -> None:
    circuit, ablation = random_circuit(MODEL.layout, 0.3), OptimalAblation(steps=2, lr=1e-3)
    ablation.fit(MODEL, [prompts("none")])
    with pytest.raises(RuntimeError, match="optimal ablation has constants for every circuit: fit it, then"):
        ablation.constants(MODEL.layout)
    of_circuit = ablation.of_circuit(MODEL, circuit.members)
    assert torch.equal(of_circuit.constants(MODEL.layout), of_circuit.values)


def test_who_says_that_there_are_some_gives_them_and_no_one_else() -> None:
    there = [name for name in ABLATIONS if ABLATIONS[name].has_constants]
    assert there == ["zero", "mean", "mean-positional", "optimal"]
    with pytest.raises(RuntimeError, match="mean ablation needs the means of a data set"):
        ABLATIONS.make("mean").constants(MODEL.layout)
    with pytest.raises(NotImplementedError, match="InterchangeAblation does not say constants"):
        ABLATIONS.make("interchange").constants(MODEL.layout)
