"""A toy for `ioi_variants.py --quick`: IOI without grammar, and a model of two layers whose weights are set by hand.

    start a and b went , b saw it so        ->    a        (Base: b is named again)

A variant names IO once more before that: ``start a and b went , a sat , b saw it so``. What the model does is known:

- a0.h0 looks from a name back to where the same name stood before, and writes there that the name is a repeated one;
  from all others it looks at ``start``.
- a1.h0 looks from ``so`` at repeated names, at each `CLAUSE` tokens further back with a third of the attention, and
  makes the name that it finds less probable, by `LOGIT` at full attention.

So F(M), the mean logit difference, is `LOGIT` on Base. On DoubleIO, where IO is a repeated name too, it is (3 - 1) / 4
of that, on TripleIO (9 - 3 - 1) / 13. A circuit of Base, that knows repeated names at S2 alone, has all of it on every
variant: 2 and 2.6 times F(M). It has F(M) itself as soon as it sees the others too.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from string import ascii_lowercase
from typing import Any

import torch
from ioi_places import PlacedIOI
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import Tensor
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

from lightning_circuits.datamodules.tokenising import PromptPair

NAMES = tuple(ascii_lowercase)
WORDS = ("start", *NAMES, "and", "went", ",", "sat", "saw", "it", "so", "[UNK]")
POSITIONS = 16
CLAUSE = 3
"""Tokens of a clause that names IO again."""
LOGIT = 4.0
SHARP = 20.0
"""The attention score of what a head looks for; that of ``start``, where it looks otherwise, is half of it."""
EPSILON, GAIN = 2.0**60, 2.0**30
"""Of norms that are none: beside such an epsilon, the variance of the stream is nothing."""


def tokenizer() -> PreTrainedTokenizerFast:
    """A token for each word."""
    made = Tokenizer(models.WordLevel({word: number for number, word in enumerate(WORDS)}, unk_token="[UNK]"))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=made, unk_token="[UNK]")


class ToyIOI(PlacedIOI):
    """The prompts above; arguments are those of `IOIDataModule`, and so are the names of prompts."""

    def candidates(self, split: str) -> Iterator[PromptPair]:
        for number, (io, subject, *others) in enumerate(self._names_of_prompts()[split]):
            io_first = self.order == "io-first" or (self.order == "both" and number % 2 == 0)
            first, second = (io, subject) if io_first else (subject, io)
            clean = _words(first, second, subject, [io] * self.extra_io)
            if self.corruption == "abc":
                corrupt = _words(others[1], others[2], others[3], others[4:])
            else:
                corrupt = [*clean]
                corrupt[-4] = others[0]
            mentions, (s1, s2) = ([at for at, word in enumerate(clean) if word == name] for name in (io, subject))
            places = {"IO": mentions[0], "IO+1": mentions[0] + 1, "S1": s1, "S1+1": s1 + 1, "S2": s2}
            places |= {f"IO{n}": at for n, at in enumerate(mentions[1:], start=2)} | {"END": len(clean) - 1}
            starts = [len(" ".join([*clean[:at], ""])) for at in range(len(clean))]
            spans = {name: (starts[at], starts[at] + len(clean[at])) for name, at in places.items()}
            texts, where = (" ".join(clean), " ".join(corrupt)), f"{split} prompt {number}"
            group = "io-first" if io_first else "s-first"
            yield PromptPair(*texts, (f" {io}",), (f" {subject}",), where, spans, group)

    def _names_alike(self, triples: int, each: int) -> list[list[str]]:
        return [list(NAMES)]


def _words(first: str, second: str, again: str, extra: list[str]) -> list[str]:
    clauses = [word for name in extra for word in (name, "sat", ",")]
    return ["start", first, "and", second, "went", ",", *clauses, again, "saw", "it", "so"]


def by_hand() -> GPT2LMHeadModel:
    """The model: a stock GPT-2 of two layers and two heads, of which the second does nothing, nor do the MLPs.

    Its stream has a room for the token, one for the position, one for whether the name is a repeated one, and one for
    what the logits read. Its second half is minus the first, so that norms have no mean to take away.
    """
    n = len(WORDS)
    token, position = slice(0, n), slice(n, n + POSITIONS)
    repeated, out = slice(n + POSITIONS, n + POSITIONS + 1), slice(n + POSITIONS + 1, 2 * n + POSITIONS + 1)
    half = out.stop
    config: Any = dict(vocab_size=n, n_positions=POSITIONS, n_embd=2 * half, n_layer=2, n_head=2, n_inner=4)
    config |= dict(layer_norm_epsilon=EPSILON, tie_word_embeddings=False, bos_token_id=None, eos_token_id=None)
    model = GPT2LMHeadModel(GPT2Config(**config)).eval()
    for name, parameter in model.named_parameters():
        parameter.data.fill_(GAIN if ".ln_" in name and name.endswith("weight") else 0.0)
    body: Any = model.transformer

    def write(into: Tensor, rows: Tensor) -> None:
        into.data[:, :half], into.data[:, half:] = rows, -rows

    def head(layer: int, q: Tensor, k: Tensor, v: Tensor, into: slice) -> None:
        attention = body.h[layer].attn
        for number, matrix in enumerate((q * half**0.5, k, v)):  # attention divides scores by the root of its width
            attention.c_attn.weight.data[:half, 2 * number * half : (2 * number + 1) * half] = matrix
        rows = torch.zeros(2 * half, half)
        rows[: into.stop - into.start, into] = torch.eye(into.stop - into.start)
        write(attention.c_proj.weight, rows)

    def nothing() -> Tensor:
        return torch.zeros(half, half)

    eye = torch.eye(half)
    write(body.wte.weight, eye[token])
    write(body.wpe.weight, eye[position])
    names = slice(1, 1 + len(NAMES))

    # a0.h0: the same token, but not itself; or "start", to which every token gives half of that.
    q, k, v = nothing(), nothing(), nothing()
    q[token, token], q[position, position] = eye[token, token], eye[position, position]
    k[names, names], k[position, position] = SHARP * eye[names, names], -2 * SHARP * eye[position, position]
    k[0, token] = SHARP / 2
    v[names, 0] = 1.0
    head(0, q, k, v, repeated)

    # a1.h0: from "so" to repeated names, to those further on a little more; or to "start".
    q, k, v = nothing(), nothing(), nothing()
    q[WORDS.index("so"), 0] = 1.0
    k[repeated, 0], k[0, 0] = 2 * SHARP, SHARP
    k[position, 0] = torch.arange(POSITIONS) * math.log(3) / CLAUSE
    v[names, names] = -eye[names, names]
    head(1, q, k, v, out)
    model.lm_head.weight.data[:, out] = LOGIT * torch.eye(n)
    return model
