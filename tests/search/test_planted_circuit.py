"""Edge pruning on a model whose circuit is known."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.distributions import Categorical
from torch.distributions import kl_divergence as kl_of
from transformers import AutoModelForCausalLM, GPT2Config

from lightning_circuits import EAP, EAPIG, EdgePruning, RelP
from lightning_circuits.gates import HardConcrete, SizeRange, TargetSparsity, TopK
from lightning_circuits.models import wrap
from tests.support.edge_pruning import as_loader, fit
from tests.support.oracle import ALL_OPEN, Pairs, oracle
from tests.support.training import quiet_trainer

PLANTED = ("input->a0.h0<v>", "a0.h0->a1.h1<v>", "a1.h1->logits")


def planted_model() -> Any:
    """A GPT-2 with 2 layers of 2 heads that does one thing: it counts the tokens of the prompt.

    The stream has four parts of 8 dimensions. Tokens are embedded in A. Head a0.h0 attends to all alike and copies A to
    B, a1.h1 copies B to C, and the logits read C alone. The others (a0.h1, a1.h0, both MLPs) compute lively things of
    the same tokens and write them to D, which nobody reads.
    """
    config = GPT2Config(
        vocab_size=8, n_embd=32, n_layer=2, n_head=2, n_positions=8, n_inner=16, bos_token_id=None, eos_token_id=None,
        tie_word_embeddings=False,
    )  # fmt: skip
    model = AutoModelForCausalLM.from_config(config)
    noise = torch.Generator().manual_seed(0)
    a, b, c, d = (slice(8 * i, 8 * i + 8) for i in range(4))
    identity = torch.eye(8)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.fill_(1.0 if "ln_" in name and name.endswith("weight") else 0.0)
        model.transformer.wte.weight[:, a] = 2 * identity
        model.lm_head.weight[:, c] = 8 * identity
        for layer, source, wanted, target in ((0, a, 0, b), (1, b, 1, c)):
            attention, mlp = model.transformer.h[layer].attn, model.transformer.h[layer].mlp
            for head in (0, 1):  # rows in, columns out: queries, keys, values, 16 for each head
                values = slice(64 + 16 * head, 64 + 16 * head + 8)
                out = slice(16 * head, 16 * head + 8)
                if head == wanted:
                    attention.c_attn.weight[source, values] = identity
                    attention.c_proj.weight[out, target] = 3 * identity
                else:
                    attention.c_attn.weight[:24, values] = torch.randn(24, 8, generator=noise)
                    attention.c_proj.weight[out, d] = 0.3 * torch.randn(8, 8, generator=noise)
            mlp.c_fc.weight[:24] = torch.randn(24, 16, generator=noise)
            mlp.c_proj.weight[:, d] = 0.1 * torch.randn(16, 8, generator=noise)
    return model.eval()


def planted_batches(n: int) -> list[dict[str, Tensor]]:
    """Random prompts of 4 tokens; corrupt ones differ in all but the last."""
    noise = torch.Generator().manual_seed(1)
    batches = []
    for _ in range(n):
        clean = torch.randint(0, 8, (8, 4), generator=noise)
        corrupt = clean.clone()
        corrupt[:, :3] = (clean[:, :3] + torch.randint(1, 8, (8, 3), generator=noise)) % 8
        batch = {"clean_ids": clean, "corrupt_ids": corrupt, "attention_mask": torch.ones_like(clean)}
        batch |= {"answers": clean[:, :1], "distractors": corrupt[:, :1], "positions": torch.full((8,), 3)}
        batches.append(batch)
    return batches


def test_the_planted_circuit_is_what_the_oracle_says_it_is() -> None:
    """Cutting any of the three edges destroys the behaviour, keeping only the three keeps it."""
    model, batch = planted_model(), planted_batches(1)[0]
    prompts = Pairs(batch["clean_ids"], batch["corrupt_ids"], batch["attention_mask"], batch["positions"])
    carried = oracle(model, ALL_OPEN, prompts.corrupt_ids, prompts).writers
    full = oracle(model, ALL_OPEN, prompts.clean_ids, prompts)
    layout = wrap(model).layout

    def kl(gates: Mapping[str, float]) -> float:
        logits = oracle(model, gates, prompts.clean_ids, prompts, carried).logits
        return kl_of(Categorical(logits=full.logits), Categorical(logits=logits)).mean().item()

    names = layout.edge_names(range(layout.n_edges))
    only = kl({name: float(name in PLANTED) for name in names})
    destroyed = kl(dict.fromkeys(names, 0.0))
    assert destroyed > 0.5 and only < 0.02 * destroyed
    for cut in PLANTED:
        assert kl({name: float(name != cut) for name in names}) > 0.9 * destroyed


@pytest.mark.parametrize(
    "gate",
    [TopK(SizeRange(0.03, 0.5)), HardConcrete(TargetSparsity(1 - 3 / 46, warmup=0.5))],
    ids=lambda gate: type(gate).__name__,
)
def test_a_planted_circuit_is_found_edge_by_edge(gate: Any) -> None:
    search = EdgePruning(planted_model(), gate=gate)
    assert search.layout.n_edges == 46
    fit(search, 100, as_loader(planted_batches(20)))
    assert set(search.circuit(3).edge_names()) == set(PLANTED)


@pytest.mark.parametrize("method", [EAP, EAPIG, RelP])
def test_a_planted_circuit_is_what_attribution_ranks_first(method: Any) -> None:
    search = method(planted_model())
    quiet_trainer().fit(search, as_loader(planted_batches(4)))
    assert set(search.circuit(3).edge_names()) == set(PLANTED)
