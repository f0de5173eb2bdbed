"""Objectives that have no gradient at the full model: those that say how far from it one is, such as KL.

At the full model itself such a loss is at its minimum. Attribution that takes gradients there alone, as EAP does, would
rank edges by what was rounded.
"""

from __future__ import annotations

import torch
from torch import Tensor

from lightning_circuits.batch import Batch
from lightning_circuits.objectives import Objective, losses

NOTHING = 1e-4
"""The share of its gradient elsewhere below which a loss has none: far above what float32 rounds, far below 1."""


def require_gradient_at_the_full_model(objective: Objective, batch: Batch, vocabulary: int) -> None:
    """See that the loss has a gradient where logits are the full model's.

    It is asked at logits made up here, not at the model's: an objective that is a distance has none wherever the full
    model may be, one that is satisfied with a prompt that the model is sure of has none there alone. So no model is
    run, and neither a sure prompt nor a narrow dtype is taken for a distance.

    Args:
        objective: ``(logits, batch, full_logits) -> loss [B]``.
        batch: B prompts, with the answers that the objective looks at.
        vocabulary: how many tokens there are.

    Raises:
        ValueError: it has none there, and has some elsewhere.
    """
    ids = batch["clean_ids"]
    if ids.is_meta or (ids.is_cuda and torch.cuda.is_current_stream_capturing()):
        return  # values cannot be looked at, and have been in the call before
    noise = 3 * torch.randn(2, len(ids), vocabulary, generator=torch.Generator().manual_seed(0), dtype=torch.float32)
    here, there = noise.to(ids.device)

    def gradient(full_logits: Tensor) -> Tensor:
        with torch.enable_grad():
            logits = here.clone().requires_grad_()
            (found,) = torch.autograd.grad(losses(objective, logits, batch, full_logits).sum(), logits)
            return found.norm()

    if gradient(here) < NOTHING * gradient(there):
        name = getattr(objective, "__name__", type(objective).__name__)
        raise ValueError(
            f"the objective {name} has no gradient at the full model, the only place where this attribution takes one: "
            "it says how far from it logits are, and is at its least there. Take another objective, such as "
            "LogitDifference, or gradients at other places too: EAPIG, ExpectedGradients or MaskedGradients"
        )
