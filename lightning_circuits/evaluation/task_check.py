"""Whether a model does a task at all, looked at before anything is searched.

A circuit is one of *what the model does* on the prompts, and a trailing space in each of them makes that another thing:
" Mary" cannot follow a space, so nothing in the table of a search would say that the model answers something else
altogether. Of two names it may still prefer the right one, and accuracy is 1.00. So what is looked at here is the whole
vocabulary: how probable the answers are, how many tokens stand before them, what the model says instead.

    >>> found = check_task(model, data.check_batches(), data.tokenizer, data.pair_counts)              # doctest: +SKIP
    >>> rich.print(check_table(found))                                   # drawing.task_check           # doctest: +SKIP

It costs the stock model's forward on clean and on corrupt prompts, of `PROMPTS` pairs at most.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from statistics import fmean, median
from typing import NamedTuple

import torch
from torch import Tensor

from lightning_circuits.batch import NO_TOKEN, Batch, first_prompts, n_prompts, own_rows, prompts_alone, with_prompts
from lightning_circuits.measures import correct, log_softmax, logit_difference, negative_log_likelihood
from lightning_circuits.models import CircuitModel
from lightning_circuits.models.loading import PreTrainedTokenizerBase
from lightning_circuits.progress import tracked

PROMPTS = 64
"""So many pairs are run at most."""
EXAMPLES = 5
"""So many of them are shown by themselves."""
TOP = 3
"""So many of the most probable tokens are shown of each."""

LEAST_PROBABILITY = 0.01
"""Answers that are less probable, in the mean, are not what the model says."""
FAVOURED = 0.75
"""Where more of the corrupt prompts have the model favour the answer, they do not take the behaviour away: where they
only take away what tells answer and distractor apart, it is about half."""
LEAST_VALIDATION = 16
"""Validation on fewer pairs has intervals too wide to choose anything by."""
FAR_MORE = 10
"""So many times as probable as the answer, another spelling of it is what the model would say."""


@dataclass(frozen=True)
class PromptCheck:
    """A clean prompt by itself: its text and answer, the probability of all its answers, the rank of the best answer's
    first token in the vocabulary (1: the most probable), and the most probable tokens with their probabilities."""

    prompt: str
    answer: str
    probability: float
    rank: int
    top: tuple[tuple[str, float], ...]


@dataclass(frozen=True)
class TaskCheck:
    """What the full model makes of a task, in means over ``prompts`` of the pairs.

    ``probability``: of the answers, all together. ``rank``: the median over prompts, of the best answer's first token
    (1: the most probable). ``accuracy``: see `measures.correct`; ``wrong``: on how many prompts it is not. The logit
    differences are those of `measures.logit_difference`. ``favoured``: on how many corrupt prompts the model still
    favours the answer. ``spaces``: how many clean prompts end in a space. ``unspaced``: how many answers are far less
    probable than the same with a space before it. ``pairs``: how many each split has.
    """

    prompts: int
    probability: float
    rank: float
    accuracy: float
    wrong: int
    logit_difference: float
    corrupt_logit_difference: float
    favoured: int
    spaces: int
    unspaced: int
    pairs: Mapping[str, int]
    examples: tuple[PromptCheck, ...]

    @property
    def warnings(self) -> list[str]:
        """What should be looked at before a search is run, each with what to do; none if nothing is odd."""
        said = []
        of_all = f"of {self.prompts} prompts"
        if self.spaces:
            said.append(
                f"{self.spaces} {of_all} end in a space, after which most tokenizers have other tokens than after a "
                "word: take it from the end of clean and corrupt, and put it before answers and distractors"
            )
        if self.unspaced:
            said.append(
                f"{self.unspaced} {of_all} have an answer that would be {FAR_MORE} times as probable, or more, with a "
                "space before it: put one before answers and distractors"
            )
        if self.probability < LEAST_PROBABILITY:
            said.append(
                f"the answers have a probability of {self.probability:.2g} in the mean, so the model says something "
                "else (see the tokens above): look at how the prompts end, or take a model that knows the answers"
            )
        if self.favoured > FAVOURED * self.prompts:
            said.append(
                f"on {self.favoured} {of_all} the model still favours the answer when they are corrupt, so what the "
                "pairs differ in does not decide it: change more of the corrupt prompts"
            )
        if 0 < (validated := self.pairs.get("val", 0)) < LEAST_VALIDATION:
            said.append(
                f"the validation split has {validated} pairs, too few to tell circuits apart: give {LEAST_VALIDATION} "
                "or more"
            )
        return said


@torch.no_grad()
def check_task(
    model: CircuitModel,
    batches: Iterable[Batch],
    tokenizer: PreTrainedTokenizerBase,
    pairs: Mapping[str, int] | None = None,
) -> TaskCheck:
    """See what the full model makes of the first `PROMPTS` pairs.

    Args:
        model: the frozen model; batches are moved to its device.
        batches: of the task, such as `PairDataModule.check_batches` gives.
        tokenizer: that of the model, to show tokens and to try answers with a space before them.
        pairs: how many each split has, if that is to be looked at too.

    Raises:
        ValueError: no batches.
    """
    seen: list[_Look] = []
    for batch in tracked(list(with_prompts(batches, PROMPTS)), "Looking at the task"):
        seen += _looks(model, first_prompts(batch, min(n_prompts(batch), PROMPTS - len(seen))), tokenizer)
    if not seen:
        raise ValueError("no batches to check the task on")
    return TaskCheck(
        prompts=len(seen),
        probability=fmean(each.prompt.probability for each in seen),
        rank=median(each.prompt.rank for each in seen),
        accuracy=fmean(each.right for each in seen),
        wrong=sum(not each.right for each in seen),
        logit_difference=fmean(each.logit_difference for each in seen),
        corrupt_logit_difference=fmean(each.corrupt_logit_difference for each in seen),
        favoured=sum(each.favoured for each in seen),
        spaces=sum(each.ends_in_space for each in seen),
        unspaced=sum(each.unspaced for each in seen),
        pairs=dict(pairs or {}),
        examples=tuple(each.prompt for each in seen[:EXAMPLES]),
    )


class _Look(NamedTuple):
    """What `TaskCheck` sums up, of one pair."""

    prompt: PromptCheck
    right: bool
    favoured: bool
    logit_difference: float
    corrupt_logit_difference: float
    ends_in_space: bool
    unspaced: bool


def _looks(model: CircuitModel, batch: Batch, tokenizer: PreTrainedTokenizerBase) -> Iterator[_Look]:
    """The pairs of a batch, each looked at."""
    batch = model.receive(batch)
    clean, corrupt = (
        model.logits(batch[ids], batch["attention_mask"], batch["positions"]) for ids in ("clean_ids", "corrupt_ids")
    )
    alone, logs = prompts_alone(batch), log_softmax(clean)[own_rows(batch)]
    best, answers = _best(logs, alone["answers"])
    columns = (
        (-negative_log_likelihood(clean, batch["answers"], batch)).exp(),
        1 + (logs > best[:, None]).sum(-1),
        correct(clean, batch),
        correct(corrupt, batch),
        logit_difference(clean, batch),
        logit_difference(corrupt, batch),
        answers,
    )
    for row, (probability, rank, right, favoured, difference, corrupt_difference, answer) in enumerate(
        zip(*(column.tolist() for column in columns), strict=True)
    ):
        ids = alone["clean_ids"][row][alone["attention_mask"][row].bool()].tolist()
        text = tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        ends_in_space = text != text.rstrip()
        spaced = None if ends_in_space else _with_space(tokenizer, answer)
        unspaced = spaced is not None and bool(logs[row, spaced] > best[row] + math.log(FAR_MORE))
        values, tokens = logs[row].exp().topk(TOP)
        top = tuple(zip(map(tokenizer.decode, tokens[:, None].tolist()), values.tolist(), strict=True))
        prompt = PromptCheck(text, tokenizer.decode([answer]), probability, rank, top)
        yield _Look(prompt, right, favoured, difference, corrupt_difference, ends_in_space, unspaced)


def _best(logs: Tensor, answers: Tensor) -> tuple[Tensor, Tensor]:
    """Of ``[B, V]`` log-probabilities and answers ``[B, K]`` padded with -100: those of the most probable answer's
    token, and that token, both ``[B]``."""
    found = logs.gather(-1, answers.clamp(min=0)).masked_fill(answers == NO_TOKEN, -torch.inf)
    best, column = found.max(-1)
    return best, answers.gather(-1, column[:, None])[:, 0]


def _with_space(tokenizer: PreTrainedTokenizerBase, token: int) -> int | None:
    """The token that is the same with a space before it; None if it has one, or if there is no other."""
    text = tokenizer.decode([token])
    if not text or text[0].isspace() or tokenizer.encode(text, add_special_tokens=False) != [token]:
        return None
    ids = tokenizer.encode(f" {text}", add_special_tokens=False)
    return ids[0] if len(ids) == 1 and ids != [token] else None
