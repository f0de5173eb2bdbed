"""The one computation against the stock model, an oracle in plain loops, finite differences, and its memory bound."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from oracle import ALL_OPEN, FAMILIES, PADDINGS, Pairs, oracle, pairs, stock_logits, tiny_model
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter
from transformers import AutoModelForCausalLM, GPT2Config, LlamaConfig

from lightning_circuits import masked
from lightning_circuits.masked import masked_logits
from lightning_circuits.models import CircuitModel, wrap

TOLERANCE = {torch.float32: 1e-4, torch.float64: 1e-9}
GROUPED = [family for family, config in FAMILIES.items() if getattr(config(), "num_key_value_heads", 4) < 4]
CASES = [(family, "head") for family in FAMILIES] + [(family, "group") for family in GROUPED]

families = pytest.mark.parametrize(("family", "kv"), CASES, ids="-".join)
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
    """``soft``: anywhere in [0, 1]; ``binary``: a coin for each; ``sparse``: binary, 2 % open."""
    dtype = torch.promote_types(model.dtype, torch.float32)
    gates = torch.rand(model.layout.n_edges, generator=torch.Generator().manual_seed(seed), dtype=dtype)
    return gates if kind == "soft" else (gates < {"binary": 0.5, "sparse": 0.02}[kind]).to(dtype)


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


@pytest.mark.parametrize("kind", ["binary", "soft"])
@paddings
@families
def test_random_masks_agree_with_the_oracle_in_logits_and_gradient(family, kv, padding, kind):
    batch = pairs(padding)
    exact = wrapped(family, kv, torch.float64)
    gates = random_gates(exact, kind)
    expected = second_opinion(exact, gates, batch, None)
    for dtype, tolerance in TOLERANCE.items():
        model = wrapped(family, kv, dtype)
        logits, dgates = gradient(model, gates.to(dtype), batch, references(model, batch)["interchange"])
        assert_close(logits.double(), expected[0], tolerance)
        assert_close(dgates.double(), expected[1], tolerance * max(1.0, float(expected[1].abs().max())))


@pytest.mark.parametrize("ablation", ["zero", "constant"])
@pytest.mark.parametrize("kind", ["binary", "soft"])
@families
def test_any_other_reference_agrees_with_the_oracle(family, kv, kind, ablation):
    model, batch = wrapped(family, kv, torch.float64), pairs("ragged")
    gates, reference = random_gates(model, kind), references(model, batch)[ablation]
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


@pytest.mark.parametrize("skip_closed", [False, True])
@precisions
@families
def test_sparse_products_equal_dense_ones(family, kv, dtype, skip_closed, monkeypatch):
    model, batch = wrapped(family, kv, dtype), pairs("ragged")
    gates, reference = random_gates(model, "sparse"), references(model, batch)["interchange"]
    gates = gates * torch.rand_like(gates)  # soft where it is open
    monkeypatch.setattr(masked, "SPARSE_BELOW", -1.0)
    dense = gradient(model, gates, batch, reference, skip_closed)
    taken = []
    to_sparse = Tensor.to_sparse_csr
    monkeypatch.setattr(Tensor, "to_sparse_csr", lambda self, *args: taken.append(self) or to_sparse(self, *args))
    for threshold in (0.2, 1.0):  # as shipped; and everything sparse, the empty layers and full ones too
        monkeypatch.setattr(masked, "SPARSE_BELOW", threshold)
        taken.clear()
        logits, dgates = gradient(model, gates, batch, reference, skip_closed)
        assert taken, "no product was sparse"
        assert_close(logits, dense[0], TOLERANCE[dtype])
        assert_close(dgates, dense[1], 10 * TOLERANCE[dtype])


@pytest.mark.parametrize("kind", ["sparse", "binary", "soft"])
@families
def test_skip_closed_leaves_out_closed_gates_and_nothing_else(family, kv, kind):
    model, batch = wrapped(family, kv, torch.float64), pairs("ragged")
    gates, reference = random_gates(model, kind), references(model, batch)["interchange"]
    logits, everything = gradient(model, gates, batch, reference)
    skipped_logits, dgates = gradient(model, gates, batch, reference, skip_closed=True)
    assert torch.equal(logits, skipped_logits)
    assert_close(dgates, torch.where(gates == 0, 0.0, everything), 1e-9)
    if kind != "soft":
        assert everything[gates == 0].abs().max() > 1e-3, "closed gates have a gradient unless skipped"


# ---- tokens and prompts that must not touch each other -------------------------------------------------------------


@families
def test_later_tokens_change_nothing_earlier(family, kv):
    model, batch = wrapped(family, kv, torch.float64), pairs("none")
    gates, reference = random_gates(model, "soft"), references(model, batch)["interchange"]
    changed, at = batch.clean_ids.clone(), 3
    changed[:, at] = (changed[:, at] + 1) % model.model.config.vocab_size
    other = reference.clone()
    other[:, :, at] += 1.0
    for position in range(batch.clean_ids.shape[1]):
        read = torch.full_like(batch.positions, position)
        before = Pairs(batch.clean_ids, batch.corrupt_ids, batch.attention_mask, read)
        after = Pairs(changed, batch.corrupt_ids, batch.attention_mask, read)
        for new, old in zip(gradient(model, gates, after, other), gradient(model, gates, before, reference), strict=True):
            if position < at:
                assert_close(new, old, 1e-12)
        # the attention of a token that comes later must see the change
        assert position < at or not torch.allclose(compute(model, gates, after, other), compute(model, gates, before, reference))


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


def test_without_gradient_and_of_many_gates_only_the_gates_get_one():
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


class LiveBytes(TorchDispatchMode):
    """Follows the bytes of all tensors that operations made while it was on; those made before are not counted."""

    def __init__(self, *ignore: Tensor) -> None:
        super().__init__()
        self.known = {tensor.untyped_storage()._cdata for tensor in ignore}
        self.alive: list[tuple[StorageWeakRef, int]] = []
        self.peak = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        for tensor in tree_iter((args, kwargs)):
            if isinstance(tensor, Tensor) and tensor.layout == torch.strided:
                self.known.add(tensor.untyped_storage()._cdata)
        result = function(*args, **(kwargs or {}))
        self.alive = [(ref, size) for ref, size in self.alive if not ref.expired()]
        self.known &= {0}
        return result
