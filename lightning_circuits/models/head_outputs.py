"""What heads write of the values that they have mixed: the output matrix and, in some models, a norm behind it.

With ``W_h`` the output matrix's block of head h, ``r = sum over h of z_h @ W_h`` and a norm of gain g,

    norm(r) = s * r * g          s = 1 / rms(r)          written_h = s * (z_h @ W_h) * g

each head writes its share: the shares sum to what the stock model's attention writes, and ``s`` is that of the whole
sum *of this run*, so that what a head writes depends on the other heads of its layer. Backward, with
``dz'_h = (g dwritten_h) @ W_h^T``,

    dz_h = s dz'_h - s^3 / d * (sum over heads of <dz', z>) * r @ W_h^T

Wide tensors go through matrix products alone: what the norm does, it does to ``z``.
"""

from __future__ import annotations

import torch
from torch import Tensor

from lightning_circuits.models.norms import Norm


class HeadOutputs:
    """The outputs of a layer's heads, or of some of them.

    Args:
        weight: ``[n_heads, d_head, d]``, the output matrix.
        norm: of what the heads write together, of an RMS norm's kind; then ``weight`` is that of all heads.
    """

    def __init__(self, weight: Tensor, norm: Norm | None = None) -> None:
        self.norm, self.raw = norm, weight
        self.weight = weight if norm is None else norm.gained(weight)

    def __call__(self, z: Tensor) -> Tensor:
        """Each head's mixed values ``[n_heads, ..., d_head]`` to what it writes, ``[n_heads, ..., d]``."""
        return torch.bmm(self.scaled(z).flatten(1, -2), self.weight).unflatten(1, z.shape[1:-1])

    def summed(self, z: Tensor) -> Tensor:
        """``[..., d]``: what all of them write together."""
        return _side_by_side(self.scaled(z)) @ self.weight.flatten(0, 1)

    def scaled(self, z: Tensor) -> Tensor:
        """``z`` ``[n_heads, ..., d_head]`` as it goes through ``weight``: scaled as the norm scales what it becomes."""
        return z if self.norm is None else (z * self._scale(z)[1]).to(z.dtype)

    def gradient(self, dwritten: Tensor, z: Tensor | None) -> Tensor:
        """The gradient ``[n_heads, ..., d_head]`` at the mixed values ``z``, from that at what heads write; without a
        norm these values are not asked for."""
        dz = torch.bmm(dwritten.flatten(1, -2), self.weight.mT).unflatten(1, dwritten.shape[1:-1])
        if self.norm is None:
            return dz
        assert z is not None
        return self._through_the_norm(dz, z)

    def gradient_of_sum(self, dout: Tensor, z: Tensor, held: bool = False) -> Tensor:
        """The same of `summed`, from the gradient ``[..., d]`` at what they write together; ``held``: with the norm's
        scale a constant."""
        dz = (dout @ self.weight.flatten(0, 1).mT).unflatten(-1, (len(z), -1)).movedim(-2, 0)
        if self.norm is None:
            return dz
        return (dz * self._scale(z)[1]).to(z.dtype) if held else self._through_the_norm(dz, z)

    def _through_the_norm(self, dz: Tensor, z: Tensor) -> Tensor:
        r, scale = self._scale(z)
        along = (dz * z).sum((0, -1))[..., None] * scale.square() / r.shape[-1]
        through = (along.to(r.dtype) * r) @ self.raw.flatten(0, 1).mT
        return ((dz - through.unflatten(-1, (len(z), -1)).movedim(-2, 0)) * scale).to(z.dtype)

    def _scale(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """What all heads write before the norm ``[..., d]``, and what the norm scales it with ``[..., 1]``."""
        assert self.norm is not None
        r = _side_by_side(z) @ self.raw.flatten(0, 1)
        return r, self.norm.standardised(r)[1]


def _side_by_side(z: Tensor) -> Tensor:
    """``[n_heads, ..., d_head]`` to ``[..., n_heads * d_head]``."""
    return z.movedim(0, -2).flatten(-2)
