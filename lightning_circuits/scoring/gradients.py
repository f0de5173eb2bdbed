"""EAP and EAP-IG: what every edge is worth, predicted from gradients instead of measured by cutting it.

Cutting the edge w -> r changes what r reads by ``ref_w - out_w``. To first order the loss then rises by

    score(w -> r) = sum over tokens of <ref_w - out_w, dL/dx_r>,

L the loss of one prompt (minus the logit difference, say). That is EAP (Syed et al. 2023), and exactly -dL/dM of the
masked computation at M = 1. A positive edge helps: without it the loss is predicted to rise. Integrated gradients
(EAP-IG, Hanna et al. 2024) take dL/dx_r as an average over inputs between the reference and the clean prompt.

Both are one stock forward and one descent (`lightning_circuits.scoring.descent`).

    >>> edges, writers = gradient_scores(model, batch, ZeroAblation(), LogitDifference())               # doctest: +SKIP
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from lightning_circuits.ablation import Ablation
from lightning_circuits.batch import Batch, copied
from lightning_circuits.models import CircuitModel
from lightning_circuits.objectives import Objective
from lightning_circuits.places import Places
from lightning_circuits.scoring.descent import (
    Differences,
    EdgeAndWriterScores,
    descend,
    logits_gradient,
    new_streams,
    no_scores,
    over_steps,
    score_readers,
    score_writers,
)
from lightning_circuits.scoring.no_gradient import require_gradient_at_the_full_model
from lightning_circuits.scoring.paths import CLEAN, PathPoint, clean_alone


def gradient_scores(
    model: CircuitModel,
    batch: Batch,
    ablation: Ablation,
    objective: Objective,
    points: Sequence[PathPoint] = CLEAN,
    places: Places | None = None,
) -> EdgeAndWriterScores:
    """Scores of all edges and writers, from gradients on inputs between the reference and the clean prompt.

    Between the two it is the token embedding that moves, on a straight line; learned positions stay as they are.

    Args:
        model: the frozen model.
        batch: as every data module yields it.
        ablation: what a cut edge carries.
        objective: ``(logits, batch, full_logits) -> loss [B]``.
        points: where gradients are taken; at points of their own for each row, ``[B]``, rows being those of the batch.
        places: where the tokens stand. Default: those at which the ablation changes something.

    Raises:
        ValueError: an objective that does not give one number per prompt, or has no gradient at any of the points.
    """
    # In Lightning's inference mode nothing can be differentiated, and tensors made there cannot be saved for it.
    with torch.inference_mode(False), torch.no_grad():
        batch = copied(batch)
        if clean_alone(points):
            require_gradient_at_the_full_model(objective, batch, model.vocabulary)
        ids, mask, positions = batch["clean_ids"], batch["attention_mask"], batch["positions"]
        # The ends of the line are runs that are made anyhow; the points between are one more.
        ends = (0.0, 1.0) if ablation.starts_at_corrupt else (1.0,)
        at_ends = [point for point in points if not isinstance(point.at, Tensor) and point.at in ends]
        between = [point for point in points if isinstance(point.at, Tensor) or point.at not in ends]
        points = [*at_ends, *between]
        streams = new_streams(model, len(points) * len(ids), ids.shape[1])
        of_end = dict(zip([point.at for point in at_ends], streams.split(len(ids), dim=1), strict=False))

        corrupt = model.new_stack(ids.shape)
        model.run(batch["corrupt_ids"], mask, positions, writers=corrupt, streams=of_end.get(0.0))
        difference = ablation.reference(batch, corrupt)
        del corrupt
        start = difference[0].clone()
        full_logits = model.run(ids, mask, positions, writers=difference, subtract=True, streams=of_end.get(1.0))
        if between:
            model.run(
                torch.cat([_moved(start, difference[0], point.at) for point in between]),
                mask.repeat(len(between), 1),
                positions.repeat(len(between)),
                streams=streams[:, -len(between) * len(ids) :],
            )

        places = ablation.places(model.layout, batch) if places is None else places
        differences = Differences(places.keep(difference), places)
        context = model.context(mask.repeat(len(points), 1))
        weights = [point.weight for point in points]
        gradient = logits_gradient(model, streams[-1], batch, objective, full_logits, weights)
        scores = no_scores(model.layout, gradient)
        embedding, *_, logits = model.layout.components
        score_readers(model.layout, logits, over_steps(gradient, len(points))[None], differences, scores)
        descend(model, streams, gradient, differences, context, scores, model.layout.stages[:-1])
        score_writers(embedding, gradient, differences, scores)
        return scores


def _moved(start: Tensor, difference: Tensor, at: float | Tensor) -> Tensor:
    """The embedding ``[B, T, d]`` at a point of the line, ``start`` being its beginning and ``difference`` what it is
    before the end; at one of each row, ``at`` ``[B]``."""
    return (start - (at[:, None, None] if isinstance(at, Tensor) else at) * difference).to(start.dtype)
