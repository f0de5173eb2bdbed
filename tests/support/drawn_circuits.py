"""Circuits made up for the tests of pages, what networkx says of them, and rows of an evaluation, without a model."""

from __future__ import annotations

from typing import Any

import networkx as nx
import torch

from lightning_circuits.circuit import Circuit
from lightning_circuits.layout import Layout

PER_HEAD = Layout(n_layers=3, n_heads=4, d_model=16)
PER_GROUP = Layout(n_layers=3, n_heads=4, d_model=16, n_kv_readers=2)
PARALLEL = Layout(n_layers=3, n_heads=4, d_model=16, parallel=True)
LAYOUTS = {"per head": PER_HEAD, "per group": PER_GROUP, "parallel": PARALLEL}


def scored(layout: Layout, n: int, seed: int = 0, ranking: str = "absolute", **metadata: Any) -> Circuit:
    """n random edges with scores of both signs, some of them equal."""
    generator = torch.Generator().manual_seed(seed)
    scores = (torch.randn(layout.n_edges, generator=generator) * 4).round() / 4
    members = Circuit.random(layout, n, seed).members
    return Circuit(layout, members, scores, {"method": "EAP", "model": "m", "ranking": ranking, **metadata})


def row(circuit: str, edges: int, faithfulness: float, **more: Any) -> dict[str, Any]:
    return {
        "circuit": circuit,
        "ablation": "zero",
        "split": "val",
        "edges": edges,
        "faithfulness": faithfulness,
        **more,
    }


def ends(circuit: Circuit) -> set[str]:
    """The nodes at the ends of its edges."""
    return set(circuit.to_networkx().nodes)


def paths(circuit: Circuit, node: str) -> set[str]:
    """Edges on a way from the input to the node, or from the node to the logits."""
    graph = circuit.to_networkx()
    graph.add_nodes_from(["input", "logits", node])

    def between(start: str, end: str) -> set[str]:
        inside = ({start} | nx.descendants(graph, start)) & ({end} | nx.ancestors(graph, end))
        return {edge for a, b, edge in graph.edges(data="edge") if a in inside and b in inside}

    return between("input", node) | between(node, "logits")


def stand_of_lines(circuit: Circuit) -> set[tuple[str, str, str]]:
    """Of a circuit in spans every edge, the node that it leaves and one that it enters, by what their names say."""
    swapped = circuit.metadata.get("swapped", [])
    spans, per_group = list(circuit.layout.spans), circuit.layout.n_heads // circuit.layout.n_kv_readers

    def parts(name: str) -> tuple[str, list[str], str, int]:
        edge, span = name.split("@")
        writer, reader = edge.split("->")
        node, _, kind = reader.rstrip(">").partition("<")
        layer, _, group = node.partition(".g")
        heads = [f"{layer}.h{int(group) * per_group + i}" for i in range(per_group)] if group else [node]
        return writer, heads, kind, spans.index(span)

    read = {name: parts(name) for name in circuit.edge_names()}
    works = {(writer, span) for writer, _, _, span in read.values()}
    works |= {(node, span) for _, nodes, kind, span in read.values() for node in nodes if kind not in ("k", "v")}
    lines = set()
    for name, (writer, nodes, kind, span) in read.items():
        for node in nodes:
            later = {*range(span, len(spans))} | {spans.index(a) for a, b in swapped if b == spans[span]}
            seen_from = [at for at in later if (node, at) in works] if kind in ("k", "v") else []
            for at in seen_from or [span]:
                lines.add((name, f"{writer}@{spans[span]}", f"{node}@{spans[at]}"))
    return lines
