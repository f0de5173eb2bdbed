"""What a tokenizer makes of texts that are to be continued, and what of them it does not know."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from lightning_circuits.arguments import shortened
from lightning_circuits.models.loading import PreTrainedTokenizerBase, load_tokenizer


class WithTokenizer:
    """What reads texts with a tokenizer that may be given by its name."""

    tokenizer_name: str
    """That it was given by, or is loaded by elsewhere."""

    def read_by(self, tokenizer: str | Path | PreTrainedTokenizerBase) -> None:
        """Take it for one's own; TypeError for something else."""
        if not isinstance(tokenizer, (str, Path, PreTrainedTokenizerBase)):
            raise TypeError(
                f"tokenizer takes a tokenizer of transformers, a name or a folder, got {shortened(tokenizer)}"
            )
        self._tokenizer = tokenizer
        self.tokenizer_name = str(tokenizer) if isinstance(tokenizer, (str, Path)) else tokenizer.name_or_path

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The tokenizer, loaded when it is first needed."""
        if isinstance(self._tokenizer, (str, Path)):
            self._tokenizer = load_tokenizer(self._tokenizer)
        return self._tokenizer


def encode(texts: Sequence[str], tokenizer: PreTrainedTokenizerBase) -> list[list[int]]:
    """Token ids of texts with the tokenizer's own defaults, but for what it closes a text with.

    A tokenizer that ends every text with an end-of-sequence token of its own says by it that nothing follows. The texts
    here are prompts, and what is asked is what follows, so that token is left out. One that stands in the text stays.
    """
    if not texts:
        return []
    encoded = tokenizer(list(texts), return_special_tokens_mask=True)
    result = []
    for ids, added in zip(encoded["input_ids"], encoded["special_tokens_mask"], strict=True):
        end = len(ids)
        while end == len(added) and added and added[-1]:
            end, added = end - 1, added[:-1]
        result.append(ids[:end])
    return result


def unknown_words(text: str, ids: list[int], tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """The words of a text that stand in `ids`, what `encode` makes of it, as the token for the unknown."""
    unknown, name = tokenizer.unk_token_id, tokenizer.unk_token
    # GPT-2 calls its end-of-text token so, which may well stand in a text, or before it.
    if unknown is None or ids.count(unknown) <= text.count(name) + (tokenizer.bos_token_id == unknown):
        return []
    words = [word for word in text.split() if name not in word]
    return [word for word, ids in zip(words, encode(words, tokenizer), strict=True) if unknown in ids] or [text]


def letters_left_out(texts: Iterable[str], tokenizer: PreTrainedTokenizerBase) -> set[str]:
    """Letters and digits of which a tokenizer makes nothing: without a token for the unknown, it passes over them."""
    if tokenizer.unk_token_id is not None:
        return set()
    letters = sorted({letter for text in texts for letter in text if letter.isalnum()})
    try:
        ids = tokenizer(letters, add_special_tokens=False)["input_ids"] if letters else []
    except Exception:  # one that gives up at what it does not know leaves nothing out
        return set()
    return {letter for letter, found in zip(letters, ids, strict=True) if not found}
