"""One attention or MLP of a gated run, forward and backward, and what is kept between.

A layer's readers see some thirty streams. These are not kept: backward they come of one product, like forward. What is
as narrow as a head is, queries, keys and values with the graph of what the heads mix of them, and of the norm two
numbers a token. So the norm and the projections are not computed again, and the gradient at the streams stands in their
own place (`NormedProjection.gradient`). An MLP's graph is kept where there is room for it, else the MLP runs once more;
and on a GPU with room for more, what the readers of a block see.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge, get_gradient_edge

from lightning_circuits.blocks import Blocks, Part
from lightning_circuits.models import CircuitModel, Context
from lightning_circuits.models.projections import Scales
from lightning_circuits.places import Places

SMALL = 2 << 30
"""Bytes of a stack of writers up to which the graphs of MLPs are kept."""


@dataclass
class Tape:
    """What a forward keeps for the backward, by layer.

    ``attentions``: queries, keys and values, where the graph of what the heads mix of them ends, this itself if a norm
    comes after it, and what the norm before did. ``mlps``: what they see, and where their graph ends. What comes out
    there is in the stack already. ``streams``: what the readers of a block see, by its number.

    ``wide``: whether the graphs of all MLPs are kept, as the stock model's own backward keeps them. Else, on a GPU, one
    more is while ``backward`` bytes are free, what the backward makes; the streams of a block, which save less for
    their size, only while as much as a ``stack`` is, too.
    """

    wide: bool
    backward: int
    stack: int
    attentions: dict[int, tuple[list[Tensor], GradientEdge, Tensor | None, Scales]] = field(default_factory=dict)
    mlps: dict[int, tuple[list[Tensor], GradientEdge]] = field(default_factory=dict)
    streams: dict[int, Tensor] = field(default_factory=dict)

    @classmethod
    def of(cls, stack: Tensor, reference: Tensor, blocks: Blocks) -> Tape:
        """Of a run with a stack ``[alive writers, N, d]``, where all would be ``reference`` ``[n_writers, N, d]``."""
        of_a_block = max(block.shape[1] for block in blocks.blocks)
        of_a_layer = max(part.layer.stop - part.layer.start for block in blocks.blocks for part in block.parts)
        return cls(
            wide=stack.nbytes <= max(SMALL, reference.nbytes // 2),  # what is dead leaves room
            backward=(of_a_block + of_a_layer) * reference[0].nbytes,  # what readers see, and a layer's gradient
            stack=stack.nbytes,
        )

    def keeps_mlp(self, device: torch.device) -> bool:
        """Whether there is room for the graph of one more MLP."""
        return self.wide or (free_memory(device) or 0) > self.backward

    def keep(self, block: int, x: Tensor) -> None:
        """Keep what the readers of a block see, ``[readers, N, d]``, if there is room."""
        if not self.wide and (free_memory(x.device) or 0) > self.backward + self.stack:
            self.streams[block] = x


def run(
    model: CircuitModel, part: Part, context: Context, places: Places, base: Tensor, x: Tensor, tape: Tape | None
) -> Tensor:
    """What a part writes, ``[writers, N, d]``, when its readers see ``x`` ``[readers, N, d]``; at the tokens that are
    left out they see ``base`` ``[B, T, d]``."""
    layer = part.component.layer
    if part.component.kind == "mlp":
        if tape is None or not tape.keeps_mlp(x.device):
            return model.mlp(layer, x)
        seen, written = _graph(partial(model.mlp, layer), x.clone())
        tape.mlps[layer] = seen, get_gradient_edge(written)
        return written.detach()
    projection = model.projection(layer, part.units)
    projected, scales = projection.forward(x)
    # Nobody asks what a token that is left out looks for, but others look at it.
    unseen = places.order is None or places.only_padding
    around = [None] * 3 if unseen else [None, *projection.of_one(base)[1:]]

    def attend(*projected: Tensor) -> Tensor:
        q, k, v = map(places.spread, projected, around)
        return places.take(model.mix(layer, q, k, v, context, part.units))

    outputs = model.outputs(layer, part.units)
    if tape is None:
        z = attend(*projected)
    else:
        seen, z = _graph(attend, *projected)
        kept = None if outputs.norm is None else z.detach()
        tape.attentions[layer] = seen, get_gradient_edge(z), kept, scales
    return outputs(z.detach())


def gradient(model: CircuitModel, part: Part, tape: Tape, x: Tensor, dwritten: Tensor) -> None:
    """In the place of the streams ``x`` ``[readers, N, d]`` that a part reads, the gradient at them.

    ``dwritten``: at what it writes, ``[writers, N, d]``.
    """
    layer = part.component.layer
    # The graphs stay: a backward may be asked for again.
    if part.component.kind == "attention":
        seen, end, z, scales = tape.attentions[layer]
        dz = model.outputs(layer, part.units).gradient(dwritten, z)
        dprojected = torch.autograd.grad(end, seen, dz, retain_graph=True)
        model.projection(layer, part.units).gradient(x, scales, seen, dprojected, out=x)
    else:
        seen, written = tape.mlps.get(layer) or _graph(partial(model.mlp, layer), x)
        x.copy_(torch.autograd.grad(written, seen, dwritten, retain_graph=True)[0])


def free_memory(device: torch.device) -> int | None:
    """Bytes that tensors may still take on a GPU; None where that is not known."""
    if device.type != "cuda":
        return None
    unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return torch.cuda.mem_get_info(device)[0] + unused


def _graph(function: Callable[..., Tensor], *inputs: Tensor) -> tuple[list[Tensor], Tensor]:
    """A function's inputs as leaves of a graph, and what it makes of them."""
    with torch.enable_grad():
        leaves = [each.detach().requires_grad_() for each in inputs]
        return leaves, function(*leaves)
