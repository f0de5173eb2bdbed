"""A model of one's own, not from Hugging Face, made searchable with one class that reads it.

`TinyTransformer` is a pre-norm transformer in plain PyTorch, as many people have one. `TinyTransformerCircuits` says
where its weights are. What it says is checked when a model is wrapped: some tokens run through the model, and each
layer computed from the weights has to come out the same.

    python examples/own_model.py              # trains the model on a toy task, searches a circuit in it: half a minute
    python examples/own_model.py --quick      # a few steps of each, to see that it runs

The toy task: "a b ... a" is followed by b (induction). The corrupt prompt ends in another letter, so that nothing in
it says what follows.

What a model needs to be read: every layer adds attention, then an MLP, to one residual stream; a layer or RMS norm
before each, and none after. The model has to take an attention mask if prompts are padded on the left.
"""

from __future__ import annotations

import argparse
import random
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader

from lightning_circuits import EdgePruning
from lightning_circuits.callbacks import FaithfulnessValidation
from lightning_circuits.models import CircuitModel, Context, Dimensions, Where, register
from lightning_circuits.namespace import pl

# ---- the model, which knows nothing of circuits ----------------------------------------------------------------------


class Attention(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        q, k, v = (t.unflatten(-1, (self.heads, -1)).transpose(1, 2) for t in self.qkv(x).chunk(3, -1))
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=mask[:, None])
        return self.out(mixed.transpose(1, 2).flatten(2))


class Block(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = Attention(width, heads)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        x = x + self.attention(self.norm1(x), mask)
        return x + self.mlp(self.norm2(x))


class TinyTransformer(nn.Module):
    """Tokens ``[B, T]``, and where they are real, to logits ``[B, T, V]``."""

    def __init__(self, vocabulary: int, width: int = 32, heads: int = 4, layers: int = 2, length: int = 32) -> None:
        super().__init__()
        self.heads = heads
        self.tokens, self.places = nn.Embedding(vocabulary, width), nn.Embedding(length, width)
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(layers))
        self.norm, self.output = nn.LayerNorm(width), nn.Linear(width, vocabulary)

    def forward(self, ids: Tensor, real: Tensor) -> Tensor:
        causal = torch.ones(ids.shape[1], ids.shape[1], dtype=torch.bool, device=ids.device).tril()
        mask = causal & real.bool()[:, None, :] | torch.eye(ids.shape[1], dtype=torch.bool, device=ids.device)
        x = self.tokens(ids) + self.places((real.cumsum(-1) - 1).clamp(min=0))
        for block in self.blocks:
            x = block(x, mask)
        return self.output(self.norm(x))


# ---- the adapter -----------------------------------------------------------------------------------------------------


@register
class TinyTransformerCircuits(CircuitModel):
    module_types = (TinyTransformer,)
    where = Where(
        decoder="",  # the model itself
        token_embedding="tokens",
        blocks="blocks",
        final_norm="norm",
        attention_norm="norm1",
        attention="attention",
        output="out",
        mlp_norm="norm2",
        mlp="mlp",
    )

    @staticmethod
    def read_dimensions(model: TinyTransformer) -> Dimensions:
        return Dimensions(len(model.blocks), model.heads, n_groups=model.heads, d_model=model.tokens.embedding_dim)

    def logits(self, input_ids: Tensor, attention_mask: Tensor, positions: Tensor) -> Tensor:
        return self.model(input_ids, attention_mask)[torch.arange(len(input_ids)), positions]

    def head(self, x: Tensor) -> Tensor:
        return self.model.output(x)

    def position_embedding(self, context: Context) -> Tensor:
        return self.model.places(context.position_ids)

    def scaling(self, layer: int) -> float:
        return self.output_weight(layer).shape[1] ** -0.5

    def projections(self, layer: int) -> list[tuple[Tensor, Tensor]]:  # of q, k, v: [n_heads, d_model, d_head], bias
        qkv, heads = self.attention_module(layer).qkv, self.layout.n_heads
        weights = qkv.weight.unflatten(0, (3, heads, -1)).transpose(-1, -2)
        return list(zip(weights, qkv.bias.unflatten(0, (3, heads, -1)), strict=True))


# ---- a toy task and a search -----------------------------------------------------------------------------------------

LETTERS = 12


def induction(count: int, seed: int, length: int = 9) -> list[dict[str, Tensor]]:
    """Batches of 16 pairs, in the form that every data module yields: some letters, and one of them again."""
    draw = random.Random(seed)
    batches = []
    for _ in range(count):
        clean, corrupt, answers, distractors = [], [], [], []
        for _ in range(16):
            letters = draw.sample(range(LETTERS), length)
            at, other = draw.sample(range(length - 2), 2)
            clean.append([*letters[:-1], letters[at]])
            corrupt.append([*letters[:-1], letters[other]])
            answers.append([letters[at + 1]])
            distractors.append([letters[other + 1]])
        batches.append(
            {
                "clean_ids": torch.tensor(clean),
                "corrupt_ids": torch.tensor(corrupt),
                "attention_mask": torch.ones(16, length, dtype=torch.int64),
                "positions": torch.full((16,), length - 1),
                "answers": torch.tensor(answers),
                "distractors": torch.tensor(distractors),
            }
        )
    return batches


def train(model: TinyTransformer, steps: int) -> float:
    """Teach the model the task; returns the share of prompts it gets right in the end."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    right = torch.zeros(())
    for batch in induction(steps, seed=0):
        logits = model(batch["clean_ids"], batch["attention_mask"])[:, -1]
        optimizer.zero_grad()
        F.cross_entropy(logits, batch["answers"][:, 0]).backward()
        optimizer.step()
        right = 0.95 * right + 0.05 * (logits.argmax(-1) == batch["answers"][:, 0]).float().mean()
    return float(right)


def main(training_steps: int = 1500, search_steps: int = 150) -> tuple[EdgePruning, list[Any]]:
    torch.set_num_threads(1)
    pl.seed_everything(0)
    model = TinyTransformer(LETTERS)
    print(f"accuracy: {train(model, training_steps):.0%}")
    search = EdgePruning(model)
    validation = FaithfulnessValidation(every_n_steps=search_steps, sizes=[0.1, 0.2, 0.4])
    trainer = pl.Trainer(
        max_steps=search_steps, accelerator="cpu", callbacks=[validation], logger=False, enable_checkpointing=False
    )
    trainer.fit(
        search,
        DataLoader(induction(search_steps, seed=1), batch_size=None),
        DataLoader(induction(8, seed=2), batch_size=None),
    )
    print(*search.circuit(0.2).prune().edge_names(), sep="\n")
    return search, validation.rows


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Train a small transformer, and search a circuit in it.")
    parser.add_argument("--quick", action="store_true", help="a few steps, to see that it runs")
    main(30, 4) if parser.parse_args().quick else main()
