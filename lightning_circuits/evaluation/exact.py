"""Exact ablation: circuits run one after the other on a batch, everything they share made once.

A circuit is run by cutting all other edges. The stock run on both prompts, the reference of the ablation and the
streams that it makes are the same for all circuits; only the forward with gated edges is a circuit's own. Two circuits
cost nothing: with every edge open it is the stock model, and with every edge cut the logits read what the references
alone make.

    >>> full_logits, corrupt = model.run_pair(batch)                                                   # doctest: +SKIP
    >>> run = ExactAblation(model, batch, full_logits, ablation, corrupt)                               # doctest: +SKIP
    >>> run.logits(circuit.members), run.empty_logits                                                   # doctest: +SKIP
"""

from __future__ import annotations

import torch
from torch import Tensor

from lightning_circuits.ablation import Ablation
from lightning_circuits.batch import Batch
from lightning_circuits.blocks import blocks_for
from lightning_circuits.captured import Captured, worth_capturing
from lightning_circuits.masked import masked_stream, new_stack, reference_streams
from lightning_circuits.models import CircuitModel
from lightning_circuits.places import Places


class ExactAblation:
    """A batch under one ablation, ready for any number of circuits.

    Args:
        model: the frozen model.
        batch: on the model's device.
        full_logits: ``[B, V]``, of the stock model on the clean prompts.
        ablation: what cut edges carry; one of a circuit's own (`Ablation.of_circuit`) is for that circuit.
        corrupt: ``[n_writers, B, T, d]``, the writers' outputs on the corrupt prompts; kept as it is.
        runs: `captured_runs` that the batches share, for those that are `worth_capturing`.

    Attributes:
        empty_logits: ``[B, V]``, with every edge cut.
        places: where the tokens of the batch stand.
    """

    def __init__(
        self,
        model: CircuitModel,
        batch: Batch,
        full_logits: Tensor,
        ablation: Ablation,
        corrupt: Tensor,
        runs: Captured | None = None,
    ) -> None:
        context, positions = model.context(batch["attention_mask"]), batch["positions"]
        reference, places = ablation.reference(batch, corrupt), ablation.places(model.layout, batch)
        bases = reference_streams(model, reference, context)
        self.model, self.full_logits, self.places = model, full_logits, places
        self.empty_logits = model.unembed(bases[-1][torch.arange(len(positions), device=positions.device), positions])
        self.runs = runs if runs is not None and worth_capturing(model, batch) else None
        self.of_batch = batch["clean_ids"], batch["attention_mask"], positions, bases, reference
        reference = places.take(reference)
        self.common = model, context, model.embed(batch["clean_ids"]), places, bases, reference
        self.ablation, self.prune = ablation, ablation.pruning_keeps_output

    @torch.no_grad()
    def logits(self, members: Tensor) -> Tensor:
        """``[B, V]``: what the circuit of the edges ``members``, bool ``[n_edges]``, puts out.

        Raises:
            ValueError: the ablation is fitted to another circuit.
        """
        if members.all():
            return self.full_logits
        self.ablation.require_circuit(members)
        if not members.any():
            return self.empty_logits
        gates = members.to(self.model.device)
        if self.runs is not None:
            return self.runs(gates, *self.of_batch)[0]
        blocks = blocks_for(self.model.layout, gates, ~gates, self.prune)
        stack = new_stack(blocks, self.common[-1])
        return self.model.unembed(masked_stream(gates, *self.common, stack, blocks))


def captured_runs(model: CircuitModel) -> Captured:
    """Circuits of a small model on a GPU, run as CUDA graphs: every edge of them, so that one graph serves all."""

    def run(
        gates: Tensor, input_ids: Tensor, mask: Tensor, positions: Tensor, bases: Tensor, reference: Tensor
    ) -> tuple[Tensor, ...]:
        context, places = model.context(mask), Places.in_order(positions, input_ids.shape[1])
        blocks, reference = blocks_for(model.layout, gates), places.take(reference)
        stack, embedding = new_stack(blocks, reference), model.embed(input_ids)
        stream = masked_stream(gates, model, context, embedding, places, bases, reference, stack, blocks)
        return (model.unembed(stream),)

    return Captured(run)
