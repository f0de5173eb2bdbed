"""Attention in which every edge is open, and its gradient for each reader apart.

With all gates at 1 the readers of a layer see one stream, so queries, keys and values are computed once, shaped as in
the stock model. Only the gradients differ from reader to reader. For the norm, with ``s`` the scale of a token and
``n = s * x`` its normed stream (``x`` centred first, if the norm centres), a reader's projection is ``y = n @ W``, the
norm's gain within ``W``, and

    dx_r = (s dy_r) @ W_r^T - n * s / d * <dy_r, y_r>.

Of the two terms the first is linear in the narrow ``s dy_r``, the second in ``n``. So the *sum* over the steps of an
integral costs one wide product, not one for each step: the steps are added up where they are narrow.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from lightning_circuits.models.base import CircuitModel, Context


def attention_output(model: CircuitModel, layer: int, x: Tensor, context: Context) -> Tensor:
    """What the attention of a layer adds to the stream ``x`` ``[B, T, d]`` that it reads, output bias included."""
    q, k, v = (_leaf(each) for each in _projected(model, layer, x))
    z = model.mix(layer, q, k, v, context)
    out = z.permute(1, 2, 0, 3).flatten(2) @ model.output_weight(layer).flatten(0, 1)
    bias = model.output_bias(layer)
    return out if bias is None else out + bias


def attention_gradients(
    model: CircuitModel, layer: int, x: Tensor, dout: Tensor, context: Context, out: Tensor
) -> Tensor:
    """Gradients at the readers of one layer's attention, all of which see the same stream.

    Args:
        x: ``[steps * B, T, d]``, the stream before the layer; the steps of an integral one behind the other.
        dout: the gradient at what the heads write, the same for each of them, like ``x``.
        context: of all ``steps * B`` prompts.
        out: ``[n_attention_readers, B, T, d]``, filled with each reader's gradient, summed over the steps.

    Returns:
        the gradient at the stream, summed over the readers, ``[steps * B, T, d]``.
    """
    (rows, length, width), steps = x.shape, len(x) // out.shape[1]
    unit, scale = _standardised(model.attention_norm(layer), x)
    projected = _projected(model, layer, x, unit)
    leaves = [_leaf(each).requires_grad_() for each in projected]
    with torch.enable_grad():
        q, k, v = leaves
        z = model.mix(layer, q, k, v, context)
    dz = dout @ model.output_weight(layer).flatten(0, 1).mT
    dys = torch.autograd.grad(z, leaves, dz.unflatten(-1, (len(z), -1)).permute(2, 0, 1, 3))

    dreaders = out.view(len(out), -1, width)
    split = [len(dy) for dy in dys]
    along = scale.new_empty(len(out), rows, length)
    dx = torch.zeros_like(x)
    for (weight, y, _), dy, d, a in zip(projected, dys, dreaders.split(split), along.split(split), strict=True):
        blocks, d_head = len(weight), dy.shape[-1]
        torch.mul((dy * y).sum(-1), scale[..., 0] / width, out=a)
        dy = dy * scale.to(dy.dtype)
        summed = dy.reshape(len(dy), steps, -1, d_head).sum(1)
        torch.bmm(summed.reshape(blocks, -1, d_head), weight.mT, out=d.view(blocks, -1, width))
        # Readers that share a projection go through it as one.
        shared = dy.reshape(blocks, -1, rows * length, d_head).sum(1).movedim(0, 1).flatten(1)
        dx.view(-1, width).addmm_(shared, weight.mT.reshape(-1, width))
    dx -= unit * along.sum(0)[..., None].to(unit.dtype)
    along = along.view(len(along), steps, -1, 1).to(unit.dtype)
    for step, of_step in enumerate(unit.view(steps, -1, width)):
        dreaders.addcmul_(along[:, step], of_step, value=-1)
    return dx


def mlp_gradient(model: CircuitModel, layer: int, x: Tensor, dout: Tensor) -> Tensor:
    """The gradient at the stream ``x`` that the MLP of a layer reads, ``dout`` being that at what it writes."""
    with torch.enable_grad():
        x = x.detach().requires_grad_()
        return torch.autograd.grad(model.mlp(layer, x), x, dout)[0]


class _Projection(NamedTuple):
    """Of queries, keys or values: the weight with the norm's gain in it ``[blocks, d, d_head]``, what it makes of the
    normed stream ``[readers, B, T, d_head]``, and what it adds whatever the stream ``[readers, 1, 1, d_head]``."""

    weight: Tensor
    y: Tensor
    constant: Tensor | None


def _projected(model: CircuitModel, layer: int, x: Tensor, unit: Tensor | None = None) -> list[_Projection]:
    layout, norm = model.layout, model.attention_norm(layer)
    unit = _standardised(norm, x)[0] if unit is None else unit
    projections = []
    split = layout.n_heads, layout.n_kv_readers, layout.n_kv_readers
    for (weight, bias), readers in zip(model.projections(layer), split, strict=True):
        constant = _constant(norm, weight, bias)
        weight = _with_gain(norm, weight)
        y = unit @ weight.mT.flatten(0, 1).mT
        y = y.unflatten(-1, (len(weight), -1)).permute(2, 0, 1, 3)
        times = readers // len(weight)  # readers of a group share its projection
        projections.append(
            _Projection(
                weight,
                y.repeat_interleave(times, dim=0),
                None if constant is None else constant.repeat_interleave(times, dim=0),
            )
        )
    return projections


def _leaf(projected: _Projection) -> Tensor:
    return projected.y if projected.constant is None else projected.y + projected.constant


def _standardised(norm: Any, x: Tensor) -> tuple[Tensor, Tensor]:
    """The normed stream without gain and bias, and the scale of each token ``[..., 1]``, in float32 or better."""
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    if isinstance(norm, nn.LayerNorm):
        wide = wide - wide.mean(-1, keepdim=True)
        epsilon = norm.eps
    else:
        epsilon = norm.variance_epsilon
    scale = (wide.square().mean(-1, keepdim=True) + epsilon).rsqrt()
    return (wide * scale).to(x.dtype), scale


def _with_gain(norm: Any, weight: Tensor) -> Tensor:
    """The projection of a normed stream without gain; where the norm centres, it ignores a stream's mean."""
    weight = norm.weight[:, None] * weight
    return weight - weight.mean(-2, keepdim=True) if isinstance(norm, nn.LayerNorm) else weight


def _constant(norm: Any, weight: Tensor, bias: Tensor | None) -> Tensor | None:
    """What a projection adds whatever the stream, ``[blocks, 1, 1, d_head]``."""
    if isinstance(norm, nn.LayerNorm) and norm.bias is not None:
        constant = norm.bias @ weight
        bias = constant if bias is None else bias + constant
    return None if bias is None else bias[:, None, None]
