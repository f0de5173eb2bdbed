"""Random circuits that hang together: a match for a circuit, as edges that are merely scattered are not.

`Circuit.random` draws edges evenly, and few of those lie on any way through the model. Here edges come in paths from
the input to the logits.

    >>> layout = Layout(n_layers=2, n_heads=2, d_model=8)
    >>> paths, edges = Circuit(layout, random_paths(layout, 12)), Circuit.random(layout, 12, seed=0)
    >>> paths.prune().n_edges, edges.prune().n_edges
    (11, 4)
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from lightning_circuits.batch import Batch
from lightning_circuits.circuit import Circuit
from lightning_circuits.layout import Layout
from lightning_circuits.nodes import reader_nodes
from lightning_circuits.places import Places

PATHS_AT_ONCE = 256
"""So many paths are drawn side by side where nobody knows how many it takes."""


def random_paths(layout: Layout, n: int, seed: int = 0, read_in: Sequence[int] | None = None) -> Tensor:
    """A random circuit of n edges that is made of paths from the input to the logits; bool ``[n_edges]``, n times True.

    A path is drawn from the logits down: an even draw of a writer that the reader can read, then, at a head, of its
    query, key or value, and so on until the writer is the input. In spans it begins in one where the logits are read,
    and goes into any other by a key or a value, as those may be attended to from everywhere. Paths are joined until
    there are n edges; the last one is cut short at its lower end.

    Args:
        layout: whose edges they are.
        n: how many.
        seed: of the draws.
        read_in: the spans in which the logits are read, by number (see `spans_read`). Default: all.

    Raises:
        ValueError: more edges than there are, or fewer than none; fewer lie on paths that begin in these spans.
    """
    if not 0 <= n <= layout.n_edges:
        raise ValueError(f"cannot draw {n:,} of the {layout.n_edges:,} edges of {layout}")
    if read_in is not None and n > (most := int(edges_on_paths(layout, read_in).sum())):
        raise ValueError(f"cannot draw {n:,} edges: {most:,} of {layout} lie on paths to where the logits are read")
    generator = torch.Generator().manual_seed(seed)
    chosen: dict[int, None] = {}  # in the order of their coming
    while len(chosen) < n:
        for path in draw_paths(layout, min(n - len(chosen), 4096), generator, read_in):
            chosen.update(dict.fromkeys(path))
            if len(chosen) >= n:
                break
    members = torch.zeros(layout.n_edges, dtype=torch.bool)
    members[list(chosen)[:n]] = True
    return members


def whole_paths(layout: Layout, n: int, generator: torch.Generator, read_in: Sequence[int] | None = None) -> Tensor:
    """A random circuit of n edges all of which lie on whole paths, its own `Circuit.prune`; bool ``[n_edges]``.

    As `random_paths`, but no path is cut short: one with more new edges than are wanted is passed over. Where none of
    `PATHS_AT_ONCE` in a row fits, as for small numbers may be, it lacks an edge or two.
    """
    chosen: set[int] = set()
    before = -1
    while before < len(chosen) < n:
        before = len(chosen)
        for path in draw_paths(layout, PATHS_AT_ONCE, generator, read_in):
            new = [edge for edge in path if edge not in chosen]
            if len(chosen) + len(new) <= n:
                chosen.update(new)
    members = torch.zeros(layout.n_edges, dtype=torch.bool)
    members[list(chosen)] = True
    return members


def spans_read(layout: Layout, batches: Iterable[Batch]) -> list[int] | None:
    """The spans in which the logits of some prompt are read, by number; None for a layout without spans.

    Raises:
        ValueError: they are read in none of the layout's; the prompts have not the layout's spans.
    """
    if not layout.spans:
        return None
    places = [Places.of(layout, batch) for batch in batches]
    read = [span for span in range(layout.n_spans) if any(len(place.read[span][0]) for place in places)]
    if places and not read:
        raise ValueError(f"the answer of no prompt is read in one of the spans {', '.join(layout.spans)}")
    return read


def edges_on_paths(layout: Layout, read_in: Sequence[int] | None = None) -> Tensor:
    """bool ``[n_edges]``: what paths can be made of, if the logits are read in these spans; default, in all."""
    members = torch.ones(layout.n_edges, dtype=torch.bool)
    if read_in is not None:
        elsewhere = [span for span in range(layout.n_spans) if span not in read_in]
        layout.logits(layout.each_span(members))[elsewhere] = False
    return Circuit(layout, members).prune().members


def draw_paths(
    layout: Layout, count: int, generator: torch.Generator, read_in: Sequence[int] | None = None
) -> list[list[int]]:
    """``count`` random paths, each the flat indices of its edges from the logits down. All are drawn side by side."""
    readers, nodes = reader_nodes(layout)
    by_node = readers[nodes.argsort(stable=True)]
    per_node = torch.bincount(nodes, minlength=layout.n_nodes)  # 0 for the input, 3 for a head, 1 for the others
    first = per_node.cumsum(0) - per_node

    def below(sizes: Tensor) -> Tensor:
        return (torch.rand(len(sizes), generator=generator, dtype=torch.float64) * sizes).long()

    def any_of(spans: Tensor, n: int) -> Tensor:
        drawn = torch.randint(len(spans), (n,), generator=generator) if layout.spans else torch.zeros(n).long()
        return spans[drawn]

    every = torch.arange(layout.n_spans)
    ends = every if read_in is None else every[list(read_in)]
    paths: list[list[int]] = [[] for _ in range(count)]
    alive, node, span = torch.arange(count), torch.full((count,), layout.n_writers), any_of(ends, count)
    while len(alive):
        reader = by_node[first[node] + below(per_node[node])]
        writer = below(layout.reader_prefix[reader])
        span = torch.where(layout.keys_and_values[reader], any_of(every, len(span)), span)
        edges = span * layout.plain.n_edges + layout.reader_offset[reader] + writer
        for path, edge in zip(alive.tolist(), edges.tolist(), strict=True):
            paths[path].append(edge)
        on = writer > 0
        alive, node, span = alive[on], writer[on], span[on]
    return paths


def superfluous_edges(
    circuit: Circuit, count: int, generator: torch.Generator, read_in: Sequence[int] | None = None
) -> list[tuple[Tensor, int]]:
    """``count`` pairs: members ``[n_edges]`` of circuit and random path, and an edge of the path beside the circuit.

    Raises:
        ValueError: the circuit holds every edge that lies on a path.
    """
    if not (edges_on_paths(circuit.layout, read_in) & ~circuit.members).any():
        raise ValueError("the circuit holds every edge on a path to where the logits are read: no other is superfluous")
    own = set(circuit.members.nonzero()[:, 0].tolist())
    drawn: list[tuple[Tensor, int]] = []
    while len(drawn) < count:
        for path in draw_paths(circuit.layout, count - len(drawn), generator, read_in):
            if new := [edge for edge in path if edge not in own]:
                members = circuit.members.clone()
                members[path] = True
                drawn.append((members, new[int(torch.randint(len(new), (), generator=generator))]))
    return drawn
