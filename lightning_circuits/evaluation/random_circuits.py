"""Random circuits that hang together: a match for a circuit, as edges that are merely scattered are not.

`Circuit.rival` draws edges evenly, and few of those lie on any way through the model. Here edges come in paths from the
input to the logits.

    >>> layout = Layout(n_layers=2, n_heads=2, d_model=8)
    >>> circuit = Circuit.random(layout, 12, seed=0)
    >>> paths = Circuit(layout, random_paths(circuit, torch.Generator()))
    >>> paths.n_edges, paths.prune().n_edges, circuit.rival(seed=0).prune().n_edges
    (12, 12, 4)
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from lightning_circuits.batch import Batch
from lightning_circuits.circuit import Circuit
from lightning_circuits.layout import Layout
from lightning_circuits.nodes import on_ways, reader_nodes
from lightning_circuits.places import Places

AT_ONCE = 128
"""How many paths are drawn side by side."""
ATTEMPTS = 100
"""How often a random circuit is begun anew, when what is left of it can be made up of no path."""


@dataclass(frozen=True)
class Sight:
    """What is seen from where in prompts. ``read``: bool ``[n_spans]``, the spans in which logits are read. ``sees``:
    bool ``[n_spans, n_spans]``, whether in some prompt a token of the one stands at one of the other, or behind it."""

    read: Tensor
    sees: Tensor

    @classmethod
    def everywhere(cls, layout: Layout) -> Sight:
        """All is seen from all spans, as it is without any."""
        return cls(*(torch.ones(shape, dtype=torch.bool) for shape in (layout.n_spans, [layout.n_spans] * 2)))

    @classmethod
    def of(cls, layout: Layout, batches: Iterable[Batch]) -> Sight:
        """What is seen in some prompts.

        Raises:
            ValueError: logits are read in none of the layout's spans; the prompts have not the layout's spans.
        """
        if not layout.spans:
            return cls.everywhere(layout)
        read = torch.zeros(layout.n_spans, dtype=torch.bool)
        sees = torch.zeros(layout.n_spans, layout.n_spans, dtype=torch.bool)
        for batch in batches:
            places = Places.of(layout, batch)
            read |= torch.tensor([len(rows) > 0 for rows, _ in places.read])
            inside = torch.stack([places.tokens(span) for span in range(layout.n_spans)]).cpu()
            token = torch.arange(inside.shape[-1])
            first = torch.where(inside, token, len(token)).amin(-1)  # [n_spans, B], behind all where there is none
            last = torch.where(inside, token, -1).amax(-1)
            sees |= (first <= last[:, None]).any(-1)
        if not read.any():
            raise ValueError(f"the answer of no prompt is read in one of the spans {', '.join(layout.spans)}")
        return cls(read, sees)


def random_paths(circuit: Circuit, generator: torch.Generator, sight: Sight | None = None) -> Tensor:
    """A random circuit of paths from the input to the logits, in every span of as many edges as a given one.

    A path is drawn from the logits down: an even draw of a writer that the reader can read, then, at a head, of its
    query, key or value, and so on until the writer is the input. In spans it begins in one where the logits are read,
    and goes on by a key or a value in any that is seen from where it is. Paths are joined as long as their edges are
    not too many for any span; what is left then, a few edges, is drawn evenly of those between two nodes on paths.

    Args:
        circuit: that it is to be a match for.
        generator: of the draws.
        sight: what is seen from where. Default: all.

    Returns:
        bool ``[n_edges]``, on the CPU; as a circuit, it is its own `Circuit.prune`.

    Raises:
        ValueError: no paths have so many edges in each span, or so few that none were found.
    """
    layout, wanted = circuit.layout, circuit.layout.each_span(circuit.members).sum(1)
    sight = sight or Sight.everywhere(layout)
    most = layout.each_span(edges_on_paths(layout, sight)).sum(1)
    if not (wanted > most).any():
        for _ in range(ATTEMPTS):
            members = _joined_paths(layout, wanted, generator, sight)
            # Between two nodes on paths, an edge is on one too.
            closing = on_ways(layout, members, sight.read, sight.sees) & ~members
            for span, (own, closes) in enumerate(zip(*map(layout.each_span, (members, closing)), strict=True)):
                edges = closes.nonzero()[:, 0]
                left = int(wanted[span] - own.sum())
                own[edges[torch.randperm(len(edges), generator=generator)[:left]]] = True
            if torch.equal(layout.each_span(members).sum(1), wanted):
                return members
    names = [f" in {name}" for name in layout.spans] or [""]
    counts = ", ".join(
        f"{n:,} of {m:,}{name}" for n, m, name in zip(wanted.tolist(), most.tolist(), names, strict=True)
    )
    raise ValueError(
        f"no random paths to where the logits are read have as many edges as the circuit ({counts} that lie on any): "
        "prune it first, circuit.prune()"
    )


def paths_like(circuit: Circuit, generator: torch.Generator) -> Circuit:
    """A match for a pruned circuit: `random_paths` that begin where it has edges into the logits."""
    layout = circuit.layout
    read = layout.logits(layout.each_span(circuit.members)).any(1)
    return Circuit(layout, random_paths(circuit, generator, replace(Sight.everywhere(layout), read=read)))


def _joined_paths(layout: Layout, wanted: Tensor, generator: torch.Generator, sight: Sight) -> Tensor:
    """bool ``[n_edges]``: random paths of no more edges in a span than are wanted, until of many drawn none fits."""
    chosen: set[int] = set()
    left = +Counter(dict(enumerate(wanted.tolist())))
    n_plain, before = layout.plain.n_edges, -1
    while left and before < len(chosen):
        before = len(chosen)
        for path in draw_paths(layout, AT_ONCE, generator, sight):
            new = set(path) - chosen
            if new and (taken := Counter([edge // n_plain for edge in new])) <= left:
                chosen |= new
                left -= taken
            if not left:
                break
    members = torch.zeros(layout.n_edges, dtype=torch.bool)
    members[sorted(chosen)] = True
    return members


def edges_on_paths(layout: Layout, sight: Sight) -> Tensor:
    """bool ``[n_edges]``: what paths can be made of."""
    return on_ways(layout, torch.ones(layout.n_edges, dtype=torch.bool), sight.read, sight.sees)


def draw_paths(layout: Layout, count: int, generator: torch.Generator, sight: Sight) -> list[list[int]]:
    """``count`` random paths, each the flat indices of its edges from the logits down. All are drawn side by side."""
    readers, nodes = reader_nodes(layout)
    by_node = readers[nodes.argsort(stable=True)]
    per_node = torch.bincount(nodes, minlength=layout.n_nodes)  # 0 for the input, 3 for a head, 1 for the others
    first = per_node.cumsum(0) - per_node

    def below(sizes: Tensor) -> Tensor:
        return (torch.rand(len(sizes), generator=generator, dtype=torch.float64) * sizes).long()

    def any_of(spans: Tensor) -> Tensor:
        """Of bool ``[n, n_spans]`` one that is True in each row."""
        return spans.float().multinomial(1, generator=generator)[:, 0]

    paths: list[list[int]] = [[] for _ in range(count)]
    alive, node, span = torch.arange(count), torch.full((count,), layout.n_writers), any_of(sight.read.repeat(count, 1))
    while len(alive):
        reader = by_node[first[node] + below(per_node[node])]
        writer = below(layout.reader_prefix[reader])
        span = torch.where(layout.keys_and_values[reader], any_of(sight.sees[span]), span)
        edges = span * layout.plain.n_edges + layout.reader_offset[reader] + writer
        for path, edge in zip(alive.tolist(), edges.tolist(), strict=True):
            paths[path].append(edge)
        on = writer > 0
        alive, node, span = alive[on], writer[on], span[on]
    return paths


def superfluous_edges(
    circuit: Circuit, count: int, generator: torch.Generator, sight: Sight
) -> list[tuple[Tensor, int]]:
    """``count`` pairs: members ``[n_edges]`` of circuit and random path, and an edge of the path beside the circuit.

    Raises:
        ValueError: the circuit holds every edge that lies on a path.
    """
    if not (edges_on_paths(circuit.layout, sight) & ~circuit.members).any():
        raise ValueError("the circuit holds every edge on a path to where the logits are read: no other is superfluous")
    own = set(circuit.members.nonzero()[:, 0].tolist())
    drawn: list[tuple[Tensor, int]] = []
    while len(drawn) < count:
        for path in draw_paths(circuit.layout, count - len(drawn), generator, sight):
            if new := [edge for edge in path if edge not in own]:
                members = circuit.members.clone()
                members[path] = True
                drawn.append((members, new[int(torch.randint(len(new), (), generator=generator))]))
    return drawn
