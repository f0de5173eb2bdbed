"""Attention patterns against Hugging Face's own, and against the slow second opinion of `oracle`."""

from __future__ import annotations

from copy import deepcopy

import pytest
import torch
from torch import Tensor

from lightning_circuits.ablation import ABLATIONS
from lightning_circuits.circuit import Circuit
from lightning_circuits.evaluation.attention import attention_patterns
from lightning_circuits.models import CircuitModel, wrap
from tests.support.oracle import ALL_OPEN, PADDINGS, Pairs, oracle, pairs
from tests.support.tiny_models import FAMILIES, tiny_model

HEAD_FAMILIES = list(FAMILIES)


def as_batch(prompts: Pairs) -> dict[str, Tensor]:
    nothing = torch.full((len(prompts.positions), 1), -100)
    return {**vars(prompts), "answers": nothing, "distractors": nothing}


def all_heads(model: CircuitModel) -> list[str]:
    return [name for name in model.layout.writer_names if name.startswith("a")]


def real_parts(weights: Tensor, mask: Tensor) -> list[Tensor]:
    """Of ``[heads, B, T, T]``, for each prompt the queries and keys that are tokens."""
    return [weights[:, i][:, row.bool()][:, :, row.bool()] for i, row in enumerate(mask)]


@pytest.mark.parametrize("padding", PADDINGS)
@pytest.mark.parametrize("family", HEAD_FAMILIES)
def test_in_the_full_model_they_are_those_of_hugging_face(family: str, padding: str) -> None:
    stock = deepcopy(tiny_model(family))
    stock.set_attn_implementation("eager")
    stock.config._attn_implementation = "eager"  # Falcon refuses to be told, and reads it here
    prompts = pairs(padding)
    mask = prompts.attention_mask
    given = {"attention_mask": mask, "position_ids": (mask.cumsum(-1) - 1).clamp(min=0), "use_cache": False}
    with torch.no_grad():
        layers = stock(prompts.clean_ids, output_attentions=True, **given).attentions  # each [B, heads, T, T]
    expected = torch.cat([layer.transpose(0, 1) for layer in layers])

    model = wrap(deepcopy(tiny_model(family)))
    found = attention_patterns(model, as_batch(prompts), Circuit.empty(model.layout), heads=all_heads(model))
    assert found.full.shape == expected.shape and found.full.dtype == torch.float32
    for here, there in zip(real_parts(found.full, mask), real_parts(expected, mask), strict=True):
        torch.testing.assert_close(here, there, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("family", ["gpt2", "llama-gqa", "qwen3", "mistral-window"])
@pytest.mark.parametrize("ablation", ["interchange", "zero"])
def test_in_a_circuit_they_are_those_of_the_oracle(family: str, ablation: str) -> None:
    stock, prompts = deepcopy(tiny_model(family, torch.float64)), pairs("ragged", seed=1)
    model = wrap(stock)
    circuit = Circuit.random(model.layout, model.layout.n_edges // 2, seed=2)
    names = model.layout.edge_names(torch.arange(model.layout.n_edges))
    gates = dict(zip(names, circuit.members.double().tolist(), strict=True))
    corrupt = oracle(stock, ALL_OPEN, prompts.corrupt_ids, prompts).writers
    run = oracle(stock, gates, prompts.clean_ids, prompts, corrupt if ablation == "interchange" else None)
    found = attention_patterns(model, as_batch(prompts), circuit, ABLATIONS.make(ablation), all_heads(model))

    rows = iter(run.attention)  # by prompt, head, query; the keys within reach of each
    for weights in real_parts(found.circuit, prompts.attention_mask):
        for head in weights:
            for t, here in enumerate(head):
                there = next(rows).float()
                torch.testing.assert_close(here[t + 1 - len(there) : t + 1], there, atol=1e-5, rtol=1e-4)
                assert float(here.sum()) == pytest.approx(float(there.sum()), abs=1e-5)  # nothing beyond its reach
    assert next(rows, None) is None
    assert not torch.allclose(found.circuit, found.full, atol=1e-2)


@pytest.mark.parametrize("kv", ["head", "group"])
def test_the_whole_model_looks_as_the_full_model_and_the_empty_circuit_as_the_corrupt_run(kv: str) -> None:
    model, prompts = wrap(deepcopy(tiny_model("llama-gqa")), kv), pairs("left", seed=3)
    batch, heads = as_batch(prompts), all_heads(model)
    whole = attention_patterns(model, batch, Circuit.full(model.layout), heads=heads)
    torch.testing.assert_close(whole.circuit, whole.full, atol=1e-5, rtol=1e-4)
    empty = attention_patterns(model, batch, Circuit.empty(model.layout), heads=heads)
    swapped = {**batch, "clean_ids": prompts.corrupt_ids, "corrupt_ids": prompts.clean_ids}
    corrupt = attention_patterns(model, swapped, Circuit.empty(model.layout), heads=heads)
    torch.testing.assert_close(empty.circuit, corrupt.full, atol=1e-5, rtol=1e-4)


def test_heads_are_those_of_the_circuit_or_those_named_in_that_order() -> None:
    model = wrap(deepcopy(tiny_model("gpt2")))
    members = torch.zeros(model.layout.n_edges, dtype=torch.bool)
    for name in ("input->a0.h2<q>", "a0.h2->a1.h1<v>", "a1.h1->logits"):
        members[model.layout.edge_index(name)] = True
    circuit, batch = Circuit(model.layout, members), as_batch(pairs("none"))
    assert attention_patterns(model, batch, circuit).heads == ["a0.h2", "a1.h1"]
    every, named = (attention_patterns(model, batch, circuit, heads=h) for h in (all_heads(model), ["a2.h0", "a0.h1"]))
    for i, name in enumerate(named.heads):
        assert torch.equal(named.circuit[i], every.circuit[every.heads.index(name)])
        assert torch.equal(named.full[i], every.full[every.heads.index(name)])


def test_bad_input_is_said() -> None:
    model, batch = wrap(deepcopy(tiny_model("gpt2"))), as_batch(pairs("none"))
    full = Circuit.full(model.layout)
    for name in ("m0", "a9.h0", "a0.h0<q>", "a"):
        with pytest.raises(ValueError, match=f"no head '{name}' in .*named like 'a0.h1'"):
            attention_patterns(model, batch, full, heads=[name])
    with pytest.raises(ValueError, match="no head is in the circuit"):
        attention_patterns(model, batch, Circuit.empty(model.layout))
    other = wrap(deepcopy(tiny_model("llama"))).layout
    with pytest.raises(ValueError, match="of another layout: n_layers"):
        attention_patterns(model, batch, Circuit.full(other))
