"""A good circuit of the embedded model in a second, for tests of what is done with circuits.

Gradients of the logit difference with respect to the gates, added up over gates half open: a few masked steps instead
of a training run. Of 479 edges, 30 keep 95 % of the behaviour, 60 all of it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from lightning_circuits.circuit import Circuit
from lightning_circuits.masked import masked_logits
from lightning_circuits.measures import logit_difference
from lightning_circuits.models import CircuitModel
from lightning_circuits.selection import top_n


def gate_gradients(model: CircuitModel, batch: Mapping[str, Tensor]) -> Tensor:
    """``[n_edges]``, sums over the prompts of a batch; the higher, the more an edge helps."""
    total = torch.zeros(model.layout.n_edges)
    for openness in (0.1, 0.3, 0.5, 0.7, 0.9):
        gates = torch.full_like(total, openness, requires_grad=True)
        _, corrupt = model.run_pair(batch)
        logits = masked_logits(model, gates, batch["clean_ids"], batch["attention_mask"], batch["positions"], corrupt)
        logit_difference(logits, batch).sum().backward()
        total += gates.grad
    return total


def ioi_circuit(model: CircuitModel, batches: Iterable[Mapping[str, Tensor]], n: int) -> Circuit:
    """The n best edges without those that lead nowhere."""
    scores = sum(gate_gradients(model, batch) for batch in batches)
    return Circuit(model.layout, top_n(scores, n), scores).prune()
