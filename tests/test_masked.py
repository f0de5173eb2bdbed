"""The one computation against the stock model, an oracle in plain loops, finite differences, and in bfloat16."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from lightning_circuits.models import wrap
from tests.support.gated import (
    CASES,
    PADDED,
    TOLERANCE,
    assert_close,
    compute,
    eight_layers,
    gradient,
    random_gates,
    references,
    second_opinion,
    weighted,
    wrapped,
)
from tests.support.oracle import ALL_OPEN, oracle, pairs, stock_logits
from tests.support.tiny_models import tiny_model

families = pytest.mark.parametrize(("family", "kv"), CASES)
padded = pytest.mark.parametrize(("family", "kv", "padding"), PADDED)
precisions = pytest.mark.parametrize("dtype", TOLERANCE, ids=["float32", "float64"])


# ---- the two ends: the stock model, and the corrupt run ------------------------------------------------------------


@precisions
@padded
def test_open_gates_give_the_stock_model_whatever_the_reference(family, kv, padding, dtype):
    model, batch = wrapped(family, kv, dtype), pairs(padding)
    expected = stock_logits(model.model, batch.clean_ids, batch)
    for reference in references(model, batch).values():
        assert_close(compute(model, torch.ones(model.layout.n_edges), batch, reference), expected, TOLERANCE[dtype])


@precisions
@padded
def test_closed_gates_give_the_corrupt_run(family, kv, padding, dtype):
    model, batch = wrapped(family, kv, dtype), pairs(padding)
    expected = stock_logits(model.model, batch.corrupt_ids, batch)
    assert (expected - stock_logits(model.model, batch.clean_ids, batch)).abs().max() > 0.1
    logits = compute(model, torch.zeros(model.layout.n_edges), batch, references(model, batch)["interchange"])
    assert_close(logits, expected, TOLERANCE[dtype])


# ---- everything between: the oracle --------------------------------------------------------------------------------


@families
def test_the_oracle_is_the_stock_model_with_lively_attention(family, kv):
    model, batch = tiny_model(family, torch.float64), pairs("none")
    run = oracle(model, ALL_OPEN, batch.clean_ids, batch, kv=kv)
    assert_close(run.logits, stock_logits(model, batch.clean_ids, batch), 1e-9)
    assert set(run.edges) == set(wrapped(family, kv, torch.float64).layout.edge_names(range(len(set(run.edges)))))
    of_three = [weights for weights in run.attention if len(weights) == 3]
    largest = torch.stack([weights.max() / weights.sum() for weights in of_three])  # the rest looks at nothing
    assert largest.mean() > 0.5 and largest.std() > 0.1, "uniform attention would be a third everywhere"


@padded
def test_masks_agree_with_the_oracle_in_logits_and_gradient(family, kv, padding):
    batch, exact = pairs(padding), wrapped(family, kv, torch.float64)
    gates = random_gates(exact, "mixed")
    expected = second_opinion(exact, gates, batch, None)
    for dtype, tolerance in TOLERANCE.items():
        model = wrapped(family, kv, dtype)
        logits, dgates = gradient(model, gates.to(dtype), batch, references(model, batch)["interchange"])
        assert_close(logits.double(), expected[0], tolerance)
        assert_close(dgates.double(), expected[1], tolerance * max(1.0, float(expected[1].abs().max())))


@pytest.mark.parametrize(("kind", "ablation"), [("binary", "interchange"), ("soft", "zero"), ("binary", "constant")])
@families
def test_every_reference_agrees_with_the_oracle(family, kv, kind, ablation):
    model, batch = wrapped(family, kv, torch.float64), pairs("ragged", seed=1)
    gates, reference = random_gates(model, kind, seed=1), references(model, batch)[ablation]
    logits, dgates = gradient(model, gates, batch, reference)
    expected = second_opinion(model, gates, batch, reference)
    assert_close(logits, expected[0], 1e-9)
    assert_close(dgates, expected[1], 1e-9)


@pytest.mark.parametrize(("family", "kv"), [case for case in CASES if case[0] != "olmoe"])  # its router is in float32
def test_gradient_agrees_with_finite_differences(family, kv):
    model, batch = wrapped(family, kv, torch.float64), pairs("ragged")
    reference, gates = references(model, batch)["interchange"], random_gates(model, "soft")
    dgates = gradient(model, gates, batch, reference)[1]
    step = 1e-5
    for edge in torch.randperm(model.layout.n_edges)[:6].tolist():
        change = torch.zeros_like(gates)
        change[edge] = step
        up, down = (weighted(compute(model, gates + sign * change, batch, reference)) for sign in (1, -1))
        assert float((up - down) / (2 * step)) == pytest.approx(float(dgates[edge]), rel=1e-5, abs=1e-7)


def test_attribution_convention_is_minus_the_gradient_at_open_gates():
    """EAP: (corrupt - clean output of the writer) times the gradient of a loss at the reader; FIELD.md section 1."""
    model, batch = wrapped("gpt2", "head", torch.float64), pairs("none")
    layout, block = model.layout, model.model.transformer.h[2]
    reference = references(model, batch)["interchange"]
    clean = torch.empty_like(reference)
    model.run(batch.clean_ids, batch.attention_mask, batch.positions, writers=clean)
    seen: list[Tensor] = []

    def stream_of_the_mlp(_module: Any, inputs: tuple[Tensor]) -> tuple[Tensor]:
        # The MLP's input enters with a gradient of its own, apart from the stream that goes on.
        seen.append(inputs[0].detach().requires_grad_())
        return (seen[0],)

    handle = block.ln_2.register_forward_pre_hook(stream_of_the_mlp)
    try:
        logits = model.model(input_ids=batch.clean_ids, attention_mask=batch.attention_mask).logits
    finally:
        handle.remove()
    dx = torch.autograd.grad(weighted(logits[torch.arange(2), batch.positions]), seen[0])[0]
    score = ((reference - clean) * dx).sum((1, 2, 3))
    dgates = gradient(model, torch.ones(layout.n_edges, dtype=torch.float64), batch, reference)[1]
    prefix = layout.writers_before(2) + layout.n_heads
    edges = [layout.edge_index(f"{name}->m2") for name in layout.writer_names[:prefix]]
    assert_close(-dgates[edges], score[:prefix], 1e-9)


# ---- tokens and prompts that must not touch each other -------------------------------------------------------------


@families
def test_later_tokens_change_nothing_earlier(family, kv):
    model, batch = wrapped(family, kv, torch.float64), pairs("none")
    gates, reference = random_gates(model, "soft"), references(model, batch)["interchange"]
    changed, at = batch.clean_ids.clone(), 2
    changed[:, at] = (changed[:, at] + 1) % model.model.config.vocab_size
    other = reference.clone()
    other[:, :, at] += 1.0
    for position in range(batch.clean_ids.shape[1]):
        read = torch.full_like(batch.positions, position)
        before = gradient(model, gates, replace(batch, positions=read), reference)
        after = gradient(model, gates, replace(batch, positions=read, clean_ids=changed), other)
        for new, old in zip(after, before, strict=True):
            if position < at:
                assert_close(new, old, 1e-12)
            else:  # the changed token, and those that attend to it, must notice
                assert (new - old).abs().max() > 1e-3


@given(seed=st.integers(0, 1000), kind=st.sampled_from(["soft", "binary"]), case=st.sampled_from(CASES))
def test_a_prompt_gives_the_same_alone_and_in_a_padded_batch(seed, kind, case):
    model, batch = wrapped(*case, torch.float64), pairs("ragged", seed)
    gates = random_gates(model, kind, seed)
    reference = references(model, batch)["interchange"]
    reference[:, ~batch.attention_mask.bool()] = 1e3  # padding must not matter, whatever stands there
    together = compute(model, gates, batch, reference)
    for i in range(len(together)):
        alone = batch.row(i)
        assert_close(together[i : i + 1], compute(model, gates, alone, references(model, alone)["interchange"]), 1e-9)


# ---- the model is a guest's ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", ["gpt2", "llama-biases", "qwen3"])
def test_the_model_is_left_as_it_was(family):
    hugging_face = tiny_model(family, torch.float32, seed=7)
    before = {name: (p, p.data_ptr(), p._version, p.clone()) for name, p in hugging_face.named_parameters()}
    model, batch = wrap(hugging_face), pairs("ragged")
    gradient(model, random_gates(model, "soft"), batch, references(model, batch)["interchange"])
    assert dict(hugging_face.named_parameters()).keys() == before.keys()
    for name, parameter in hugging_face.named_parameters():
        same, pointer, version, values = before[name]
        assert parameter is same and parameter.data_ptr() == pointer and parameter._version == version, name
        assert torch.equal(parameter, values) and parameter.grad is None and not parameter.requires_grad, name
    for module in hugging_face.modules():
        assert not module.training and not module._forward_hooks and not module._forward_pre_hooks
        assert not module._backward_hooks


def test_backward_can_be_asked_twice_and_not_at_all():
    model, batch = wrapped("llama-gqa", "head", torch.float32), pairs("none")
    reference = references(model, batch)["interchange"]
    gates = random_gates(model, "soft")
    with torch.no_grad():
        assert not compute(model, gates.requires_grad_(), batch, reference).requires_grad
    logits = compute(model, gates, batch, reference)
    first = torch.autograd.grad(logits.sum(), gates, retain_graph=True)[0]
    assert torch.equal(first, torch.autograd.grad(logits.sum(), gates)[0]), "backward must not use up what it reads"
    assert first.dtype == torch.float32


def test_gates_of_another_layout_are_refused():
    model, batch = wrapped("llama-gqa", "head", torch.float32), pairs("none")
    reference = references(model, batch)["interchange"]
    with pytest.raises(ValueError, match=r"one value for each of the \d+ edges.*\(5,\)"):
        compute(model, torch.ones(5), batch, reference)


# ---- bfloat16 ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", ["gpt2", "llama-gqa"])
def test_bfloat16_is_as_exact_as_the_stock_model_in_bfloat16(family):
    exact, rough, batch = eight_layers(family, torch.float32), eight_layers(family, torch.bfloat16), pairs("left")
    expected = stock_logits(exact.model, batch.clean_ids, batch)
    stock_error = float((stock_logits(rough.model, batch.clean_ids, batch) - expected).square().mean().sqrt())
    for ablation in ("interchange", "zero"):  # a reference far larger than what is written would cost its own rounding
        logits = compute(rough, torch.ones(rough.layout.n_edges), batch, references(rough, batch)[ablation])
        assert logits.dtype == torch.bfloat16
        error = float((logits - expected).square().mean().sqrt())
        assert error < 2 * stock_error, f"{error} against {stock_error} with {ablation}"


@pytest.mark.parametrize("kind", ["soft", "mixed", "open"])
@pytest.mark.parametrize("family", ["gpt2", "llama-gqa"])
def test_gradients_in_bfloat16_follow_those_in_float32(family, kind):
    exact, rough, batch = eight_layers(family, torch.float32), eight_layers(family, torch.bfloat16), pairs("left")
    gates = torch.ones(exact.layout.n_edges) if kind == "open" else random_gates(exact, kind)
    both = [gradient(m, gates, batch, references(m, batch)["interchange"])[1] for m in (exact, rough)]
    assert both[1].dtype == torch.float32
    assert torch.corrcoef(torch.stack(both))[0, 1] > 0.99
