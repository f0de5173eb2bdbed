"""Information flow routes: how near each writer comes to what a reader reads, from one forward alone."""

from __future__ import annotations

import torch
from torch import Tensor

from lightning_circuits.batch import Batch, prompts_alone
from lightning_circuits.models import CircuitModel
from lightning_circuits.places import Places
from lightning_circuits.scoring.descent import new_streams


@torch.no_grad()
def information_flow_scores(model: CircuitModel, batch: Batch) -> Tensor:
    """L1 proximity of writers to what readers read: ``[n_edges]``, means over a prompt's tokens, summed over prompts.

    At every token a reader's importances sum to 1 over its writers, unless none is near. Readers of one layer's
    attention see the same stream and the same writers, and get the same scores. Answers are not looked at: where they
    have several tokens, the prompts alone are run.

    Args:
        model: the frozen model.
        batch: its ``clean_ids``, ``attention_mask`` and ``positions``, and ``spans`` for a layout in spans.
    """
    batch = prompts_alone(batch)
    layout, mask = model.layout, batch["attention_mask"]
    writers, streams = model.new_stack(mask.shape), new_streams(model, *mask.shape)
    model.run(batch["clean_ids"], mask, batch["positions"], writers=writers, streams=streams)
    wide = torch.promote_types(model.dtype, torch.float32)
    share = mask.to(wide) / mask.sum(-1, keepdim=True)  # of a token in the mean over its prompt; padding has none

    places = Places.of(layout, batch)

    def importance(stream: Tensor, n: int) -> Tensor:
        size = torch.linalg.vector_norm(stream, 1, dim=-1, dtype=wide)
        # A writer at a time: all of them against the stream at once would be another stack.
        distance = torch.stack([torch.linalg.vector_norm(out - stream, 1, dim=-1, dtype=wide) for out in writers[:n]])
        proximity = (size - distance).clamp(min=0)
        total = proximity.sum(0)
        return proximity / total.where(total > 0, 1.0) * share

    edges = torch.empty(layout.n_edges, dtype=wide, device=model.device)
    of_spans = layout.each_span(edges)
    for component in layout.components[1:]:  # all but the embedding, which reads nothing
        tokens = places.take(importance(streams[component.stream], component.n_before)[..., None])
        for of_a_span, part in zip(of_spans, places.slices, strict=True):
            layout.into(of_a_span, component)[:] = tokens[:, part].sum((1, 2))
    return edges
