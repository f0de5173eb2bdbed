"""Attribution: what every edge is worth, predicted from gradients instead of measured by cutting it.

Cutting the edge w -> r changes what r reads by ``ref_w - out_w``. To first order the loss then rises by

    score(w -> r) = sum over tokens of <ref_w - out_w, dL/dx_r>,

L the loss of one prompt (minus the logit difference, say). That is EAP (Syed et al. 2023), and exactly -dL/dM of the
masked computation at M = 1. A positive edge helps: without it the loss is predicted to rise. Integrated gradients
(EAP-IG, Hanna et al. 2024) take dL/dx_r as an average over inputs between the reference and the clean prompt.

With all gates open every reader of a layer sees the same stream. So the forward is the stock model's, which leaves
behind two things: the differences ``ref - out`` of all writers, and the 2 L + 1 residual streams that readers see. Then
one descent: layer by layer from the top, recompute that layer alone, take the gradients of its readers, contract them
with the differences. All steps of an integral go down together as one large batch, and are added up before anything
wide is done with them.

    >>> edges, writers = attribute(model, batch, LogitDifference(), ABLATIONS.make("interchange"))   # doctest: +SKIP
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from lightning_circuits.ablation import Ablation
from lightning_circuits.batch import Batch, copied
from lightning_circuits.models import CircuitModel, Context
from lightning_circuits.models.open_attention import attention_gradients, attention_output, mlp_gradient
from lightning_circuits.objectives import Objective, losses


class Point(NamedTuple):
    """A step of an integral: how far it is from the reference (0) to the clean prompt (1), and its weight."""

    at: float
    weight: float


CLEAN = (Point(1.0, 1.0),)
"""No integral: gradients on the clean prompt alone."""


def _left(steps: int) -> Sequence[tuple[float, float]]:
    return [(k / steps, 1 / steps) for k in range(steps)]


def _midpoint(steps: int) -> Sequence[tuple[float, float]]:
    return [((k + 0.5) / steps, 1 / steps) for k in range(steps)]


def _gauss_legendre(steps: int) -> Sequence[tuple[float, float]]:
    nodes, weights = np.polynomial.legendre.leggauss(steps)  # on [-1, 1]
    return list(zip(((1 + nodes) / 2).tolist(), (weights / 2).tolist(), strict=True))


RULES = {"left": _left, "midpoint": _midpoint, "gauss-legendre": _gauss_legendre}


def integral(rule: str, steps: int) -> list[Point]:
    """The points of an integral from the reference to the clean prompt, by the name of a rule.

    Raises:
        ValueError: less than one step; an unknown rule.
    """
    if steps < 1:
        raise ValueError(f"an integral takes at least 1 step, got {steps}")
    if rule not in RULES:
        raise ValueError(f"unknown rule {rule!r}; choose one of {', '.join(RULES)}")
    return [Point(at, weight) for at, weight in RULES[rule](steps)]


class Scores(NamedTuple):
    """Sums over the prompts of a batch, float32 (float64 for a model in float64).

    ``edges``: ``[n_edges]``. ``writers``: ``[n_writers]``, each writer's difference against the gradient at its own
    output: what all edges out of it are worth together.
    """

    edges: Tensor
    writers: Tensor


def attribute(
    model: CircuitModel, batch: Batch, objective: Objective, ablation: Ablation, points: Sequence[Point] = CLEAN
) -> Scores:
    """Scores of all edges and writers, from gradients on inputs between the reference and the clean prompt.

    Between the two it is the token embedding that moves, on a straight line; learned positions stay as they are.

    Args:
        model: the frozen model.
        batch: as every data module yields it.
        objective: ``(logits, batch, full_logits) -> loss [B]``.
        ablation: what a cut edge carries.
        points: where gradients are taken.

    Raises:
        ValueError: an objective that does not give one number per prompt.
    """
    # In Lightning's inference mode nothing can be differentiated, and tensors made there cannot be saved for it.
    with torch.inference_mode(False), torch.no_grad():
        batch = copied(batch)
        ids, mask, positions = batch["clean_ids"], batch["attention_mask"], batch["positions"]
        # The ends of the line are runs that are made anyhow; the points between are one more.
        ends = (0.0, 1.0) if ablation.starts_at_corrupt else (1.0,)
        points = sorted(points, key=lambda point: point.at not in ends)
        streams = new_streams(model, len(points) * len(ids), ids.shape[1])
        steps = dict(zip([point.at for point in points], streams.split(len(ids), dim=1), strict=True))

        corrupt = model.new_stack(ids.shape)
        at_start = steps.get(0.0) if 0.0 in ends else None
        model.run(batch["corrupt_ids"], mask, positions, writers=corrupt, streams=at_start)
        difference = ablation.reference(batch, corrupt)
        del corrupt
        start = difference[0].clone()
        full_logits = model.run(ids, mask, positions, writers=difference, subtract=True, streams=steps.get(1.0))
        if between := [at for at in steps if at not in ends]:
            model.run(
                torch.cat([start - at * difference[0] for at in between]),
                mask.repeat(len(between), 1),
                positions.repeat(len(between)),
                streams=streams[:, -len(between) * len(ids) :],
            )

        context = model.context(mask.repeat(len(points), 1))
        weights = [point.weight for point in points]
        gradient = logits_gradient(model, streams[-1], batch, objective, full_logits, weights)
        scores = no_scores(model, gradient)
        score_readers(model, 2 * model.layout.n_layers, over_steps(gradient, len(points))[None], difference, scores)
        descend(model, streams, gradient, difference, context, scores, range(2 * model.layout.n_layers))
        score_writers(model, -1, gradient, difference, scores)
        return scores


def attribute_activations(
    model: CircuitModel, batch: Batch, objective: Objective, ablation: Ablation, steps: int, pooled: bool
) -> Scores:
    """Scores from runs in which one component's output is moved between the reference and the clean prompt.

    Components are the embedding, all heads of a layer together, and each MLP; the others compute as ever. In its
    ``steps`` runs a component puts out ``clean + (1 - k / steps) (reference - clean)``, k = 1 .. steps.

    Args:
        steps: runs of a component.
        pooled: True: every edge's gradient is the mean over the runs of all components. False: over those of its own
            writer's component.

    The other arguments, and what is raised, are those of `attribute`.

    A run differs from the clean one only above its component. So it starts there, and comes back down as far; below,
    one descent on the clean streams takes the gradients of all runs at once.
    """
    with torch.inference_mode(False), torch.no_grad():
        batch = copied(batch)
        ids, mask, positions = batch["clean_ids"], batch["attention_mask"], batch["positions"]
        corrupt = model.new_stack(ids.shape)
        model.run(batch["corrupt_ids"], mask, positions, writers=corrupt)
        difference = ablation.reference(batch, corrupt)
        del corrupt
        clean = new_streams(model, *ids.shape)
        full_logits = model.run(ids, mask, positions, writers=difference, subtract=True, streams=clean)

        streams = new_streams(model, steps * len(ids), ids.shape[1])
        context, contexts = model.context(mask), model.context(mask.repeat(steps, 1))
        top = 2 * model.layout.n_layers
        below = torch.zeros_like(clean[0], dtype=torch.promote_types(model.dtype, torch.float32))
        scores = no_scores(model, below)
        for level in reversed(range(-1, top)):
            own = writers_of(model, level)
            moved = difference[own].sum(0)
            streams[level + 1] = torch.cat([clean[level + 1] + (1 - k / steps) * moved for k in range(1, steps + 1)])
            climb(model, streams, contexts, range(level + 1, top))
            gradient = logits_gradient(model, streams[-1], batch, objective, full_logits, [1.0] * steps)
            only = slice(None) if pooled else own
            score_readers(model, top, over_steps(gradient, steps)[None], difference, scores, only)
            descend(model, streams, gradient, difference, contexts, scores, range(level + 1, top), only)
            score_writers(model, level, gradient, difference, scores)
            if pooled:
                # To the runs of components above, this one is clean; in its own, what it puts out is fixed.
                if level >= 0:
                    descend(model, clean, below, difference, context, scores, range(level, level + 1))
                else:
                    score_writers(model, level, below, difference, scores)
                below += over_steps(gradient, steps)
        runs = steps * (top + 1) if pooled else steps
        return Scores(scores.edges / runs, scores.writers / runs)


def no_scores(model: CircuitModel, like: Tensor) -> Scores:
    """Zeros, of the dtype and on the device of ``like``."""
    return Scores(like.new_zeros(model.layout.n_edges), like.new_zeros(model.layout.n_writers))


def climb(model: CircuitModel, streams: Tensor, context: Context, levels: range) -> None:
    """The stock model from one stream up, in place: component c reads ``streams[c]`` and makes ``streams[c + 1]``."""
    for level in levels:
        layer, is_mlp = divmod(level, 2)
        stream = streams[level]
        written = model.mlp(layer, stream) if is_mlp else attention_output(model, layer, stream, context)
        torch.add(stream, written, out=streams[level + 1])


def new_streams(model: CircuitModel, rows: int, length: int) -> Tensor:
    """Uninitialised residual streams ``[2 * n_layers + 1, rows, length, d]``, one before every reader."""
    layout = model.layout
    return torch.empty(2 * layout.n_layers + 1, rows, length, layout.d_model, dtype=model.dtype, device=model.device)


def logits_gradient(
    model: CircuitModel,
    stream: Tensor,
    batch: Batch,
    objective: Objective,
    full_logits: Tensor,
    weights: Sequence[float],
) -> Tensor:
    """The gradient of the weighted loss at the stream before the logits, ``[steps * B, T, d]`` like the stream itself.

    ``weights``: of the steps.
    """
    row = torch.arange(len(stream), device=stream.device)
    positions = batch["positions"].repeat(len(weights))
    with torch.enable_grad():
        read = stream[row, positions].requires_grad_()
        loss = stream.new_zeros((), dtype=torch.promote_types(stream.dtype, torch.float32))
        for weight, logits in zip(weights, model.unembed(read).chunk(len(weights)), strict=True):
            loss = loss + weight * losses(objective, logits, batch, full_logits).sum(dtype=loss.dtype)
        (dread,) = torch.autograd.grad(loss, read)
    gradient = torch.zeros_like(stream, dtype=loss.dtype)
    gradient[row, positions] = dread.to(loss.dtype)
    return gradient


def descend(
    model: CircuitModel,
    streams: Tensor,
    gradient: Tensor,
    difference: Tensor,
    context: Context,
    scores: Scores,
    levels: range,
    only: slice = slice(None),
) -> None:
    """Take the gradient down through some components, and add to the scores what their readers are worth.

    Component 2 l is the attention of layer l, 2 l + 1 its MLP; component c reads stream c and writes into c + 1.

    Args:
        model: the frozen model.
        streams: ``[2 * n_layers + 1, steps * B, T, d]``, what the readers see.
        gradient: ``[steps * B, T, d]``, at the stream above the components; overwritten with that at the stream below.
        difference: ``[n_writers, B, T, d]``, reference minus output.
        context: of all ``steps * B`` prompts.
        scores: added to.
        levels: the components.
        only: which writers the readers are scored against. If not all of them, writers get no scores.
    """
    steps = len(gradient) // difference.shape[1]
    for level in reversed(levels):
        layer, is_mlp = divmod(level, 2)
        if only == slice(None):
            score_writers(model, level, gradient, difference, scores)
        dout = gradient.to(streams.dtype)
        if is_mlp:
            dx = mlp_gradient(model, layer, streams[level], dout)
            dreaders = over_steps(dx, steps)[None]
        else:
            dreaders = difference.new_empty(model.layout.n_attention_readers, *difference.shape[1:])
            dx = attention_gradients(model, layer, streams[level], dout, context, out=dreaders)
        gradient += dx
        score_readers(model, level, dreaders, difference, scores, only)


def score_readers(
    model: CircuitModel, level: int, dreaders: Tensor, difference: Tensor, scores: Scores, only: slice = slice(None)
) -> None:
    """Add to the scores of the edges into a component (or the logits), its readers' gradients being known."""
    layout, (layer, is_mlp) = model.layout, divmod(level, 2)
    if layer == layout.n_layers:
        edges = layout.logits(scores.edges)[None]
    elif is_mlp:
        reader = (layer + 1) * (layout.n_attention_readers + 1) - 1
        edges = scores.edges[layout.reader_offset[reader] : layout.reader_offset[reader + 1]][None]
    else:
        edges = layout.layer(scores.edges, layer).shared[:-1]
    edges[:, only] += contract(dreaders, difference[: edges.shape[1]][only])


def score_writers(model: CircuitModel, level: int, gradient: Tensor, difference: Tensor, scores: Scores) -> None:
    """Add to the scores of a component's writers, ``gradient`` standing at the stream that they write into."""
    own = writers_of(model, level)
    steps = len(gradient) // difference.shape[1]
    scores.writers[own] += contract(over_steps(gradient, steps)[None], difference[own])[0]


def writers_of(model: CircuitModel, level: int) -> slice:
    """The writers of a component; of -1, the embedding."""
    if level < 0:
        return slice(0, 1)
    heads, mlp = model.layout.own_writers(level // 2)
    return slice(mlp, mlp + 1) if level % 2 else heads


def over_steps(gradient: Tensor, steps: int) -> Tensor:
    """``[steps * B, ...]`` to ``[B, ...]``."""
    return gradient.view(steps, -1, *gradient.shape[1:]).sum(0)


def contract(gradients: Tensor, differences: Tensor) -> Tensor:
    """``[readers, B, T, d]`` and ``[n, B, T, d]`` to ``[readers, n]``: summed over prompts, tokens, dimensions.

    Sums have float32 or better. Gradients are exactly 0 at padding, so that it does not count.
    """
    if torch.finfo(differences.dtype).bits < 32:  # a prompt at a time: the whole stack widened would be two more
        prompts = zip(gradients.unbind(1), differences.unbind(1), strict=True)
        return torch.stack([contract(g[:, None].float(), d[:, None].float()) for g, d in prompts]).sum(0)
    # this way round it is twice as fast on a CPU
    return (differences.flatten(1) @ gradients.to(differences.dtype).flatten(1).mT).mT


@torch.no_grad()
def information_flow(model: CircuitModel, batch: Batch) -> Tensor:
    """L1 proximity of writers to what readers read: ``[n_edges]``, means over a prompt's tokens, summed over prompts.

    At every token a reader's importances sum to 1 over its writers, unless none is near. Readers of one layer's
    attention see the same stream and the same writers, and get the same scores.

    Args:
        model: the frozen model.
        batch: its ``clean_ids``, ``attention_mask`` and ``positions``.
    """
    layout, mask = model.layout, batch["attention_mask"]
    writers, streams = model.new_stack(mask.shape), new_streams(model, *mask.shape)
    model.run(batch["clean_ids"], mask, batch["positions"], writers=writers, streams=streams)
    wide = torch.promote_types(model.dtype, torch.float32)
    share = mask.to(wide) / mask.sum(-1, keepdim=True)  # of a token in the mean over its prompt; padding has none

    def importance(stream: Tensor, n: int) -> Tensor:
        size = torch.linalg.vector_norm(stream, 1, dim=-1, dtype=wide)
        # A writer at a time: all of them against the stream at once would be another stack.
        distance = torch.stack([torch.linalg.vector_norm(out - stream, 1, dim=-1, dtype=wide) for out in writers[:n]])
        proximity = (size - distance).clamp(min=0)
        total = proximity.sum(0)
        return (proximity / total.where(total > 0, 1.0) * share).sum((1, 2))

    edges = torch.empty(layout.n_edges, dtype=wide, device=model.device)
    for layer in range(layout.n_layers):
        of, n = layout.layer(edges, layer), layout.writers_before(layer)
        of.shared[:-1] = importance(streams[2 * layer], n)
        of_mlp = importance(streams[2 * layer + 1], n + layout.n_heads)
        of.shared[-1], of.own[:] = of_mlp[:n], of_mlp[n:]
    layout.logits(edges).copy_(importance(streams[-1], layout.n_writers))
    return edges
