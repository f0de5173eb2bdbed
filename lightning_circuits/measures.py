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

**Answers of several tokens** count by their joint log-probability, by teacher forcing: the sum over an answer's tokens
of the log-probability of each behind the prompt and the tokens before it. It takes the place of the logit (of two
single tokens, both have the same difference), and B then counts rows, of which a prompt has several
(`batch.Continuations`): a measure takes the logits of all rows and gives a number for each prompt, and
`candidate_values` does most of it. KL is that of what the two say for as long as they say one of the candidates: the
sum over a prompt's rows of the KL at each, times the probability that the full model comes there.

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

from lightning_circuits.batch import Batch, n_prompts, over_prompts
from lightning_circuits.registry import Registry

Reduction = Literal["sum", "mean"]


@runtime_checkable
class Measure(Protocol):
    """``(logits [B, V], batch, full_logits [B, V]) -> [n_prompts]``, in a dtype of floating-point numbers."""

    def __call__(self, logits: Tensor, batch: Batch, full_logits: Tensor, /) -> Tensor: ...


MEASURES: Registry[Measure] = Registry("measure", Measure, accepts=callable)  # type: ignore[type-abstract]
"""By name; any function of the same arguments will do as a measure too."""
AnyMeasure: TypeAlias = str | Callable[..., Any]
"""What `MEASURES.make` takes. The text comes first: a command line that took it for a function could not save it."""
DEFAULT = "logit_difference"
"""What is measured where nobody says what, and was in files that do not say it."""


@MEASURES.register
def logit_difference(logits: Tensor, batch: Batch, full_logits: Tensor | None = None) -> Tensor:
    """Mean logit of the answers minus mean logit of the distractors, ``[n_prompts]``; of answers of several tokens, the
    same of joint log-probabilities.

    Args:
        logits: ``[B, V]``.
        batch: of which ``answers`` and ``distractors`` are asked for, token ids ``[B, K]`` padded with -100. A row
            without distractors counts them as 0, so the difference is the answers' mean.
        full_logits: not asked for.
    """

    def mean(tokens: Tensor) -> Tensor:
        found, there = candidate_values(logits, tokens, batch)
        return found.sum(-1) / there.sum(-1).clamp(min=1)

    return mean(batch["answers"]) - mean(batch["distractors"])


@MEASURES.register
def probability_difference(
    logits: Tensor, batch: Batch, full_logits: Tensor | None = None, reduction: Reduction = "sum"
) -> Tensor:
    """The probability of the answers minus that of the distractors, each a set, ``[n_prompts]`` in -1 to 1.

    The greater-than task asks it of the years above and below the one in the prompt (Hanna et al. 2023).

    Args:
        logits: ``[B, V]``.
        batch: of which ``answers`` and ``distractors`` are asked for, token ids ``[B, K]`` padded with -100.
        full_logits: not asked for.
        reduction: of a set's probabilities: their ``sum``, or their ``mean``.
    """
    log_probabilities = log_softmax(logits)

    def of(tokens: Tensor) -> Tensor:
        found, there = candidate_values(log_probabilities, tokens, batch)
        total = found.exp().masked_fill(~there, 0.0).sum(-1)
        return total / there.sum(-1).clamp(min=1) if reduction == "mean" else total

    return of(batch["answers"]) - of(batch["distractors"])


@MEASURES.register
def kl(logits: Tensor, batch: Batch, full_logits: Tensor) -> Tensor:
    """KL(full model || circuit) in nats, ``[n_prompts]``: `kl_divergence` as a measure, 0 for the full model.

    So f = 1 - KL(circuit) / KL(empty). Attribution at the clean prompt finds no gradient in it: there it is smallest.
    """
    at_rows = kl_divergence(logits, full_logits)
    if "continues" not in batch:
        return at_rows
    return over_prompts(_reached(full_logits, batch) * at_rows, batch)


def kl_divergence(logits: Tensor, full_logits: Tensor) -> Tensor:
    """KL(full model || circuit) in nats, summed over the vocabulary: ``[B, V]`` twice to ``[B]``."""
    log_p, log_q = log_softmax(full_logits), log_softmax(logits)
    return (log_p.exp() * (log_p - log_q)).sum(-1)


def correct(logits: Tensor, batch: Batch) -> Tensor:
    """bool ``[n_prompts]``: the best answer stands above the best distractor.

    Where a prompt has no distractors, its answer must be the first of the whole vocabulary, token by token.

    Args:
        logits: ``[B, V]``.
        batch: of which ``answers`` and ``distractors`` are asked for, token ids ``[B, K]`` padded with -100.
    """
    is_right, is_wrong = (candidate_values(logits, batch[name], batch)[1] for name in ("answers", "distractors"))
    passed_over = (logits_at(logits, batch["answers"], float("inf")) < logits.amax(-1, keepdim=True)).int()
    said = is_right & (over_prompts(passed_over, batch) == 0)
    return torch.where(is_wrong.any(-1), margin(logits, batch) > 0, said.any(-1))


def margin(logits: Tensor, batch: Batch) -> Tensor:
    """How far the best answer stands above the best distractor, ``[n_prompts]``; infinite where there is none.

    Args:
        logits: ``[B, V]``.
        batch: of which ``answers`` and ``distractors`` are asked for, token ids ``[B, K]`` padded with -100.
    """

    def best(tokens: Tensor) -> Tensor:
        found, there = candidate_values(logits, tokens, batch)
        return found.masked_fill(~there, float("-inf")).amax(-1)

    return best(batch["answers"]) - best(batch["distractors"])


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
    """What a measure says of each prompt, ``[n_prompts]``.

    Raises:
        ValueError: it says something else than one number for each prompt.
    """
    found = measure(logits, batch, full_logits)
    if not isinstance(found, Tensor) or found.shape != expected_shape(logits, batch) or not found.is_floating_point():
        got = f"{found.dtype} {list(found.shape)}" if isinstance(found, Tensor) else repr(found)
        raise ValueError(f"the measure {measure_name(measure)} {one_for_each_prompt(logits, batch)}, and gave {got}")
    return found


def expected_shape(logits: Tensor, batch: Batch) -> tuple[int]:
    """Of a number for each prompt, ``[n_prompts]``, where logits are ``[B, V]``."""
    return (n_prompts(batch),) if "continues" in batch else (len(logits),)


def one_for_each_prompt(logits: Tensor, batch: Batch) -> str:
    """What a measure or objective of logits ``[B, V]`` has to give, and how to mend one that does not, in words."""
    (n,) = expected_shape(logits, batch)
    of_rows = f", whose answers of several tokens are read in {len(logits)} rows: see measures.candidate_values"
    return (
        f"has to give one number for each of the {n} prompts of the batch, a float tensor [{n}] without its mean or "
        f"sum over prompts{of_rows if 'continues' in batch else ''}"
    )


# ---- logits ----------------------------------------------------------------------------------------------------------


def log_softmax(logits: Tensor) -> Tensor:
    """Log-probabilities ``[..., V]`` of logits of the same shape, in float32 at least."""
    return _wide(logits).log_softmax(-1)


def logits_at(logits: Tensor, tokens: Tensor, padding: float) -> Tensor:
    """``[B, K]``: the logits of some tokens, ``padding`` where the token is -100."""
    return logits.gather(-1, tokens.clamp(min=0)).masked_fill(tokens < 0, padding)


def candidate_values(logits: Tensor, tokens: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
    """What answers or distractors come to: the logit of each, or the joint log-probability where a batch has rows that
    continue others.

    Args:
        logits: ``[B, V]``.
        tokens: ``[B, K]``, the batch's ``answers`` or ``distractors``, padded with -100.
        batch: of which ``continues`` is asked for, if it has it.

    Returns:
        float32 at least ``[n_prompts, K]``, 0 where a prompt has no such candidate; and bool of that shape, whether it
        has.
    """
    if "continues" not in batch:
        return logits_at(_wide(logits), tokens, 0.0), tokens >= 0
    there = over_prompts((tokens >= 0).int(), batch) > 0
    return over_prompts(logits_at(log_softmax(logits), tokens, 0.0), batch), there


def negative_log_likelihood(logits: Tensor, tokens: Tensor, batch: Batch) -> Tensor:
    """Minus the log of the probability of some answers or distractors, taken together, in nats, ``[n_prompts]``.

    Args:
        logits: ``[B, V]``.
        tokens: ``[B, K]``, the batch's ``answers`` or ``distractors``, padded with -100.
        batch: as for `candidate_values`.
    """
    found, there = candidate_values(log_softmax(logits), tokens, batch)
    return -found.masked_fill(~there, float("-inf")).logsumexp(-1)


def _reached(logits: Tensor, batch: Batch) -> Tensor:
    """The probability of coming from each row's prompt to the row, ``[B]``; 1 of the prompts themselves."""
    rows = torch.arange(len(logits), device=logits.device)
    before = rows - batch["continues"]
    by = batch["clean_ids"][rows, batch["positions"]]
    total = log_softmax(logits)[before, by].masked_fill(batch["continues"] == 0, 0.0)
    while (before[before] != before).any():  # each time twice as far back
        total, before = total + total[before], before[before]
    return total.exp()


def _wide(logits: Tensor) -> Tensor:
    """In float32 at least."""
    return logits.to(torch.promote_types(logits.dtype, torch.float32))
