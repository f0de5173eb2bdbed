"""What gates cost on a batch of prompts: the loss of each prompt, and how it changes with the gates.

`gated_losses` says it by plain autograd. `CapturedLosses` says the same of a small model on a GPU several times as
fast, as one CUDA graph: the stock runs on both prompts, the gated run, the objective and the backward to the gates are
recorded together. What makes the gates is not among it, and may be anything.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from lightning_circuits.ablation import Ablation
from lightning_circuits.batch import Batch
from lightning_circuits.blocks import blocks_for, closed
from lightning_circuits.captured import CapturedOnBatches
from lightning_circuits.masked import masked_logits
from lightning_circuits.models import CircuitModel
from lightning_circuits.objectives import Objective, losses
from lightning_circuits.places import Places


def gated_losses(
    model: CircuitModel,
    gates: Tensor,
    batch: Batch,
    ablation: Ablation,
    objective: Objective,
    skip_closed: bool | Tensor = False,
    places: Places | None = None,
) -> Tensor:
    """The loss of each prompt of a batch ``[n_prompts]`` when its edges carry these gates.

    Args:
        model: the frozen model.
        gates: float32 ``[n_edges]``.
        batch: on the model's device.
        ablation: what closed edges carry.
        objective: what is asked of the logits.
        skip_closed: see `masked_logits`.
        places: where the tokens stand. Default: those at which the ablation changes something.
    """
    # A GPU has to be waited for to learn these, so before it has much to do.
    places = ablation.places(model.layout, batch) if places is None else places
    blocks = blocks_for(model.layout, gates, closed(gates, skip_closed), ablation.pruning_keeps_output)
    full_logits, corrupt = model.run_pair(batch)
    reference = ablation.reference(batch, corrupt)
    del corrupt  # as large as the reference, if it is another
    logits = masked_logits(
        model,
        gates,
        batch["clean_ids"],
        batch["attention_mask"],
        batch["positions"],
        reference,
        skip_closed,
        places,
        blocks,
        ablation.learned,
    )
    return losses(objective, logits, batch, full_logits)


class CapturedLosses:
    """`gated_losses`, and the gradient of their weighted sum, as a CUDA graph for each shape of batch.

    Args: as there.
    """

    def __init__(self, model: CircuitModel, ablation: Ablation, objective: Objective) -> None:
        def run(batch: Batch, gates: Tensor, weights: Tensor) -> tuple[Tensor, ...]:
            every = Places.in_order(batch["positions"], batch["clean_ids"].shape[1])  # how many differ is a value
            with torch.enable_grad():
                gates = gates.detach().requires_grad_()
                each = gated_losses(model, gates, batch, ablation, objective, places=every)
                total = each @ weights.to(each.dtype)
                return total.detach(), each.detach(), torch.autograd.grad(total, gates)[0]

        self._captured = CapturedOnBatches(run)

    def __call__(self, gates: Tensor, batch: Batch, weights: Tensor) -> tuple[Tensor, Tensor]:
        """The weighted sum of the losses, a scalar with a gradient, and the losses, ``[B]``.

        Args:
            gates: float32 ``[n_edges]``.
            batch: one that is `worth_capturing`.
            weights: ``[B]``, of each prompt.
        """
        return _WithGradient.apply(gates, self._captured, batch, weights)


class _WithGradient(torch.autograd.Function):
    """Total and losses of a recorded run, which has the gradient at the gates beside them."""

    @staticmethod
    def forward(ctx: Any, gates: Tensor, captured: CapturedOnBatches, batch: Batch, weights: Tensor) -> Any:
        total, each, dgates = captured(batch, gates, weights)
        ctx.save_for_backward(dgates)
        ctx.mark_non_differentiable(each)
        return total, each

    @staticmethod
    def backward(ctx: Any, dtotal: Tensor, _deach: Tensor) -> tuple[Tensor | None, ...]:
        (dgates,) = ctx.saved_tensors
        return dtotal * dgates, None, None, None
