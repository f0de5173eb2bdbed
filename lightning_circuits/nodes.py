"""Nodes: the writers and the logits, and which readers belong to each; what circuits are counted and pruned by."""

from __future__ import annotations

import torch
from torch import Tensor

from lightning_circuits.components import Component
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


def on_ways(layout: Layout, members: Tensor, read: Tensor | None = None, sees: Tensor | None = None) -> Tensor:
    """Which edges lie on a way from the input to the logits whose other edges are all members.

    A way goes through nodes: what enters a head by its query, key or value leaves by its output. Under K/V per group a
    key or value reader belongs to every head of its group, and where heads are coupled (`Layout`), what enters one head
    leaves by every head of its layer. In spans, a way stays in its span but where it enters a head
    by a key or a value: that may be attended to from any span that sees it.

    Args:
        layout: of the edges.
        members: bool ``[n_edges]``.
        read: bool ``[n_spans]``, where the logits are read. Default: in all.
        sees: bool ``[n_spans, n_spans]``, whether the one attends to the other. Default: all do, to all.

    Returns:
        bool ``[n_edges]``: members, and what would be such an edge if it were one.
    """
    members = layout.each_span(members)
    read = torch.ones(layout.n_spans, dtype=torch.bool) if read is None else read
    sees = torch.ones(layout.n_spans, layout.n_spans, dtype=torch.bool) if sees is None else sees
    readers, nodes = reader_nodes(layout)
    components = layout.components[1:]  # all that read

    def attended(entered: Tensor, sees: Tensor) -> Tensor:
        """bool ``[n_spans, n_readers]``: a key or value of a span is one of every span that sees it."""
        return torch.where(layout.keys_and_values, (sees.float() @ entered.float()).bool(), entered)

    def together(nodes: Tensor, component: Component) -> None:
        """Of bool ``[n_spans, n_nodes]``, all of a component where one of it is, if they are coupled."""
        if layout.coupled and component.kind == "attention":
            nodes[:, component.writers] = nodes[:, component.writers].any(1, keepdim=True)

    # One sweep up finds what the input reaches, one sweep down what leads to the logits.
    reached = torch.arange(layout.n_nodes).eq(0).repeat(layout.n_spans, 1)
    for component in components:
        edges = layout.into(members, component)
        entered = torch.zeros(layout.n_spans, layout.n_readers, dtype=torch.bool)
        entered[:, component.readers] = (edges & reached[:, None, : component.n_before]).any(-1)
        span, pair = attended(entered, sees)[:, readers].nonzero(as_tuple=True)
        reached[span, nodes[pair]] = True
        together(reached, component)

    open_readers = torch.zeros(layout.n_spans, layout.n_readers, dtype=torch.bool)
    leads = torch.arange(layout.n_nodes).eq(layout.n_nodes - 1) & read[:, None]
    for component in reversed(components):
        together(leads, component)
        span, pair = leads[:, nodes].nonzero(as_tuple=True)
        entered = torch.zeros_like(open_readers)
        entered[span, readers[pair]] = True
        open_readers = attended(entered, sees.T)
        edges = layout.into(members, component)
        leads[:, : component.n_before] |= (edges & open_readers[:, component.readers, None]).any(1)

    span = layout.edge_span
    return reached[span, layout.edge_writer] & open_readers[span, layout.edge_reader]


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
