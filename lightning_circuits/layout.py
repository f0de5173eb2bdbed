"""The fixed structure of one model's computation graph: who writes to the residual stream, who reads it.

A transformer's components talk only through the residual stream. Each *writer* adds to it (the token embedding,
every attention head, every MLP) and each *reader* takes it as input (the query, key and value of every head, every
MLP, the logits). An *edge* is a writer and a later reader. A model has tens of thousands to millions of edges, so an
edge is never a Python object here, only a position in a flat vector:

    reader-major: reader r owns the contiguous slice  offset[r] : offset[r] + prefix[r],
    and the edge  w -> r  stands at  offset[r] + w,   because a reader sees a *prefix* of the writers.

That order makes the gates of one layer a plain matrix view of the flat vector (`Layout.layer`), which is all that the
masked computation needs.

    >>> layout = Layout(n_layers=12, n_heads=12, d_model=768)      # GPT-2 small
    >>> layout.n_writers, layout.n_readers, layout.n_edges
    (157, 445, 32491)
    >>> layout.edge_names([0, 32490])
    ['input->a0.h0<q>', 'm11->logits']
    >>> layout.edge_index("a0.h1->m2")
    1553

Names and order are those of EAP-IG and MIB: writers ``input``, then per layer ``a{l}.h{h}`` and ``m{l}``; readers per
layer ``<q>`` of every head, ``<k>``, ``<v>``, then the MLP; last ``logits``.

Readers that compute as one, and see the same stream while every edge is open, are a `Component`: the attention of a
layer, its MLP, the logits. `Layout.components` alone says which of the model's streams each of them reads, and behind
how many writers it stands. In most models an MLP reads the heads of its own layer; in *parallel* blocks (GPT-NeoX,
GPT-J) attention and MLP read the same stream:

    >>> Layout(n_layers=32, n_heads=32, d_model=2560, parallel=True).n_edges       # Pythia-2.8B
    1591857

Edges may also be told apart by *where in the prompt* they are read. A layout in spans has every edge once for each span
of tokens, those of the first span first:

    >>> places = layout.in_spans(["S2", "END"])
    >>> places.n_edges, places.edge_names([0, 64981])
    (64982, ['input->a0.h0<q>@S2', 'm11->logits@END'])

The edge ``a0.h1->m2@END`` is what ``m2`` reads of the head at the tokens of END; an edge into a key or a value stands
in the span of the token that is attended to.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import groupby
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from lightning_circuits.arguments import require_flags, require_span_names, require_whole_numbers
from lightning_circuits.components import Component, components_of, owners
from lightning_circuits.pages import see_page

MAX_SIZE = 2**20
"""No size of a layout is larger: a file may state any."""


class LayerView(NamedTuple):
    """What one layer's readers hold of flat vectors of edges; both are views, writing to them writes to the vector.

    ``shared``: ``[..., n_attention_readers + 1, n]``, the attention readers and, last, the MLP, over the ``n`` writers
    before the layer. ``own``: ``[..., n_own_heads]``, the MLP over those heads of its own layer that it reads.
    """

    shared: Tensor
    own: Tensor


KV = Literal["head", "group"]
"""Key and value readers: one for every query head, or one for every K/V group."""


@dataclass(frozen=True)
class Layout:
    """Writers, readers and edges of a model.

    Args:
        n_layers: decoder blocks.
        n_heads: query heads of a block.
        d_model: width of the residual stream.
        n_kv_readers: key (and value) readers of a block. ``None``: one per query head, as EAP-IG and MIB have it.
            The number of K/V groups: one per group, for grouped-query attention.
        spans: names of the spans of tokens in which edges are told apart; none: an edge holds for all tokens.
        parallel: attention and MLP of a block read the same stream, so that an MLP reads no head of its own layer.
        coupled: what a head writes depends on what other heads of its layer read, as a norm stands behind them, or over
            all queries. It changes no edge, but what lies on a way to the logits.

    Raises:
        TypeError: a size that is no whole number, spans that are no list of names, a flag neither True nor False.
        ValueError: sizes below 1 or above `MAX_SIZE`, or query heads that do not divide into the K/V readers; a span
            without a name, named twice, or with ``@`` or ``->`` in its name, which names of edges are made with.
    """

    n_layers: int
    n_heads: int
    d_model: int
    n_kv_readers: int = None  # type: ignore[assignment]  # None stands for n_heads and is replaced below
    spans: tuple[str, ...] = ()
    parallel: bool = False
    coupled: bool = field(default=False, compare=False)

    def __post_init__(self) -> None:
        if self.n_kv_readers is None:
            object.__setattr__(self, "n_kv_readers", self.n_heads)
        require_whole_numbers(**self._sizes())
        require_flags(parallel=self.parallel, coupled=self.coupled)
        for name, size in self._sizes().items():
            if not 1 <= size <= MAX_SIZE:
                raise ValueError(f"{name} is {size:,}: the sizes of a layout lie between 1 and {MAX_SIZE:,}")
        if self.n_heads % self.n_kv_readers:
            raise ValueError(
                f"{self.n_heads} query heads cannot share {self.n_kv_readers} key/value readers evenly: {self}"
            )
        object.__setattr__(self, "spans", require_span_names(self.spans))

    # ---- spans -------------------------------------------------------------------------------------------------

    def in_spans(self, names: Iterable[str]) -> Layout:
        """This layout with every edge once in each of the spans of these names."""
        return replace(self, spans=require_span_names(names))

    @cached_property
    def plain(self) -> Layout:
        """This layout without spans."""
        return self.in_spans(()) if self.spans else self

    @property
    def n_spans(self) -> int:
        """How many spans edges are told apart in; 1 where an edge holds for all tokens."""
        return max(len(self.spans), 1)

    def each_span(self, values: Tensor) -> Tensor:
        """A flat vector ``[n_edges]`` as ``[n_spans, plain.n_edges]``: a vector of the plain layout for each span."""
        return values.view(self.n_spans, -1)

    # ---- sizes -------------------------------------------------------------------------------------------------

    @property
    def kv(self) -> KV:
        """``"head"``: one key and one value reader per query head; ``"group"``: one per K/V group."""
        return "head" if self.n_kv_readers == self.n_heads else "group"

    @property
    def n_attention_readers(self) -> int:
        """Query, key and value readers of one layer."""
        return self.n_heads + 2 * self.n_kv_readers

    @property
    def n_writers(self) -> int:
        return 1 + self.n_layers * (self.n_heads + 1)

    @property
    def n_readers(self) -> int:
        return self.n_layers * (self.n_attention_readers + 1) + 1

    @property
    def n_nodes(self) -> int:
        """Writers and the logits: GPT-2 small has 158."""
        return self.n_writers + 1

    @property
    def n_edges(self) -> int:
        """All of them; in spans, an edge counts once in each."""
        # Counted without a step per layer: a layout that a file states may be of any size.
        shared = self.n_layers + (self.n_heads + 1) * (self.n_layers * (self.n_layers - 1) // 2)
        of_a_span = (self.n_attention_readers + 1) * shared + self.n_layers * self.n_own_heads + self.n_writers
        return self.n_spans * of_a_span

    @property
    def n_own_heads(self) -> int:
        """Heads of its own layer that an MLP reads: all of them, or none where the two are parallel."""
        return 0 if self.parallel else self.n_heads

    @property
    def n_streams(self) -> int:
        """Points at which the residual stream is read: before every attention, every MLP (in parallel blocks the same
        one) and the logits."""
        return (1 if self.parallel else 2) * self.n_layers + 1

    # ---- structure ---------------------------------------------------------------------------------------------

    @cached_property
    def components(self) -> list[Component]:
        """In the order of computation: the input, attention and MLP of each layer, the logits."""
        return components_of(self.n_layers, self.n_heads, self.n_attention_readers, self.parallel)

    @cached_property
    def stages(self) -> list[list[Component]]:
        """For each of the ``n_streams`` streams the components that read it; none of them reads another."""
        return [list(stage) for _, stage in groupby(self.components[1:], key=lambda component: component.stream)]

    def of_layer(self, layer: int) -> tuple[Component, Component]:
        """The attention of a layer and its MLP."""
        attention, mlp = self.components[1 + 2 * layer : 3 + 2 * layer]
        return attention, mlp

    def writers_before(self, layer: int) -> int:
        """How many writers stand before the attention of ``layer`` (``n_layers`` counts them all)."""
        return 1 + layer * (self.n_heads + 1)

    def own_writers(self, layer: int) -> tuple[slice, int]:
        """Where the heads of a layer and its MLP stand among the writers."""
        first = self.writers_before(layer)
        return slice(first, first + self.n_heads), first + self.n_heads

    # These tensors are made once and used everywhere. Made under Lightning's inference mode they would be inference
    # tensors for good, and refused by autograd later: so they are made outside it.

    @cached_property
    @torch.inference_mode(False)
    def reader_prefix(self) -> Tensor:
        """int64 ``[n_readers]``: reader r can read the writers ``0 .. reader_prefix[r] - 1``."""
        return torch.tensor([component.n_before for component in self.components])[self.reader_component]

    @cached_property
    @torch.inference_mode(False)
    def reader_component(self) -> Tensor:
        """int64 ``[n_readers]``: where each reader's component stands among the `components`."""
        return owners([component.readers for component in self.components])

    @cached_property
    @torch.inference_mode(False)
    def writer_component(self) -> Tensor:
        """int64 ``[n_writers]``: the same of each writer."""
        return owners([component.writers for component in self.components])

    @cached_property
    @torch.inference_mode(False)
    def keys_and_values(self) -> Tensor:
        """bool ``[n_readers]``: readers whose tokens are seen from other tokens too."""
        return torch.tensor([name.endswith(("<k>", "<v>")) for name in self.reader_names])

    @cached_property
    @torch.inference_mode(False)
    def reader_offset(self) -> Tensor:
        """int64 ``[n_readers + 1]``: where each reader's slice of a span's flat vector begins; last, the end of all."""
        return torch.cat([torch.zeros(1, dtype=torch.int64), self.reader_prefix.cumsum(0)])

    @cached_property
    @torch.inference_mode(False)
    def edge_reader(self) -> Tensor:
        """int64 ``[n_edges]``: the reader of each edge."""
        return torch.repeat_interleave(torch.arange(self.n_readers), self.reader_prefix).repeat(self.n_spans)

    @cached_property
    @torch.inference_mode(False)
    def edge_writer(self) -> Tensor:
        """int64 ``[n_edges]``: the writer of each edge."""
        return torch.arange(self.n_edges) % self.reader_offset[-1] - self.reader_offset[self.edge_reader]

    @cached_property
    @torch.inference_mode(False)
    def edge_span(self) -> Tensor:
        """int64 ``[n_edges]``: the span of each edge; 0 where an edge holds for all tokens."""
        return torch.arange(self.n_edges) // self.reader_offset[-1]

    def layer(self, values: Tensor, layer: int) -> LayerView:
        """The part of flat vectors ``[..., n_edges]`` that belongs to the readers of one layer, as views.

        Here and below, what takes a vector apart takes that of a plain layout; in spans, all of `each_span`.
        """
        n, rows = self.writers_before(layer), self.n_attention_readers + 1
        start = int(self.reader_offset[layer * rows])
        # The MLP's slice follows the attention readers' and begins with the same n writers: one rectangle, one rest.
        end = start + rows * n
        return LayerView(values[..., start:end].unflatten(-1, (rows, n)), values[..., end : end + self.n_own_heads])

    def into(self, values: Tensor, component: Component) -> Tensor:
        """The edges into a component, ``[..., its readers, n_before]``, as a view of vectors ``[..., n_edges]``."""
        first, last = component.readers.start, component.readers.stop
        edges = values[..., self.reader_offset[first] : self.reader_offset[last]]
        return edges.unflatten(-1, (last - first, component.n_before))

    def logits(self, values: Tensor) -> Tensor:
        """The part of flat vectors ``[..., n_edges]`` that belongs to the logits, ``[..., n_writers]``, as a view."""
        return values[..., -self.n_writers :]

    def check(self, values: Tensor) -> Tensor:
        """``values`` if it is a flat vector ``[n_edges]`` of this layout.

        Raises:
            ValueError: it has another shape.
        """
        if values.shape != (self.n_edges,):
            raise ValueError(
                f"expected one value for each of the {self.n_edges:,} edges of {self}, "
                f"got a tensor of shape {tuple(values.shape)}"
            )
        return values

    # ---- names -------------------------------------------------------------------------------------------------

    @cached_property
    def writer_names(self) -> list[str]:
        """Names of the writers, ``input`` first."""
        names = ["input"]
        for layer in range(self.n_layers):
            names += [f"a{layer}.h{head}" for head in range(self.n_heads)] + [f"m{layer}"]
        return names

    @cached_property
    def reader_names(self) -> list[str]:
        """Names of the readers, ``logits`` last."""
        letter = {"head": "h", "group": "g"}[self.kv]
        names = []
        for layer in range(self.n_layers):
            names += [f"a{layer}.h{head}<q>" for head in range(self.n_heads)]
            names += [f"a{layer}.{letter}{i}<{kind}>" for kind in "kv" for i in range(self.n_kv_readers)]
            names.append(f"m{layer}")
        return [*names, "logits"]

    def edge_names(self, edges: Tensor | Iterable[int]) -> list[str]:
        """Names such as ``a0.h1->m2``, in spans ``a0.h1->m2@END``, of the edges at flat positions, int64 ``[n]``."""
        index = torch.as_tensor(list(edges) if not isinstance(edges, Tensor) else edges, dtype=torch.int64).cpu()
        parts = (self.edge_writer[index], self.edge_reader[index], self.edge_span[index])
        at = [f"@{name}" for name in self.spans] or [""]
        columns = zip(*(part.tolist() for part in parts), strict=True)
        return [f"{self.writer_names[w]}->{self.reader_names[r]}{at[s]}" for w, r, s in columns]

    def edge_index(self, name: str) -> int:
        """The flat position of the edge of this name.

        Raises:
            ValueError: no such writer, reader or span, or a reader that comes before the writer.
        """
        if self.spans:
            edge, _, span = name.rpartition("@")
            if span not in self.spans:
                raise ValueError(f"edge {name!r}: no span {span!r} in {self}; edges are named like 'a0.h1->m2@END'")
            return self.spans.index(span) * self.plain.n_edges + self.plain.edge_index(edge)
        writer, _, reader = name.partition("->")
        if writer not in self._writer_index:
            raise ValueError(
                f"edge {name!r}: no writer {writer!r} in {self}; writers are named like 'input', 'a0.h1', 'm2'"
            )
        if reader not in self._reader_index:
            example = "'a1.h0<q>', 'm2', 'logits'" if self.kv == "head" else "'a1.h0<q>', 'a1.g0<k>', 'm2', 'logits'"
            raise ValueError(f"edge {name!r}: no reader {reader!r} in {self}; readers are named like {example}")
        w, r = self._writer_index[writer], self._reader_index[reader]
        if w >= int(self.reader_prefix[r]):
            raise ValueError(f"edge {name!r}: {writer} does not come before {reader}, so there is no such edge")
        return int(self.reader_offset[r]) + w

    @cached_property
    def _writer_index(self) -> dict[str, int]:
        return {name: i for i, name in enumerate(self.writer_names)}

    @cached_property
    def _reader_index(self) -> dict[str, int]:
        return {name: i for i, name in enumerate(self.reader_names)}

    # ---- as plain data -----------------------------------------------------------------------------------------

    def to_dict(self) -> dict[str, Any]:
        """The four sizes, and ``spans`` and the flags if there is anything to them; ``Layout`` takes it back."""
        more = {"spans": list(self.spans), "parallel": self.parallel, "coupled": self.coupled}
        return self._sizes() | {name: said for name, said in more.items() if said}

    def _sizes(self) -> dict[str, int]:
        return {name: getattr(self, name) for name in ("n_layers", "n_heads", "d_model", "n_kv_readers")}

    def difference(self, other: Layout) -> str:
        """What differs between two layouts, in words; empty if nothing does."""
        mine, theirs = ({"spans": None, "parallel": False} | layout.to_dict() for layout in (self, other))
        differing = [key for key in mine if key != "coupled" and mine[key] != theirs[key]]
        return ", ".join(f"{key} {mine[key]} against {theirs[key]}" for key in differing)

    def require(self, other: Layout, what: str) -> None:
        """Refuse what is of another layout.

        Raises:
            ValueError: ``other`` differs; the message says what it is, in which sizes, and where to read on.
        """
        if other != self:
            way_out = ""
            if other.parallel != self.parallel:
                way_out = " In a parallel layout an MLP reads no head of its own layer: it is of another kind of model."
            elif other.kv != self.kv:
                way_out = f" Keys and values are counted per {other.kv} there, per {self.kv} here."
            elif other.plain == self.plain:
                way_out = " Spans come and go with circuit.in_spans(names) and circuit.without_spans(how='any')."
            raise ValueError(
                f"{what} is of another layout: {other.difference(self)} ({other} against {self}).{way_out} "
                f"{see_page('file-formats', 'A circuit of another layout')}"
            )

    def require_plain(self, what: str) -> None:
        """Refuse, with a ValueError, a layout in spans for something that knows none."""
        if self.spans:
            raise ValueError(f"{what} knows no spans of tokens: take the circuit.without_spans(how='any')")

    def __str__(self) -> str:
        spans = f", in spans {', '.join(self.spans)}" if self.spans else ""
        more = (", parallel" if self.parallel else "") + spans
        return f"Layout({self.n_layers} layers, {self.n_heads} heads, d_model {self.d_model}, K/V per {self.kv}{more})"
