"""EAP-IG over activations: gradients while the output of one component is moved, and the rest computes as ever."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from lightning_circuits.ablation import Ablation
from lightning_circuits.batch import Batch, copied
from lightning_circuits.components import Component
from lightning_circuits.models import CircuitModel, Context
from lightning_circuits.models.open_attention import component_output
from lightning_circuits.objectives import Objective
from lightning_circuits.scoring.descent import (
    ALL,
    Differences,
    EdgeAndWriterScores,
    descend,
    logits_gradient,
    new_streams,
    no_scores,
    over_steps,
    score_readers,
    score_writers,
    through_one,
)
from lightning_circuits.scoring.no_gradient import require_gradient_at_the_full_model


def one_component_scores(
    model: CircuitModel, batch: Batch, ablation: Ablation, objective: Objective, steps: int, pooled: bool
) -> EdgeAndWriterScores:
    """Scores from runs in which one component's output is moved between the reference and the clean prompt.

    Components are the embedding, all heads of a layer together, and each MLP; the others compute as ever. In its
    ``steps`` runs a component puts out ``clean + (1 - k / steps) (reference - clean)``, k = 1 .. steps.

    Args:
        steps: runs of a component.
        pooled: True: every edge's gradient is the mean over the runs of all components. False: over those of its own
            writer's component.

    The other arguments, and what is raised, are those of `gradient_scores`.

    A run differs from the clean one only above its component. So it starts there, and comes back down as far; below,
    one descent on the clean streams takes the gradients of all runs at once.
    """
    with torch.inference_mode(False), torch.no_grad():
        batch = copied(batch)
        if steps == 1:  # the clean run alone
            require_gradient_at_the_full_model(objective, batch, model.vocabulary)
        layout, ids, mask, positions = model.layout, batch["clean_ids"], batch["attention_mask"], batch["positions"]
        corrupt = model.new_stack(ids.shape)
        model.run(batch["corrupt_ids"], mask, positions, writers=corrupt)
        difference = ablation.reference(batch, corrupt)
        del corrupt
        clean = new_streams(model, *ids.shape)
        full_logits = model.run(ids, mask, positions, writers=difference, subtract=True, streams=clean)

        streams = new_streams(model, steps * len(ids), ids.shape[1])
        context, contexts = model.context(mask), model.context(mask.repeat(steps, 1))
        places = ablation.places(layout, batch)
        differences = Differences(places.take(difference), places)
        embedding, *moving, logits = layout.components
        stages = [[embedding], *layout.stages[:-1]]
        below = torch.zeros_like(clean[0], dtype=torch.promote_types(model.dtype, torch.float32))
        scores = no_scores(layout, below)
        for place, stage in reversed(list(enumerate(stages))):
            above, gradients = stages[place + 1 :], []
            for component in stage:
                own, written = component.writers, component.stream + 1
                moved = difference[own].sum(0)
                streams[written] = torch.cat([clean[written] + (1 - k / steps) * moved for k in range(1, steps + 1)])
                _climb(model, streams, contexts, above)
                gradient = logits_gradient(model, streams[-1], batch, objective, full_logits, [1.0] * steps)
                only = ALL if pooled else own
                score_readers(layout, logits, over_steps(gradient, steps)[None], differences, scores, only)
                descend(model, streams, gradient, differences, contexts, scores, above, only)
                score_writers(component, gradient, differences, scores)
                gradients.append(over_steps(gradient, steps))
            if pooled:
                through = []
                for component, own_gradient in zip(stage, gradients, strict=True):
                    # To all other runs this component is clean; in its own, what it puts out is fixed.
                    others = sum((each for each in gradients if each is not own_gradient), below)
                    if component.kind == "input":
                        score_writers(component, others, differences, scores)
                    else:
                        through.append(through_one(model, clean, others, differences, context, scores, component))
                below = sum([*gradients, *through], below)
        runs = steps * (1 + len(moving)) if pooled else steps
        return EdgeAndWriterScores(scores.edges / runs, scores.writers / runs)


def _climb(model: CircuitModel, streams: Tensor, context: Context, stages: Sequence[Sequence[Component]]) -> None:
    """The stock model from one stream up, in place.

    Args:
        model: the frozen model.
        streams: ``[n_streams, rows, T, d]``; that which the first stage reads is there, those above are made.
        context: of all rows.
        stages: of attentions and MLPs that follow each other, the lowest first.
    """
    for stage in stages:
        read = stage[0].stream
        written = [component_output(model, component, streams[read], context) for component in stage]
        streams[read + 1] = sum(written, streams[read])
