"""Rotary positions: queries and keys turned by angles that grow with the token's place in the prompt.

The numbers of a head make pairs, each a point in the plane with an angle of its own. Most families pair the i-th number
with the one half the head further on (`rotate`), GPT-J neighbours (`rotate_pairs`). Where fewer numbers have angles
than a head has, the rest stays as it is.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from lightning_circuits.models.context import Context, PromptLimit


def angles(rotary: Any, positions: Tensor, dtype: torch.dtype, *kind: str) -> tuple[Tensor, Tensor]:
    """Cosines and sines ``[B, T, width]`` of Hugging Face's module for ``positions`` ``[B, T]``; of a ``kind`` of
    layers, where it asks for that."""
    cos, sin = rotary(torch.empty(0, dtype=dtype, device=positions.device), positions, *kind)
    return cos, sin


def rotary_limit(rotary: Any, *kind: str) -> PromptLimit | None:
    """How long prompts may be before Hugging Face's module scales its angles by the longest of a batch."""
    rope_type, parameters = rotary.rope_type, rotary.config.rope_parameters
    for each in kind:
        rope_type, parameters = rope_type[each], parameters[each]
    tokens = {
        "dynamic": rotary.original_max_seq_len,
        "longrope": parameters.get("original_max_position_embeddings"),
    }.get(rope_type)
    reason = (
        f"above, its rotary positions ({rope_type}) are scaled by the longest prompt of the batch, and what "
        "is measured on one prompt would depend on its neighbours"
    )
    return None if tokens is None else PromptLimit(tokens, reason)


def rotate(x: Tensor, context: Context) -> Tensor:
    """Queries or keys ``[heads, B, T, d_head]`` turned, in Hugging Face's layout: halves make the pairs."""
    cos, sin = context.rotary  # type: ignore[misc]
    turning, rest = x[..., : cos.shape[-1]], x[..., cos.shape[-1] :]
    first, second = turning.chunk(2, dim=-1)
    turned = (turning * cos + torch.cat((-second, first), dim=-1) * sin).to(x.dtype)  # angles may be in float32
    return torch.cat((turned, rest), dim=-1) if rest.shape[-1] else turned


def rotate_pairs(x: Tensor, context: Context) -> Tensor:
    """The same, ``[heads, B, T, d_head]``, where neighbours make the pairs; both have their angle in the cosines."""
    cos, sin = context.rotary  # type: ignore[misc]
    turning, rest = x[..., : cos.shape[-1]], x[..., cos.shape[-1] :]
    first, second = turning[..., ::2], turning[..., 1::2]
    turned = (turning * cos + torch.stack((-second, first), dim=-1).flatten(-2) * sin).to(x.dtype)
    return torch.cat((turned, rest), dim=-1)
