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

from typing import NamedTuple

import torch
from torch import Tensor

from lightning_circuits.components import Component
from lightning_circuits.models.base import CircuitModel
from lightning_circuits.models.context import Context
from lightning_circuits.models.norms import Norm


def component_output(model: CircuitModel, component: Component, x: Tensor, context: Context) -> Tensor:
    """What an attention or MLP adds to the stream after the one that it reads, ``x``: both ``[B, T, d]``."""
    if component.kind == "mlp":
        return model.mlp(component.layer, x)
    return attention_output(model, component.layer, x, context)


def attention_output(model: CircuitModel, layer: int, x: Tensor, context: Context) -> Tensor:
    """What a layer's attention adds to the stream ``x`` that it reads, both ``[B, T, d]``, with the output bias."""
    norm = model.read_norm(model.attention_norm(layer))
    with model.at_hand(layer):
        q, k, v = (each.output for each in _projected(model, layer, norm, norm.standardised(x)[0]))
        z = model.mix(layer, q, k, v, context)
        out = model.outputs(layer).summed(z)
    bias = model.output_bias(layer)
    return out if bias is None else out + bias


def attention_gradients(
    model: CircuitModel, layer: int, x: Tensor, dout: Tensor, context: Context, out: Tensor
) -> Tensor:
    """Gradients at the readers of one layer's attention, all of which see the same stream.

    Args:
        model: the frozen model.
        layer: which layer.
        x: ``[steps * B, T, d]``, the stream before the layer; the steps of an integral one behind the other.
        dout: the gradient at what the heads write, the same for each of them, like ``x``.
        context: of all ``steps * B`` prompts.
        out: ``[n_attention_readers, B, T, d]``, filled with each reader's gradient, summed over the steps.

    Returns:
        the gradient at the stream, summed over the readers, ``[steps * B, T, d]``.
    """
    (rows, length, width), steps = x.shape, len(x) // out.shape[1]
    norm = model.read_norm(model.attention_norm(layer))
    unit, scale = norm.standardised(x)
    with model.at_hand(layer):
        projected = _projected(model, layer, norm, unit)
        leaves = [each.output.requires_grad_() for each in projected]
        z = model.rules.recorded(
            f"the attention of layer {layer} of this {type(model.model).__name__}",
            lambda q, k, v: model.mix(layer, q, k, v, context),
            *leaves,
            is_attention=True,
        )
        dz = model.outputs(layer).gradient_of_sum(dout, z.detach(), model.rules.hold_norms)
        dys = torch.autograd.grad(z, leaves, dz)

    dreaders = out.view(len(out), -1, width)
    split = [len(dy) for dy in dys]
    along = scale.new_zeros(len(out), rows, length)
    dx = torch.zeros_like(x)
    for (weight, y, _), dy, d, a in zip(projected, dys, dreaders.split(split), along.split(split), strict=True):
        blocks, d_head = len(weight), dy.shape[-1]
        if norm.scales and not model.rules.hold_norms:
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
    """The gradient ``[B, T, d]`` at the stream ``x`` that an MLP reads, ``dout`` being that at what it writes."""
    with model.at_hand(layer):
        x = x.detach().requires_grad_()
        name = f"the MLP of layer {layer} of this {type(model.model).__name__}"
        return torch.autograd.grad(model.rules.recorded(name, lambda x: model.mlp(layer, x), x), x, dout)[0]


class _Projection(NamedTuple):
    """Of queries, keys or values: the weight with the norm's gain in it ``[blocks, d, d_head]``, what it makes of the
    standardised stream ``[readers, B, T, d_head]``, and what it adds whatever that is ``[readers, 1, 1, d_head]``."""

    weight: Tensor
    y: Tensor
    constant: Tensor | None

    @property
    def output(self) -> Tensor:
        """``[readers, B, T, d_head]``: what the stock model's projection puts out."""
        return self.y if self.constant is None else self.y + self.constant


def _projected(model: CircuitModel, layer: int, norm: Norm, unit: Tensor) -> list[_Projection]:
    """Queries, keys and values of a layer, all of whose readers see ``unit`` ``[B, T, d]``, the standardised stream."""
    layout, projections = model.layout, []
    split = layout.n_heads, layout.n_kv_readers, layout.n_kv_readers
    for projection, readers in zip(model.projections(layer), split, strict=True):
        weight, constant = norm.folded(*projection)
        y = unit @ weight.mT.flatten(0, 1).mT
        y = y.unflatten(-1, (len(weight), -1)).permute(2, 0, 1, 3)
        times = readers // len(weight)  # readers of a group share its projection
        if constant is not None:
            constant = constant[:, None, None].repeat_interleave(times, dim=0)
        projections.append(_Projection(weight, y.repeat_interleave(times, dim=0), constant))
    return projections
