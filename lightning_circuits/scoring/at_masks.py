"""What every edge is worth while others are cut: the gradient with respect to all gates of a circuit, cut ones too.

EAP is -dL/dM at M = 1, with all edges open. Here M is any choice of edges, another one for each prompt. Cut edges have
a gradient like open ones: it says what opening them would do.

All prompts of a batch are run at once. What a span of tokens is to `masked`, a prompt is here: gates that hold in it.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from lightning_circuits.ablation import Ablation
from lightning_circuits.batch import Batch, copied, n_prompts, prompts_of_rows
from lightning_circuits.masked import masked_logits
from lightning_circuits.models import CircuitModel
from lightning_circuits.objectives import Objective, losses
from lightning_circuits.places import Places


def masked_gradient_scores(
    model: CircuitModel, batch: Batch, ablation: Ablation, objective: Objective, masks: Iterable[Tensor]
) -> Tensor:
    """The sum over masks and prompts of -dL/dM, ``[n_edges]``, float32 (float64 for masks in float64).

    Args:
        model: the frozen model.
        batch: as every data module yields it.
        ablation: what a cut edge carries.
        objective: ``(logits, batch, full_logits) -> loss [B]``.
        masks: each has the gates of every prompt, ``[n_prompts, n_edges]``, 1 where an edge is open and 0 where it is
            cut. Each is a run of the batch.

    Raises:
        ValueError: an objective that does not give one number per prompt.
    """
    with torch.inference_mode(False), torch.no_grad():
        batch = copied(batch)
        places = _each_prompt_alone(ablation.places(model.layout, batch), batch)
        full_logits, corrupt = model.run_pair(batch)
        reference = ablation.reference(batch, corrupt)
        del corrupt  # as large as the reference, if it is another
        scores: Tensor | None = None
        for mask in masks:
            gates = mask.clone().requires_grad_()
            with torch.enable_grad():
                logits = masked_logits(
                    model,
                    gates.flatten(),
                    batch["clean_ids"],
                    batch["attention_mask"],
                    batch["positions"],
                    reference.clone(),  # it is consumed
                    places=places,
                )
                (gradient,) = torch.autograd.grad(losses(objective, logits, batch, full_logits).sum(), gates)
            scores = -gradient.sum(0) if scores is None else scores - gradient.sum(0)
        if scores is None:
            raise ValueError("there is no mask to take gradients at")
        return scores


def _each_prompt_alone(places: Places, batch: Batch) -> Places:
    """The same tokens, those of each prompt in spans of its own: all spans of the first prompt, then of the second."""
    n_spans, spans = len(places.slices), torch.full_like(batch["clean_ids"], -1)
    prompts = prompts_of_rows(batch)
    for span in range(n_spans):
        spans = torch.where(places.tokens(span), n_spans * prompts[:, None] + span, spans)
    return Places.of_spans(spans, batch["positions"], n_spans * n_prompts(batch))
