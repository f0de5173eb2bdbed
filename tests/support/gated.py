"""Gated runs of small models, and the oracle's opinion of them: what the tests of the masked computation share."""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from functools import cache

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM

from lightning_circuits.layout import Layout
from lightning_circuits.masked import masked_logits
from lightning_circuits.models import CircuitModel, wrap
from lightning_circuits.places import Places
from tests.support.oracle import ALL_OPEN, PADDINGS, Pairs, oracle
from tests.support.tiny_models import FAMILIES, tiny_model
from tests.support.unlike_llama import groups_of

TOLERANCE = {torch.float32: 1e-4, torch.float64: 1e-9}
GROUPED = [family for family, config in FAMILIES.items() if groups_of(config()) < config().num_attention_heads]
SPANS = ("S2", "S2..END", "END")
"""Names for the spans of tokens."""
CASES = [(family, "head") for family in FAMILIES] + [(family, "group") for family in GROUPED]

EVERY_PADDING = ["gpt2", "llama-gqa", "gpt-neox", "gemma2"]
PADDED = [
    (family, kv, padding)
    for family, kv in CASES
    for padding in PADDINGS
    if family in EVERY_PADDING or padding == "ragged" or (padding == "none" and kv == "head")
]
"""Every family without padding and with all kinds of it in one batch; of each kind of block one with each by itself."""


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


def compute(
    model: CircuitModel,
    gates: Tensor,
    batch: Pairs,
    reference: Tensor,
    skip_closed: bool = False,
    places: Places | None = None,
) -> Tensor:
    prompts = batch.clean_ids, batch.attention_mask, batch.positions
    return masked_logits(model, gates, *prompts, reference.clone(), skip_closed, places)


def gradient(
    model: CircuitModel,
    gates: Tensor,
    batch: Pairs,
    reference: Tensor,
    skip_closed: bool = False,
    places: Places | None = None,
) -> tuple[Tensor, Tensor]:
    """Logits, and the gradient of a fixed random function of them."""
    gates = gates.clone().requires_grad_()
    logits = compute(model, gates, batch, reference, skip_closed, places)
    return logits.detach(), torch.autograd.grad(weighted(logits), gates)[0]


def weighted(logits: Tensor) -> Tensor:
    weights = torch.randn(logits.shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    return (logits.double() * weights).sum()


def second_opinion(
    model: CircuitModel,
    gates: Tensor,
    batch: Pairs,
    reference: Tensor | None,
    spans: Sequence[Sequence[str | None]] | None = None,
    layout: Layout | None = None,
) -> tuple[Tensor, Tensor]:
    """Logits and gradient of the oracle, by plain autograd; ``reference`` None is the oracle's own corrupt run.

    With ``spans``, the names of those of every token, gates are those of a layout in spans.
    """
    layout = layout or model.layout
    if reference is None:
        by_name = oracle(model.model, ALL_OPEN, batch.corrupt_ids, batch, kv=layout.kv).writers
    else:
        by_name = dict(zip(layout.writer_names, reference, strict=True))
    gates = gates.clone().requires_grad_()
    named = dict(zip(layout.edge_names(range(layout.n_edges)), gates.unbind(), strict=True))
    logits = oracle(model.model, named, batch.clean_ids, batch, by_name, layout.kv, spans).logits
    return logits.detach(), torch.autograd.grad(weighted(logits), gates)[0]


def random_gates(model: CircuitModel, kind: str, seed: int = 0, n_spans: int = 1) -> Tensor:
    """``soft``: anywhere in [0, 1]; ``binary``: a coin for each; ``mixed``: either; ``sparse``: 98 % closed."""
    generator = torch.Generator().manual_seed(seed)
    soft, coin = torch.rand(2, n_spans * model.layout.n_edges, generator=generator, dtype=torch.float64)
    binary = (coin < 0.5).double()
    mixed = torch.where(coin.mul(4).frac() < 0.5, soft, binary)
    gates = {"soft": soft, "binary": binary, "mixed": mixed, "sparse": soft * (coin < 0.02)}[kind]
    return gates.to(torch.promote_types(model.dtype, torch.float32))


def assert_close(actual: Tensor, expected: Tensor, tolerance: float) -> None:
    torch.testing.assert_close(actual, expected, atol=tolerance, rtol=tolerance)


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


def random_spans(batch: Pairs, seed: int = 0, least: int = -1) -> Tensor:
    """int64 ``[B, T]``: any span, or from ``least`` = -1 none, at every token; none at padding."""
    generator = torch.Generator().manual_seed(seed)
    spans = torch.randint(least, len(SPANS), batch.clean_ids.shape, generator=generator)
    return spans.masked_fill(batch.attention_mask == 0, -1)


def places_of(batch: Pairs, spans: Tensor, n_spans: int = len(SPANS)) -> Places:
    return Places.of_spans(spans, batch.positions, n_spans)
