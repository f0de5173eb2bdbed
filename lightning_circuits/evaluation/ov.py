"""What a head would write about a token that it looks at, read from its weights: next and copy scores.

Where a head attends to one token alone, it writes that token's value through its output matrix, whatever the prompt:
its OV circuit (Elhage et al. 2021). Unembedded, it says which tokens the head makes more probable. A head that copies
has the token itself among the first, one that continues a sequence the next member:

    >>> scores = ov_scores(model, tokenizer, ["January", "February", "March", "April"])                # doctest: +SKIP
    >>> scores.best("next")[:2]                                                                       # doctest: +SKIP
    [('a9.h1', 1.0), ('a8.h8', 0.6666666865348816)]

What the head reads is what the first layer makes of a token that attends to itself alone, without a position, much as
Wang et al. (2022) take copy scores of IOI's name movers: the first MLP makes of an embedding what later layers read.
Heads of the first layer read the embedding.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from lightning_circuits.arguments import require_choice
from lightning_circuits.models import CircuitModel
from lightning_circuits.models.loading import PreTrainedTokenizerBase
from lightning_circuits.models.open_attention import component_output

Asked = Literal["next", "copy"]

TOP = 5
"""A token counts if it is one of the first five of the vocabulary (Lan et al. 2023)."""


@dataclass(frozen=True)
class OVScores:
    """Of every head the share of members that it answers as asked.

    ``next``: float32 ``[n_layers, n_heads]``, of the members that have a next one, those for which the head has it
    among the `TOP` most probable tokens of the vocabulary. ``copy``: the same for the member itself, of all.
    ``members``: as texts.
    """

    next: Tensor
    copy: Tensor
    members: tuple[str, ...]

    def best(self, asked: Asked) -> list[tuple[str, float]]:
        """The heads by name, from the highest score down; of equal scores the first in the model."""
        require_choice("asked", asked, Asked)
        scores = self.next if asked == "next" else self.copy
        n_heads = scores.shape[1]
        order = scores.flatten().argsort(descending=True, stable=True).tolist()
        return [(f"a{head // n_heads}.h{head % n_heads}", float(scores.flatten()[head])) for head in order]

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON data."""
        return {"members": list(self.members), "top": TOP, "next": self.next.tolist(), "copy": self.copy.tolist()}


@torch.no_grad()
def ov_scores(model: CircuitModel, tokenizer: PreTrainedTokenizerBase, members: Sequence[str]) -> OVScores:
    """Next and copy scores of every head for the members of a sequence.

    Args:
        model: the frozen model.
        tokenizer: that of the model.
        members: in their order, each one token after a space.

    Raises:
        ValueError: fewer than two members, one that is given twice, or one of several tokens (which is said).
    """
    if len(members) < 2 or len(set(members)) < len(members):
        raise ValueError(f"the members of a sequence are two different ones at least, got {list(members)}")
    found = [tokenizer(f" {member}", add_special_tokens=False)["input_ids"] for member in members]
    if several := [member for member, ids in zip(members, found, strict=True) if len(ids) != 1]:
        raise ValueError(f"{several[0]!r} is not one token after a space: OV scores are of single tokens")
    ids = torch.tensor(found, device=model.device)
    context, layout = model.context(torch.ones_like(ids)), model.layout

    def heads(layer: int, stream: Tensor) -> Tensor:
        """``[n_heads, n_members, 1, d]``: what each head writes of a token that it looks at alone."""
        return model.attention(layer, stream.expand(layout.n_attention_readers, *stream.shape), context)

    stream = embedding = model.embed(ids)
    for stage in layout.stages:
        if stage[0].layer == 0:
            stream = sum((component_output(model, each, stream, context) for each in stage), stream)
    following, same = [], []
    for layer in range(layout.n_layers):
        logits = model.unembed(heads(layer, embedding if layer == 0 else stream)[:, :, 0])
        top = logits.topk(TOP, dim=-1).indices  # [n_heads, n_members, TOP]
        same.append((top == ids).any(-1).float().mean(-1))
        following.append((top[:, :-1] == ids[1:]).any(-1).float().mean(-1))
    return OVScores(torch.stack(following).cpu(), torch.stack(same).cpu(), tuple(members))
