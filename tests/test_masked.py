"""The one computation against the stock model, an oracle in plain loops, finite differences, and its memory bound."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace
from functools import cache
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.profiler import ProfilerActivity, profile
from transformers import AutoModelForCausalLM, GPT2Config, LlamaConfig

from lightning_circuits import masked
from lightning_circuits.masked import masked_logits
from lightning_circuits.models import CircuitModel, wrap
from tests.support.oracle import ALL_OPEN, FAMILIES, PADDINGS, Pairs, oracle, pairs, stock_logits, tiny_model

TOLERANCE = {torch.float32: 1e-4, torch.float64: 1e-9}
GROUPED = [family for family, config in FAMILIES.items() if getattr(config(), "num_key_value_heads", 4) < 4]
CASES = [(family, "head") for family in FAMILIES] + [(family, "group") for family in GROUPED]

families = pytest.mark.parametrize(("family", "kv"), CASES)
paddings = pytest.mark.parametrize("padding", PADDINGS)
precisions = pytest.mark.parametrize("dtype", TOLERANCE, ids=["float32", "float64"])


@cache
def wrapped(family: str, kv: str, dtype: torch.dtype) -> CircuitModel:
    return wrap(tiny_model(family, dtype), kv)


def references(model: CircuitModel, batch: Pairs) -> dict[str, Tensor]:
    """What closed edges may carry ``[n_writers, B, T, d]``: the corrupt run's outputs, nothing, any constant."""
    n_writers, d = model.layout.n_writers, model.layout.d_model
    shape = n_writers, *batch.clean_ids.shape, d
    interchange = torch.full(shape, torch.nan, dtype=model.dtype)
    model.run(batch.corrupt_ids, batch.attention_mask, batch.positions, writers=interchange)
    constant = torch.randn(n_writers, 1, 1, d, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return {
        "interchange": interchange,
        "zero": torch.zeros(shape, dtype=model.dtype),
        "constant": constant.to(model.dtype).expand(shape).clone(),
    }


def compute(model: CircuitModel, gates: Tensor, batch: Pairs, reference: Tensor, skip_closed: bool = False) -> Tensor:
    return masked_logits(
        model, gates, batch.clean_ids, batch.attention_mask, batch.positions, reference.clone(), skip_closed
    )


def gradient(
    model: CircuitModel, gates: Tensor, batch: Pairs, reference: Tensor, skip_closed: bool = False
) -> tuple[Tensor, Tensor]:
    """Logits, and the gradient of a fixed random function of them."""
    gates = gates.clone().requires_grad_()
    logits = compute(model, gates, batch, reference, skip_closed)
    return logits.detach(), torch.autograd.grad(weighted(logits), gates)[0]


def weighted(logits: Tensor) -> Tensor:
    weights = torch.randn(logits.shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    return (logits.double() * weights).sum()


def second_opinion(model: CircuitModel, gates: Tensor, batch: Pairs, reference: Tensor | None) -> tuple[Tensor, Tensor]:
    """Logits and gradient of the oracle, by plain autograd; ``reference`` None is the oracle's own corrupt run."""
    layout = model.layout
    if reference is None:
        by_name = oracle(model.model, ALL_OPEN, batch.corrupt_ids, batch, kv=layout.kv).writers
    else:
        by_name = dict(zip(layout.writer_names, reference, strict=True))
    gates = gates.clone().requires_grad_()
    named = dict(zip(layout.edge_names(range(layout.n_edges)), gates.unbind(), strict=True))
    logits = oracle(model.model, named, batch.clean_ids, batch, by_name, layout.kv).logits
    return logits.detach(), torch.autograd.grad(weighted(logits), gates)[0]


def random_gates(model: CircuitModel, kind: str, seed: int = 0) -> Tensor:
    """``soft``: anywhere in [0, 1]; ``binary``: a coin for each; ``mixed``: either; ``sparse``: 98 % closed."""
    generator = torch.Generator().manual_seed(seed)
    soft, coin = torch.rand(2, model.layout.n_edges, generator=generator, dtype=torch.float64)
    binary = (coin < 0.5).double()
    mixed = torch.where(coin.mul(4).frac() < 0.5, soft, binary)
    gates = {"soft": soft, "binary": binary, "mixed": mixed, "sparse": soft * (coin < 0.02)}[kind]
    return gates.to(torch.promote_types(model.dtype, torch.float32))


def assert_close(actual: Tensor, expected: Tensor, tolerance: float) -> None:
    torch.testing.assert_close(actual, expected, atol=tolerance, rtol=tolerance)


# ---- the two ends: the stock model, and the corrupt run ------------------------------------------------------------


@precisions
@paddings
@families
def test_open_gates_give_the_stock_model_whatever_the_reference(family, kv, padding, dtype):
    model, batch = wrapped(family, kv, dtype), pairs(padding)
    expected = stock_logits(model.model, batch.clean_ids, batch)
    for reference in references(model, batch).values():
        assert_close(compute(model, torch.ones(model.layout.n_edges), batch, reference), expected, TOLERANCE[dtype])


@precisions
@paddings
@families
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
    largest = torch.stack([weights.max() for weights in run.attention if len(weights) == 3])
    assert largest.mean() > 0.5 and largest.std() > 0.1, "uniform attention would be a third everywhere"


@paddings
@families
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


@families
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


# ---- sparse masks --------------------------------------------------------------------------------------------------


@pytest.fixture
def made_sparse(monkeypatch):
    """The masks that were multiplied as sparse matrices."""
    masks, to_sparse = [], Tensor.to_sparse_csr
    monkeypatch.setattr(Tensor, "to_sparse_csr", lambda self, *args: masks.append(self) or to_sparse(self, *args))
    return masks


@pytest.mark.parametrize("skip_closed", [False, True])
@precisions
@families
def test_sparse_products_equal_dense_ones(family, kv, dtype, skip_closed, monkeypatch, made_sparse):
    model, batch = wrapped(family, kv, dtype), pairs("ragged")
    gates, reference = random_gates(model, "mixed"), references(model, batch)["interchange"]
    monkeypatch.setattr(masked, "SPARSE_BELOW", -1.0)
    dense = gradient(model, gates, batch, reference, skip_closed)
    assert not made_sparse
    monkeypatch.setattr(masked, "SPARSE_BELOW", 1.0)
    sparse = gradient(model, gates, batch, reference, skip_closed)
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


@pytest.mark.parametrize("kind", ["soft", "sparse"])
@pytest.mark.parametrize("shape", SHAPES)
def test_a_step_keeps_no_more_than_three_stacks_and_one_layer_of_readers(shape, kind):
    model = wrap(AutoModelForCausalLM.from_config(SHAPES[shape]()))
    layout, gates = model.layout, random_gates(model, kind).requires_grad_()
    ids = torch.randint(0, 19, (4, 16))
    mask, positions = torch.ones_like(ids), torch.full((4,), 15)
    references = [torch.randn(layout.n_writers, *ids.shape, layout.d_model) for _ in range(2)]

    def step() -> None:
        masked_logits(model, gates, ids, mask, positions, references.pop(), kind == "sparse").sum().backward()

    stack = references[0].nbytes
    readers = stack // layout.n_writers * (layout.n_attention_readers + 1)
    step()  # the first run allocates what libraries and gates.grad keep
    peak = stack + peak_bytes(step)  # the reference, which is consumed, was there before
    assert peak <= 3 * stack + readers, f"{peak / stack:.2f} stacks, a layer's readers being {readers / stack:.2f}"
    assert peak >= 2 * stack, "two stacks are needed: the measurement has missed something"


# ---- bfloat16 ------------------------------------------------------------------------------------------------------


@cache
def eight_layers(family: str, dtype: torch.dtype) -> CircuitModel:
    """Deep enough that rounding in the sums over writers would show: some 80 writers."""
    config = deepcopy(FAMILIES[family]())
    config.num_hidden_layers, config.num_attention_heads, config.hidden_size = 8, 8, 64
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config)
    for parameter in model.parameters():
        parameter.data = parameter.data.mul(4.0 if parameter.ndim > 1 else 1.0).to(dtype)
    return wrap(model)


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
