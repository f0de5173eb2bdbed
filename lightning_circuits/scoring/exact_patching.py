"""Exact patching: what every edge is worth, measured by cutting it, and it alone.

    score(w -> r) = loss(all edges open but w -> r) - loss(full model),        averaged over prompts

is what attribution predicts from gradients (activation patching of an edge; the "EActP" of EAP-IG's authors). It takes
a forward for each edge, but a small one:

- Below the reader nothing changes. The stock model runs once per batch of prompts and leaves behind the differences
  ``out_w - ref_w`` of all writers and the residual stream before every reader.
- With only w -> r cut, r sees ``stream - (out_w - ref_w)``, and all other readers of the layer see ``stream``. Where
  a head depends on its own readers alone, one pass through a layer's attention, with w cut from the queries of *all*
  heads, gives the changed output of each head: an edge each. (Likewise for keys and for values.) Where heads are
  coupled, the attention is run once for each edge.
- What the head or MLP then writes differently is added to the stream, and the stock layers above do the rest, many
  edges behind each other as one large batch.

So an edge costs the part of a stock forward that lies above it: on average a third, as most edges are high up.

    >>> patching = ExactPatching(model, batch, ZeroAblation(), LogitDifference())                    # doctest: +SKIP
    >>> for chunk in chunks(model.layout, edges_per_batch=64):                                   # doctest: +SKIP
    ...     scores[chunk] = patching.scores(chunk).mean(-1)
"""

from __future__ import annotations

import torch
from torch import Tensor

from lightning_circuits.ablation import Ablation
from lightning_circuits.batch import Batch, repeated
from lightning_circuits.components import Component
from lightning_circuits.layout import Layout
from lightning_circuits.models import CircuitModel
from lightning_circuits.models.projections import project
from lightning_circuits.models.stock import StockLayers
from lightning_circuits.objectives import Objective, losses


def chunks(layout: Layout, edges_per_batch: int, among: Tensor | None = None) -> list[Tensor]:
    """All edges, or some, in parts that are cut together.

    Args:
        layout: of the edges.
        edges_per_batch: how many are cut together at most.
        among: bool ``[n_edges]``, those that are wanted, such as the best of a method that costs less. Default: all.

    Returns:
        flat positions of edges, int64 ``[at most edges_per_batch]`` each. Within a part all readers are of one kind
        (queries, keys, values or the MLP of one layer, or the logits) and of one span, and edges of one writer stand
        together.

    Raises:
        ValueError: ``edges_per_batch`` below 1; ``among`` of another length.
    """
    if edges_per_batch < 1:
        raise ValueError(f"edges_per_batch is {edges_per_batch}: at least one edge has to be cut at a time")
    layer, kind, _ = _place(layout, layout.edge_reader)
    stage = 4 * (layer + (layout.n_layers + 1) * layout.edge_span) + kind
    order = (stage * layout.n_writers + layout.edge_writer).argsort(stable=True)
    if among is not None:
        order = order[layout.check(among).to(order.device)[order]]
    groups = order.split(stage[order].bincount().tolist())
    return [part for group in groups if len(group) for part in group.split(edges_per_batch)]


def _place(layout: Layout, readers: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Of each reader: its layer, its kind (0 to 3: query, key, value, MLP), and which of its kind it is.

    The logits come out as the first reader of the layer that would follow the last.
    """
    layer, place = readers // (layout.n_attention_readers + 1), readers % (layout.n_attention_readers + 1)
    first = torch.tensor([0, layout.n_heads, layout.n_heads + layout.n_kv_readers, layout.n_attention_readers])
    kind = torch.bucketize(place, first, right=True) - 1
    return layer, kind, place - first[kind]


class ExactPatching:
    """A batch of prompts on which edges can be cut, one at a time.

    Args:
        model: the frozen model.
        batch: as every data module yields it.
        ablation: what a cut edge carries.
        objective: ``(logits, batch, full_logits) -> loss [B]``.

    Raises:
        ValueError: the objective does not give one number per prompt.
    """

    @torch.no_grad()
    def __init__(self, model: CircuitModel, batch: Batch, ablation: Ablation, objective: Objective) -> None:
        self.model, self.batch, self.objective = model, batch, objective
        ids, mask, positions = batch["clean_ids"], batch["attention_mask"], batch["positions"]
        stack = model.new_stack(mask.shape)
        model.run(batch["corrupt_ids"], mask, positions, writers=stack)
        self.places = ablation.places(model.layout, batch)
        self.change = ablation.reference(batch, stack)  # of what a reader sees when a writer is cut: ref - out
        self.streams = stack.new_empty(model.layout.n_streams, *stack.shape[1:])
        self.layers = StockLayers(model)
        with self.layers.listen():
            self.full_logits = model.run(ids, mask, positions, writers=self.change, subtract=True, streams=self.streams)
        self.full_loss = losses(objective, self.full_logits, batch, self.full_logits)

    @torch.no_grad()
    def scores(self, edges: Tensor) -> Tensor:
        """How much the loss of each prompt rises when an edge is cut, one edge at a time.

        Args:
            edges: flat positions, readers of one kind and layer, as in `chunks`.

        Returns:
            float32 (float64 for a model in float64) ``[len(edges), B]``; positive where the edge helps.
        """
        n = len(edges)
        batch = repeated(self.batch, n)
        loss = losses(self.objective, self.logits(edges).flatten(0, 1), batch, self.full_logits.repeat(n, 1))
        return loss.view(n, -1) - self.full_loss

    @torch.no_grad()
    def logits(self, edges: Tensor) -> Tensor:
        """``[len(edges), B, V]``: the logits with an edge cut, one edge at a time; ``edges`` as in `scores`."""
        layout, positions = self.model.layout, self.batch["positions"]
        writers, span = layout.edge_writer[edges], int(layout.edge_span[edges[0]])
        layers, kinds, which = _place(layout, layout.edge_reader[edges])
        layer, kind = int(layers[0]), int(kinds[0])
        row = torch.arange(len(positions), device=positions.device)
        if layer == layout.n_layers:
            x = self.streams[-1] + self._change(writers, span, layout.n_streams - 1)
            return self.model.unembed(x[:, row, positions])
        attention, mlp = layout.of_layer(layer)
        with self.model.at_hand(layer):
            if kind == 3:
                read, change = mlp.stream, self._mlp(mlp, writers, span)
            else:
                read, change = attention.stream, self._heads(attention, kind, writers, which, span)
            x = self.streams[read + 1] + change
            if read + 1 == mlp.stream:
                x += self.model.mlp(layer, x)
        x = x.flatten(0, 1)
        for above in range(layer + 1, layout.n_layers):
            x = self.layers(above, x)
        return self.model.unembed(x.unflatten(0, (len(edges), -1))[:, row, positions])

    def _change(self, writers: Tensor, span: int, stream: int) -> Tensor:
        """``[len(writers), B, T, d]``: of what is read of a stream in a span when a writer is cut there."""
        change = self.change[writers]
        return change if self.places.order is None else change * self.places.tokens(span)[..., None]

    def _mlp(self, mlp: Component, writers: Tensor, span: int) -> Tensor:
        """``[n, B, T, d]``: what an MLP writes differently when it does not read a writer of ``[n]`` in a span."""
        stream = self.streams[mlp.stream]
        written = self.model.mlp(mlp.layer, stream + _first_none(self._change(writers, span, mlp.stream)))
        return written[1:] - written[0]

    def _heads(self, attention: Component, kind: int, writers: Tensor, readers: Tensor, span: int) -> Tensor:
        """What the heads of a layer write differently when an edge into one of them is cut.

        Args:
            attention: of the layer.
            kind: of the readers: 0, 1, 2 for queries, keys, values.
            writers: of each edge, int64 ``[n]``.
            readers: of each edge, int64 ``[n]``: which of the readers of its kind its reader is.
            span: of the edges.

        Returns:
            ``[n, B, T, d]``.
        """
        model, layer = self.model, attention.layer
        cut, which = writers.unique_consecutive(return_inverse=True)
        # The uncut layer first, then one with each of the writers cut from all readers of the kind.
        streams = self.streams[attention.stream] + _first_none(self._change(cut, span, attention.stream))
        projected = self._projected(layer, kind, streams)
        outputs, n_readers = model.outputs(layer), len(projected[kind])
        if model.layout.coupled:
            alone = projected[kind][:, :1].repeat(1, 1 + len(writers), 1, 1, 1)
            edges = torch.arange(len(writers), device=alone.device)
            alone[readers, 1 + edges] = projected[kind][readers, 1 + which]
            projected[kind] = alone
            z = self._mixed(layer, projected)
            return outputs.summed(z[:, 1:]) - outputs.summed(z[:, :1])
        # A query belongs to one head, and so do keys and values, unless the heads of a K/V group share them.
        z = self._mixed(layer, projected).transpose(0, 1)  # [runs, n_heads, B, T, d_head]
        changed = (z[1:] - z[0]).unflatten(1, (n_readers, -1))[which, readers]  # [n, heads of the reader, B, T, d_head]
        weight = outputs.weight.unflatten(0, (n_readers, -1))[readers]
        return torch.einsum("nhbtk,nhkd->nbtd", changed, weight)

    def _projected(self, layer: int, kind: int, streams: Tensor) -> list[Tensor]:
        """Queries, keys and values ``[readers, runs, B, T, d_head]`` of a layer, those of one kind from ``streams``
        ``[runs, B, T, d]``; of the other kinds there is one run, from the first of these."""
        model, norm = self.model, self.model.attention_norm(layer)
        projected = []
        for i, (weight, bias) in enumerate(model.projections(layer)):
            x = norm(streams if i == kind else streams[:1])
            y = project(x.flatten(0, 1).expand(len(weight), -1, -1, -1), weight, bias)
            y = y.unflatten(1, (-1, x.shape[1]))
            projected.append(y.repeat_interleave(model.readers()[i] // len(weight), dim=0))
        return projected

    def _mixed(self, layer: int, projected: list[Tensor]) -> Tensor:
        """``[n_heads, runs, B, T, d_head]``: what the heads mix of them."""
        runs = max(each.shape[1] for each in projected)
        context = self.model.context(self.batch["attention_mask"].repeat(runs, 1))
        q, k, v = (each.expand(-1, runs, -1, -1, -1).flatten(1, 2) for each in projected)
        return self.model.mix(layer, q, k, v, context).unflatten(1, (runs, -1))


def _first_none(changes: Tensor) -> Tensor:
    """Changes ``[n, ...]`` behind one of 0, ``[1 + n, ...]``: what is as ever is computed with what is changed."""
    return torch.cat([torch.zeros_like(changes[:1]), changes])
