"""Weights kept above a threshold: the model's outputs, and the gradient that logits get, written out another way."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig

from lightning_circuits.models import CircuitModel, wrap
from lightning_circuits.search.identity import WeightsHash
from lightning_circuits.weights.space import WeightSpace
from lightning_circuits.weights.straight_through import threshold_of, with_kept
from lightning_circuits.weights.weight_circuit import WeightCircuit
from tests.support.peak import peak_bytes
from tests.support.tiny_models import FAMILIES, VOCABULARY, tiny_model

IDS = torch.randint(0, VOCABULARY, (3, 6), generator=torch.Generator().manual_seed(1))
MASK = torch.ones_like(IDS)


@pytest.fixture(scope="module", params=FAMILIES)
def model(request: Any) -> CircuitModel:
    return wrap(tiny_model(request.param, torch.float64))


def drawn(space: WeightSpace) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(2)
    return {tensor.name: torch.randn(tensor.shape, generator=generator) for tensor in space.tensors}


def test_the_model_is_that_of_the_circuit(model: CircuitModel) -> None:
    space, before = WeightSpace.of(model), WeightsHash()(model.model)
    logits = drawn(space)
    circuit = WeightCircuit.of(space, {name: each >= 0.1 for name, each in logits.items()})
    found = with_kept(model.model, logits, 0.1, lambda: model.token_logits(IDS, MASK))
    assert WeightsHash()(model.model) == before
    with circuit.applied(model):
        expected = model.model(input_ids=IDS, attention_mask=MASK, use_cache=False).logits
    torch.testing.assert_close(found, expected, atol=1e-10, rtol=1e-8)


def test_the_gradient_is_the_weight_times_that_of_the_kept_weight(model: CircuitModel) -> None:
    space = WeightSpace.of(model)
    logits = {name: each.requires_grad_() for name, each in drawn(space).items()}
    loss = with_kept(model.model, logits, 0.0, lambda: model.token_logits(IDS, MASK).square().mean())
    found = dict(zip(logits, torch.autograd.grad(loss, list(logits.values())), strict=True))

    # The same by PyTorch itself, at the weights of the circuit; then times the weight that the model has.
    own = {name: each.detach().clone() for name, each in space.parameters(model.model).items()}
    circuit = WeightCircuit.of(space, {name: each.detach() >= 0 for name, each in logits.items()})
    with circuit.applied(model):
        parameters = space.parameters(model.model)
        for parameter in parameters.values():
            parameter.requires_grad_()
        outputs = model.model(input_ids=IDS, attention_mask=MASK, use_cache=False).logits
        gradients = torch.autograd.grad(outputs.square().mean(), list(parameters.values()))
        for parameter in parameters.values():
            parameter.requires_grad_(False)
    for name, gradient in zip(parameters, gradients, strict=True):
        torch.testing.assert_close(found[name], (gradient * own[name]).float(), atol=1e-9, rtol=1e-5)


@pytest.mark.parametrize("density", [0.05, 0.35, 0.5, 0.9])
def test_the_threshold_leaves_the_share_asked_for(density: float) -> None:
    generator = torch.Generator().manual_seed(4)
    logits = {"a": torch.randn(3_000_000, generator=generator), "b": 2 + torch.randn(1000, 10, generator=generator)}
    found = threshold_of(logits, density, torch.Generator().manual_seed(5))
    kept = sum(int((each >= found).sum()) for each in logits.values()) / 3_010_000
    assert kept == pytest.approx(density, abs=0.002)
    few = {"a": torch.arange(20.0)}
    assert int((few["a"] >= threshold_of(few, 0.25, generator)).sum()) in (5, 6)


def test_what_is_kept_is_never_there_all_at_once() -> None:
    """Beside the logits their gradient, and of one module after the other what is kept of it."""
    config = LlamaConfig(
        hidden_size=128, intermediate_size=512, num_hidden_layers=12, num_attention_heads=4, vocab_size=19
    )
    model = AutoModelForCausalLM.from_config(config).requires_grad_(False)
    logits = {name: torch.rand_like(each, requires_grad=True) for name, each in model.named_parameters()}
    ids = torch.arange(4)[None]

    def descend() -> None:
        loss = with_kept(model, logits, 0.5, lambda: model(ids).logits.square().mean())
        torch.autograd.grad(loss, list(logits.values()))

    descend()
    of_logits = sum(each.nbytes for each in logits.values())
    assert 1.0 < peak_bytes(descend) / of_logits < 1.2


def test_a_call_that_fails_leaves_the_model_as_it_was() -> None:
    model = deepcopy(tiny_model("llama-gqa"))
    before = dict(model.named_parameters())
    logits = {name: torch.zeros_like(each) for name, each in before.items()}

    def fails(*_: object) -> None:
        raise RuntimeError("in the middle")

    with model.model.layers[1].mlp.act_fn.register_forward_pre_hook(fails), pytest.raises(RuntimeError, match="middle"):
        with_kept(model, logits, 0.5, lambda: model(IDS))
    assert all(each is before[name] for name, each in model.named_parameters())
    assert not any(module._forward_pre_hooks for module in model.modules())
