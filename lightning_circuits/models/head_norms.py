"""Norms that each head has of its own, for its queries and keys."""

from __future__ import annotations

import torch
from torch import Tensor

from lightning_circuits.models.norms import Norm


def normed_by_head(norm: Norm, x: Tensor, which: Tensor | None, n_readers: int | None = None) -> Tensor:
    """Queries or keys, each through the norm of its head or K/V group.

    Args:
        norm: with a gain for each of these, ``[blocks, d_head]``.
        x: ``[readers, B, T, d_head]``, of a layer, or of some of its readers.
        which: int64 ``[readers]``, which these are; None for all.
        n_readers: how many of the kind a layer has, as many to each block. Default: one.
    """
    assert norm.gain is not None
    blocks = len(norm.gain)
    if which is None:
        which, n_readers = torch.arange(len(x), device=x.device), len(x)
    of_each = (n_readers or blocks) // blocks
    return norm.standardised(x)[0] * norm.gain[which // of_each][:, None, None]
