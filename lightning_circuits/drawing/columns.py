"""A circuit in spans as a picture has it: a column for each span of tokens, and in it the nodes that are at work there.

A head stands where its query is read and where its output is used. Its keys and values are read in any span, and used
where it stands: an edge into a key or a value begins in the column of its own span, that of the token looked at, and
ends at the head in this column and in those that are after it in some prompt. So a line that leaves its column is a
head that looks back.

    >>> import torch
    >>> layout = Layout(n_layers=2, n_heads=1, d_model=4).in_spans(["S2", "END"])
    >>> members = torch.zeros(layout.n_edges, dtype=torch.bool)
    >>> for name in ("input->a0.h0<v>@S2", "a0.h0->a1.h0<k>@S2", "input->a1.h0<q>@END", "a1.h0->logits@END"):
    ...     members[layout.edge_index(name)] = True
    >>> graph = in_columns(Circuit(layout, members))
    >>> for writer, reader, edge in graph.edges(data="edge"):
    ...     print(edge, writer, reader)
    input->a0.h0<v>@S2 ('input', 0) ('a0.h0', 0)
    input->a1.h0<q>@END ('input', 1) ('a1.h0', 1)
    a0.h0->a1.h0<k>@S2 ('a0.h0', 0) ('a1.h0', 1)
    a1.h0->logits@END ('a1.h0', 1) ('logits', 1)

A circuit without spans has one column.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import networkx as nx

from lightning_circuits.circuit import Circuit
from lightning_circuits.layout import Layout

Stand = tuple[str, int]
"""A node in a column: its name, and which of the spans; 0 where there are none."""


def in_columns(circuit: Circuit) -> nx.MultiDiGraph:
    """The lines of a circuit, as a directed multigraph between nodes in columns (`Stand`).

    An edge is one line, but at the heads of a K/V group one for each and, into a key or value, one for each column in
    which the head stands and the edge's own may be seen from; in its own, where the head stands in none of those. Nodes
    and lines have the attributes of `Circuit.to_networkx`. The input is in every column, the logits where they are
    read, or in the last.
    """
    layout, plain = circuit.layout, circuit.to_networkx()
    edges = [
        (writer, reader, layout.spans.index(edge["span"]) if layout.spans else 0, edge)
        for writer, reader, edge in plain.edges(data=True)
    ]
    works: dict[str, set[int]] = {"input": set(range(layout.n_spans))}
    for writer, reader, span, edge in edges:
        works.setdefault(writer, set()).add(span)
        if edge["reader"] not in "kv":
            works.setdefault(reader, set()).add(span)
    works.setdefault("logits", {layout.n_spans - 1})
    swapped = swapped_spans(circuit)

    lines, stands = [], {(name, span) for name, spans in works.items() for span in spans}
    for writer, reader, span, edge in edges:
        ends = [span]
        if edge["reader"] in "kv":
            ends = sorted(at for at in works.get(reader, ()) if at >= span or (at, span) in swapped) or ends
        lines += [((writer, span), (reader, end), edge) for end in ends]
        stands.update((reader, end) for end in ends)

    plain.add_node("input", kind="input", layer=-1)
    plain.add_node("logits", kind="logits", layer=layout.n_layers)
    graph = nx.MultiDiGraph()
    for name, node in plain.nodes(data=True):
        graph.add_nodes_from(((name, span), node) for span in range(layout.n_spans) if (name, span) in stands)
    graph.add_edges_from(lines)
    return graph


def swapped_spans(circuit: Circuit) -> set[tuple[int, int]]:
    """Pairs of spans ``(s, t)``, ``s`` before ``t`` in the layout, that stand the other way round in some prompts.

    As the metadata's ``swapped`` names them; where they do not, spans stand in the order of the layout in all prompts.
    """
    found, place = set(), {name: span for span, name in enumerate(circuit.layout.spans)}
    for metadata in _tellers(circuit.metadata):
        said = metadata.get("swapped")
        for pair in said if isinstance(said, list) else ():
            if isinstance(pair, list) and len(pair) == 2 and all(isinstance(n, str) and n in place for n in pair):
                found.add((place[pair[0]], place[pair[1]]))
    return found


def stand_name(stand: Stand, layout: Layout) -> str:
    """A node in a column by name: ``a9.h9@END``; without spans, ``a9.h9``."""
    name, span = stand
    return f"{name}@{layout.spans[span]}" if layout.spans else name


def example_of(metadata: Mapping[str, Any]) -> dict[str, str]:
    """The prompt that a circuit's metadata give as an example, in pieces by span; empty if they give none."""
    for said in _tellers(metadata):
        pieces = said.get("example")
        if isinstance(pieces, Mapping) and all(isinstance(text, str) for text in pieces.values()):
            return {str(name): text for name, text in pieces.items()}
    return {}


def _tellers(metadata: Any) -> Iterator[Mapping[str, Any]]:
    """Metadata that may tell of the prompts: of the search, of what it was trained in before (``trained_on``), of
    whoever made the circuit that it has read (``made_by``). In a file of another tool, they may be anything."""
    while isinstance(metadata, Mapping):
        yield metadata
        metadata = metadata.get("trained_on") or metadata.get("made_by")
