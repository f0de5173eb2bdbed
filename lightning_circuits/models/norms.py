"""What a norm does to a stream, in four properties: all that attribution has to know of it.

The norms before attention and MLP scale every token by one number and every dimension by another:

    norm(x) = scale(x) * centred(x) * gain + constant          scale(x) = 1 / rms(centred(x))

An RMS norm neither centres nor adds a constant, a layer norm does both. Where there is no norm, the scale is 1. Whoever
takes gradients at the readers of a layer (`open_attention`) folds gain and constant into the projections behind the
norm, and is left with a number per token. A family whose norms are of another kind says how they are read in
`CircuitModel.read_norm`; one that scales by ``1 + weight``, say, by ``Norm(gain=1 + norm.weight, epsilon=norm.eps)``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Norm:
    """One norm of a model.

    Args:
        gain: ``[d]``, in the model's dtype, as ``constant``; None for 1.
        epsilon: what is added to the mean square of a token.
        centres: whether each token's mean over the ``d`` dimensions is first taken off.
        constant: ``[d]``, what is added at the end.
        scales: whether tokens are scaled; False of a place without a norm.
    """

    gain: Tensor | None
    epsilon: float
    centres: bool = False
    constant: Tensor | None = None
    scales: bool = True

    def __call__(self, x: Tensor) -> Tensor:
        """The normed stream, like ``x`` ``[..., d]``."""
        normed = self.gained(self.standardised(x)[0])
        return normed if self.constant is None else normed + self.constant

    def gained(self, x: Tensor) -> Tensor:
        """``x`` ``[..., d]`` times the gain."""
        return x if self.gain is None else x * self.gain

    def standardised(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """A stream without gain and constant, and what it is scaled with.

        Args:
            x: ``[..., d]``.

        Returns:
            the centred and scaled stream ``[..., d]``, in the dtype of ``x``; the scale of each token ``[..., 1]``, in
            float32, or float64 for ``x`` in float64.
        """
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        if not self.scales:
            return x, torch.ones_like(wide[..., :1])
        wide, scale = self._centred_and_scale(wide)
        return (wide * scale).to(x.dtype), scale

    def held(self, x: Tensor) -> Tensor:
        """The normed stream, like ``x`` ``[..., d]``, what tokens are scaled with being a constant to autograd."""
        wide, scale = self._centred_and_scale(x.to(torch.promote_types(x.dtype, torch.float32)))
        normed = self.gained((wide * scale.detach()).to(x.dtype))
        return normed if self.constant is None else normed + self.constant

    def _centred_and_scale(self, wide: Tensor) -> tuple[Tensor, Tensor]:
        """A stream ``[..., d]``, centred if the norm centres, and what its tokens are scaled with ``[..., 1]``."""
        if self.centres:
            wide = wide - wide.mean(-1, keepdim=True)
        return wide, (wide.square().mean(-1, keepdim=True) + self.epsilon).rsqrt()

    def folded(self, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """A projection of the normed stream as one of the standardised stream.

        Args:
            weight: ``[blocks, d, d_head]``.
            bias: ``[blocks, d_head]``.

        Returns:
            weight and bias of the same shapes. Where the norm centres, the weight ignores a stream's mean, so that its
            transpose takes gradients back through the centring too.
        """
        if self.constant is not None:
            constant = self.constant @ weight
            bias = constant if bias is None else bias + constant
        weight = weight if self.gain is None else self.gain[:, None] * weight
        return (weight - weight.mean(-2, keepdim=True) if self.centres else weight), bias


def read_norm(module: Any) -> Norm:
    """How a layer norm is read, and an RMS norm in the manner of Hugging Face, which calls its epsilon so; and
    ``nn.Identity``, which stands where there is no norm.

    Raises:
        ValueError: a norm of another kind.
    """
    if isinstance(module, nn.Identity):
        return Norm(None, 0.0, scales=False)
    if isinstance(module, nn.LayerNorm):
        return Norm(module.weight, module.eps, centres=True, constant=module.bias)
    if hasattr(module, "variance_epsilon"):
        return Norm(module.weight, module.variance_epsilon)
    raise ValueError(
        f"a {type(module).__name__} is no norm that can be read: neither a LayerNorm nor an RMS norm with a weight and "
        "a variance_epsilon. A model of one's own says in CircuitModel.read_norm what its norms are"
    )
