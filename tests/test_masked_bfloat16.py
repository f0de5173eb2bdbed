"""bfloat16 at the width of a large model, against float64: the masked run rounds as the stock model does, no worse.

Llama-3.1-8B's heads and width, in four layers; with fewer tokens to know and narrower MLPs, which have no part in it.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, LlamaConfig

from lightning_circuits.masked import masked_logits
from lightning_circuits.models import wrap

pytestmark = pytest.mark.slow

VOCABULARY, TOKENS = 1000, (2, 16)


class Found(NamedTuple):
    """Logits, and the gradient of a fixed function of them: to the embeddings (stock), to the gates."""

    logits: Tensor
    gradient: Tensor


def pieces() -> dict[str, Tensor]:
    """Prompts that differ at two tokens; a weight for every logit; a number in [0, 1] and a coin for every edge."""
    generator = torch.Generator().manual_seed(1)
    clean = torch.randint(0, VOCABULARY, TOKENS, generator=generator)
    corrupt = clean.clone()
    corrupt[:, [2, 9]] = torch.randint(0, VOCABULARY, (2, 2), generator=generator)
    weights = torch.randn(TOKENS[0], VOCABULARY, generator=generator, dtype=torch.float64)
    return {"clean": clean, "corrupt": corrupt, "weights": weights}


def found_in(dtype: torch.dtype, stored: Any) -> dict[str, Found]:
    """The stock model, and masked runs of it with gates of several kinds."""
    model, given = wrap(stored.to(dtype)), pieces()
    mask, positions = torch.ones_like(given["clean"]), torch.full((TOKENS[0],), TOKENS[1] - 1)

    def of(logits: Tensor, source: Tensor) -> Found:
        return Found(
            logits.detach().double(), torch.autograd.grad((logits * given["weights"]).sum(), source)[0].double()
        )

    embedded = model.embed(given["clean"]).requires_grad_()
    hidden = model.backbone(inputs_embeds=embedded, attention_mask=mask, use_cache=False)[0]
    found = {"stock": of(model.head(hidden[torch.arange(TOKENS[0]), positions]), embedded)}
    reference = model.new_stack(TOKENS)
    model.run(given["corrupt"], mask, positions, writers=reference)
    generator = torch.Generator().manual_seed(2)
    soft, coin = torch.rand(2, model.layout.n_edges, generator=generator, dtype=torch.float64)
    for kind, values in {"open": torch.ones_like(soft), "mixed": torch.where(coin < 0.5, soft, coin.round())}.items():
        gates = values.to(torch.promote_types(dtype, torch.float32)).requires_grad_()
        found[kind] = of(masked_logits(model, gates, given["clean"], mask, positions, reference.clone()), gates)
    return found


@pytest.fixture(scope="module")
def errors() -> dict[str, Found]:
    """Of bfloat16, relative to what float64 finds with the same weights."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=4096, intermediate_size=2048, num_hidden_layers=4, num_attention_heads=32,
        num_key_value_heads=8, bos_token_id=None, eos_token_id=None, dtype=torch.bfloat16,
    )  # fmt: skip
    stored = AutoModelForCausalLM.from_config(config).bfloat16()
    rough, exact = found_in(torch.bfloat16, stored), found_in(torch.float64, stored)
    return {
        kind: Found(*((a - b).norm() / b.norm() for a, b in zip(rough[kind], exact[kind], strict=True)))
        for kind in exact
    }


@pytest.mark.parametrize("kind", ["open", "mixed"])
def test_bfloat16_rounds_as_the_stock_model_does(kind: str, errors: dict[str, Found]) -> None:
    stock, masked = errors["stock"], errors[kind]
    assert 0.005 < stock.logits < stock.gradient < 0.05, "nothing is rounded: a test of nothing"
    assert masked.logits < 1.5 * stock.logits, f"{masked.logits:.4f} against {stock.logits:.4f}"
    assert masked.gradient < 1.75 * stock.gradient, f"{masked.gradient:.4f} against {stock.gradient:.4f}"
