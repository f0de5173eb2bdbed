"""What training minimises, as a loss per prompt.

Objectives are callables ``(logits, batch, full_logits) -> loss [n_prompts]`` where smaller is better, and
``full_logits`` are the full model's on the clean prompt. Most are a measure (`measures`) made large, or KL made small,
and go by the measure's name too: ``objective="probability_difference"`` and ``measure="probability_difference"`` are
one function.

`KL` asks a circuit to say what the model says, which is what faithfulness means. `LogitDifference` asks for the right
answer, and is happiest with a circuit that answers more surely than the model does: it overshoots.

    >>> import torch
    >>> logits = torch.tensor([[2.0, 0.5, 0.0]])
    >>> batch = {"answers": torch.tensor([[0]]), "distractors": torch.tensor([[1]])}
    >>> OBJECTIVES.make("logit_difference")(logits, batch, logits)
    tensor([-1.5000])
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, TypeAlias

from torch import Tensor
from torch.nn.functional import logsigmoid

from lightning_circuits.arguments import called, require_choice, require_numbers
from lightning_circuits.batch import Batch
from lightning_circuits.measures import (
    MEASURES,
    AnyMeasure,
    Reduction,
    expected_shape,
    kl,
    logit_difference,
    margin,
    negative_log_likelihood,
    one_for_each_prompt,
    probability_difference,
    values,
)
from lightning_circuits.registry import Registry


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
    """What an objective says of each prompt, ``[n_prompts]``.

    Raises:
        ValueError: it says something else than one number for each prompt, or nothing that can be differentiated.
    """
    loss = objective(logits, batch, full_logits)
    name = called(objective)
    if not isinstance(loss, Tensor) or loss.shape != expected_shape(logits, batch):
        got = f"a tensor of shape {tuple(loss.shape)}" if isinstance(loss, Tensor) else repr(loss)
        raise ValueError(f"the objective {name} {one_for_each_prompt(logits, batch)}, and gave {got}")
    if logits.requires_grad and not loss.requires_grad:
        raise ValueError(f"the objective {name} cannot be differentiated: its loss has no gradient to the logits")
    return loss


def _require_weight(weight: float, of: str) -> float:
    """A weight that KL has something added with, as it is.

    Raises:
        ValueError: it is negative, or infinite.
        TypeError: it is no number.
    """
    require_numbers(weight=weight)
    if not 0 <= weight < math.inf:
        raise ValueError(f"the weight of {of} must not be negative or infinite, got {weight}")
    return weight


class Maximise(Objective):
    """Minus a measure: what has a measure of your own trained for, and attributed.

    Args:
        measure: a function ``(logits, batch, full_logits) -> [B]`` that should become large, or its name.

    Raises:
        ValueError: an unknown name; from the call, a measure that does not give one number per prompt.
        TypeError: something else.
    """

    def __init__(self, measure: AnyMeasure) -> None:
        self.measure = MEASURES.make(measure, "measure")

    def __call__(self, logits: Tensor, batch: Batch, full_logits: Tensor) -> Tensor:
        return -values(self.measure, logits, batch, full_logits)


@OBJECTIVES.register
class KL(Objective):
    """KL divergence from the full model's distribution at the answer position, in nats."""

    def __call__(self, logits: Tensor, batch: Batch, full_logits: Tensor) -> Tensor:
        return kl(logits, batch, full_logits)


@OBJECTIVES.register
class LogitDifference(Objective):
    """Minus the logit difference between answers and distractors."""

    def __call__(self, logits: Tensor, batch: Batch, full_logits: Tensor) -> Tensor:
        return -logit_difference(logits, batch, full_logits)


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
        return -probability_difference(logits, batch, full_logits, self.reduction)


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
        self.weight = _require_weight(weight, "the logit difference")

    def __call__(self, logits: Tensor, batch: Batch, full_logits: Tensor) -> Tensor:
        here, full = (logit_difference(each, batch, full_logits) for each in (logits, full_logits))
        return kl(logits, batch, full_logits) + self.weight * (here - full).abs()


@OBJECTIVES.register
class MatchDecision(Objective):
    """KL, and with a weight how far the decision is from the full model's: whether answer or distractor is said.

    A decision is the probability of the best answer where it and the best distractor are all there is, the sigmoid of
    how far one stands above the other. What is added is the KL divergence of the full model's from the circuit's, in
    nats. It is largest where the model is sure and the circuit says the opposite, right or wrong: so a circuit learns
    the model's errors too, which KL over the vocabulary hardly sees where both candidates are improbable. Of a prompt
    without distractors it is KL alone.

    Args:
        weight: of the decision.

    Raises:
        ValueError: a negative weight.
        TypeError: a weight that is not a number.
    """

    def __init__(self, weight: float = 1.0) -> None:
        self.weight = _require_weight(weight, "the decision")

    def __call__(self, logits: Tensor, batch: Batch, full_logits: Tensor) -> Tensor:
        here, full = (margin(each, batch) for each in (logits, full_logits))
        both = full.isfinite()  # a prompt without a rival decides nothing
        here, full = here.masked_fill(~both, 0.0), full.masked_fill(~both, 0.0)
        decided = full.sigmoid()
        decision = decided * (logsigmoid(full) - logsigmoid(here)) + (1 - decided) * (
            logsigmoid(-full) - logsigmoid(-here)
        )
        return kl(logits, batch, full_logits) + self.weight * decision


@OBJECTIVES.register
class CrossEntropy(Objective):
    """Minus the log of the probability of the answers, taken together, in nats."""

    def __call__(self, logits: Tensor, batch: Batch, full_logits: Tensor) -> Tensor:
        return negative_log_likelihood(logits, batch["answers"], batch)
