"""Streams of readers, each through the norm and its own block of a projection: queries, keys and values of some heads.

A layer has some 30 streams to a reader each, and plain autograd would pass over all of them a dozen times for the norm
alone. With ``s`` the scale of a token, the norm's gain (and centring, if it centres) within ``W``, and ``c`` what the
norm's constant and the projection's bias make,

    y = s * (x @ W) + c         dx = (s dy) @ W^T - (x - mean) * s^2 / d * <dy, y - c>

so forward the norm never touches a stream, only weights and narrow outputs, and backward it does so once.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lightning_circuits.models.norms import Norm


class Scales(NamedTuple):
    """What a norm does to tokens, ``[readers, ..., 1]``: its ``scale``, and the ``mean`` that it takes off, if any."""

    scale: Tensor
    mean: Tensor | None


class NormedProjection:
    """A norm and, behind it, the projections of readers, such as the queries, keys and values of a layer.

    Args:
        norm: what it does to a stream.
        projections: weights ``[blocks, d, d_head]`` and biases ``[blocks, d_head]``.
        readers: how many readers each has, ``k`` consecutive ones to a block.
    """

    def __init__(self, norm: Norm, projections: Sequence[tuple[Tensor, Tensor | None]], readers: Sequence[int]) -> None:
        self.norm, self.readers = norm, list(readers)
        self.folded = [norm.folded(*each) for each in projections]

    @classmethod
    def of_folded(
        cls, norm: Norm, folded: Sequence[tuple[Tensor, Tensor | None]], readers: Sequence[int]
    ) -> NormedProjection:
        """The same of weights ``[blocks, d, d_head]`` and constants ``[blocks, d_head]`` that have the norm's gain and
        constant in them already (`Norm.folded`)."""
        made = cls(norm, (), readers)
        made.folded = list(folded)
        return made

    def __call__(self, x: Tensor) -> tuple[Tensor, ...]:
        """Streams ``[all readers, ..., d]`` to ``[readers, ..., d_head]`` for each projection, by autograd."""
        return _ByAutograd.apply(x, self)

    def forward(self, x: Tensor) -> tuple[list[Tensor], Scales]:
        """The same without a graph, ``[readers, ..., d_head]`` for each projection, and what `gradient` needs."""
        scales = self._scales(x)
        outputs = []
        parts = x.split(self.readers), scales.scale.split(self.readers), self.folded
        for streams, scale, (weight, constant) in zip(*parts, strict=True):
            y = project(streams, weight).mul_(scale)
            outputs.append(y if constant is None else y.add_(of_readers(constant, y)))
        return outputs, scales

    def of_one(self, x: Tensor) -> list[Tensor]:
        """What readers make of one stream ``[B, T, d]`` that all of them see: ``[readers, B, T, d_head]`` each."""
        unit = self.norm.standardised(x)[0]
        outputs = []
        for (weight, constant), readers in zip(self.folded, self.readers, strict=True):
            y = (unit @ weight.movedim(0, 1).flatten(1)).unflatten(-1, (len(weight), -1)).movedim(-2, 0)
            y = y if constant is None else y + constant[:, None, None]
            outputs.append(y.repeat_interleave(readers // len(weight), dim=0))
        return outputs

    def gradient(
        self, x: Tensor, scales: Scales, outputs: Sequence[Tensor], dys: Sequence[Tensor], out: Tensor
    ) -> None:
        """Into ``out`` the gradient at the streams ``x``; it may be ``x`` itself.

        Args:
            x: ``[all readers, ..., d]``, as in the forward.
            scales: from there.
            outputs: from there.
            dys: the gradients at these.
            out: like ``x``.
        """
        dx, along = torch.empty_like(x), torch.zeros_like(scales.scale)
        parts = (each.split(self.readers) for each in (dx, along, scales.scale))
        for d, a, s, y, dy, (weight, constant) in zip(*parts, outputs, dys, self.folded, strict=True):
            streams = (dy * s).reshape(len(weight), -1, weight.shape[-1])
            torch.bmm(streams, weight.mT, out=d.view(len(weight), -1, weight.shape[1]))
            if self.norm.scales:
                y = y if constant is None else y - of_readers(constant, y)
                a.copy_((dy * y).sum(-1, keepdim=True) * s.square() / x.shape[-1])
        torch.addcmul(dx, x, along, value=-1, out=out)
        if scales.mean is not None:
            out += scales.mean * along

    def _scales(self, x: Tensor) -> Scales:
        if not self.norm.scales:
            return Scales(torch.ones_like(x[..., :1]), None)
        wide = torch.promote_types(x.dtype, torch.float32)  # the mean of squares overflows and rounds in 16 bits
        square = torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=wide).square() / x.shape[-1]
        if not self.norm.centres:
            return Scales((square + self.norm.epsilon).rsqrt().to(x.dtype), None)
        # In float32 a mean ten times the spread costs this variance a digit more than a pass of its own would (7e-6).
        mean = x.mean(-1, keepdim=True, dtype=wide)
        variance = (square - mean.square()).clamp(min=0)
        return Scales((variance + self.norm.epsilon).rsqrt().to(x.dtype), mean.to(x.dtype))


class _ByAutograd(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, projection: NormedProjection) -> Any:
        outputs, scales = projection.forward(x)
        ctx.save_for_backward(x, *scales, *outputs)
        ctx.projection = projection
        return tuple(outputs)

    @staticmethod
    def backward(ctx: Any, *dys: Tensor) -> tuple[Tensor | None, ...]:
        x, scale, mean, *outputs = ctx.saved_tensors
        dx = torch.empty_like(x)
        ctx.projection.gradient(x, Scales(scale, mean), outputs, dys, out=dx)
        return dx, None


def project(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Streams of readers through their blocks of a projection, ``k`` consecutive readers sharing a block.

    Args:
        x: ``[blocks * k, ..., d]``.
        weight: ``[blocks, d, d_head]``.
        bias: ``[blocks, d_head]``.

    Returns:
        ``[blocks * k, ..., d_head]``.
    """
    projected = torch.bmm(x.reshape(len(weight), -1, x.shape[-1]), weight).view(*x.shape[:-1], weight.shape[-1])
    return projected if bias is None else projected + of_readers(bias, projected)


def of_readers(bias: Tensor, x: Tensor) -> Tensor:
    """A bias ``[blocks, d_head]`` to be added to what readers project to, ``x`` ``[readers, ..., d_head]``."""
    of_each = bias.repeat_interleave(len(x) // len(bias), dim=0)
    return of_each.view(len(x), *[1] * (x.ndim - 2), -1)
