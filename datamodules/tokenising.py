"""From texts to tokens: pairs of prompts, checked one by one.

A circuit is always found *between* two prompts. The clean one shows the behaviour; the corrupt one is the same text,
token for token, except for what the behaviour depends on. What an edge carries on the corrupt prompt is what it
carries when it is cut. That only makes sense where token t of one prompt stands for token t of the other, so every
pair is checked before anything is trained, and one that does not fit is refused with the place it came from.

Prompts are tokenised with the tokenizer's own defaults: where it adds a beginning-of-sequence token by itself (Llama
does, GPT-2 and SmolLM2 do not), the prompts have one; nothing is added beyond that. What it closes a text with is left
out (see `encoding.encode`). An answer is one token *in its place*: the tokens of prompt + answer have to be those of
the prompt and one more. With most tokenizers it therefore begins with a space. Or it is a token's id: there are answers
that no text leads to, such as "00" after "13" where "1300" is one token.

Whether a pair fits depends on the tokenizer: " Ottawa" is one token for one and three for another. `attempts` says of
every pair what it is for a tokenizer, or why it is none; `misfits.fitting` refuses the first that is none, or drops it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from numbers import Integral
from typing import Literal, TypeAlias

from lightning_circuits.arguments import shortened
from lightning_circuits.datamodules.encoding import encode, letters_left_out, unknown_words
from lightning_circuits.datamodules.spans import Places, require_name, spans_of_tokens
from lightning_circuits.models.loading import PreTrainedTokenizerBase
from lightning_circuits.pages import see_page

Answer: TypeAlias = str | int
"""A text that is one token in its place, or the id of a token."""

Kind = Literal["misaligned", "several-token", "unknown"]
"""Of a pair that does not fit: clean and corrupt do not line up, or are the same; an answer is not one token; the
tokenizer does not know a word."""


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
                if isinstance(word, bool) or not isinstance(word, Integral):
                    _require_text(self.where, f"each of {name}", word, "a text or the id of a token")
        if not isinstance(self.group, str):
            raise ValueError(f"{self.where}: group has to be a text, not {shortened(self.group)}")
        if not isinstance(self.spans, Mapping):
            raise ValueError(f"{self.where}: spans have to be an object, of a name each, not {shortened(self.spans)}")
        for name, place in self.spans.items():
            require_name(name, self.where)
            ends = place if isinstance(place, (tuple, list)) else ()
            whole = [end for end in ends if isinstance(end, Integral) and not isinstance(end, bool)]
            if place is not None and not len(whole) == len(ends) == 2:
                raise ValueError(
                    f"{self.where}: the span {name} has to be two characters, where it begins and behind which it "
                    f"ends, not {shortened(place)}"
                )


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

    ``spans``: the name of the span of every token; empty of pairs that name no place. ``group``: that of the pair.
    """

    clean: list[int]
    corrupt: list[int]
    answers: list[int]
    distractors: list[int]
    where: str = "a pair"
    spans: list[str] = field(default_factory=list)
    group: str = ""


def in_spans(
    tokens: Sequence[TokenPair], pairs: Sequence[PromptPair], tokenizer: PreTrainedTokenizerBase
) -> list[TokenPair]:
    """Tokenised pairs with the span of every token, by the places that the pairs name (see `spans_of_tokens`)."""
    names = spans_of_tokens(
        [pair.spans for pair in pairs],
        [pair.clean for pair in pairs],
        [pair.where for pair in pairs],
        [len(pair.clean) for pair in tokens],
        tokenizer,
    )
    return [replace(pair, spans=of_tokens) for pair, of_tokens in zip(tokens, names, strict=True)]


def attempts(pairs: Sequence[PromptPair], tokenizer: PreTrainedTokenizerBase) -> list[TokenPair | Misfit]:
    """Of every pair its tokens, or why it has none that could be used: an error that names `pair.where`, the texts and
    their tokens.

    A pair does not fit if clean and corrupt have different numbers of tokens, or the same tokens, or words that the
    tokenizer does not know; if an answer or distractor is not exactly one known token.

    Raises:
        ValueError: what no tokenizer would mend: a token that is an answer and a distractor, or is given twice; the id
            of no token.
    """
    clean = _encode(pairs, [pair.clean for pair in pairs], tokenizer)
    corrupt = _encode(pairs, [pair.corrupt for pair in pairs], tokenizer)
    # One call for all answers of all pairs: a call per text would take most of the time.
    texts = [(pair, pair.clean + word) for pair in pairs for word in _words(pair) if isinstance(word, str)]
    continued = iter(_encode([pair for pair, _ in texts], [text for _, text in texts], tokenizer))
    left_out = letters_left_out((text for pair in pairs for text in (pair.clean, pair.corrupt)), tokenizer)
    vocabulary = max(tokenizer.get_vocab().values()) + 1

    result: list[TokenPair | Misfit] = []
    for pair, clean_ids, corrupt_ids in zip(pairs, clean, corrupt, strict=True):
        with_words = [next(continued) if isinstance(word, str) else [] for word in _words(pair)]
        try:
            _require_alignment(pair, clean_ids, corrupt_ids, left_out, tokenizer)
            ids = [
                _single_token(pair, word, clean_ids, tokens, tokenizer)
                if isinstance(word, str)
                else _known_id(pair, word, vocabulary)
                for word, tokens in zip(_words(pair), with_words, strict=True)
            ]
        except Misfit as misfit:
            result.append(misfit)
            continue
        answers, distractors = ids[: len(pair.answers)], ids[len(pair.answers) :]
        _require_distinct(pair, answers, distractors, tokenizer)
        result.append(TokenPair(clean_ids, corrupt_ids, answers, distractors, pair.where, group=pair.group))
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
    pair: PromptPair, answers: list[int], distractors: list[int], tokenizer: PreTrainedTokenizerBase
) -> None:
    for role, tokens in (("answers", answers), ("distractors", distractors)):
        if twice := sorted({token for token in tokens if tokens.count(token) > 1}):
            shared = tokenizer.convert_ids_to_tokens(twice)
            raise ValueError(f"{pair.where}: {shared} is given twice in {role}, and would count twice")
    if both := set(answers) & set(distractors):
        shared = tokenizer.convert_ids_to_tokens(sorted(both))
        raise ValueError(
            f"{pair.where}: {shared} is given as an answer and as a distractor; it can be only one of them"
        )


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


def _known_id(pair: PromptPair, token: int, vocabulary: int) -> int:
    if not 0 <= token < vocabulary:
        raise ValueError(
            f"{pair.where}: {token} is the id of no token: this tokenizer's are from 0 to {vocabulary - 1}. (A number "
            "among answers or distractors is an id; as a text it stands in quotation marks)"
        )
    return int(token)


def _single_token(
    pair: PromptPair, word: str, prompt: list[int], continued: list[int], tokenizer: PreTrainedTokenizerBase
) -> int:
    """The one token that `word` adds to the prompt."""
    role = "answer" if word in pair.answers else "distractor"
    if continued[:-1] != prompt:
        alone = tokenizer.convert_ids_to_tokens(tokenizer(word, add_special_tokens=False)["input_ids"])
        raise Misfit(
            "several-token",
            f"{pair.where}: the {role} {word!r} has to add exactly one token to the prompt, but by itself it is "
            f"{alone}, and prompt and {role} together are {tokenizer.convert_ids_to_tokens(continued)}. "
            f"{_way_out(pair, word, prompt, continued, tokenizer)} {see_page('own-task', 'Pairs that do not align')}",
        )
    if continued[-1] == tokenizer.unk_token_id and word.strip() != tokenizer.unk_token:
        raise Misfit("unknown", f"{pair.where}: the {role} {word!r} is not in the tokenizer's vocabulary")
    return continued[-1]


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
