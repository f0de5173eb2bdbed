"""The one computation: a transformer in which every edge carries a gate.

A reader r sees, in place of the residual stream,

    x_r = base + sum over writers w before r of  M[r, w] * (out_w - ref_w)

``out_w`` is what writer w puts out in this very run, ``ref_w`` what an ablation puts in its place, ``M`` the gates and
``base`` the stream that the references alone would make: the sum of ``ref_w`` before r and every constant (learned
positions, the attention's output biases). So M = 1 is the stock model, M = 0 the ablated one, a binary M a circuit.

The differences ``out_w - ref_w`` stand in one *stack* ``[n_writers, B, T, d]``, filled in place from the bottom. One
matrix product ``[readers, n] @ [n, B * T * d]`` mixes them for all readers of a layer.

Backward recomputes layer by layer from the top. With ``dx_r`` the gradient at reader r,

    dL/dM[r, w] = <dx_r, out_w - ref_w>          dL/d out_w = sum over later readers r of  M[r, w] * dx_r

so a second stack of the same size, the gradients of the writers, is all that a step keeps beside the first, and one
layer's activations.

Where edges are told apart by spans of tokens, ``M[s(t), r, w]`` stands for ``M[r, w]`` at the token t, s(t) its span.
The stacks hold tokens span by span then (`Places`), and each product is one for every span.

At M = 1 under interchange ablation, -dL/dM is the EAP score (Syed et al. 2023).
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from lightning_circuits.layout import Layout
from lightning_circuits.models import CircuitModel, Context
from lightning_circuits.places import Places


def masked_logits(
    model: CircuitModel,
    gates: Tensor,
    input_ids: Tensor,
    attention_mask: Tensor,
    positions: Tensor,
    reference: Tensor,
    skip_closed: bool = False,
    places: Places | None = None,
) -> Tensor:
    """Logits of the model with gated edges.

    Args:
        model: the frozen model.
        gates: float32 ``[n_edges]`` in [0, 1]; the gradient flows to them and to nothing else. With places,
            ``[n_spans * n_edges]``, those of the first span first.
        input_ids: ``[B, T]``, the clean prompts.
        attention_mask: ``[B, T]``.
        positions: ``[B]``, where the logits are read.
        reference: ``[n_writers, B, T, d]``, what a closed edge carries (see `ablation`). It is *consumed*: the stack of
            differences is built in its memory.
        skip_closed: leave the gradient of gates that are exactly 0 at zero, and save its cost. For learned gates, which
            have none there; not for scores of closed edges.
        places: of gates that are told apart by spans of tokens. Default: each holds for all tokens.

    Returns:
        ``[B, V]``.
    """
    if places is None:
        places = Places.in_order(positions, input_ids.shape[1])
    for of_a_span in gates.view(len(places.slices), -1):
        model.layout.plain.check(of_a_span)
    context = model.context(attention_mask)
    bases = reference_streams(model, reference, context)
    stack = places.keep(reference)
    stream = _MaskedStream.apply(gates, model, context, model.embed(input_ids), places, bases, stack, skip_closed)
    return model.unembed(stream)


def masked_stream(
    gates: Tensor,
    model: CircuitModel,
    context: Context,
    embedding: Tensor,
    places: Places,
    bases: Tensor,
    reference: Tensor,
    stack: Tensor,
) -> Tensor:
    """The stream ``[B, d]`` that the logits read: the forward, layer by layer, without a gradient.

    For many masks on one batch: all but ``gates`` and ``stack`` is the same for each.

    Args:
        gates: ``[n_spans * n_edges]``.
        model: the frozen model.
        context: of the prompts.
        embedding: ``[B, T, d]``, what the clean prompts' tokens write.
        places: where the N tokens of a stack stand, and where the logits are read.
        bases: ``[n_streams, B, T, d]``, the `reference_streams`.
        reference: ``[n_writers, N, d]``.
        stack: of the same shape, filled with the differences ``out - reference``; it may be ``reference`` itself.
    """
    layout, own = model.layout, slice(model.layout.n_own_heads)
    masks = gates.detach().to(stack.dtype).view(len(places.slices), -1)
    x = bases.new_empty(layout.n_attention_readers + 1, *bases.shape[1:])
    torch.sub(places.take(embedding[None])[0], reference[0], out=stack[0])
    for layer in range(layout.n_layers):
        heads, mlp = _own_writers(stack, layout, layer)
        ref_heads, ref_mlp = _own_writers(reference, layout, layer)
        m = layout.layer(masks, layer)
        _streams(x, _fast(m.shared), stack, places, bases, layout, layer)
        torch.sub(places.take(model.attention(layer, x[:-1], context)), ref_heads, out=heads)
        x[-1:] += _mix(_fast(m.own[:, None]), heads[own], places)
        torch.sub(places.take(model.mlp(layer, x[-1])[None])[0], ref_mlp, out=mlp)
    stream = bases[-1][torch.arange(len(places.positions), device=bases.device), places.positions]
    for mask, (rows, tokens) in zip(_fast(layout.logits(masks)[:, None]), places.read, strict=True):
        stream[rows] += _product(mask, stack[:, tokens])[0]
    return stream


def reference_streams(model: CircuitModel, reference: Tensor, context: Context) -> Tensor:
    """The residual streams ``[n_streams, B, T, d]`` that the references alone make, one before every component.

    Which one a component reads, `Layout` says.
    """
    layout = model.layout
    streams = reference.new_empty(layout.n_streams, *reference.shape[1:])
    # Hundreds of writers are summed: in bfloat16 the small ones would be lost against the sum of those before.
    total = reference[0].to(torch.promote_types(reference.dtype, torch.float32), copy=True)
    positions = model.position_embedding(context)
    if positions is not None:
        total += positions
    for stage in layout.stages:
        streams[stage[0].stream] = total
        for component in stage:
            total += reference[component.writers].sum(0, dtype=total.dtype)
            bias = model.output_bias(component.layer) if component.kind == "attention" else None
            if bias is not None:
                total += bias
    return streams


class _MaskedStream(torch.autograd.Function):
    """The stream ``[B, d]`` that the logits read, as a function of the gates."""

    @staticmethod
    def forward(
        ctx: Any,
        gates: Tensor,
        model: CircuitModel,
        context: Context,
        embedding: Tensor,
        places: Places,
        bases: Tensor,
        stack: Tensor,
        skip_closed: bool,
    ) -> Tensor:
        # The stack of differences is built in the memory of the reference.
        stream = masked_stream(gates, model, context, embedding, places, bases, stack, stack)
        ctx.save_for_backward(gates)
        ctx.run = model, context, places, bases, stack, skip_closed
        return stream

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, dlogits: Tensor) -> tuple[Tensor | None, ...]:
        (gates,) = ctx.saved_tensors
        model, context, places, bases, stack, skip_closed = ctx.run
        layout, own = model.layout, slice(model.layout.n_own_heads)
        masks = gates.detach().to(stack.dtype).view(len(places.slices), -1)
        dgates, dstack = torch.zeros_like(gates), torch.zeros_like(stack)
        dmasks = dgates.view_as(masks)
        x = bases.new_empty(layout.n_attention_readers + 1, *bases.shape[1:])
        dx = torch.empty_like(x)

        for mask, dmask, (rows, tokens) in zip(masks, dmasks, places.read, strict=True):
            layout.logits(dmask).copy_(_dot(dlogits[None, rows], stack[:, tokens])[0])
            dstack[:, tokens] = layout.logits(mask)[:, None, None] * dlogits[rows]
        for layer in reversed(range(layout.n_layers)):
            n = layout.writers_before(layer)
            (heads, _), (dheads, dmlp) = _own_writers(stack, layout, layer), _own_writers(dstack, layout, layer)
            m, dm = layout.layer(masks, layer), layout.layer(dmasks, layer)
            shared = _fast(m.shared)
            _streams(x, shared, stack, places, bases, layout, layer)
            x[-1:] += _mix(_fast(m.own[:, None]), heads[own], places)

            dx[-1] = _vjp(partial(model.mlp, layer), x[-1], places.spread(dmlp[None])[0])
            dread = places.take(dx[-1:])
            for span, part in enumerate(places.slices):
                dm.own[span].copy_(_dot(dread[:, part], heads[own, part])[0])
                dheads[own, part] += m.own[span, :, None, None] * dread[:, part]

            dx[:-1] = _vjp(partial(model.attention, layer, context=context), x[:-1], places.spread(dheads))
            dread = places.take(dx)
            for span, (part, transposed) in enumerate(zip(places.slices, _fast(m.shared.mT), strict=True)):
                only = shared[span] if skip_closed else None
                dm.shared[span].copy_(_dot(dread[:, part], stack[:n, part], only))
                _add_product(dstack[:n, part], transposed, dread[:, part])
        if skip_closed:  # layers that went the dense way have computed them all the same
            dgates.masked_fill_(gates == 0, 0.0)
        return dgates, *[None] * 7


def _streams(
    x: Tensor, shared: list[Tensor], stack: Tensor, places: Places, bases: Tensor, layout: Layout, layer: int
) -> None:
    """Into ``x`` ``[n_attention_readers + 1, B, T, d]``: what a layer's readers see of all the writers before it."""
    attention, mlp = layout.of_layer(layer)
    _mix(shared, stack[: attention.n_before], places, out=x)
    x[:-1] += bases[attention.stream]
    x[-1] += bases[mlp.stream]


def _own_writers(stack: Tensor, layout: Layout, layer: int) -> tuple[Tensor, Tensor]:
    """The heads ``[n_heads, ...]`` and the MLP ``[...]`` of a layer in a stack of writers, as views."""
    heads, mlp = layout.own_writers(layer)
    return stack[heads], stack[mlp]


def _vjp(function: Callable[[Tensor], Tensor], x: Tensor, dy: Tensor) -> Tensor:
    """The gradient of ``<function(x), dy>`` with respect to ``x``."""
    with torch.enable_grad():
        x = x.detach().requires_grad_()
        return torch.autograd.grad(function(x), x, dy)[0]


# ---- the three products of gates and stacks ----------------------------------------------------------------------
#
# A mask that is mostly zeros goes as a sparse matrix: a product then costs what its open gates cost. On a GPU the dense
# product is the faster one.

SPARSE_BELOW = 0.2
"""The share of open gates in a layer under which the CPU multiplies with a sparse matrix."""

with warnings.catch_warnings():  # PyTorch says once a process that sparse matrices are in beta: let it say so to nobody
    warnings.simplefilter("ignore", UserWarning)
    torch.zeros(1, 1).to_sparse_csr()


def _mix(masks: list[Tensor], stack: Tensor, places: Places, out: Tensor | None = None) -> Tensor:
    """Masks ``[readers, n]`` of each span, and ``[n, N, d]``, to ``[readers, B, T, d]``: what readers see."""
    readers, width = len(masks[0]), stack.shape[-1]
    out = stack.new_empty(readers, *places.shape, width) if out is None else out
    mixed = places.take(out) if places.order is None else stack.new_empty(readers, stack.shape[1], width)
    for mask, part in zip(masks, places.slices, strict=True):
        _product(mask, stack[:, part], out=mixed[:, part])
    return places.spread(mixed, out)


def _product(mask: Tensor, stack: Tensor, out: Tensor | None = None) -> Tensor:
    """``[readers, n]`` and ``[n, N, d]`` to ``[readers, N, d]``."""
    if out is None:
        out = stack.new_empty(len(mask), *stack.shape[1:])
    torch.mm(mask, stack.flatten(1), out=out.flatten(1))
    return out


def _add_product(total: Tensor, mask: Tensor, stack: Tensor) -> None:
    """``total += _product(mask, stack)``, in place."""
    flat = total.flatten(1)
    torch.addmm(flat, mask, stack.flatten(1), out=flat)


def _dot(a: Tensor, b: Tensor, mask: Tensor | None = None) -> Tensor:
    """Inner products of ``[readers, ...]`` with ``[n, ...]``: ``[readers, n]``; of a sparse mask, where it is not 0."""
    a, b = a.flatten(1), b.flatten(1)
    if mask is not None and mask.is_sparse_csr:
        return torch.sparse.sampled_addmm(mask, a, b.mT, beta=0.0).to_dense()
    return (b @ a.mT).mT  # this way round it is twice as fast on a CPU


def _fast(masks: Tensor) -> list[Tensor]:
    """Each of the masks ``[n_spans, readers, n]`` itself, or as a sparse matrix where that multiplies faster."""
    if masks.is_cuda or masks.dtype not in (torch.float32, torch.float64):
        return list(masks)
    few = masks.count_nonzero((1, 2)) < SPARSE_BELOW * masks[0].numel()
    return [mask.to_sparse_csr() if sparse else mask for mask, sparse in zip(masks, few.tolist(), strict=True)]
