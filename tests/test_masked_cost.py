"""What a gated run costs: sparse masks that change no result, closed gates that are skipped, memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile
from transformers import AutoModelForCausalLM, GPT2Config, LlamaConfig

from lightning_circuits import masked
from lightning_circuits.masked import masked_logits
from lightning_circuits.models import wrap
from lightning_circuits.places import Places
from tests.support.gated import (
    CASES,
    TOLERANCE,
    assert_close,
    eight_layers,
    gradient,
    places_of,
    random_gates,
    random_spans,
    references,
    wrapped,
)
from tests.support.oracle import pairs

families = pytest.mark.parametrize(("family", "kv"), CASES)
precisions = pytest.mark.parametrize("dtype", TOLERANCE, ids=["float32", "float64"])


# ---- sparse masks --------------------------------------------------------------------------------------------------


@pytest.fixture
def made_sparse(monkeypatch):
    """The masks that were multiplied as sparse matrices."""
    masks, to_sparse = [], Tensor.to_sparse_csr
    monkeypatch.setattr(Tensor, "to_sparse_csr", lambda self, *args: masks.append(self) or to_sparse(self, *args))
    return masks


@pytest.mark.parametrize(("skip_closed", "n_spans"), [(False, 1), (True, 1), (True, 3)])
@precisions
@families
def test_sparse_products_equal_dense_ones(family, kv, dtype, skip_closed, n_spans, monkeypatch, made_sparse):
    model, batch = wrapped(family, kv, dtype), pairs("ragged")
    gates, reference = random_gates(model, "mixed", n_spans=n_spans), references(model, batch)["interchange"]
    places = None if n_spans == 1 else places_of(batch, random_spans(batch))
    monkeypatch.setattr(masked, "SPARSE_BELOW", -1.0)
    dense = gradient(model, gates, batch, reference, skip_closed, places)
    assert not made_sparse
    monkeypatch.setattr(masked, "SPARSE_BELOW", 1.0)
    sparse = gradient(model, gates, batch, reference, skip_closed, places)
    assert made_sparse
    assert_close(sparse[0], dense[0], TOLERANCE[dtype])
    assert_close(sparse[1], dense[1], TOLERANCE[dtype] * max(1.0, float(dense[1].abs().max())))


@pytest.mark.parametrize("skip_closed", [False, True])
@precisions
@pytest.mark.parametrize("family", ["gpt2", "llama-gqa"])
def test_few_open_gates_go_sparse_and_change_nothing(family, dtype, skip_closed, monkeypatch, made_sparse):
    model, batch = eight_layers(family, dtype), pairs("ragged")
    gates, reference = random_gates(model, "sparse"), references(model, batch)["interchange"]
    gates[: model.layout.n_edges // 8] = 0  # whole layers without an open gate
    gates[model.layout.edge_index("input->m1")] = gates[model.layout.edge_index("m7->logits")] = 1
    sparse = gradient(model, gates, batch, reference, skip_closed)
    assert made_sparse
    monkeypatch.setattr(masked, "SPARSE_BELOW", -1.0)
    dense = gradient(model, gates, batch, reference, skip_closed)
    assert dense[1].count_nonzero() > (10 if skip_closed else 300), "hardly an edge matters: a test of nothing"
    assert_close(sparse[0], dense[0], TOLERANCE[dtype])
    assert_close(sparse[1], dense[1], TOLERANCE[dtype] * max(1.0, float(dense[1].abs().max())))


@pytest.mark.parametrize("kind", ["binary", "soft"])
@families
def test_skip_closed_leaves_out_closed_gates_and_nothing_else(family, kv, kind):
    model, batch = wrapped(family, kv, torch.float64), pairs("ragged")
    gates, reference = random_gates(model, kind), references(model, batch)["interchange"]
    logits, everything = gradient(model, gates, batch, reference)
    skipped_logits, dgates = gradient(model, gates, batch, reference, skip_closed=True)
    assert torch.equal(logits, skipped_logits)
    assert_close(dgates, torch.where(gates == 0, 0.0, everything), 1e-9)
    if kind == "binary":
        assert everything[gates == 0].abs().max() > 1e-3, "closed gates have a gradient unless it is skipped"


# ---- memory --------------------------------------------------------------------------------------------------------


def peak_bytes(function: Callable[[], Any]) -> int:
    """The most memory that was allocated at once while a function ran, above what stood before."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
        function()
    # One record for each allocation (positive) and release (negative), temporaries inside operations included.
    records = [e for e in recorded.profiler.kineto_results.events() if e.name() == "[memory]"]
    total = peak = 0
    for record in sorted(records, key=lambda e: e.start_ns()):
        total += record.nbytes()
        peak = max(peak, total)
    return peak


SHAPES = {
    "gpt2": lambda: GPT2Config(vocab_size=19, n_embd=96, n_layer=12, n_head=12, bos_token_id=None, eos_token_id=None),
    "smollm2-135m": lambda: LlamaConfig(
        vocab_size=19, hidden_size=72, intermediate_size=192, num_hidden_layers=30, num_attention_heads=9,
        num_key_value_heads=3, bos_token_id=None, eos_token_id=None,
    ),
}  # fmt: skip
"""Layers and heads of real models, on which the share of a layer in the stack depends; narrower."""


@pytest.mark.parametrize(("kind", "n_spans"), [("soft", 1), ("sparse", 1), ("sparse", 3)])
@pytest.mark.parametrize("shape", SHAPES)
def test_a_step_keeps_no_more_than_three_stacks_and_one_layer_of_readers(shape, kind, n_spans):
    model = wrap(AutoModelForCausalLM.from_config(SHAPES[shape]()))
    layout, gates = model.layout, random_gates(model, kind, n_spans=n_spans).requires_grad_()
    ids = torch.randint(0, 19, (4, 16))
    mask, positions = torch.ones_like(ids), torch.full((4,), 15)
    # In spans, the six of sixteen tokens before the first that differs are in none.
    spans = torch.tensor([-1] * 6 + [0] + [1] * 8 + [2]).expand_as(ids)
    places = None if n_spans == 1 else Places.of_spans(spans, positions, n_spans)
    references = [torch.randn(layout.n_writers, *ids.shape, layout.d_model) for _ in range(2)]

    def step() -> None:
        logits = masked_logits(model, gates, ids, mask, positions, references.pop(), kind == "sparse", places)
        logits.sum().backward()

    stack = references[0].nbytes
    readers = stack // layout.n_writers * (layout.n_attention_readers + 1)
    step()  # the first run allocates what libraries and gates.grad keep
    peak = stack + peak_bytes(step)  # the reference, which is consumed, was there before
    assert peak <= 3 * stack + readers, f"{peak / stack:.2f} stacks, a layer's readers being {readers / stack:.2f}"
    assert peak >= 2 * stack, "two stacks are needed: the measurement has missed something"
