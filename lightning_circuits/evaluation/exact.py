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
from lightning_circuits.masked import masked_stream, reference_streams
from lightning_circuits.models import CircuitModel


class ExactAblation:
    """A batch under one ablation, ready for any number of circuits.

    Args:
        model: the frozen model.
        batch: on the model's device.
        full_logits: ``[B, V]``, of the stock model on the clean prompts.
        ablation: what cut edges carry.
        corrupt: ``[n_writers, B, T, d]``, the writers' outputs on the corrupt prompts; kept as it is.
        stack: memory of the same shape to compute in; several ablations of a batch may share it. Default: new memory.

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
        stack: Tensor | None = None,
    ) -> None:
        context, positions = model.context(batch["attention_mask"]), batch["positions"]
        reference, places = ablation.reference(batch, corrupt), ablation.places(model.layout, batch)
        bases = reference_streams(model, reference, context)
        self.model, self.full_logits, self.places = model, full_logits, places
        self.empty_logits = model.unembed(bases[-1][torch.arange(len(positions), device=positions.device), positions])
        stack = torch.empty_like(reference) if stack is None else stack
        reference, stack = places.take(reference), places.keep(stack)
        self.common = model, context, model.embed(batch["clean_ids"]), places, bases, reference, stack

    @torch.no_grad()
    def logits(self, members: Tensor) -> Tensor:
        """``[B, V]``: what the circuit of the edges ``members``, bool ``[n_edges]``, puts out."""
        if not members.any():
            return self.empty_logits
        if members.all():
            return self.full_logits
        return self.model.unembed(masked_stream(members.to(self.model.device), *self.common))
