"""Pairs that do not fit a tokenizer, refused all at once or dropped; and what was dropped, in numbers.

Of prompts made from lists of words, a fifth or a half may be no pairs for a tokenizer: "Ottawa" is three tokens where
"Paris" is one. To refuse them all would leave nobody a data set, to drop them silently would hide that what is left is
a choice: words that are common. So what is dropped is counted, by why it does not fit.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from itertools import islice
from typing import Literal

from lightning_circuits.datamodules.faults import BadRows
from lightning_circuits.datamodules.tokenising import AnswerTokens, Misfit, PromptPair, TokenPair, attempts
from lightning_circuits.models.loading import PreTrainedTokenizerBase

Misfits = Literal["refuse", "drop"]
"""What becomes of pairs that do not fit the tokenizer: an error that names them, or they are left out and counted."""

DROP = "Mend them, or leave out and count those that do not fit the tokenizer: misfits='drop'"

AT_A_TIME = 64
"""Pairs tokenised in one call."""


@dataclass(frozen=True)
class Fitting:
    """How many pairs of a split were looked at, how many did not fit and why, and how many are kept."""

    drawn: int
    misaligned: int
    several_token: int
    unknown: int
    kept: int

    def __str__(self) -> str:
        return (
            f"{self.drawn} drawn, {self.misaligned} misaligned, {self.several_token} with answers of several tokens, "
            f"{self.unknown} with words that the tokenizer does not know, {self.kept} kept"
        )

    def to_dict(self) -> dict[str, int]:
        """Plain JSON data."""
        return asdict(self)


def fitting(
    pairs: Iterable[PromptPair],
    tokenizer: PreTrainedTokenizerBase,
    misfits: Misfits,
    wanted: int | None = None,
    answer_tokens: AnswerTokens = "one",
) -> tuple[list[PromptPair], list[TokenPair], Fitting]:
    """The pairs that fit a tokenizer, as texts and as tokens, and how many did not.

    Args:
        pairs: in the order in which they are taken; drawn no further than needed.
        tokenizer: that of the model.
        misfits: ``refuse`` or ``drop``.
        wanted: so many pairs and no more; None for all that there are.
        answer_tokens: how many tokens an answer may have.

    Raises:
        BadRows: with ``refuse``, pairs that do not fit (see `tokenising.attempts`); with either, pairs that would
            fit no tokenizer.
    """
    texts: list[PromptPair] = []
    tokens: list[TokenPair] = []
    faults: list[ValueError] = []
    counts: Counter[str] = Counter()
    source = iter(pairs)
    while (wanted is None or len(tokens) + len(faults) < wanted) and (some := list(islice(source, AT_A_TIME))):
        for pair, attempt in zip(some, attempts(some, tokenizer, answer_tokens), strict=True):
            if len(tokens) + len(faults) == wanted:
                break
            counts["drawn"] += 1
            if isinstance(attempt, Misfit) and misfits == "drop":
                counts[attempt.kind] += 1
            elif isinstance(attempt, ValueError):
                faults.append(attempt)
            else:
                texts.append(pair)
                tokens.append(attempt)
    if faults:
        raise BadRows(faults, counts["drawn"], way_out=DROP if all(isinstance(one, Misfit) for one in faults) else "")
    number = Fitting(
        counts["drawn"], counts["misaligned"], counts["several-token"], counts["unknown"], kept=len(tokens)
    )
    return texts, tokens, number
