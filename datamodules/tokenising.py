"""From texts to tokens: pairs of prompts, checked one by one.

A circuit is always found *between* two prompts. The clean one shows the behaviour; the corrupt one is the same text,
token for token, except for what the behaviour depends on. What an edge carries on the corrupt prompt is what it
carries when it is cut. That only makes sense where token t of one prompt stands for token t of the other, so every
pair is checked before anything is trained, and one that does not fit is refused with the place it came from.

Prompts are tokenised with the tokenizer's own defaults: where it adds a beginning-of-sequence token by itself (Llama
does, GPT-2 and SmolLM2 do not), the prompts have one; nothing is added beyond that. What it closes a text with is left
out (see `encoding.encode`). An answer is one token *in its place*: the tokens of prompt + answer have to be those of
the prompt and one more. With most tokenizers it therefore begins with a space. Or it is a token's id: there are answers
that no text leads to, such as "00" after "13" where "1300" is one token. Where it is said that answers may have any
number of tokens, they are the prompt's and those of the answer, and a pair gets a row more for each beginning of an
answer (see `lightning_circuits.batch`).

Whether a pair fits depends on the tokenizer: " Ottawa" is one token for one and three for another. `attempts` says of
every pair what it is for a tokenizer, or why it is none; `misfits.fitting` refuses those that are none, or drops them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from numbers import Integral
from typing import Literal, TypeAlias

from lightning_circuits.arguments import shortened
from lightning_circuits.batch import NO_TOKEN
from lightning_circuits.datamodules.encoding import encode, letters_left_out, unknown_words
from lightning_circuits.datamodules.spans import Places, behind, require_name, spans_of_tokens
from lightning_circuits.models.loading import PreTrainedTokenizerBase
from lightning_circuits.pages import see_page

Answer: TypeAlias = str | int | Sequence[int]
"""A text that is one token in its place, or more if they may be; or the id of a token, or the ids of some."""

AnswerTokens = Literal["one", "any"]
"""How many tokens an answer may have."""

Kind = Literal["misaligned", "several-token", "unknown"]
"""Of a pair that does not fit: clean and corrupt do not line up, or are the same; the tokens of an answer are not one,
or cannot be told from the prompt's or another's; the tokenizer does not know a word."""


class Misfit(ValueError):
    """A pair that cannot be used with a tokenizer, though another may read it well."""

    def __init__(self, kind: Kind, message: str) -> None:
        super().__init__(message)
        self.kind = kind


@dataclass(frozen=True)
class PromptPair:
    """Two prompts and what may follow them; `where` says in errors where the pair came from (file and line).

    ``spans``: places of the clean prompt that have a name, each the characters where it begins and behind which it ends
    (see `datamodules.spans`). ``group``: prompts of one group are made alike, from one template; those of no group go
    by ``""``.

    Raises:
        ValueError: (naming `where`) a prompt that is no text; answers or distractors that are no texts and no ids; a
            span that is no pair of whole numbers, or whose name cannot be one; a group that is no text.
    """

    clean: str
    corrupt: str
    answers: tuple[Answer, ...]
    distractors: tuple[Answer, ...]
    where: str
    spans: Places = field(default_factory=dict)
    group: str = ""

    def __post_init__(self) -> None:
        for name in ("clean", "corrupt"):
            _require_text(self.where, name, getattr(self, name))
        for name in ("answers", "distractors"):
            words = getattr(self, name)
            if not isinstance(words, (tuple, list)) or (name == "answers" and not words):
                raise ValueError(
                    f"{self.where}: {name} has to be a list of at least one text or token id, not {shortened(words)}"
                )
            for word in words:
                if not _is_whole(word) and not (isinstance(word, (tuple, list)) and word and all(map(_is_whole, word))):
                    _require_text(self.where, f"each of {name}", word, "a text, the id of a token or a list of ids")
        if not isinstance(self.group, str):
            raise ValueError(f"{self.where}: group has to be a text, not {shortened(self.group)}")
        if not isinstance(self.spans, Mapping):
            raise ValueError(f"{self.where}: spans have to be an object, of a name each, not {shortened(self.spans)}")
        for name, place in self.spans.items():
            require_name(name, self.where)
            ends = place if isinstance(place, (tuple, list)) else ()
            if place is not None and not (len(ends) == 2 and all(map(_is_whole, ends))):
                raise ValueError(
                    f"{self.where}: the span {name} has to be two characters, where it begins and behind which it "
                    f"ends, not {shortened(place)}"
                )


def _is_whole(value: object) -> bool:
    """Whether it is a whole number."""
    return isinstance(value, Integral) and not isinstance(value, bool)


def _require_text(where: str, what: str, given: object, wanted: str = "a text") -> None:
    if not isinstance(given, str) or not given:
        raise ValueError(f"{where}: {what} has to be {wanted}, not {shortened(given)}")
    try:
        given.encode()
    except UnicodeEncodeError as error:
        raise ValueError(
            f"{where}: {what} holds half a character, {given[error.start]!r} by itself: {shortened(given)}"
        ) from None


@dataclass(frozen=True)
class TokenPair:
    """A `PromptPair` as token ids: `clean` and `corrupt` are equally long, and differ.

    ``answers``, ``distractors``: the token of each; of several, the first. ``spans``: the name of the span of every
    token; empty of pairs that name no place. ``group``: that of the pair. ``continued``: of answers of several tokens,
    the pair behind each beginning of one, the shorter of two before the longer; their ``answers`` and ``distractors``
    are the tokens that follow there, -100 of a candidate that begins otherwise. ``back``: of such a pair, how many
    before it stands the one that is a token shorter; the prompt's own stands before the first.
    """

    clean: list[int]
    corrupt: list[int]
    answers: list[int]
    distractors: list[int]
    where: str = "a pair"
    spans: list[str] = field(default_factory=list)
    group: str = ""
    continued: list[TokenPair] = field(default_factory=list)
    back: int = 0

    @property
    def rows(self) -> list[TokenPair]:
        """The prompts by themselves, then those with the beginnings of answers."""
        return [self, *self.continued]

    def with_spans(self, names: Sequence[str]) -> TokenPair:
        """The same, and in which span each token is: ``names`` of those of the longest row."""
        continued = [replace(row, spans=list(names[: len(row.clean)])) for row in self.continued]
        return replace(self, spans=list(names[: len(self.clean)]), continued=continued)


def in_spans(
    tokens: Sequence[TokenPair], pairs: Sequence[PromptPair], tokenizer: PreTrainedTokenizerBase
) -> list[TokenPair]:
    """Tokenised pairs with the span of every token, by the places that the pairs name (see `spans_of_tokens`).

    The tokens of an answer are in that behind the last place.
    """
    names = spans_of_tokens(
        [pair.spans for pair in pairs],
        [pair.clean for pair in pairs],
        [pair.where for pair in pairs],
        [len(pair.clean) for pair in tokens],
        tokenizer,
    )
    return [
        pair.with_spans([*of_tokens, *[behind(of_tokens)] * longest(pair)] if of_tokens else [])
        for pair, of_tokens in zip(tokens, names, strict=True)
    ]


def attempts(
    pairs: Sequence[PromptPair], tokenizer: PreTrainedTokenizerBase, answer_tokens: AnswerTokens = "one"
) -> list[TokenPair | ValueError]:
    """Of every pair its tokens, or why it has none that could be used: an error that names `pair.where`, the texts and
    their tokens. What another tokenizer would mend is a `Misfit`.

    A pair does not fit if clean and corrupt have different numbers of tokens, or the same tokens, or words that the
    tokenizer does not know; if an answer or distractor is not exactly one known token, or, where there may be ``any``
    number, does not leave those of the prompt as they are, or begins with another.

    What no tokenizer would mend: a token that is an answer and a distractor, or is given twice; the id of no token.

    Raises:
        ValueError: a text that the tokenizer gives up at.
    """
    clean = _encode(pairs, [pair.clean for pair in pairs], tokenizer)
    corrupt = _encode(pairs, [pair.corrupt for pair in pairs], tokenizer)
    # One call for all answers of all pairs: a call per text would take most of the time.
    texts = [(pair, pair.clean + word) for pair in pairs for word in _words(pair) if isinstance(word, str)]
    continued = iter(_encode([pair for pair, _ in texts], [text for _, text in texts], tokenizer))
    left_out = letters_left_out((text for pair in pairs for text in (pair.clean, pair.corrupt)), tokenizer)
    vocabulary = max(tokenizer.get_vocab().values()) + 1

    result: list[TokenPair | ValueError] = []
    for pair, clean_ids, corrupt_ids in zip(pairs, clean, corrupt, strict=True):
        with_words = [next(continued) if isinstance(word, str) else [] for word in _words(pair)]
        try:
            _require_alignment(pair, clean_ids, corrupt_ids, left_out, tokenizer)
            ids = [
                _tokens_of_text(pair, word, clean_ids, tokens, tokenizer, answer_tokens)
                if isinstance(word, str)
                else _known_ids(pair, word, vocabulary, answer_tokens)
                for word, tokens in zip(_words(pair), with_words, strict=True)
            ]
            answers, distractors = ids[: len(pair.answers)], ids[len(pair.answers) :]
            _require_distinct(pair, answers, distractors, tokenizer)
        except ValueError as fault:
            result.append(fault)
            continue
        result.append(_with_continuations(pair, clean_ids, corrupt_ids, answers, distractors))
    return result


def _require_alignment(
    pair: PromptPair, clean: list[int], corrupt: list[int], left_out: set[str], tokenizer: PreTrainedTokenizerBase
) -> None:
    for text, ids in ((pair.clean, clean), (pair.corrupt, corrupt)):
        if not ids:
            raise Misfit("unknown", f"{pair.where}: of {text!r} the tokenizer makes no token at all")
        if unknown := unknown_words(text, ids, tokenizer) or [letter for letter in text if letter in left_out]:
            raise Misfit(
                "unknown",
                f"{pair.where}: {', '.join(map(repr, unknown))} in {text!r} is not in the tokenizer's vocabulary, "
                "so the model would not see it: choose known words, or the tokenizer of the model",
            )
    if len(clean) != len(corrupt):
        raise Misfit(
            "misaligned",
            f"{pair.where}: clean has {len(clean)} tokens and corrupt {len(corrupt)}, but the two have to "
            f"align token for token {see_page('own-task', 'Pairs that do not align')}."
            f"{_spelled_out(pair, clean, corrupt, tokenizer)}",
        )
    if clean == corrupt:
        raise Misfit(
            "misaligned",
            f"{pair.where}: clean and corrupt are the same for this tokenizer, so no edge could matter."
            f"{_spelled_out(pair, clean, corrupt, tokenizer)}",
        )


def _require_distinct(
    pair: PromptPair,
    answers: Sequence[tuple[int, ...]],
    distractors: Sequence[tuple[int, ...]],
    tokenizer: PreTrainedTokenizerBase,
) -> None:
    def shown(tokens: tuple[int, ...]) -> list[str]:
        return tokenizer.convert_ids_to_tokens(list(tokens))

    for role, words in (("answers", answers), ("distractors", distractors)):
        if twice := next((word for word in words if words.count(word) > 1), None):
            raise ValueError(f"{pair.where}: {shown(twice)} is given twice in {role}, and would count twice")
    if both := next((word for word in answers if word in distractors), None):
        raise ValueError(
            f"{pair.where}: {shown(both)} is given as an answer and as a distractor; it can be only one of them"
        )
    begun = {word[:n]: word for word in (*answers, *distractors) for n in range(1, len(word))}
    if word := next((word for word in (*answers, *distractors) if word in begun), None):
        raise Misfit(
            "several-token",
            f"{pair.where}: {shown(begun[word])} begins with {shown(word)}, and who says the one has said the other: "
            "end both with what tells them apart, such as a full stop",
        )


def _with_continuations(
    pair: PromptPair,
    clean: list[int],
    corrupt: list[int],
    answers: Sequence[tuple[int, ...]],
    distractors: Sequence[tuple[int, ...]],
) -> TokenPair:
    """The pair behind every beginning of an answer or distractor, that of no token first."""
    beginnings = list(dict.fromkeys(word[:n] for word in (*answers, *distractors) for n in range(len(word))))

    def behind_it(beginning: tuple[int, ...], words: Sequence[tuple[int, ...]]) -> list[int]:
        n = len(beginning)
        return [word[n] if n < len(word) and word[:n] == beginning else NO_TOKEN for word in words]

    own, *continued = (
        TokenPair(
            [*clean, *beginning],
            [*corrupt, *beginning],
            behind_it(beginning, answers),
            behind_it(beginning, distractors),
            pair.where,
            group=pair.group,
            back=number - beginnings.index(beginning[:-1]),
        )
        for number, beginning in enumerate(beginnings)
    )
    return replace(own, continued=continued)


def longest(pair: TokenPair) -> int:
    """How many tokens the longest row of a pair has beyond the prompt's."""
    return max(len(row.clean) for row in pair.rows) - len(pair.clean)


def _words(pair: PromptPair) -> list[Answer]:
    return [*pair.answers, *pair.distractors]


def _encode(pairs: Sequence[PromptPair], texts: list[str], tokenizer: PreTrainedTokenizerBase) -> list[list[int]]:
    """All texts at once; where the tokenizer gives up, the pair of the text that it gives up at."""
    try:
        return encode(texts, tokenizer)
    except Exception:  # of whatever kind a tokenizer raises
        for pair, text in zip(pairs, texts, strict=True):
            try:
                encode([text], tokenizer)
            except Exception as error:
                reason = str(error).strip().split("\n")[0] or type(error).__name__
                raise ValueError(f"{pair.where}: the tokenizer cannot read {text!r}: {reason}") from error
        raise


def _spelled_out(pair: PromptPair, clean: list[int], corrupt: list[int], tokenizer: PreTrainedTokenizerBase) -> str:
    return "".join(
        f"\n  {name:8s} {text!r}\n           {tokenizer.convert_ids_to_tokens(ids)}"
        for name, text, ids in (("clean:", pair.clean, clean), ("corrupt:", pair.corrupt, corrupt))
    )


def _known_ids(
    pair: PromptPair, word: int | Sequence[int], vocabulary: int, answer_tokens: AnswerTokens
) -> tuple[int, ...]:
    ids = tuple(map(int, word if isinstance(word, Sequence) else [word]))
    for token in ids:
        if not 0 <= token < vocabulary:
            raise ValueError(
                f"{pair.where}: {token} is the id of no token: this tokenizer's are from 0 to {vocabulary - 1}. (A "
                "number among answers or distractors is an id; as a text it stands in quotation marks)"
            )
    if answer_tokens == "one" and len(ids) > 1:
        raise Misfit("several-token", f"{pair.where}: {list(ids)} are {len(ids)} tokens. {ANY_NUMBER}")
    return ids


ANY_NUMBER = "Answers may have several tokens if it is said so: answer_tokens='any'"


def _tokens_of_text(
    pair: PromptPair,
    word: str,
    prompt: list[int],
    continued: list[int],
    tokenizer: PreTrainedTokenizerBase,
    answer_tokens: AnswerTokens,
) -> tuple[int, ...]:
    """The tokens that `word` adds to the prompt."""
    role = "answer" if word in pair.answers else "distractor"
    added = continued[len(prompt) :] if continued[: len(prompt)] == prompt else []
    if not added or (answer_tokens == "one" and len(added) > 1):
        alone = tokenizer.convert_ids_to_tokens(tokenizer(word, add_special_tokens=False)["input_ids"])
        wanted = "exactly one token" if answer_tokens == "one" else "tokens"
        raise Misfit(
            "several-token",
            f"{pair.where}: the {role} {word!r} has to add {wanted} to the prompt, but by itself it is "
            f"{alone}, and prompt and {role} together are {tokenizer.convert_ids_to_tokens(continued)}. "
            f"{_way_out(pair, word, prompt, continued, tokenizer)}. {ANY_NUMBER + ' ' if added else ''}"
            f"{see_page('own-task', 'Pairs that do not align')}",
        )
    if tokenizer.unk_token_id in added and word.strip() != tokenizer.unk_token:
        raise Misfit("unknown", f"{pair.where}: the {role} {word!r} is not in the tokenizer's vocabulary")
    return tuple(added)


def _way_out(
    pair: PromptPair, word: str, prompt: list[int], continued: list[int], tokenizer: PreTrainedTokenizerBase
) -> str:
    """What would do in place of a word that is not one token after the prompt: tried with this tokenizer."""
    bare, by_id = word.strip(), "the id of a token"
    tokens = tokenizer(bare, add_special_tokens=False)["input_ids"] if bare else []
    if len(tokens) != 1 and continued[: len(prompt)] == prompt:
        tokens = continued[len(prompt) :]
    if tokens and tokens[0] != tokenizer.unk_token_id:
        by_id = f"a token by its id, as {tokens[0]} for {tokenizer.convert_ids_to_tokens(tokens[:1])[0]!r}"
    spellings = list(dict.fromkeys((f" {bare}", bare, f" {bare.lower()}", f" {bare.capitalize()}"))) if bare else []
    for clean in dict.fromkeys((pair.clean.rstrip() or pair.clean, pair.clean)):
        before = encode([clean], tokenizer)[0]
        for spelling in spellings:
            try:
                ids = encode([clean + spelling], tokenizer)[0]
            except Exception:  # without a token for the unknown, some tokenizers give up
                continue
            if ids[:-1] == before and ids[-1] != tokenizer.unk_token_id:
                where = "" if clean == pair.clean else "Without the space at the end of both prompts, "
                return f"{where}{spelling!r} is one. Or give {by_id}"
    return f"No spelling of it is one token here: choose another word, or give {by_id}"
