"""Greater-than: which year can it have ended in?

    The war lasted from the year 1743 to the year 174    ->    4, 5, 6, ...

What begins in 1743 ends later. The answers are all digits that would make it so, the distractors those that would not.
Which digits are asked for is the choice of `digit`, and the start's are replaced by such as rule nothing out in the
corrupt prompt:

    units        ... from the year 1743 to the year 174   ->   4 ... 9, not 0 ... 3           1740 in the corrupt prompt
    tens         ... from the year 1743 to the year 17    ->   5 ... 9, not 0 ... 3           1703
    two-digit    ... from the year 1743 to the year 17    ->   44 ... 99, not 01 ... 43       1701

By its tens digit a year of the start's own decade may be either, so the digit of that decade is in neither set. What
can be asked for depends on the tokenizer: units and tens of those that read digits one by one, two-digit of those that
read "1743" as "17" and "43".

The task is that of Hanna et al. (2023), "How does GPT-2 compute greater-than?"; the texts are our own.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any, Literal

from lightning_circuits.arguments import require_choice
from lightning_circuits.datamodules.encoding import encode
from lightning_circuits.datamodules.loader import PaddingSide
from lightning_circuits.datamodules.misfits import Misfits
from lightning_circuits.datamodules.shuffling import shuffled
from lightning_circuits.datamodules.spans import By
from lightning_circuits.datamodules.tasks import TaskDataModule, dealt, filled, sweep
from lightning_circuits.datamodules.tokenising import Answer, PromptPair
from lightning_circuits.models.loading import PreTrainedTokenizerBase

__all__ = ["NOUNS", "TEMPLATES", "GreaterThanDataModule"]

TEMPLATES = (
    "The {noun} lasted from the year {century}{YEAR}{rest} to the year {century}",
    "The {noun} went on from the year {century}{YEAR}{rest} to the year {century}",
    "The {noun} began in the year {century}{YEAR}{rest} and ended in the year {century}",
    "The {noun} started in the year {century}{YEAR}{rest} and was over in the year {century}",
    "As books tell us, the {noun} lasted from the year {century}{YEAR}{rest} to the year {century}",
    "Nobody thought that the {noun} would go on from the year {century}{YEAR}{rest} to the year {century}",
    "In that country, the {noun} continued from the year {century}{YEAR}{rest} until the year {century}",
)

NOUNS = tuple(
    """
    alliance ban blockade boom boycott campaign conflict construction crisis depression dispute drought dynasty embargo
    emergency epidemic exile expansion expedition experiment famine feud investigation journey marriage migration
    mission monarchy negotiation occupation partnership peace pilgrimage plague prohibition project protest rebellion
    reconstruction reform regime reign renovation republic revolt rivalry search siege slump strike struggle survey
    tour trial truce uprising voyage war
    """.split()
)

Digit = Literal["units", "tens", "two-digit"]


@dataclass(frozen=True)
class Asked:
    """What the digits that are asked for may be, of the end and of the start; which the corrupt prompt has; what stands
    before them in a year, and what behind them; whether those of the start itself are too early."""

    ends: list[str]
    starts: list[str]
    corrupt: str
    before: list[str]
    behind: list[str]
    not_own: bool


CENTURIES = [str(century) for century in range(11, 20)]
DIGITS = [str(digit) for digit in range(10)]
NUMBERS = [f"{number:02d}" for number in range(1, 100)]
ASKED: dict[Digit, Asked] = {
    "units": Asked(
        DIGITS, DIGITS[1:9], "0", [century + decade for century in CENTURIES for decade in DIGITS], [""], True
    ),
    "tens": Asked(DIGITS, DIGITS[1:9], "0", CENTURIES, DIGITS, False),
    "two-digit": Asked(NUMBERS, NUMBERS[1:-1], "01", CENTURIES, [""], True),
}


class GreaterThanDataModule(TaskDataModule):
    """A year in which something began, and the digits of those in which it may have ended.

    No noun stands in prompts of two splits; numbers do. All starts come equally often. A year that the tokenizer cuts
    elsewhere than before the digits that are asked for makes a pair that does not fit. The places of a prompt are YEAR,
    the digits that change, and END, the last word; its group is its template.

    Args:
        tokenizer: a tokenizer, or the name of one for `load_tokenizer`.
        n_train: prompts to train on.
        n_val: prompts for validation.
        n_test: prompts for the test.
        batch_size: pairs per step and process.
        digit: `units`, `tens` or `two-digit` (see the module's docstring).
        padding_side: `right` or `left`. Results do not depend on it.
        seed: decides every prompt, and the order of training.
        spans: see `PairDataModule`.
        misfits: see `PairDataModule`.

    Raises:
        ValueError: another digit; what `TaskDataModule` raises. When set up: the tokenizer has no tokens for what is
            asked for.
    """

    def __init__(
        self,
        tokenizer: str | Path | PreTrainedTokenizerBase,
        n_train: int = 300,
        n_val: int = 100,
        n_test: int = 100,
        batch_size: int = 8,
        digit: Digit = "units",
        padding_side: PaddingSide = "right",
        seed: int = 0,
        spans: By | None = None,
        misfits: Misfits = "drop",
    ) -> None:
        super().__init__(tokenizer, n_train, n_val, n_test, batch_size, padding_side, seed, spans, misfits)
        require_choice("digit", digit, Digit)
        self.digit = digit

    def describe_task(self) -> dict[str, Any]:
        return {"digit": self.digit}

    def candidates(self, split: str) -> Iterator[PromptPair]:
        asked = ASKED[self.digit]
        token_of, cut = self._tokens(asked)
        before, behind = (dealt(some, split, self.seed) for some in (asked.before, asked.behind))
        starts = shuffled(asked.starts, "starts", split, self.seed)
        items = list(sweep(starts, self.share(split, NOUNS, "nouns")))
        for number, (template, (start, noun)) in enumerate(sweep(TEMPLATES, items)):
            words = {"noun": noun, "century": next(before), "rest": next(behind)}
            clean, places = filled(template, YEAR=start, **words)
            corrupt, _ = filled(template, YEAR=asked.corrupt, **words)
            # Behind some digits no text leads to a token, where the whole year is one. Of a start that is cut elsewhere
            # the ends are given as texts, which do not fit.
            is_cut = words["century"] + start + words["rest"] in cut
            ends = {end: token_of[end] if is_cut else end for end in asked.ends}
            later = tuple(answer for end, answer in ends.items() if end > start)
            earlier = tuple(answer for end, answer in ends.items() if end < start or (end == start and asked.not_own))
            yield PromptPair(clean, corrupt, later, earlier, f"{split} prompt {number}", places, template)

    def _tokens(self, asked: Asked) -> tuple[dict[str, Answer], set[str]]:
        """The token of what is asked for, and the years that the tokenizer cuts around it; ValueError if it is a token
        behind nothing that a year begins with."""
        tokens: dict[str, Answer] = {}
        cut = set()
        ways = list(product(asked.ends, asked.behind))
        for before in asked.before:
            text = f"the year {before}"
            prompt, *years = encode([text, *(text + end + rest for end, rest in ways)], self.tokenizer)
            for (end, rest), year in zip(ways, years, strict=True):
                if year[: -1 - len(rest)] == prompt and year[len(prompt)] != self.tokenizer.unk_token_id:
                    tokens[end] = year[len(prompt)]
                    cut.add(before + end + rest)
        if missing := [end for end in asked.ends if end not in tokens]:
            pieces = self.tokenizer.convert_ids_to_tokens(encode(["the year 1743"], self.tokenizer)[0])
            raise ValueError(
                f"digit is {self.digit!r}, and {missing[0]!r} is no token behind any digits that a year begins with, "
                f"for the tokenizer {self.tokenizer_name!r}: of 'the year 1743' it makes {pieces}. Take another of "
                f"{', '.join(ASKED)}"
            )
        return tokens, cut
