"""What the prompts of a batch have in common over all layers: masks, and where each token stands.

>>> position_ids(torch.tensor([[0, 0, 1, 1], [1, 1, 1, 0]]))
tensor([[0, 0, 0, 1],
        [0, 1, 2, 2]])
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor


@dataclass(frozen=True)
class Context:
    """What a batch's prompts have in common over all layers: who may attend to whom, and where each token stands.

    ``mask``: bool ``[B, T, T]``, query by key. ``window_mask``: the same within the sliding window, for the layers
    that have one. ``position_ids``: int64 ``[B, T]``, counted from the first real token, so that padding on the left
    changes nothing. ``rotary``: cosines and sines ``[B, T, d_head]`` of rotary embeddings; ``window_rotary``: those of
    the layers with a window, where they have others.
    """

    mask: Tensor
    position_ids: Tensor
    window_mask: Tensor | None = None
    rotary: tuple[Tensor, Tensor] | None = None
    window_rotary: tuple[Tensor, Tensor] | None = None


class PromptLimit(NamedTuple):
    """How many tokens a prompt may have at most, and what stands against more, as the end of a sentence."""

    tokens: int
    reason: str


def causal_mask(attention_mask: Tensor, window: int | None = None) -> Tensor:
    """bool ``[B, T, T]``: causal, real keys only, at most ``window`` back; each token sees at least itself."""
    index = torch.arange(attention_mask.shape[1], device=attention_mask.device)
    distance = index[:, None] - index
    causal = distance >= 0 if window is None else (distance >= 0) & (distance < window)
    # Padding attends to itself: a row without any key would be NaN, and no real token ever reads it.
    return (causal & attention_mask.bool()[:, None, :]) | (distance == 0)


def position_ids(attention_mask: Tensor) -> Tensor:
    """int64 ``[B, T]``: positions counted from the first real token. Hugging Face counts padding unless told."""
    return (attention_mask.cumsum(-1) - 1).clamp(min=0)
