"""Circuits and prompts for extracted models, and what exact ablation makes of them."""

from __future__ import annotations

from typing import Any

import networkx as nx
import torch
from torch import Tensor

from lightning_circuits.ablation import ABLATIONS, Ablation
from lightning_circuits.circuit import Circuit
from lightning_circuits.evaluation.exact import ExactAblation
from lightning_circuits.layout import Layout
from lightning_circuits.models import CircuitModel
from tests.support.oracle import pairs


def random_circuit(layout: Layout, density: float, seed: int = 0) -> Circuit:
    return Circuit(layout, torch.rand(layout.n_edges, generator=torch.Generator().manual_seed(seed)) < density)


def prompts(padding: str, seed: int = 0) -> dict[str, Any]:
    found = pairs(padding, seed)
    n = len(found.positions)
    return {**vars(found), "answers": torch.ones(n, 1, dtype=torch.int64), "distractors": torch.full((n, 1), 2)}


def fitted(name: str, model: CircuitModel, seed: int = 5) -> Ablation:
    """To other prompts than are judged, as long."""
    ablation = ABLATIONS.make(name)
    ablation.fit(model, [prompts("ragged", seed), prompts("left", seed + 1)])
    return ablation


def judged(model: CircuitModel, batch: dict[str, Any], circuit: Circuit, ablation: Ablation) -> Tensor:
    """``[B, V]``: the logits of a circuit where it is evaluated."""
    full_logits, corrupt = model.run_pair(batch)
    return ExactAblation(model, batch, full_logits, ablation, corrupt).logits(circuit.members)


def judged_everywhere(model: CircuitModel, batch: dict[str, Any], circuit: Circuit, ablation: Ablation) -> Tensor:
    """``[n_real_tokens, V]``: the same at every token, a run for each."""
    found = torch.full((*batch["clean_ids"].shape, model.vocabulary), torch.nan, dtype=model.dtype)
    for token in range(batch["clean_ids"].shape[1]):
        rows = batch["attention_mask"][:, token].nonzero()[:, 0]
        of_rows = {name: value[rows] for name, value in batch.items()}
        found[rows, token] = judged(model, of_rows | {"positions": torch.full_like(rows, token)}, circuit, ablation)
    return found[batch["attention_mask"].bool()]


def leads_to_the_logits(circuit: Circuit) -> set[str]:
    """The writers from which there is a way, found in a graph of names; heads each with keys and values of its own."""
    graph = nx.DiGraph(name.partition("<")[0].split("->") for name in circuit.edge_names())
    graph.add_node("logits")
    return nx.ancestors(graph, "logits")
