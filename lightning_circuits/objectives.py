"""What a circuit is asked to do, as numbers per prompt.

The functions measure; the classes are training objectives, callables ``(logits, batch, full_logits) -> loss [B]``
where smaller is better and ``full_logits`` are the full model's on the clean prompt. `KL` asks a circuit to say what
the model says, which is what faithfulness means. `LogitDifference` asks for the right answer, and is happiest with a
circuit that answers more surely than the model does: it overshoots.

    >>> logits = torch.tensor([[2.0, 0.5, 0.0]])
    >>> logit_difference(logits, answers=torch.tensor([[0]]), distractors=torch.tensor([[1]]))
    tensor([1.5000])
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor

from lightning_circuits.arguments import require_choice, require_numbers
from lightning_circuits.batch import Batch
from lightning_circuits.registry import Registry

Reduction = Literal["sum", "mean"]


class Objective:
    """What training minimises: ``(logits [B, V], batch, full_logits [B, V]) -> loss [B]``.

    A class rather than a signature, so that configs name objectives of one's own by class, like everything else.
    """

    def __call__(self, logits: Tensor, batch: Batch, full_logits: Tensor) -> Tensor:
        raise NotImplementedError(f"{type(self).__name__} does not say what its loss is")


OBJECTIVES = Registry("objective", Objective, accepts=callable)
"""By name; any function of the same arguments will do as an objective too."""
AnyObjective: TypeAlias = Objective | Callable[..., Any] | str
"""What `OBJECTIVES.make` takes."""


def losses(objective: Objective, logits: Tensor, batch: Batch, full_logits: Tensor) -> Tensor:
    """What an objective says of each prompt, ``[B]``.

    Raises:
        ValueError: it says something else than one number for each prompt, or nothing that can be differentiated.
    """
    loss = objective(logits, batch, full_logits)
    name = getattr(objective, "__name__", type(objective).__name__)
    if not isinstance(loss, Tensor) or loss.shape != logits.shape[:1]:
        got = f"a tensor of shape {tuple(loss.shape)}" if isinstance(loss, Tensor) else repr(loss)
        raise ValueError(
            f"the objective {name} has to give one loss for each of the {len(logits)} prompts of the batch, a tensor "
            f"[{len(logits)}], and gave {got}: leave out its mean or sum over prompts"
        )
    if logits.requires_grad and not loss.requires_grad:
        raise ValueError(f"the objective {name} cannot be differentiated: its loss has no gradient to the logits")
    return loss


def logit_difference(logits: Tensor, answers: Tensor, distractors: Tensor) -> Tensor:
    """Mean logit of the answers minus mean logit of the distractors, ``[B]``.

    Args:
        logits: ``[B, V]``.
        answers: token ids ``[B, K]``, padded with -100.
        distractors: the same. A row without any counts as 0, so the difference is the answers' mean.
    """
    return _mean_logit(logits, answers) - _mean_logit(logits, distractors)


def kl_divergence(logits: Tensor, full_logits: Tensor) -> Tensor:
    """KL(full model || circuit) in nats, summed over the vocabulary: ``[B, V]`` twice to ``[B]``."""
    log_p, log_q = _log_softmax(full_logits), _log_softmax(logits)
    return (log_p.exp() * (log_p - log_q)).sum(-1)


def correct(logits: Tensor, answers: Tensor, distractors: Tensor) -> Tensor:
    """bool ``[B]``: the best answer stands above the best distractor.

    Where a prompt has no distractors, its answer must be the first of the whole vocabulary.
    """
    best = _logits_at(logits, answers, float("-inf")).amax(-1)
    rival = _logits_at(logits, distractors, float("-inf")).amax(-1)
    return torch.where((distractors >= 0).any(-1), best > rival, best == logits.amax(-1))


@OBJECTIVES.register
class KL(Objective):
    """KL divergence from the full model's distribution at the answer position, in nats."""

    def __call__(self, logits: Tensor, batch: Batch, full_logits: Tensor) -> Tensor:
        return kl_divergence(logits, full_logits)


@OBJECTIVES.register
class LogitDifference(Objective):
    """Minus the logit difference between answers and distractors."""

    def __call__(self, logits: Tensor, batch: Batch, full_logits: Tensor) -> Tensor:
        return -logit_difference(logits, batch["answers"], batch["distractors"])


@OBJECTIVES.register
class ProbabilityDifference(Objective):
    """Minus the difference in probability between answers and distractors, each a set of tokens.

    The greater-than task asks it of the years above and below the one in the prompt (Hanna et al. 2023).

    Args:
        reduction: of a set's probabilities: their ``sum``, or their ``mean``.

    Raises:
        ValueError: another reduction.
    """

    def __init__(self, reduction: Reduction = "sum") -> None:
        require_choice("reduction", reduction, Reduction)
        self.reduction = reduction

    def __call__(self, logits: Tensor, batch: Batch, full_logits: Tensor) -> Tensor:
        probabilities = _log_softmax(logits).exp()
        return self._of(probabilities, batch["distractors"]) - self._of(probabilities, batch["answers"])

    def _of(self, probabilities: Tensor, tokens: Tensor) -> Tensor:
        total = _logits_at(probabilities, tokens, 0.0).sum(-1)
        return total / (tokens >= 0).sum(-1).clamp(min=1) if self.reduction == "mean" else total


@OBJECTIVES.register
class MatchLogitDifference(Objective):
    """KL, and with a weight how far the logit difference is from the full model's: ``KL + weight * |ld - ld_full|``.

    KL alone hardly sees the distractors where they are improbable, and leaves faithfulness, which is measured by the
    logit difference, to chance. Asking for the full model's difference, not for a large one, does not overshoot.

    Args:
        weight: nats per logit.

    Raises:
        ValueError: a negative weight.
        TypeError: a weight that is not a number.
    """

    def __init__(self, weight: float = 0.1) -> None:
        require_numbers(weight=weight)
        if not 0 <= weight < math.inf:
            raise ValueError(f"the weight of the logit difference must not be negative or infinite, got {weight}")
        self.weight = weight

    def __call__(self, logits: Tensor, batch: Batch, full_logits: Tensor) -> Tensor:
        here, full = (logit_difference(each, batch["answers"], batch["distractors"]) for each in (logits, full_logits))
        return kl_divergence(logits, full_logits) + self.weight * (here - full).abs()


@OBJECTIVES.register
class CrossEntropy(Objective):
    """Minus the log of the probability of the answers, taken together, in nats."""

    def __call__(self, logits: Tensor, batch: Batch, full_logits: Tensor) -> Tensor:
        return -_logits_at(_log_softmax(logits), batch["answers"], float("-inf")).logsumexp(-1)


def _log_softmax(logits: Tensor) -> Tensor:
    return logits.to(torch.promote_types(logits.dtype, torch.float32)).log_softmax(-1)


def _logits_at(logits: Tensor, tokens: Tensor, padding: float) -> Tensor:
    """``[B, K]``: the logits of some tokens, ``padding`` where the token is -100."""
    return logits.gather(-1, tokens.clamp(min=0)).masked_fill(tokens < 0, padding)


def _mean_logit(logits: Tensor, tokens: Tensor) -> Tensor:
    wide = logits.to(torch.promote_types(logits.dtype, torch.float32))
    return _logits_at(wide, tokens, 0.0).sum(-1) / (tokens >= 0).sum(-1).clamp(min=1)
