"""One descent through the frozen model: the gradients of all readers, contracted with the writers' differences.

With all gates open the readers of a component see the same stream. So the forward is the stock model's, which leaves
behind two things: the differences ``ref - out`` of all writers, and the residual streams that components read. Then
one descent: component by component from the top, recompute that one alone, take the gradients of its readers, contract
them with the differences. All steps of an integral go down together as one large batch, and are added up before
anything wide is done with them.

Steps stand behind each other in the rows of a tensor, ``[steps * B, ...]``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from lightning_circuits.batch import Batch
from lightning_circuits.components import Component
from lightning_circuits.layout import Layout
from lightning_circuits.models import CircuitModel, Context
from lightning_circuits.models.open_attention import attention_gradients, mlp_gradient
from lightning_circuits.objectives import Objective, losses
from lightning_circuits.places import Places

ALL = slice(None)


class EdgeAndWriterScores(NamedTuple):
    """Sums over the prompts of a batch, float32 (float64 for a model in float64).

    ``edges``: ``[n_edges]``. ``writers``: ``[n_writers]``, each writer's difference against the gradient at its own
    output: what all edges out of it are worth together.
    """

    edges: Tensor
    writers: Tensor


class Differences(NamedTuple):
    """What cutting an edge changes: ``values`` ``[n_writers, N, d]``, reference minus output of every writer.

    ``places``: where the N tokens stand; in spans, each span's side by side.
    """

    values: Tensor
    places: Places


def no_scores(layout: Layout, like: Tensor) -> EdgeAndWriterScores:
    """Zeros ``[n_edges]`` and ``[n_writers]``, of the dtype and on the device of ``like``."""
    return EdgeAndWriterScores(like.new_zeros(layout.n_edges), like.new_zeros(layout.n_writers))


def new_streams(model: CircuitModel, rows: int, length: int) -> Tensor:
    """Uninitialised residual streams ``[n_streams, rows, length, d]``, in the model's dtype and on its device."""
    layout = model.layout
    return torch.empty(layout.n_streams, rows, length, layout.d_model, dtype=model.dtype, device=model.device)


def logits_gradient(
    model: CircuitModel,
    stream: Tensor,
    batch: Batch,
    objective: Objective,
    full_logits: Tensor,
    weights: Sequence[float],
) -> Tensor:
    """The gradient of the weighted loss at the stream before the logits.

    Args:
        model: the frozen model.
        stream: ``[steps * B, T, d]``, what the logits read.
        batch: B prompts.
        objective: ``(logits, batch, full_logits) -> loss [B]``.
        full_logits: ``[B, V]``, of the full model on the clean prompts.
        weights: of the steps.

    Returns:
        float32 (float64 for a model in float64), of the shape of ``stream``.

    Raises:
        ValueError: the objective does not give one number per prompt.
    """
    row = torch.arange(len(stream), device=stream.device)
    positions = batch["positions"].repeat(len(weights))
    read = stream[row, positions].requires_grad_()
    all_logits = model.rules.recorded(f"the output of this {type(model.model).__name__}", model.unembed, read)
    with torch.enable_grad():
        loss = stream.new_zeros((), dtype=torch.promote_types(stream.dtype, torch.float32))
        for weight, logits in zip(weights, all_logits.chunk(len(weights)), strict=True):
            loss = loss + weight * losses(objective, logits, batch, full_logits).sum(dtype=loss.dtype)
        (dread,) = torch.autograd.grad(loss, read)
    gradient = torch.zeros_like(stream, dtype=loss.dtype)
    gradient[row, positions] = dread.to(loss.dtype)
    return gradient


def descend(
    model: CircuitModel,
    streams: Tensor,
    gradient: Tensor,
    difference: Differences,
    context: Context,
    scores: EdgeAndWriterScores,
    stages: Sequence[Sequence[Component]],
    only: slice = ALL,
) -> None:
    """Take the gradient down through some stages, and add to the scores what their readers are worth.

    Args:
        model: the frozen model.
        streams: ``[n_streams, steps * B, T, d]``, what the readers see.
        gradient: ``[steps * B, T, d]``, at the stream above the stages; overwritten with that at the stream below.
        difference: of all writers.
        context: of all ``steps * B`` prompts.
        scores: added to.
        stages: of attentions and MLPs, such as follow each other in `Layout.stages`, the lowest first.
        only: which writers the readers are scored against. If not all of them, writers get no scores.
    """
    for stage in reversed(stages):
        # None of a stage reads another: they all have the gradient above it.
        through = [
            through_one(model, streams, gradient, difference, context, scores, component, only) for component in stage
        ]
        for dx in through:
            gradient += dx


def through_one(
    model: CircuitModel,
    streams: Tensor,
    gradient: Tensor,
    difference: Differences,
    context: Context,
    scores: EdgeAndWriterScores,
    component: Component,
    only: slice = ALL,
) -> Tensor:
    """What a component hands down of the gradient above it: ``[steps * B, T, d]``, at the stream that it reads.

    Adds to the scores what its readers are worth. ``gradient``: at the stream that it writes into, left as it is; the
    other arguments are those of `descend`.
    """
    if only == ALL:
        score_writers(component, gradient, difference, scores)
    stream, dout = streams[component.stream], gradient.to(streams.dtype)
    if component.kind == "mlp":
        dx = mlp_gradient(model, component.layer, stream, dout)
        dreaders = over_steps(dx, len(gradient) // difference.places.shape[0])[None]
    else:
        shape = model.layout.n_attention_readers, *difference.places.shape, model.layout.d_model
        dreaders = difference.values.new_empty(shape)
        dx = attention_gradients(model, component.layer, stream, dout, context, out=dreaders)
    score_readers(model.layout, component, dreaders, difference, scores, only)
    return dx


def score_readers(
    layout: Layout,
    component: Component,
    dreaders: Tensor,
    difference: Differences,
    scores: EdgeAndWriterScores,
    only: slice = ALL,
) -> None:
    """Add to the scores of the edges into a component, ``dreaders`` ``[its readers, B, T, d]`` being their gradients.

    ``difference``, ``scores``, ``only``: as in `descend`.
    """
    edges, places = layout.into(layout.each_span(scores.edges), component), difference.places
    before, taken = difference.values[: component.n_before][only], places.take(dreaders)
    for span, part in enumerate(places.slices):
        edges[span, :, only] += _contract(taken[:, part], before[:, part], places)


def score_writers(component: Component, gradient: Tensor, difference: Differences, scores: EdgeAndWriterScores) -> None:
    """Add to the scores of a component's writers.

    ``gradient``: ``[steps * B, T, d]``, at the stream that they write into; the others are as in `descend`.
    """
    places, own = difference.places, difference.values[component.writers]
    taken = places.take(over_steps(gradient, len(gradient) // places.shape[0])[None])
    scores.writers[component.writers] += _contract(taken, own, places)[0]


def over_steps(gradient: Tensor, steps: int) -> Tensor:
    """``[steps * B, ...]`` to ``[B, ...]``."""
    return gradient.view(steps, -1, *gradient.shape[1:]).sum(0)


def _contract(gradients: Tensor, differences: Tensor, places: Places) -> Tensor:
    """``[readers, N, d]`` and ``[n, N, d]`` to ``[readers, n]``: summed over tokens and dimensions.

    Sums have float32 or better. Gradients are exactly 0 at padding, so that it does not count.
    """
    if differences.is_cuda and torch.finfo(differences.dtype).bits < 32:
        wide = torch.mm(differences.flatten(1), gradients.to(differences.dtype).flatten(1).mT, out_dtype=torch.float32)
        return wide.mT
    if torch.finfo(differences.dtype).bits < 32:  # a prompt at a time: the whole stack widened would be two more
        n_tokens = places.shape[1]
        prompts = zip(gradients.split(n_tokens, 1), differences.split(n_tokens, 1), strict=True)
        return torch.stack([_contract(g.float(), d.float(), places) for g, d in prompts]).sum(0)
    # this way round it is twice as fast on a CPU
    return (differences.flatten(1) @ gradients.to(differences.dtype).flatten(1).mT).mT
