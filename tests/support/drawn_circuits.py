"""Circuits made up for the tests of pages, what networkx says of them, and rows of an evaluation, without a model."""

from __future__ import annotations

from typing import Any

import networkx as nx
import torch

from lightning_circuits.circuit import Circuit
from lightning_circuits.layout import Layout

PER_HEAD = Layout(n_layers=3, n_heads=4, d_model=16)
PER_GROUP = Layout(n_layers=3, n_heads=4, d_model=16, n_kv_readers=2)


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
