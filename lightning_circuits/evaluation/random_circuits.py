"""Random circuits that hang together: a match for a circuit, as edges that are merely scattered are not.

`Circuit.random` draws edges evenly, and few of those lie on any way through the model. Here edges come in paths from
the input to the logits.

    >>> layout = Layout(n_layers=2, n_heads=2, d_model=8)
    >>> paths, edges = Circuit(layout, random_paths(layout, 12)), Circuit.random(layout, 12, seed=0)
    >>> paths.prune().n_edges, edges.prune().n_edges
    (11, 4)
"""

from __future__ import annotations

import torch
from torch import Tensor

from lightning_circuits.circuit import Circuit
from lightning_circuits.layout import Layout
from lightning_circuits.nodes import reader_nodes


def random_paths(layout: Layout, n: int, seed: int = 0) -> Tensor:
    """A random circuit of n edges that is made of paths from the input to the logits; bool ``[n_edges]``, n times True.

    A path is drawn from the logits down: an even draw of a writer that the reader can read, then, at a head, of its
    query, key or value, and so on until the writer is the input. In spans it begins in any span, and goes into any
    other by a key or a value, as those may be attended to from everywhere. Paths are joined until there are n edges;
    the last one is cut short at its lower end.

    Raises:
        ValueError: more edges than there are, or fewer than none.
    """
    if not 0 <= n <= layout.n_edges:
        raise ValueError(f"cannot draw {n:,} of the {layout.n_edges:,} edges of {layout}")
    generator = torch.Generator().manual_seed(seed)
    chosen: dict[int, None] = {}  # in the order of their coming
    while len(chosen) < n:
        for path in draw_paths(layout, min(n - len(chosen), 4096), generator):
            chosen.update(dict.fromkeys(path))
            if len(chosen) >= n:
                break
    members = torch.zeros(layout.n_edges, dtype=torch.bool)
    members[list(chosen)[:n]] = True
    return members


def draw_paths(layout: Layout, count: int, generator: torch.Generator) -> list[list[int]]:
    """``count`` random paths, each the flat indices of its edges from the logits down. All are drawn side by side."""
    readers, nodes = reader_nodes(layout)
    by_node = readers[nodes.argsort(stable=True)]
    per_node = torch.bincount(nodes, minlength=layout.n_nodes)  # 0 for the input, 3 for a head, 1 for the others
    first = per_node.cumsum(0) - per_node

    def below(sizes: Tensor) -> Tensor:
        return (torch.rand(len(sizes), generator=generator, dtype=torch.float64) * sizes).long()

    def any_span(n: int) -> Tensor:
        return torch.randint(layout.n_spans, (n,), generator=generator) if layout.spans else torch.zeros(n).long()

    paths: list[list[int]] = [[] for _ in range(count)]
    alive, node, span = torch.arange(count), torch.full((count,), layout.n_writers), any_span(count)
    while len(alive):
        reader = by_node[first[node] + below(per_node[node])]
        writer = below(layout.reader_prefix[reader])
        span = torch.where(layout.keys_and_values[reader], any_span(len(span)), span)
        edges = span * layout.plain.n_edges + layout.reader_offset[reader] + writer
        for path, edge in zip(alive.tolist(), edges.tolist(), strict=True):
            paths[path].append(edge)
        on = writer > 0
        alive, node, span = alive[on], writer[on], span[on]
    return paths


def superfluous_edges(circuit: Circuit, count: int, generator: torch.Generator) -> list[tuple[Tensor, int]]:
    """``count`` pairs: members ``[n_edges]`` of circuit and random path, and an edge of the path beside the circuit."""
    own = set(circuit.members.nonzero()[:, 0].tolist())
    drawn: list[tuple[Tensor, int]] = []
    while len(drawn) < count:
        for path in draw_paths(circuit.layout, count - len(drawn), generator):
            if new := [edge for edge in path if edge not in own]:
                members = circuit.members.clone()
                members[path] = True
                drawn.append((members, new[int(torch.randint(len(new), (), generator=generator))]))
    return drawn
