"""A model that counts tokens by three edges of its 46, and prompts for it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, GPT2Config

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
