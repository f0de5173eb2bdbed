"""Layers in blocks, and where the gates of each stand in memory while stacks of writers are multiplied with them.

On a large model the products are bound by reading the stack. So what the writers before a block give to all its readers
is one product; what its own writers give is added as they come. The gates of a block are a matrix
``[writers, readers]``: the number of writers, which may be any, is then no leading dimension, and the readers of each
layer are filled up to a multiple of 8, without which a GPU takes slow kernels.

Only what is `Alive` has a place, in the matrices and in the stack.

    >>> layout = Layout(n_layers=2, n_heads=3, d_model=12)
    >>> blocks = Blocks.whole(layout, size=1, multiple=8, device=torch.device("cpu"))
    >>> [block.shape for block in blocks.blocks]
    [(6, 16), (10, 16), (9, 8)]
    >>> gates = torch.rand(1, layout.n_edges)
    >>> torch.equal(blocks.flat(blocks.laid_out(gates, torch.float32)), gates)
    True

The logits are a block of their own, with one reader.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from lightning_circuits.alive import Alive, readers_of
from lightning_circuits.components import Component
from lightning_circuits.layout import Layout

BLOCK = 4
"""Layers of a block at most. More make fewer products of larger matrices, and the streams of all their readers stand in
memory: never more of them than there are writers."""

FEW = 0.5
"""The share of edges that are needed under which what is alive is looked for."""


class Part(NamedTuple):
    """An attention or MLP within a block, or of an attention the units that are alive.

    ``units``: int64, which they are; None for all. ``reads``: its readers among those of the layout, on the CPU.
    ``readers``: its columns in the matrix of the block. ``layer``: the columns of its layer from its own on.
    ``sources``: what it writes, among the writers of the layout. ``writers``: among those of the stack, of which its
    readers see the first ``n_before``. ``n_seen``: how many of these the columns of its layer have in them when its
    turn comes.
    """

    component: Component
    units: Tensor | None
    reads: slice | Tensor
    readers: slice
    layer: slice
    sources: slice | Tensor
    writers: slice
    n_before: int
    n_seen: int


class Block(NamedTuple):
    """Some layers.

    ``streams``: those of the model that its readers see the base of. ``memory``: where its matrix stands, row by row;
    ``shape``: of it, ``(streams and writers, readers)``, the streams first, each open to the readers that see it.
    ``n_before``: how many writers of the stack stand before the block.
    """

    parts: list[Part]
    streams: slice
    memory: slice
    shape: tuple[int, int]
    n_before: int

    @property
    def n_streams(self) -> int:
        return self.streams.stop - self.streams.start

    @property
    def n_writers(self) -> int:
        """How many writers its last readers see."""
        return self.shape[0] - self.n_streams

    def of(self, memory: Tensor) -> tuple[Tensor, Tensor]:
        """Its matrix in each span, ``[n_spans, streams and writers, readers]``, and without the streams: views of the
        memory of all blocks."""
        matrix = memory[:, self.memory].unflatten(1, self.shape)
        return matrix, matrix[:, self.n_streams :]


@dataclass(frozen=True)
class Blocks:
    """All layers of a model in blocks.

    ``blocks``: in order, the logits last. ``size``: of the memory of all matrices. ``place``: int64, where edges stand
    in it; ``edges``: int64, which edges these are, None for all; ``bases``: int64, where streams meet their readers.
    ``sources``: int64, which writers the stack has places for, None for all. ``n_writers``: how many; ``has_input``:
    whether the input is among them.
    """

    layout: Layout
    blocks: list[Block]
    size: int
    place: Tensor
    bases: Tensor
    edges: Tensor | None
    sources: Tensor | None
    n_writers: int
    has_input: bool

    @property
    def most_streams(self) -> int:
        """Of any block."""
        return max(block.n_streams for block in self.blocks)

    @staticmethod
    @lru_cache(maxsize=16)
    def whole(layout: Layout, size: int, multiple: int, device: torch.device) -> Blocks:
        """Every edge, in blocks of ``size`` layers, the readers of a layer filled up to a ``multiple``."""
        with torch.inference_mode(False):  # made once, for whoever comes
            return Blocks.of(Alive.everything(layout), None, size, multiple, device)

    @classmethod
    def of(cls, alive: Alive, needed: Tensor | None, size: int, multiple: int, device: torch.device) -> Blocks:
        """The edges between what is alive, and of these only those that are ``needed``, bool ``[n_edges]``."""
        return _Arranging(alive, size, multiple, device).blocks(needed)

    # ---- gates to memory, and gradients back ---------------------------------------------------------------------

    def laid_out(self, gates: Tensor, dtype: torch.dtype) -> Tensor:
        """Gates ``[n_spans, n_edges]`` as the memory of all matrices ``[n_spans, size]``, zero between them."""
        there = gates if self.edges is None else gates[:, self.edges]
        memory = there.new_zeros(len(there), self.size, dtype=dtype)
        return memory.index_copy_(1, self.place, there.to(dtype)).index_fill_(1, self.bases, 1.0)

    def flat(self, memory: Tensor) -> Tensor:
        """Back: ``[n_spans, n_edges]``, zero for the edges that have no place."""
        there = memory[:, self.place]
        if self.edges is None:
            return there
        return there.new_zeros(len(there), self.layout.n_edges).index_copy_(1, self.edges, there)


class _Arranging:
    """Blocks in the making. Arguments are those of `Blocks.of`."""

    def __init__(self, alive: Alive, size: int, multiple: int, device: torch.device) -> None:
        self.layout, self.alive, self.multiple, self.device = alive.layout, alive, multiple, device
        self.writers = alive.writers
        self.sources = self.writers.nonzero()[:, 0]
        self.n_alive = [0, *self.writers.cumsum(0).tolist()]  # among the first n writers
        # Of each reader, where its column begins in memory, and how far apart its writers stand there.
        self.first = torch.full((self.layout.n_readers,), -1)
        self.step = torch.zeros_like(self.first)
        self.made, self.bases, self.memory = list[Block](), list[Tensor](), 0
        layers = range(0, self.layout.n_layers, size)
        for components in [range(1 + 2 * layer, 1 + 2 * min(layer + size, layers.stop)) for layer in layers]:
            self.add([[i, i + 1] for i in components[::2]])
        self.add([[len(self.layout.components) - 1]])  # the logits

    def add(self, layers: list[list[int]]) -> None:
        """A block of layers, each the numbers of its components."""
        before = self.n_alive[self.layout.components[layers[0][0]].n_before]
        parts, width = list[Part](), 0
        for layer in layers:
            of_layer = self.parts(layer, width, before)
            if of_layer:
                width = of_layer[-1].readers.stop
                width += -width % self.multiple
                parts += [part._replace(layer=slice(part.readers.start, width)) for part in of_layer]
        if not parts:
            return
        streams = slice(parts[0].component.stream, parts[-1].component.stream + 1)
        if parts[0].component.kind == "logits":
            streams = slice(0, 0)  # they are read at few tokens, and add their base themselves
        n_streams = streams.stop - streams.start
        for part in parts:
            columns = torch.arange(part.readers.start, part.readers.stop)
            self.first[part.reads] = self.memory + n_streams * width + columns
            self.step[part.reads] = width
            if n_streams:
                self.bases.append(self.memory + (part.component.stream - streams.start) * width + columns)
        shape = n_streams + max(part.n_before for part in parts), width
        memory = slice(self.memory, self.memory + shape[0] * width)
        self.made.append(Block(parts, streams, memory, shape, before))
        self.memory = memory.stop

    def parts(self, layer: list[int], width: int, n_seen: int) -> list[Part]:
        """What is alive of a layer, its columns from ``width`` on; ``n_seen`` writers stand before its block."""
        parts = list[Part]()
        for number in layer:
            component, units = self.layout.components[number], self.alive.units[number]
            if not units.any():
                continue
            whole = bool(units.all())
            writers = slice(self.n_alive[component.writers.start], self.n_alive[component.writers.stop])
            reads = readers_of(self.layout, component, units).nonzero()[:, 0] + component.readers.start
            columns = slice(width, width + len(reads))
            parts.append(
                Part(
                    component,
                    units=None if whole else units.nonzero()[:, 0].to(self.device),
                    reads=component.readers if whole else reads,
                    readers=columns,
                    layer=columns,
                    sources=component.writers if whole else self.sources[writers].to(self.device),
                    writers=writers,
                    n_before=self.n_alive[component.n_before],
                    n_seen=n_seen,
                )
            )
            width, n_seen = columns.stop, parts[-1].n_before
        return parts

    def blocks(self, needed: Tensor | None) -> Blocks:
        """The blocks, with the places of the edges that are needed; None for all."""
        layout = self.layout
        edges = torch.arange(layout.n_edges) if needed is None else needed.nonzero()[:, 0]
        edges = edges[(self.first[layout.edge_reader[edges]] >= 0) & self.writers[layout.edge_writer[edges]]]
        reader, writer = layout.edge_reader[edges], layout.edge_writer[edges]
        slot = self.writers.cumsum(0)[writer] - 1
        return Blocks(
            layout,
            self.made,
            size=self.memory,
            place=(self.first[reader] + slot * self.step[reader]).to(self.device),
            bases=torch.cat([edges.new_zeros(0), *self.bases]).to(self.device),
            edges=None if needed is None else edges.to(self.device),
            sources=None if self.writers.all() else self.sources.to(self.device),
            n_writers=len(self.sources),
            has_input=bool(self.writers[0]),
        )


def closed(gates: Tensor, skip_closed: bool | Tensor) -> Tensor | None:
    """Which gates ``[n_edges]`` need no gradient, bool like them: those at 0, those that are given, or None at all."""
    if isinstance(skip_closed, Tensor):
        return skip_closed
    return gates.detach() == 0 if skip_closed else None


def blocks_for(layout: Layout, gates: Tensor, skip: Tensor | None = None, prune: bool = False) -> Blocks:
    """The blocks of what has to be computed for some gates.

    Args:
        layout: of the gates, or of those of one span.
        gates: ``[n_spans * n_edges]``.
        skip: bool like them, which of them are 0 and need no gradient. None: all need one.
        prune: leave out, too, what no way from the input leads to. The result is the same where a writer that nothing
            reaches puts out its reference (`Ablation.pruning_keeps_output`).
    """
    plain, device = layout.plain, gates.device
    size, multiple = block_size(plain), filled_to(device)
    if skip is not None:
        needed = (~skip).view(-1, plain.n_edges).any(0)  # in any span
        if needed.count_nonzero() < FEW * plain.n_edges:
            needed = needed.cpu()
            return Blocks.of(Alive.of(plain, needed, prune), needed, size, multiple, device)
    return Blocks.whole(plain, size, multiple, device)


def block_size(layout: Layout) -> int:
    """How many layers a block of a model has."""
    return max(min(BLOCK, layout.n_writers // (layout.n_attention_readers + 1)), 1)


def filled_to(device: torch.device) -> int:
    """A multiple of so many readers is multiplied as fast as any other, or faster."""
    return 8 if device.type == "cuda" else 1
