"""Gates that are told apart by spans of tokens, against an oracle in plain loops and the computation without spans."""

from __future__ import annotations

import pytest
import torch

from tests.support.gated import (
    CASES,
    PADDED,
    SPANS,
    TOLERANCE,
    assert_close,
    compute,
    gradient,
    places_of,
    random_gates,
    random_spans,
    references,
    second_opinion,
    weighted,
    wrapped,
)
from tests.support.oracle import pairs, stock_logits

families = pytest.mark.parametrize(("family", "kv"), CASES)
padded = pytest.mark.parametrize(("family", "kv", "padding"), PADDED)


@padded
def test_random_gates_in_random_spans_agree_with_the_oracle_in_logits_and_gradient(family, kv, padding):
    model, batch = wrapped(family, kv, torch.float64), pairs(padding)
    spans, layout = random_spans(batch, least=-1), model.layout.in_spans(SPANS)
    gates = random_gates(model, "mixed", n_spans=3)
    named = [[None if span < 0 else SPANS[span] for span in row] for row in spans.tolist()]
    expected = second_opinion(model, gates, batch, None, named, layout)
    reference = references(model, batch)["interchange"]
    for skip_closed, expected_gradient in ((False, expected[1]), (True, expected[1].where(gates != 0, 0.0))):
        logits, dgates = gradient(model, gates, batch, reference, skip_closed, places_of(batch, spans))
        assert_close(logits, expected[0], 1e-9)
        assert_close(dgates, expected_gradient, 1e-9)
    assert expected[1].abs().max() > 0.01


@padded
def test_one_span_of_all_tokens_is_the_computation_without_spans(family, kv, padding):
    """To the bit where no token is left out; else the products have other sizes, and a processor may round them so."""
    model, batch = wrapped(family, kv, torch.float32), pairs(padding)
    gates, reference = random_gates(model, "mixed"), references(model, batch)["interchange"]
    plain = gradient(model, gates, batch, reference)
    one = places_of(batch, batch.attention_mask - 1, n_spans=1)
    for mine, theirs in zip(gradient(model, gates, batch, reference, places=one), plain, strict=True):
        torch.testing.assert_close(mine, theirs, atol=0 if padding == "none" else 1e-5, rtol=0)


@pytest.mark.parametrize("padding", ["none", "ragged"])
@families
def test_equal_gates_in_all_spans_are_a_gate_without_spans(family, kv, padding):
    model, batch = wrapped(family, kv, torch.float64), pairs(padding)
    gates, reference = random_gates(model, "mixed"), references(model, batch)["constant"]
    logits, dgates = gradient(model, gates, batch, reference)
    places = places_of(batch, random_spans(batch, least=0))
    in_spans = gradient(model, gates.repeat(3), batch, reference, places=places)
    assert_close(in_spans[0], logits, 1e-9)
    assert_close(in_spans[1].view(3, -1).sum(0), dgates, 1e-9)


@padded
def test_open_in_all_spans_is_the_stock_model_and_closed_in_all_the_corrupt_run(family, kv, padding):
    model, batch = wrapped(family, kv, torch.float32), pairs(padding)
    places, n_gates = places_of(batch, random_spans(batch, least=0)), 3 * model.layout.n_edges
    reference = references(model, batch)["interchange"]
    for gates, ids in ((torch.ones(n_gates), batch.clean_ids), (torch.zeros(n_gates), batch.corrupt_ids)):
        logits = compute(model, gates, batch, reference, places=places)
        assert_close(logits, stock_logits(model.model, ids, batch), TOLERANCE[torch.float32])


@pytest.mark.parametrize("family", ["gpt2", "llama-gqa", "qwen2-window"])
def test_tokens_that_are_the_same_in_both_prompts_may_be_left_out(family):
    """Up to the first token that differs nothing does, so an edge carries the same there, open or closed."""
    model, batch = wrapped(family, "head", torch.float64), pairs("none")
    batch.corrupt_ids[:, :2] = batch.clean_ids[:, :2]
    reference, spans = references(model, batch)["interchange"], random_spans(batch, least=1)
    spans[:, :2] = 0
    gates = random_gates(model, "mixed", n_spans=3)
    everywhere = gradient(model, gates, batch, reference, places=places_of(batch, spans))
    n_edges = model.layout.n_edges
    assert everywhere[1][:n_edges].abs().max() < 1e-9
    left_out = gradient(model, gates[n_edges:], batch, reference, places=places_of(batch, spans - 1, n_spans=2))
    assert_close(left_out[0], everywhere[0], 1e-9)
    assert_close(left_out[1], everywhere[1][n_edges:], 1e-9)


@pytest.mark.parametrize("family", ["gpt2", "qwen3"])
def test_the_gradient_in_spans_is_that_of_finite_differences(family):
    model, batch = wrapped(family, "head", torch.float64), pairs("ragged")
    places, reference = places_of(batch, random_spans(batch)), references(model, batch)["interchange"]
    gates = random_gates(model, "soft", n_spans=3)
    _, dgates = gradient(model, gates, batch, reference, places=places)
    edges = torch.randperm(len(gates), generator=torch.Generator().manual_seed(3))[:20]
    for edge in [*edges.tolist(), int(dgates.abs().argmax())]:
        step = torch.zeros_like(gates)
        step[edge] = 1e-5
        ends = [weighted(compute(model, gates + sign * step, batch, reference, places=places)) for sign in (1, -1)]
        assert_close((ends[0] - ends[1]) / 2e-5, dgates[edge].double(), 1e-6)


def test_a_prompt_whose_answer_is_read_in_no_span_puts_out_what_the_references_make():
    model, batch = wrapped("llama", "head", torch.float64), pairs("none")
    spans = random_spans(batch, least=0)
    spans[0, batch.positions[0] :] = -1
    gates, reference = torch.ones(3 * model.layout.n_edges), references(model, batch)["interchange"]
    logits = compute(model, gates, batch, reference, places=places_of(batch, spans))
    assert_close(logits[0], stock_logits(model.model, batch.corrupt_ids, batch)[0], 1e-9)
    assert_close(logits[1], stock_logits(model.model, batch.clean_ids, batch)[1], 1e-9)
