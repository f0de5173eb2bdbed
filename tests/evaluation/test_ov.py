"""Next and copy scores: against matrices multiplied out by hand, and of heads that are made to copy or to go on."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
)

from lightning_circuits.datamodules.ioi import NAMES
from lightning_circuits.evaluation.ov import TOP, ov_scores
from lightning_circuits.models import wrap
from lightning_circuits.models.loading import load_model, load_tokenizer

TOKENIZER = load_tokenizer("tiny-ioi")
MEMBERS = NAMES[:9]
IDS = torch.tensor([TOKENIZER(f" {name}")["input_ids"][0] for name in MEMBERS])


def shares(logits: torch.Tensor) -> tuple[float, float]:
    """Next and copy score of logits ``[members, V]``, by sorting."""
    ranked = logits.argsort(dim=-1, descending=True)[:, :TOP].tolist()
    copy = [int(own) in first for own, first in zip(IDS, ranked, strict=True)]
    following = [int(after) in first for after, first in zip(IDS[1:], ranked[:-1], strict=True)]
    return sum(following) / len(following), sum(copy) / len(copy)


def test_they_are_what_the_matrices_of_gpt2_give() -> None:
    model = load_model("tiny-ioi")
    found = ov_scores(wrap(model), TOKENIZER, MEMBERS)
    config, blocks = model.config, model.transformer.h
    d, d_head = config.n_embd, config.n_embd // config.n_head

    def values(layer: int, x: torch.Tensor) -> torch.Tensor:
        block = blocks[layer]
        return block.attn.c_attn(block.ln_1(x))[..., 2 * d :]

    with torch.no_grad():
        embedding = model.transformer.wte(IDS)
        between = embedding + blocks[0].attn.c_proj(values(0, embedding))  # a token that attends to itself alone
        behind = between + blocks[0].mlp(blocks[0].ln_2(between))
        for layer in range(config.n_layer):
            z = values(layer, embedding if layer == 0 else behind)
            for head in range(config.n_head):
                part = slice(head * d_head, (head + 1) * d_head)
                written = z[:, part] @ blocks[layer].attn.c_proj.weight[part]
                following, copied = shares(model.lm_head(model.transformer.ln_f(written)))
                assert found.next[layer, head].item() == pytest.approx(following)
                assert found.copy[layer, head].item() == pytest.approx(copied)
    assert len(found.copy.unique()) > 2


def test_in_parallel_blocks_the_first_mlp_reads_the_embedding_too() -> None:
    config = GPTNeoXConfig(
        vocab_size=len(TOKENIZER), hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64
    )
    torch.manual_seed(0)
    model = GPTNeoXForCausalLM(config)
    for parameter in model.parameters():
        parameter.data += 0.3 * torch.randn_like(parameter)
    for block in model.gpt_neox.layers:  # a head writes much of what it reads: some copy
        block.attention.dense.weight.data = torch.cat(
            [weight[32:].T for weight in block.attention.query_key_value.weight.data.chunk(2)], -1
        )
    model.lm_head.weight.data = model.gpt_neox.embed_in.weight.data.clone()
    found = ov_scores(wrap(model), TOKENIZER, MEMBERS)
    below, above = model.gpt_neox.layers

    def values(block: nn.Module, x: torch.Tensor) -> torch.Tensor:  # a head: query, key, value, 16 numbers each
        return torch.stack(
            [h[..., 32:] for h in block.attention.query_key_value(block.input_layernorm(x)).chunk(2, -1)]
        )

    with torch.no_grad():
        embedding = model.gpt_neox.embed_in(IDS)
        written = below.attention.dense(torch.cat([*values(below, embedding)], -1))  # a token attends to itself alone
        behind = embedding + written + below.mlp(below.post_attention_layernorm(embedding))
        for layer, (block, stream) in enumerate([(below, embedding), (above, behind)]):
            for head, value in enumerate(values(block, stream)):
                out = value @ block.attention.dense.weight[:, 16 * head : 16 * (head + 1)].T
                following, copied = shares(model.lm_head(model.gpt_neox.final_layer_norm(out)))
                assert found.next[layer, head].item() == pytest.approx(following)
                assert found.copy[layer, head].item() == pytest.approx(copied)
    assert len(found.copy.unique()) > 2


def test_a_head_that_hands_on_what_it_reads_copies_and_one_that_shifts_it_goes_on() -> None:
    """Embeddings at right angles; head 0 writes the token that it reads, head 1 the member behind it."""
    torch.manual_seed(0)
    n, d = len(TOKENIZER), 256
    config = GPT2Config(vocab_size=n, n_embd=2 * d, n_head=2, n_layer=2, n_positions=8, tie_word_embeddings=False)
    model = GPT2LMHeadModel(config)
    rows = torch.linalg.qr(torch.randn(d, d))[0][:n]
    shift = torch.eye(n)
    shift[IDS[:-1]] = torch.eye(n)[IDS[1:]]
    with torch.no_grad():
        for parameter in model.transformer.h.parameters():
            parameter.zero_()
        for block in model.transformer.h:
            block.ln_1.weight.fill_(1.0)
        model.transformer.wte.weight.copy_(torch.cat([rows, torch.zeros(n, d)], 1))
        model.lm_head.weight.copy_(torch.cat([torch.zeros(n, d), rows], 1))
        last = model.transformer.h[1].attn
        moved = torch.eye(d), rows.T @ shift @ rows
        for head, move in enumerate(moved):
            last.c_attn.weight[:d, 4 * d + head * d : 4 * d + (head + 1) * d] = torch.eye(d)
            last.c_proj.weight[head * d : (head + 1) * d, d:] = move
    found = ov_scores(wrap(model), TOKENIZER, MEMBERS)
    assert found.copy[1, 0] == 1 and found.next[1, 1] == 1
    assert found.best("copy")[0] == ("a1.h0", 1.0) and found.best("next")[0] == ("a1.h1", 1.0)
    assert found.to_dict()["members"] == list(MEMBERS)


def test_grouped_heads_have_scores_of_their_own() -> None:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(TOKENIZER), hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2,
    )  # fmt: skip
    model = LlamaForCausalLM(config)
    by_head, by_group = (ov_scores(wrap(model, kv), TOKENIZER, MEMBERS) for kv in ("head", "group"))
    assert torch.equal(by_head.copy, by_group.copy) and by_head.copy.shape == (2, 4)


@pytest.mark.parametrize(
    ("members", "message"),
    [
        (["Mary"], "two different ones at least"),
        (["Mary", "John", "Mary"], "two different ones at least"),
        (["Mary", "Mary John"], "'Mary John' is not one token after a space"),
    ],
)
def test_what_has_no_score_is_refused(members: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ov_scores(wrap(load_model("tiny-ioi")), TOKENIZER, members)
