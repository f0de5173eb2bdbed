"""What is measured of a model's answer, as a number per prompt.

A *measure* is a function ``(logits [B, V], batch, full_logits [B, V]) -> [B]``, where ``full_logits`` are the full
model's on the clean prompt. Its mean over prompts is the F or m of the papers: what faithfulness is a share of, what
objectives make large (`objectives`) and so what attribution attributes. Each has a name, which every number comes with:

| name                     | of a prompt                                               | of the full model |
|--------------------------|-----------------------------------------------------------|-------------------|
| `logit_difference`       | mean logit of the answers minus that of the distractors   | F(M)              |
| `probability_difference` | probability of all answers minus that of all distractors  | F(M)              |
| `kl`                     | KL divergence from the full model, in nats; low is good   | 0                 |

A function of your own will do wherever a name does; registered (`@MEASURES.register`), its name does, too.

    >>> logits = torch.tensor([[2.0, 0.5, 0.0]])
    >>> batch = {"answers": torch.tensor([[0]]), "distractors": torch.tensor([[1]])}
    >>> logit_difference(logits, batch), probability_difference(logits, batch)
    (tensor([1.5000]), tensor([0.5719]))
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, Protocol, TypeAlias, runtime_checkable

import torch
from torch import Tensor

from lightning_circuits.batch import Batch
from lightning_circuits.registry import Registry

Reduction = Literal["sum", "mean"]


@runtime_checkable
class Measure(Protocol):
    """``(logits [B, V], batch, full_logits [B, V]) -> [B]``, in a dtype of floating-point numbers."""

    def __call__(self, logits: Tensor, batch: Batch, full_logits: Tensor, /) -> Tensor: ...


MEASURES: Registry[Measure] = Registry("measure", Measure, accepts=callable)  # type: ignore[type-abstract]
"""By name; any function of the same arguments will do as a measure too."""
AnyMeasure: TypeAlias = str | Callable[..., Any]
"""What `MEASURES.make` takes. The text comes first: a command line that took it for a function could not save it."""
DEFAULT = "logit_difference"
"""What is measured where nobody says what, and was in files that do not say it."""


@MEASURES.register
def logit_difference(logits: Tensor, batch: Batch, full_logits: Tensor | None = None) -> Tensor:
    """Mean logit of the answers minus mean logit of the distractors, ``[B]``.

    Args:
        logits: ``[B, V]``.
        batch: of which ``answers`` and ``distractors`` are asked for, token ids ``[B, K]`` padded with -100. A row
            without distractors counts them as 0, so the difference is the answers' mean.
        full_logits: not asked for.
    """
    return _mean_logit(logits, batch["answers"]) - _mean_logit(logits, batch["distractors"])


@MEASURES.register
def probability_difference(
    logits: Tensor, batch: Batch, full_logits: Tensor | None = None, reduction: Reduction = "sum"
) -> Tensor:
    """The probability of the answers minus that of the distractors, each a set of tokens, ``[B]`` in -1 to 1.

    The greater-than task asks it of the years above and below the one in the prompt (Hanna et al. 2023).

    Args:
        logits: ``[B, V]``.
        batch: of which ``answers`` and ``distractors`` are asked for, token ids ``[B, K]`` padded with -100.
        full_logits: not asked for.
        reduction: of a set's probabilities: their ``sum``, or their ``mean``.
    """
    probabilities = log_softmax(logits).exp()

    def of(tokens: Tensor) -> Tensor:
        total = logits_at(probabilities, tokens, 0.0).sum(-1)
        return total / (tokens >= 0).sum(-1).clamp(min=1) if reduction == "mean" else total

    return of(batch["answers"]) - of(batch["distractors"])


@MEASURES.register
def kl(logits: Tensor, batch: Batch, full_logits: Tensor) -> Tensor:
    """KL(full model || circuit) in nats, ``[B]``: `kl_divergence` as a measure, 0 for the full model.

    So f = 1 - KL(circuit) / KL(empty). Attribution at the clean prompt finds no gradient in it: there it is smallest.
    """
    return kl_divergence(logits, full_logits)


def kl_divergence(logits: Tensor, full_logits: Tensor) -> Tensor:
    """KL(full model || circuit) in nats, summed over the vocabulary: ``[B, V]`` twice to ``[B]``."""
    log_p, log_q = log_softmax(full_logits), log_softmax(logits)
    return (log_p.exp() * (log_p - log_q)).sum(-1)


def correct(logits: Tensor, answers: Tensor, distractors: Tensor) -> Tensor:
    """bool ``[B]``: the best answer stands above the best distractor.

    Where a prompt has no distractors, its answer must be the first of the whole vocabulary.
    """
    best = logits_at(logits, answers, float("-inf")).amax(-1)
    rival = logits_at(logits, distractors, float("-inf")).amax(-1)
    return torch.where((distractors >= 0).any(-1), best > rival, best == logits.amax(-1))


# ---- whose -----------------------------------------------------------------------------------------------------------


def measure_name(measure: Measure) -> str:
    """What a measure is called in files: its ``__name__``.

    Raises:
        ValueError: it has none (a `partial`, an object), or no word (a lambda), so that files could not tell it apart.
    """
    name = getattr(measure, "__name__", None)
    if not isinstance(name, str) or not name.isidentifier():
        raise ValueError(
            f"a measure is named in every file, and {measure!r} has no name: write it with def, or give it a __name__"
        )
    return name


def by_measure(what: str, name: str, joint: str = " by ") -> str:
    """``what``, and by which measure where that is not the `DEFAULT`: ``f``, or ``f by kl``."""
    return what if name == DEFAULT else f"{what}{joint}{name}"


def values(measure: Measure, logits: Tensor, batch: Batch, full_logits: Tensor) -> Tensor:
    """What a measure says of each prompt, ``[B]``.

    Raises:
        ValueError: it says something else than one number for each prompt.
    """
    found = measure(logits, batch, full_logits)
    if not isinstance(found, Tensor) or found.shape != logits.shape[:1] or not found.is_floating_point():
        got = f"{found.dtype} {list(found.shape)}" if isinstance(found, Tensor) else repr(found)
        raise ValueError(
            f"the measure {measure_name(measure)} has to give one number for each of the {len(logits)} prompts of the "
            f"batch, a float tensor [{len(logits)}], and gave {got}: leave out its mean or sum over prompts"
        )
    return found


# ---- logits ----------------------------------------------------------------------------------------------------------


def log_softmax(logits: Tensor) -> Tensor:
    """Log-probabilities ``[..., V]`` of logits of the same shape, in float32 at least."""
    return logits.to(torch.promote_types(logits.dtype, torch.float32)).log_softmax(-1)


def logits_at(logits: Tensor, tokens: Tensor, padding: float) -> Tensor:
    """``[B, K]``: the logits of some tokens, ``padding`` where the token is -100."""
    return logits.gather(-1, tokens.clamp(min=0)).masked_fill(tokens < 0, padding)


def _mean_logit(logits: Tensor, tokens: Tensor) -> Tensor:
    wide = logits.to(torch.promote_types(logits.dtype, torch.float32))
    return logits_at(wide, tokens, 0.0).sum(-1) / (tokens >= 0).sum(-1).clamp(min=1)
