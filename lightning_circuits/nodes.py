"""Nodes: the writers and the logits, and which readers belong to each; what circuits are counted and pruned by."""

from __future__ import annotations

import torch
from torch import Tensor

from lightning_circuits.layout import Layout


def reader_nodes(layout: Layout) -> tuple[Tensor, Tensor]:
    """Which node each reader belongs to, as pairs ``(readers, nodes)``, two int64 vectors ``[n_pairs]``.

    Nodes are the writers in their order and, last, the logits. A reader stands in one pair, but the key and value
    readers of a K/V group in one for every query head of the group.
    """
    heads = torch.arange(layout.n_heads)
    groups = heads // (layout.n_heads // layout.n_kv_readers)
    mlp = torch.tensor([layout.n_heads])
    keys, values = layout.n_heads + groups, layout.n_heads + layout.n_kv_readers + groups
    readers = torch.cat([heads, keys, values, mlp + 2 * layout.n_kv_readers])
    nodes = torch.cat([heads, heads, heads, mlp])
    layers = torch.arange(layout.n_layers)[:, None]
    all_readers = (layers * (layout.n_attention_readers + 1) + readers).flatten()
    all_nodes = (1 + layers * (layout.n_heads + 1) + nodes).flatten()
    return (
        torch.cat([all_readers, torch.tensor([layout.n_readers - 1])]),
        torch.cat([all_nodes, torch.tensor([layout.n_writers])]),
    )


def node_members(layout: Layout, members: Tensor) -> Tensor:
    """bool ``[n_nodes]``: the nodes of a circuit, by EAP-IG's rule: an edge comes in and an edge goes out.

    The input needs only an edge out, the logits only one in.
    """
    edges = members.nonzero()[:, 0]
    read = torch.zeros(layout.n_readers, dtype=torch.bool)
    read[layout.edge_reader[edges]] = True
    entered, left = torch.zeros(2, layout.n_nodes, dtype=torch.bool)
    readers, nodes = reader_nodes(layout)
    entered[nodes[read[readers]]] = True
    left[layout.edge_writer[edges]] = True
    entered[0] = left[-1] = True
    return entered & left
