"""The gradient at constants that stand in for writers: by an oracle with plain autograd, finite differences, ends."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from lightning_circuits import blocks
from lightning_circuits.masked import masked_logits
from lightning_circuits.models import CircuitModel
from lightning_circuits.places import Places
from tests.support.gated import (
    CASES,
    SPANS,
    TOLERANCE,
    assert_close,
    compute,
    places_of,
    random_gates,
    random_spans,
    weighted,
    wrapped,
)
from tests.support.oracle import PADDINGS, Pairs, oracle, pairs, stock_logits

families = pytest.mark.parametrize(("family", "kv"), CASES)
A_FEW = [("gpt2", "head"), ("llama-gqa", "group"), ("gpt-neox", "head"), ("gemma2", "head")]
a_few = pytest.mark.parametrize(("family", "kv"), A_FEW)


def random_constants(model: CircuitModel, n_spans: int = 1) -> Tensor:
    shape = model.layout.n_writers, n_spans, model.layout.d_model
    return torch.randn(shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64)


def at_tokens(constants: Tensor, batch: Pairs, spans: Tensor | None) -> Tensor:
    """``[n_writers, B, T, d]``: the constant of every token's span; with a gradient."""
    return constants[:, torch.zeros_like(batch.clean_ids) if spans is None else spans.clamp(min=0)]


def gradients(
    model: CircuitModel,
    gates: Tensor,
    batch: Pairs,
    constants: Tensor,
    spans: Tensor | None = None,
    skip_closed: bool = False,
    learned: bool = True,
) -> tuple[Tensor, Tensor, Tensor]:
    """Logits, and the gradients at gates and constants."""
    gates, constants = gates.clone().requires_grad_(), constants.clone().requires_grad_()
    reference = at_tokens(constants.detach().to(model.dtype), batch, spans)
    logits = masked_logits(
        model,
        gates,
        batch.clean_ids,
        batch.attention_mask,
        batch.positions,
        reference,
        skip_closed,
        None if spans is None else places_of(batch, spans, constants.shape[1]),
        constants=constants if learned else None,
    )
    dgates, dconstants = torch.autograd.grad(weighted(logits), [gates, constants], allow_unused=True)
    return logits.detach(), dgates, dconstants


def second_opinion(
    model: CircuitModel, gates: Tensor, batch: Pairs, constants: Tensor, spans: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Logits and the gradient at the constants, by plain autograd through loops over readers and writers."""
    constants = constants.clone().requires_grad_()
    layout = model.layout if spans is None else model.layout.in_spans(SPANS)
    by_name = dict(zip(layout.writer_names, at_tokens(constants, batch, spans), strict=True))
    named = dict(zip(layout.edge_names(range(layout.n_edges)), gates.unbind(), strict=True))
    of_tokens = None if spans is None else [[None if s < 0 else SPANS[s] for s in row] for row in spans.tolist()]
    logits = oracle(model.model, named, batch.clean_ids, batch, by_name, layout.kv, of_tokens).logits
    return logits.detach(), torch.autograd.grad(weighted(logits), constants)[0]


# ---- against the oracle --------------------------------------------------------------------------------------------


@families
def test_the_gradient_at_constants_agrees_with_the_oracle(family, kv):
    model, batch = wrapped(family, kv, torch.float64), pairs("ragged")
    gates, constants = random_gates(model, "mixed"), random_constants(model)
    expected = second_opinion(model, gates, batch, constants)
    assert expected[1].abs().max() > 0.01
    logits, _, dconstants = gradients(model, gates, batch, constants)
    assert_close(logits, expected[0], 1e-9)
    assert_close(dconstants, expected[1], 1e-9)


@pytest.mark.parametrize("padding", PADDINGS)
@pytest.mark.parametrize("kind", ["soft", "binary", "sparse", "none"])
@a_few
def test_so_it_does_whatever_is_dead_and_however_prompts_are_padded(family, kv, kind, padding):
    model, batch = wrapped(family, kv, torch.float64), pairs(padding)
    gates = random_gates(model, kind if kind != "none" else "soft") * (kind != "none")
    constants = random_constants(model)
    expected = second_opinion(model, gates, batch, constants)
    for skip_closed in (False, True):
        logits, _, dconstants = gradients(model, gates, batch, constants, skip_closed=skip_closed)
        assert_close(logits, expected[0], 1e-9)
        assert_close(dconstants, expected[1], 1e-9)


@pytest.mark.parametrize("size", [1, 2, 3, 8])
@a_few
def test_so_it_does_in_blocks_of_any_number_of_layers(family, kv, size, monkeypatch):
    monkeypatch.setattr(blocks, "block_size", lambda layout: size)
    model, batch = wrapped(family, kv, torch.float64), pairs("left")
    gates, constants = random_gates(model, "mixed", seed=size), random_constants(model)
    expected = second_opinion(model, gates, batch, constants)
    assert_close(gradients(model, gates, batch, constants)[2], expected[1], 1e-9)


@pytest.mark.parametrize("padding", ["none", "left", "ragged"])
@pytest.mark.parametrize("kind", ["mixed", "sparse"])
@a_few
def test_a_constant_for_every_span_agrees_with_the_oracle(family, kv, kind, padding):
    model, batch = wrapped(family, kv, torch.float64), pairs(padding)
    spans, gates = random_spans(batch, least=0), random_gates(model, kind, n_spans=3)
    constants = random_constants(model, n_spans=3)
    expected = second_opinion(model, gates, batch, constants, spans)
    for skip_closed in (False, True):
        logits, _, dconstants = gradients(model, gates, batch, constants, spans, skip_closed)
        assert_close(logits, expected[0], 1e-9)
        assert_close(dconstants, expected[1], 1e-9)


@a_few
def test_it_agrees_with_finite_differences(family, kv):
    model, batch = wrapped(family, kv, torch.float64), pairs("ragged")
    gates, constants = random_gates(model, "mixed"), random_constants(model)
    dconstants = gradients(model, gates, batch, constants)[2]
    step = 1e-5
    for place in torch.randperm(constants.numel(), generator=torch.Generator().manual_seed(0))[:8].tolist():
        change = torch.zeros(constants.numel(), dtype=torch.float64)
        change[place] = step
        up, down = (
            weighted(compute(model, gates, batch, at_tokens(constants + sign * change.view_as(constants), batch, None)))
            for sign in (1, -1)
        )
        assert float((up - down) / (2 * step)) == pytest.approx(float(dconstants.view(-1)[place]), rel=1e-5, abs=1e-7)


# ---- the ends, and what nobody asks for ----------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", TOLERANCE, ids=["float32", "float64"])
@families
def test_with_every_gate_open_no_constant_has_a_gradient(family, kv, dtype):
    model, batch = wrapped(family, kv, dtype), pairs("ragged")
    open_, constants = torch.ones(model.layout.n_edges), random_constants(model).to(dtype)
    logits, _, dconstants = gradients(model, open_, batch, constants)
    assert_close(logits, stock_logits(model.model, batch.clean_ids, batch), TOLERANCE[dtype])
    assert dconstants.count_nonzero() == 0


@a_few
def test_a_constant_that_no_cut_edge_of_a_living_reader_carries_has_none(family, kv):
    model, batch = wrapped(family, kv, torch.float64), pairs("none")
    layout = model.layout
    gates = torch.zeros(layout.n_edges, dtype=torch.float64)
    gates[[layout.edge_index(name) for name in ("input->m1", "m1->logits")]] = 1.0
    dconstants = gradients(model, gates, batch, random_constants(model), skip_closed=True)[2][:, 0]
    moving = {name for name, of_it in zip(layout.writer_names, dconstants, strict=True) if of_it.count_nonzero()}
    assert moving == {*layout.writer_names} - {"m1"}
    gates[[i for i, name in enumerate(layout.edge_names(range(layout.n_edges))) if name.startswith("input->")]] = 1.0
    dconstants = gradients(model, gates, batch, random_constants(model), skip_closed=True)[2][:, 0]
    assert dconstants[0].count_nonzero() == 0


@a_few
def test_gates_have_the_same_gradient_to_the_bit_whether_constants_are_learned_or_not(family, kv):
    model, batch = wrapped(family, kv, torch.float32), pairs("ragged")
    gates, constants = random_gates(model, "mixed"), random_constants(model).float()
    with_them, without = (gradients(model, gates, batch, constants, learned=learned) for learned in (True, False))
    assert torch.equal(with_them[0], without[0]) and torch.equal(with_them[1], without[1])
    assert without[2] is None


@a_few
def test_constants_alone_have_the_gradient_that_they_have_beside_gates(family, kv):
    model, batch = wrapped(family, kv, torch.float64), pairs("ragged")
    gates, constants = random_gates(model, "binary"), random_constants(model)
    beside = gradients(model, gates, batch, constants)[2]
    alone, reference = constants.clone().requires_grad_(), at_tokens(constants, batch, None)
    prompts = batch.clean_ids, batch.attention_mask, batch.positions
    logits = masked_logits(model, gates, *prompts, reference, skip_closed=True, constants=alone)
    assert_close(torch.autograd.grad(weighted(logits), alone)[0], beside, 1e-12)


def test_places_that_leave_out_a_token_are_refused():
    model, batch = wrapped("gpt2", "head", torch.float64), pairs("left")
    spans = torch.where(batch.attention_mask.bool(), 0, -1)
    spans[0, 1] = -1
    prompts = batch.clean_ids, batch.attention_mask, batch.positions
    constants, gates = random_constants(model), random_gates(model, "soft")
    places = Places.of_spans(spans, batch.positions, 1)
    with pytest.raises(ValueError, match="leave out none but padding"):
        masked_logits(model, gates, *prompts, at_tokens(constants, batch, None), places=places, constants=constants)
