"""Nodes removed from the model: every edge that leaves them is cut.

What a node writes is then its reference wherever it is read. So all readers of a layer still see one stream, and there
is no product of gates and writers: a plain forward does, in which a removed head or MLP is not run and its reference
added in its place. It equals exact ablation (`evaluation.exact`) of the circuit without the edges that leave the nodes,
for a fraction of its cost.

Removing one more node changes nothing below it. The streams that attentions and MLPs read are kept, and a set of nodes
is run from the lowest stream up into which it writes something else than the one that was settled on:

    >>> run = NodeAblation(model, batch, ablation)                                     # doctest: +SKIP
    >>> logits = run.logits(removed)        # runs what is above the lowest of them    # doctest: +SKIP
    >>> run.settle()                        # they stay removed: the next are run from there    # doctest: +SKIP
"""

from __future__ import annotations

import torch
from torch import Tensor

from lightning_circuits.ablation import Ablation
from lightning_circuits.batch import Batch
from lightning_circuits.components import Component
from lightning_circuits.models import CircuitModel
from lightning_circuits.models.projections import project


class NodeAblation:
    """A batch of prompts on which nodes can be removed, one set of them after the other.

    It holds the reference of every writer at every token, ``[n_writers, B, T, d]``.

    Args:
        model: the frozen model, of edges without spans.
        batch: on the model's device.
        ablation: what is in the place of what a removed node writes; a mean ablation already fitted.

    Attributes:
        full_logits: ``[B, V]``, of the stock model on the clean prompts.
        removed: bool ``[n_writers]``, the set that was settled on; at first, none.

    Raises:
        ValueError: the model's edges are told apart by spans.
    """

    @torch.no_grad()
    def __init__(self, model: CircuitModel, batch: Batch, ablation: Ablation) -> None:
        model.layout.require_plain("the removal of nodes")
        self.model, self.batch = model, batch
        self.context = model.context(batch["attention_mask"])
        self.full_logits, corrupt = model.run_pair(batch)
        self.reference = ablation.reference(batch, corrupt)
        stream, positions = model.embed(batch["clean_ids"]), model.position_embedding(self.context)
        self.removed = torch.zeros(model.layout.n_writers, dtype=torch.bool)
        self._streams = [stream if positions is None else stream + positions]  # one into each stage, and the last
        self._tried = self.removed, self._above(0, self.removed)
        self.settle()

    @torch.no_grad()
    def logits(self, removed: Tensor) -> Tensor:
        """``[B, V]``: what the model puts out without some nodes.

        Args:
            removed: bool ``[n_writers]``, on the CPU; the input stays.

        Raises:
            ValueError: the input is among them: there would be nothing that the model reads.
        """
        if removed[0]:
            raise ValueError("the input cannot be removed: without it the model reads no prompt")
        layout, changed = self.model.layout, (removed != self.removed).nonzero()[:, 0].tolist()
        first = layout.components[layout.writer_component[changed[0]]].stream if changed else layout.n_streams - 1
        streams = self._above(first, removed)
        self._tried = removed.clone(), streams
        positions = self.batch["positions"]
        return self.model.unembed(streams[-1][torch.arange(len(positions), device=positions.device), positions])

    def settle(self) -> None:
        """Keep the nodes removed that were so in the last run: others are run from there."""
        self.removed, self._streams = self._tried

    def _above(self, first: int, removed: Tensor) -> list[Tensor]:
        """The streams ``[B, T, d]`` that each stage and the logits read, those above ``first`` run anew."""
        streams = self._streams[: first + 1]
        for stage in self.model.layout.stages[first:-1]:
            streams.append(sum((self._written(each, streams[-1], removed) for each in stage), streams[-1]))
        return streams

    def _written(self, component: Component, stream: Tensor, removed: Tensor) -> Tensor:
        """``[B, T, d]``: what a component adds to the stream, of what is removed the reference."""
        reference, gone = self.reference[component.writers], removed[component.writers]
        written = reference[gone].sum(0)
        if component.kind == "mlp":
            return written if gone.all() else self.model.mlp(component.layer, stream)
        if not gone.all():
            written += self._heads(component.layer, stream, ~gone)
        bias = self.model.output_bias(component.layer)
        return written if bias is None else written + bias

    def _heads(self, layer: int, stream: Tensor, kept: Tensor) -> Tensor:
        """``[B, T, d]``: what those heads of a layer write that are kept, bool ``[n_heads]``."""
        model, x = self.model, self.model.attention_norm(layer)(stream)
        with model.at_hand(layer):
            projections = model.projections(layer)
            q, k, v = (project(x.expand(len(weight), *x.shape), weight, bias) for weight, bias in projections)
            outputs, z = model.outputs(layer), model.mix(layer, q, k, v, self.context)
            return torch.einsum("hbtk,hkd->btd", outputs.scaled(z)[kept], outputs.weight[kept])
