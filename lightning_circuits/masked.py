"""The one computation: a transformer in which every edge carries a gate.

A reader r sees, in place of the residual stream,

    x_r = base + sum over writers w before r of  M[r, w] * (out_w - ref_w)

``out_w`` is what writer w puts out in this very run, ``ref_w`` what an ablation puts in its place, ``M`` the gates and
``base`` the stream that the references alone would make: the sum of ``ref_w`` before r and every constant (learned
positions, the attention's output biases). So M = 1 is the stock model, M = 0 the ablated one, a binary M a circuit.

The differences ``out_w - ref_w`` stand in one *stack* ``[n_writers, B, T, d]``, filled from the bottom. Layers go in
blocks (`blocks`): one matrix product ``[readers, n] @ [n, B * T * d]`` gives all readers of a block what the writers
before it put out, and their bases; what is written within the block is added as it comes.

Backward goes through the blocks from the top, and makes what their readers see anew. With ``dx_r`` the gradient at
reader r,

    dL/dM[r, w] = <dx_r, out_w - ref_w>          dL/d out_w = sum over later readers r of  M[r, w] * dx_r

so what a step keeps is two stacks, the differences and their gradients, and what is as narrow as a head (`tape`). The
three products are in `products`; what no way leads from to the logits is in none of them (`alive`).

Where the references are *constants*, ``ref_w`` = c_w at all tokens, these may be learned too. A reader of ``out_w`` by
a gate M has (1 - M) c_w in its stream, whatever else is open:

    dL/dc_w = sum over later readers r of  (1 - M[r, w]) * sum over tokens of dx_r

which takes of a block no more than the sums of its gradients over tokens (`constants_gradient`).

Where edges are told apart by spans of tokens, ``M[s(t), r, w]`` stands for ``M[r, w]`` at the token t, s(t) its span,
and c_w is one for every span. The stacks hold tokens span by span then (`Places`), and each product is one for every
span.

At M = 1 under interchange ablation, -dL/dM is the EAP score (Syed et al. 2023).
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby
from typing import Any

import torch
from torch import Tensor

from lightning_circuits.blocks import Block, Blocks, Part, blocks_for, closed
from lightning_circuits.layout import Layout
from lightning_circuits.models import CircuitModel, Context
from lightning_circuits.places import Places
from lightning_circuits.products import add_mix, dot, mix, push
from lightning_circuits.tape import Tape, gradient, run


def masked_logits(
    model: CircuitModel,
    gates: Tensor,
    input_ids: Tensor,
    attention_mask: Tensor,
    positions: Tensor,
    reference: Tensor,
    skip_closed: bool | Tensor = False,
    places: Places | None = None,
    blocks: Blocks | None = None,
    constants: Tensor | None = None,
) -> Tensor:
    """Logits of the model with gated edges.

    Args:
        model: the frozen model.
        gates: float32 ``[n_edges]`` in [0, 1]; the gradient flows to them and to the constants, if there are some. With
            places, ``[n_spans * n_edges]``, those of the first span first.
        input_ids: ``[B, T]``, the clean prompts.
        attention_mask: ``[B, T]``.
        positions: ``[B]``, where the logits are read.
        reference: ``[n_writers, B, T, d]``, what a closed edge carries (see `ablation`). It is *consumed*: the
            gradients of the writers come to stand in its memory.
        skip_closed: leave the gradient of gates that are exactly 0 at zero, and save its cost. For learned gates, which
            have none there; not for scores of closed edges. Or which of these, bool like ``gates``.
        places: of gates that are told apart by spans of tokens. Default: each holds for all tokens.
        blocks: what has to be computed for these gates, `blocks_for` them. Default: what lies on a way to the logits.
        constants: float32 ``[n_writers, n_spans, d]``, what ``reference`` is made of, if they are learned.

    Returns:
        ``[B, V]``.

    Raises:
        ValueError: a token that the places leave out, though constants are learned: it would see them by no gate.
    """
    if places is None:
        places = Places.in_order(positions, input_ids.shape[1])
    if constants is not None and places.order is not None and len(places.order) < attention_mask.count_nonzero():
        raise ValueError("constants that are learned stand at every token: give places that leave out none but padding")
    for of_a_span in gates.view(len(places.slices), -1):
        model.layout.plain.check(of_a_span)
    context = model.context(attention_mask)
    bases = reference_streams(model, reference, context)
    reference = places.keep(reference)
    skip = closed(gates, skip_closed)
    blocks = blocks_for(model.layout, gates, skip) if blocks is None else blocks
    embedding = model.embed(input_ids)
    stream = _MaskedStream.apply(gates, constants, model, context, embedding, places, bases, reference, blocks, skip)
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
    blocks: Blocks,
    tape: Tape | None = None,
) -> Tensor:
    """The stream ``[R, d]`` that the logits read, where `Places` say: the forward, without a gradient.

    For many masks on one batch: all but ``gates``, ``stack`` and ``blocks`` is the same for each.

    Args:
        gates: ``[n_spans * n_edges]``.
        model: the frozen model.
        context: of the prompts.
        embedding: ``[B, T, d]``, what the clean prompts' tokens write.
        places: where the N tokens of a stack stand, and where the logits are read.
        bases: ``[n_streams, B, T, d]``, the `reference_streams`.
        reference: ``[n_writers, N, d]``.
        stack: `new_stack` for these blocks, filled with the differences ``out - reference`` of what is alive.
        blocks: of what is alive.
        tape: what a backward needs of each part is kept in it.
    """
    memory = blocks.laid_out(gates.detach().view(len(places.slices), -1), stack.dtype)
    differences = stack[-blocks.n_writers :]
    if blocks.has_input:
        torch.sub(places.take(embedding[None]), reference[:1], out=differences[:1])
    *layers, of_logits = blocks.blocks
    for number, block in enumerate(layers):
        whole, m = block.of(memory)
        n_before = block.n_before
        x = mix(
            whole[:, : block.n_streams + n_before], _with_bases(stack, bases, block, n_before, blocks, places), places
        )
        for part in _at_hand(model, block.parts):
            if part.n_seen < part.n_before:
                new = slice(part.n_seen, part.n_before)
                add_mix(x[part.layer], m[:, new, part.layer], differences[new], places)
            written = run(model, part, context, places, bases[part.component.stream], x[part.readers], tape)
            torch.sub(written, reference[part.sources], out=differences[part.writers])
        if tape is not None:
            tape.keep(number, x)
        del x, written  # before the next block takes as much
    stream = places.at_read(bases[-1])
    for m, (rows, tokens) in zip(of_logits.of(memory)[0], places.read, strict=True):
        stream[rows] += torch.mm(m[:, :1].mT, differences[:, tokens].flatten(1)).view(-1, stream.shape[-1])
    return stream


def new_stack(blocks: Blocks, like: Tensor) -> Tensor:
    """Memory for a stack, like ``[..., N, d]``: the differences of what is alive, and before them the bases of a block,
    whose product is then one with theirs."""
    return like.new_empty(blocks.most_streams + blocks.n_writers, *like.shape[-2:])


def reference_streams(model: CircuitModel, reference: Tensor, context: Context | None) -> Tensor:
    """The residual streams ``[n_streams, B, T, d]`` that the references alone make, one before every component.

    Which one a component reads, `Layout` says. Without a context, learned positions are not in them.
    """
    layout = model.layout
    streams = reference.new_empty(layout.n_streams, *reference.shape[1:])
    # Hundreds of writers are summed: in bfloat16 the small ones would be lost against the sum of those before.
    total = reference[0].to(torch.promote_types(reference.dtype, torch.float32), copy=True)
    positions = None if context is None else model.position_embedding(context)
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
    """The stream ``[B, d]`` that the logits read, as a function of the gates and the constants."""

    @staticmethod
    def forward(
        ctx: Any,
        gates: Tensor,
        constants: Tensor | None,
        model: CircuitModel,
        context: Context,
        embedding: Tensor,
        places: Places,
        bases: Tensor,
        reference: Tensor,
        blocks: Blocks,
        skip: Tensor | None,
    ) -> Tensor:
        stack = new_stack(blocks, reference)
        tape = Tape.of(stack, reference, blocks) if any(ctx.needs_input_grad[:2]) else None
        stream = masked_stream(gates, model, context, embedding, places, bases, reference, stack, blocks, tape)
        ctx.save_for_backward(gates)
        ctx.run = model, places, bases, reference[: blocks.n_writers], stack, blocks, skip, tape
        return stream

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, dlogits: Tensor) -> tuple[Tensor | None, ...]:
        (gates,) = ctx.saved_tensors
        model, places, bases, dstack, stack, blocks, skip, tape = ctx.run
        differences = stack[-blocks.n_writers :]
        memory = blocks.laid_out(gates.detach().view(len(places.slices), -1), stack.dtype)
        dmemory = memory.new_zeros(memory.shape, dtype=gates.dtype)
        of_gates, of_constants = ctx.needs_input_grad[:2]
        dx_sums = new_sums(model.layout, places, stack) if of_constants else None
        wanted = None if skip is None else blocks.laid_out(~skip.view(len(places.slices), -1), stack.dtype)
        dstack.zero_()
        *layers, of_logits = blocks.blocks
        of_read = zip(of_logits.of(memory)[0], of_logits.of(dmemory)[0], places.read, strict=True)
        for span, (m, dm, (rows, tokens)) in enumerate(of_read):
            read, dread = differences[:, tokens].flatten(1), dlogits[rows]
            dm[:, 0] = torch.mv(read.to(dm.dtype), dread.flatten().to(dm.dtype))
            dstack[:, tokens] = m[:, :1, None] * dread
            if dx_sums is not None:
                dx_sums[span, -1] = dread.sum(0, dtype=dx_sums.dtype)
            del read, dread  # a stack of one token
        for number, block in reversed([*enumerate(layers)]):
            whole, m = block.of(memory)
            n, end = block.n_before, block.n_writers
            x = tape.streams.pop(number, None)  # what comes to stand there is their gradient
            if x is None:
                x = mix(whole, _with_bases(stack, bases, block, end, blocks, places), places)
            dx = x  # a part's streams make room for its gradient
            for part in _at_hand(model, block.parts[::-1]):
                gradient(model, part, tape, x[part.readers], dstack[part.writers])
                if dx_sums is not None:
                    dx_sums[:, part.reads] = places.sums(dx[part.readers])
                if part.n_seen < part.n_before:
                    new = slice(part.n_seen, part.n_before)
                    push(dstack[new], m[:, new, part.layer], dx[part.layer], places)
            if of_gates:
                only = None if wanted is None else block.of(wanted)[1]
                dot(block.of(dmemory)[1], differences[:end], dx, places, only)
            push(dstack[:n], m[:, :n], dx, places)
            del x, dx  # before the next block takes as much
        dgates = blocks.flat(dmemory).view_as(gates)
        if skip is not None:  # products that went the dense way have computed them all the same
            dgates.masked_fill_(skip, 0.0)
        dconstants = None if dx_sums is None else constants_gradient(model.layout.plain, gates.detach(), dx_sums)
        return dgates, dconstants, *[None] * 8


def new_sums(layout: Layout, places: Places, like: Tensor) -> Tensor:
    """Zeros for the gradients at readers, summed over the tokens of each span: ``[n_spans, n_readers, d]``, in float32
    at least, on the device of ``like`` ``[..., d]``."""
    wide = torch.promote_types(like.dtype, torch.float32)
    return like.new_zeros(len(places.slices), layout.n_readers, like.shape[-1], dtype=wide)


def constants_gradient(layout: Layout, gates: Tensor, dx_sums: Tensor) -> Tensor:
    """The gradient at the constants, ``[n_writers, n_spans, d]``, whatever else is computed of the model.

    Args:
        layout: without spans.
        gates: ``[n_spans * n_edges]``.
        dx_sums: ``[n_spans, n_readers, d]``, the gradients at readers, summed over the tokens of each span.
    """
    gates = gates.view(len(dx_sums), -1).to(dx_sums.dtype)
    dconstants = dx_sums.new_zeros(len(dx_sums), layout.n_writers, dx_sums.shape[-1])
    for component in layout.components[1:]:
        cut = 1 - layout.into(gates, component)
        dconstants[:, : component.n_before] += cut.mT @ dx_sums[:, component.readers]
    return dconstants.transpose(0, 1)


def _with_bases(stack: Tensor, bases: Tensor, block: Block, n: int, blocks: Blocks, places: Places) -> Tensor:
    """The bases of the streams of a block, and behind them the first ``n`` writers: ``[n_streams + n, N, d]``."""
    first = len(stack) - blocks.n_writers
    stack[first - block.n_streams : first] = places.take(bases[block.streams])
    return stack[first - block.n_streams : first + n]


def _at_hand(model: CircuitModel, parts: list[Part]) -> Iterator[Part]:
    """Parts one after the other, the weights of each one's layer at hand: once for its attention and its MLP."""
    for layer, of_layer in groupby(parts, lambda part: part.component.layer):
        with model.at_hand(layer):
            yield from of_layer
