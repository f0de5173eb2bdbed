"""A circuit as a graph of nodes: for networkx, and through it `.graphml` (Gephi, Cytoscape) and `.dot` (Graphviz).

These two are for looking at a circuit: they hold its own edges only, and cannot be read back.
"""

from __future__ import annotations

import io
import json

import networkx as nx

from lightning_circuits.files.base import CircuitData, CircuitLike, Format
from lightning_circuits.nodes import reader_nodes

KINDS = {"i": "input", "a": "head", "m": "mlp", "l": "logits"}
"""The kinds of nodes, by the first letter of their names."""


def to_networkx(circuit: CircuitLike) -> nx.MultiDiGraph:
    """The members of a circuit as a directed multigraph between nodes.

    A writer may be read by the query, the key and the value of one head, so edges are parallel: each has its own key,
    its name, and the attribute ``reader`` (``q``, ``k``, ``v``, ``mlp`` or ``logits``), and ``score`` where there are
    scores. An edge into a K/V group stands at each of the group's heads; the attribute ``edge`` is its name in the
    circuit. In spans it stands once in each, with the attribute ``span``. Nodes have ``label``, ``kind`` (``input``,
    ``head``, ``mlp``, ``logits``) and ``layer`` (-1 for the input).
    """
    layout = circuit.layout
    names = [*layout.writer_names, "logits"]
    graph = nx.MultiDiGraph(layout=str(layout), metadata=json.dumps(circuit.metadata))
    heads_of: list[list[int]] = [[] for _ in range(layout.n_readers)]
    for reader, node in zip(*(pairs.tolist() for pairs in reader_nodes(layout)), strict=True):
        heads_of[reader].append(node)

    edges = circuit.members.nonzero()[:, 0]
    scores = None if circuit.scores is None else circuit.scores[edges].tolist()
    columns = (layout.edge_names(edges), layout.edge_writer[edges].tolist(), layout.edge_reader[edges].tolist())
    drawn = []
    for i, (name, writer, reader) in enumerate(zip(*columns, strict=True)):
        plain, at, span = name.partition("@")
        for node in heads_of[reader]:
            slot = plain[-2] if plain.endswith(">") else KINDS[names[node][0]]
            key = f"{names[writer]}->{names[node]}" + (f"<{slot}>" if plain.endswith(">") else "") + at + span
            score = {} if scores is None else {"score": scores[i]}
            where = {"span": span} if at else {}
            drawn.append((writer, node, key, {"edge": name, "reader": slot, **where, **score}))

    for end in sorted({end for writer, node, *_ in drawn for end in (writer, node)}):  # in the order of the model
        name = names[end]
        graph.add_node(name, label=name, kind=KINDS[name[0]], layer=(end - 1) // (layout.n_heads + 1))
    graph.add_edges_from((names[writer], names[node], key, attributes) for writer, node, key, attributes in drawn)
    return graph


class GraphML(Format):
    name = ".graphml"
    readable = False

    def write(self, data: CircuitData) -> bytes:
        content = io.BytesIO()
        nx.write_graphml(to_networkx(data), content)  # the keys become the ids of the edges
        return content.getvalue()


class DOT(Format):
    name = ".dot"
    readable = False

    def write(self, data: CircuitData) -> bytes:
        graph = to_networkx(data)
        lines = ["digraph circuit {", "  rankdir=BT;", "  node [shape=box];"]
        lines += [f'  "{node}";' for node in graph]
        for writer, node, attributes in graph.edges(data=True):
            parts = [attributes["reader"]] if attributes["reader"] in "qkv" else []
            parts += [attributes["span"]] if "span" in attributes else []
            said = " ".join(parts).replace("\\", r"\\").replace('"', r"\"")  # a span's name may be anything
            label = f' [label="{said}"]' if parts else ""
            lines.append(f'  "{writer}" -> "{node}"{label};')
        return "\n".join([*lines, "}", ""]).encode()
