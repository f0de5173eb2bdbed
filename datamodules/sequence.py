"""Sequence continuation: what comes next?

    Paul left in March. Mary left in April. Kevin left in May. Anna left in June. John left in    ->    July

A few members of a sequence stand in sentences of the same form, one after the other, and a language model goes on with
the next. The corrupt twin has other members in the same places, in an order that goes nowhere:

    Paul left in May. Mary left in October. Kevin left in January. Anna left in August. John left in

The answer is the next member, the distractor the last one shown, which a model says that only copies. No corrupt prompt
holds a member beside the one that follows it, forwards or backwards, so that there is no sequence left anywhere in it;
none ends with the clean prompt's last member or its answer, and nothing but the members differs.

    data = SequenceDataModule("gpt2", members="months")

Some tokenizers spell a number digit by digit, and the space before it by itself. What answer and distractor have in
common at their beginning then belongs to the prompt ("... left in 1" -> "5" rather than "4"), and what is asked for is
the first token in which they differ. With ``answer_tokens="any"`` whole numerals are asked for, and words of several
tokens: ``members=["uno", "dos", "tres", ...]``.

The task is that of "Towards Interpretable Sequence Continuation" (Lan et al. 2023), whose corrupt prompts hold the
sequence in part; the texts are our own.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from itertools import pairwise, takewhile
from pathlib import Path
from typing import Any, Literal, NamedTuple

from lightning_circuits.arguments import require_choice, require_flags, require_whole_numbers, shortened
from lightning_circuits.datamodules.encoding import encode
from lightning_circuits.datamodules.ioi import NAMES
from lightning_circuits.datamodules.loader import PaddingSide
from lightning_circuits.datamodules.misfits import Misfits
from lightning_circuits.datamodules.spans import By
from lightning_circuits.datamodules.tasks import TaskDataModule, dealt, sweep
from lightning_circuits.datamodules.tokenising import Answer, AnswerTokens, PromptPair
from lightning_circuits.models.loading import PreTrainedTokenizerBase

__all__ = ["SEQUENCES", "SequenceDataModule"]

Members = Literal["numerals", "words", "months", "weekdays", "letters"]


class Kind(NamedTuple):
    """A sequence, and the sentences that its members stand in: {N} is a name, {M} the member."""

    members: tuple[str, ...]
    carriers: tuple[str, ...]


_NUMBERED = ("{N} drew number {M}", "{N} lives at number {M}", "{N} opened box {M}", "{N} sat in row {M}")

SEQUENCES: dict[str, Kind] = {
    "numerals": Kind(tuple(map(str, range(1, 100))), _NUMBERED),
    "words": Kind(
        tuple(
            """
            one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen
            eighteen nineteen twenty
            """.split()
        ),
        _NUMBERED,
    ),
    "months": Kind(
        tuple(
            """
            January February March April May June July August September October November December
            """.split()
        ),
        ("{N} left in {M}", "{N} was born in {M}", "{N} got married in {M}", "{N} moved here in {M}"),
    ),
    "weekdays": Kind(
        tuple("Monday Tuesday Wednesday Thursday Friday Saturday Sunday".split()),
        ("{N} left on {M}", "{N} called on {M}", "{N} works on {M}", "{N} went home on {M}"),
    ),
    "letters": Kind(
        tuple("ABCDEFGHIJKLMNOPQRSTUVWXYZ"),
        ("{N} chose letter {M}", "{N} sat in row {M}", "{N} opened box {M}", "{N} took exit {M}"),
    ),
}

STEPS = 12
"""So many steps the numerals go: 1 to 12, or 1 to 24 in steps of two, at most to 99."""

FRESH = 4
"""Pairs that there are at least for each that is wanted, where names make them: enough for the misfits."""

TRIES = 200
"""Draws of corrupt members before a start is given up: with very few members there may be none that go nowhere."""


class SequenceDataModule(TaskDataModule):
    """Prompts that show some members of a sequence and ask for the next.

    Starts, carrier sentences and names are used equally often; splits share no names. A prompt's group is its carrier.

    Args:
        tokenizer: a tokenizer, or the name of one for `load_tokenizer`.
        members: which sequence: ``numerals``, ``words``, ``months``, ``weekdays``, ``letters``, or a list of one's own.
        step: from one member to the next.
        shown: members in a prompt.
        carrier: whether members stand in sentences; without, they are a list, of which there are few.
        cyclic: whether the first follows the last, as January follows December.
        n_train: prompts to train on.
        n_val: prompts for validation.
        n_test: prompts for the test.
        batch_size: pairs per step and process.
        padding_side: `right` or `left`. Results do not depend on it.
        seed: decides every prompt, and the order of training.
        spans: see `PairDataModule`. The places of a prompt are M1, M2, ... and END.
        misfits: see `PairDataModule`.
        answer_tokens: see `PairDataModule`.

    Raises:
        TypeError: members that are no list of texts.
        ValueError: an unknown sequence; a list that names a member twice, or is shorter than what is shown and the
            answer; a step or number of members shown below 1. When set up: too few different prompts.
    """

    def __init__(
        self,
        tokenizer: str | Path | PreTrainedTokenizerBase,
        members: Members | list[str] = "numerals",
        step: int = 1,
        shown: int = 4,
        carrier: bool = True,
        cyclic: bool = False,
        n_train: int = 300,
        n_val: int = 100,
        n_test: int = 100,
        batch_size: int = 8,
        padding_side: PaddingSide = "right",
        seed: int = 0,
        spans: By | None = None,
        misfits: Misfits = "drop",
        answer_tokens: AnswerTokens = "one",
    ) -> None:
        super().__init__(
            tokenizer, n_train, n_val, n_test, batch_size, padding_side, seed, spans, misfits, answer_tokens
        )
        require_whole_numbers(step=step, shown=shown)
        require_flags(carrier=carrier, cyclic=cyclic)
        for name, value in (("step", step), ("shown", shown)):
            if value < 1:
                raise ValueError(f"{name} is {value}: it has to be at least 1")
        self.members, self.step, self.shown, self.carrier, self.cyclic = members, step, shown, carrier, cyclic
        self.kind = _kind(members, step)
        self.starts = range(len(self.kind.members) - (0 if cyclic else shown * step))
        if len(self.kind.members) <= shown * (1 if cyclic else step):
            raise ValueError(
                f"{shown} members in steps of {step} and the answer do not fit into a sequence of "
                f"{len(self.kind.members)}: show fewer, take smaller steps, or cyclic=True where the first follows the "
                "last"
            )

    def candidates(self, split: str) -> Iterator[PromptPair]:
        carriers = self.kind.carriers if self.carrier else (None,)
        names = dealt(self.share(split, NAMES, "names"), f"names {split}", self.seed)
        rng = random.Random(f"corrupt {self.seed} {split}")
        # What stands in for a member has as many tokens.
        draw = _CorruptMembers(list(self.token_counts(self.kind.members, "at").values()), self.step, rng)
        rounds = 1 + FRESH * self.sizes[split] // (len(carriers) * len(self.starts)) if self.carrier else 1
        starts = list(self.starts) if self.carrier else self.share(split, list(self.starts), "starts")
        seen: set[str] = set()
        for _ in range(rounds):
            for carrier, start in sweep(carriers, starts):
                *shown, answer = (self._member(start + k * self.step) for k in range(self.shown + 1))
                corrupt = draw(shown, answer)
                who = [next(names) for _ in range(self.shown + 1)] if carrier else []
                where = f"{split} prompt {len(seen)}"
                pair = corrupt and self._pair(carrier, who, shown, corrupt, answer, where)
                if pair and pair.clean not in seen:
                    seen.add(pair.clean)
                    yield pair

    def describe_task(self) -> dict[str, Any]:
        return {
            "members": self.members,
            "step": self.step,
            "shown": self.shown,
            "carrier": self.carrier,
            "cyclic": self.cyclic,
        }

    def _member(self, place: int) -> int:
        return place % len(self.kind.members)

    def _pair(
        self, carrier: str | None, names: list[str], shown: list[int], corrupt: list[int], answer: int, where: str
    ) -> PromptPair:
        clean, places = _prompt(carrier, names, [self.kind.members[place] for place in shown])
        other, _ = _prompt(carrier, names, [self.kind.members[place] for place in corrupt])
        right, wrong = (f" {self.kind.members[place]}" for place in (answer, shown[-1]))
        common, right_token, wrong_token = self._asked(clean, right, wrong)
        clean, other = clean + common, other + common
        last_word, after_members = clean.rstrip().rindex(" ") + 1, max(end for _, end in places.values())
        places["END"] = (max(last_word, after_members), len(clean))
        return PromptPair(clean, other, (right_token,), (wrong_token,), where, places, group=carrier or "list")

    def _asked(self, prompt: str, right: str, wrong: str) -> tuple[str, Answer, Answer]:
        """What a prompt goes on with before answer and distractor differ, and both of them from there.

        Only numerals go on digit by digit; of a word in several pieces the pair is a misfit, where answers have to be
        one token.
        """
        if self.answer_tokens == "any":
            return "", right, wrong
        before, right_ids, wrong_ids = encode([prompt, prompt + right, prompt + wrong], self.tokenizer)
        n = _shared(right_ids, wrong_ids)
        if right.strip().isdigit() and n < min(len(right_ids), len(wrong_ids)) and len(right_ids) > len(before) + 1:
            for common in (right[:end] for end in range(_shared(right, wrong) + 1)):
                if encode([prompt + common], self.tokenizer)[0] == right_ids[:n]:
                    return common, right_ids[n], wrong_ids[n]
        return "", right, wrong


def _kind(members: str | Sequence[str], step: int) -> Kind:
    if isinstance(members, str):
        require_choice("members", members, Members)
        kind = SEQUENCES[members]
        return kind._replace(members=kind.members[: STEPS * step]) if members == "numerals" else kind
    if not isinstance(members, (list, tuple)) or not all(isinstance(each, str) and each for each in members):
        raise TypeError(f"members is the name of a sequence or a list of texts, got {shortened(members)}")
    if len(set(members)) < len(members):
        raise ValueError(f"members names {next(each for each in members if members.count(each) > 1)!r} twice")
    return Kind(tuple(members), ("{N} chose {M}", "{N} likes {M}", "{N} asked for {M}"))


def _shared(one: Sequence[Any], other: Sequence[Any]) -> int:
    """How many items both begin with."""
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False)))


class _CorruptMembers:
    """Members, by their places in the sequence, that go nowhere: none beside one that follows or precedes it."""

    def __init__(self, lengths: list[int], step: int, rng: random.Random) -> None:
        self.lengths, self.rng = lengths, rng
        self.lead = {1, step, len(lengths) - 1, len(lengths) - step}

    def __call__(self, shown: list[int], answer: int) -> list[int] | None:
        """Others in the places of those shown, each as many tokens long; the last neither the same nor the answer.

        None if no such were found.
        """
        n = len(self.lengths)
        fits = [[place for place in range(n) if self.lengths[place] == self.lengths[old]] for old in shown]
        for _ in range(TRIES):
            drawn = [places[int(self.rng.random() * len(places))] for places in fits]
            leads = any((after - before) % n in self.lead for before, after in pairwise(drawn))
            if len(set(drawn)) == len(drawn) and not leads and drawn[-1] not in (shown[-1], answer):
                return drawn
        return None


def _prompt(carrier: str | None, names: list[str], members: list[str]) -> tuple[str, dict[str, tuple[int, int]]]:
    """A prompt up to where the next member would stand, and where in it the members are."""
    text, places = "", dict[str, tuple[int, int]]()
    sentence = "{M}, " if carrier is None else f"{carrier}. "
    for number, (name, member) in enumerate(zip(names or [""] * len(members), members, strict=False), start=1):
        before, after = sentence.format(N=name, M="\0").split("\0")
        places[f"M{number}"] = (len(text + before), len(text + before + member))
        text += f"{before}{member}{after}"
    asked = "" if carrier is None else carrier.format(N=names[-1], M="")
    return (text + asked).rstrip(), places
