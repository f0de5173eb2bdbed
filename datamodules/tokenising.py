"""From texts to tokens: pairs of prompts, checked one by one.

A circuit is always found *between* two prompts. The clean one shows the behaviour; the corrupt one is the same text,
token for token, except for what the behaviour depends on. What an edge carries on the corrupt prompt is what it
carries when it is cut. That only makes sense where token t of one prompt stands for token t of the other, so every
pair is checked before anything is trained, and one that does not fit is refused with the place it came from.

Prompts are tokenised with the tokenizer's own defaults: where it adds a beginning-of-sequence token by itself (Llama
does, GPT-2 and SmolLM2 do not), the prompts have one; nothing is added beyond that. An answer is one token *in its
place*: the tokens of prompt + answer have to be those of the prompt and one more. With most tokenizers it therefore
begins with a space.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from lightning_circuits.models.loading import PreTrainedTokenizerBase
from lightning_circuits.pages import see_page


@dataclass(frozen=True)
class PromptPair:
    """Two prompts and what may follow them; `where` says in errors where the pair came from (file and line)."""

    clean: str
    corrupt: str
    answers: tuple[str, ...]
    distractors: tuple[str, ...]
    where: str


@dataclass(frozen=True)
class TokenPair:
    """A `PromptPair` as token ids: `clean` and `corrupt` are equally long, and differ."""

    clean: list[int]
    corrupt: list[int]
    answers: list[int]
    distractors: list[int]
    where: str = "a pair"


def tokenise(pairs: Sequence[PromptPair], tokenizer: PreTrainedTokenizerBase) -> list[TokenPair]:
    """Tokenise pairs and check that they can be used.

    Raises:
        ValueError: (naming `pair.where`, the texts and their tokens) clean and corrupt have different numbers of
            tokens, or the same tokens; an answer or distractor is not exactly one known token; a token is both.
    """
    if not pairs:
        return []
    clean: list[list[int]] = tokenizer([pair.clean for pair in pairs])["input_ids"]
    corrupt: list[list[int]] = tokenizer([pair.corrupt for pair in pairs])["input_ids"]
    # One call for all answers of all pairs: a call per text would take most of the time.
    candidates = [[*pair.answers, *pair.distractors] for pair in pairs]
    texts = [pair.clean + word for pair, words in zip(pairs, candidates, strict=True) for word in words]
    continued = iter(tokenizer(texts)["input_ids"])

    result = []
    for pair, clean_ids, corrupt_ids, words in zip(pairs, clean, corrupt, candidates, strict=True):
        if len(clean_ids) != len(corrupt_ids):
            raise ValueError(
                f"{pair.where}: clean has {len(clean_ids)} tokens and corrupt {len(corrupt_ids)}, but the two have to "
                f"align token for token {see_page('own-task', 'Pairs that do not align')}."
                f"{_spelled_out(pair, clean_ids, corrupt_ids, tokenizer)}"
            )
        if clean_ids == corrupt_ids:
            raise ValueError(
                f"{pair.where}: clean and corrupt are the same for this tokenizer, so no edge could matter."
                f"{_spelled_out(pair, clean_ids, corrupt_ids, tokenizer)}"
            )
        ids = [_single_token(pair, word, clean_ids, next(continued), tokenizer) for word in words]
        answers, distractors = ids[: len(pair.answers)], ids[len(pair.answers) :]
        if both := set(answers) & set(distractors):
            shared = tokenizer.convert_ids_to_tokens(sorted(both))
            raise ValueError(
                f"{pair.where}: {shared} is given as an answer and as a distractor; it can be only one of them"
            )
        result.append(TokenPair(clean_ids, corrupt_ids, answers, distractors, pair.where))
    return result


def _spelled_out(pair: PromptPair, clean: list[int], corrupt: list[int], tokenizer: PreTrainedTokenizerBase) -> str:
    return "".join(
        f"\n  {name:8s} {text!r}\n           {tokenizer.convert_ids_to_tokens(ids)}"
        for name, text, ids in (("clean:", pair.clean, clean), ("corrupt:", pair.corrupt, corrupt))
    )


def _single_token(
    pair: PromptPair, word: str, prompt: list[int], continued: list[int], tokenizer: PreTrainedTokenizerBase
) -> int:
    """The one token that `word` adds to the prompt."""
    role = "answer" if word in pair.answers else "distractor"
    if len(continued) != len(prompt) + 1 or continued[:-1] != prompt:
        alone = tokenizer.convert_ids_to_tokens(tokenizer(word, add_special_tokens=False)["input_ids"])
        raise ValueError(
            f"{pair.where}: the {role} {word!r} has to add exactly one token to the prompt, but by itself it is "
            f"{alone}, and prompt and {role} together are {tokenizer.convert_ids_to_tokens(continued)}. Most "
            f"tokenizers want the space before a word as part of it: {' ' + word.strip()!r} "
            f"{see_page('own-task', 'Pairs that do not align')}"
        )
    if continued[-1] == tokenizer.unk_token_id:
        raise ValueError(f"{pair.where}: the {role} {word!r} is not in the tokenizer's vocabulary")
    return continued[-1]
