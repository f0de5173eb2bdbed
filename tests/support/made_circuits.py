"""Circuits made up for tests: of edges by name, or members, scores and metadata of a seed."""

from __future__ import annotations

import torch

from lightning_circuits.circuit import Circuit
from lightning_circuits.layout import Layout

PER_HEAD, PER_GROUP, PARALLEL = Layout(2, 4, 8), Layout(2, 4, 8, 2), Layout(2, 4, 8, parallel=True)
READABLE = [".json", ".pt", ".safetensors"]
ALL = [*READABLE, ".graphml", ".dot"]
METADATA = {"model": "gpt2", "seed": 3, "data": {"name": "ioi", "sizes": [0.01, 0.1]}, "size": 0.25, "none": None}


def circuit(layout: Layout, seed: int = 0, scored: bool = True, node_scored: bool = False) -> Circuit:
    generator = torch.Generator().manual_seed(seed)
    members = torch.rand(layout.n_edges, generator=generator) < 0.2
    scores = torch.randn(layout.n_edges, generator=generator) if scored else None
    node_scores = torch.randn(layout.n_writers, generator=generator) if node_scored else None
    return Circuit(layout, members, scores, METADATA, node_scores)


def of_edges(layout: Layout, *names: str) -> Circuit:
    members = torch.zeros(layout.n_edges, dtype=torch.bool)
    members[[layout.edge_index(name) for name in names]] = True
    return Circuit(layout, members)
