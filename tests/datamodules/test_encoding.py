"""Tokenizers of all kinds: what they close a text with, what they do not know, and advice that is right for each."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from lightning_circuits.datamodules import IOIDataModule, PromptPair
from lightning_circuits.datamodules.encoding import encode
from lightning_circuits.datamodules.misfits import fitting
from lightning_circuits.datamodules.tokenising import TokenPair
from lightning_circuits.models.loading import load_tokenizer

WORDS = "<unk> <s> </s> Mary John Anna gave it to 13 00 1300".split()
IDS = {word: number for number, word in enumerate(WORDS)}


def fast(model: Any, pre: Any = None, normalizer: Any = None, template: str | None = None, **special: Any) -> Any:
    tokenizer = Tokenizer(model)
    if pre is not None:
        tokenizer.pre_tokenizer = pre
    if normalizer is not None:
        tokenizer.normalizer = normalizer
    if template is not None:
        known = [(name, IDS[name]) for name in ("<s>", "</s>")]
        tokenizer.post_processor = processors.TemplateProcessing(single=template, special_tokens=known)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special)


def words(template: str | None = None, **special: Any) -> PreTrainedTokenizerBase:
    """A token a word; the space before it belongs to none."""
    model = models.WordLevel(IDS, unk_token="<unk>")
    return fast(model, pre_tokenizers.Whitespace(), template=template, unk_token="<unk>", **special)


def metaspace(prefix: str = "always") -> PreTrainedTokenizerBase:
    """As SentencePiece: the space before a word is part of it, one before the first word is put in."""
    vocabulary = ["<unk>", "▁", *"abcdefghijklmnopqrstuvwxyzMJA", *(f"▁{word}" for word in WORDS[3:]), "Mary", "John"]
    scores = [(piece, -1.0 if len(piece) > 1 else -9.0) for piece in vocabulary]
    return fast(models.Unigram(scores, unk_id=0), pre_tokenizers.Metaspace(prepend_scheme=prefix), unk_token="<unk>")


def letters(unk: str | None = None) -> PreTrainedTokenizerBase:
    """A token a letter. Without a token for the unknown, it leaves out what it does not know."""
    vocabulary = [*"abcdefghijklmnopqrstuvwxyzMJA ", *([unk] if unk else [])]
    model = models.BPE({letter: number for number, letter in enumerate(vocabulary)}, [], unk_token=unk)
    return fast(model, unk_token=unk)


class Slow(PreTrainedTokenizer):
    """Written in Python; closes every text, like those of T5."""

    def __init__(self, **options: Any) -> None:
        super().__init__(unk_token="<unk>", eos_token="</s>", **options)

    @property
    def vocab_size(self) -> int:
        return len(IDS)

    def get_vocab(self) -> dict[str, int]:
        return dict(IDS)

    def _tokenize(self, text: str) -> list[str]:  # type: ignore[override]
        return text.split()

    def _convert_token_to_id(self, token: str) -> int:
        return IDS.get(token, 0)

    def _convert_id_to_token(self, index: int) -> str:
        return WORDS[index]

    def build_inputs_with_special_tokens(self, token_ids_0: list[int], token_ids_1: Any = None) -> list[int]:
        return [*token_ids_0, IDS["</s>"]]

    def get_special_tokens_mask(self, token_ids_0: Any, token_ids_1: Any = None, already_has_special_tokens=False):
        return [0] * len(token_ids_0) + [1]


def pair(clean: str = "Mary gave it to", corrupt: str = "John gave it to", answers: Sequence[Any] = (" Mary",)) -> Any:
    return PromptPair(clean, corrupt, tuple(answers), (), "row 7")


def tokens(tokenizer: Any, **changes: Any) -> TokenPair:
    return fitting([pair(**changes)], tokenizer, "refuse")[1][0]


# ---- what a tokenizer puts around a text -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "first"),
    [
        (lambda: words("<s> $A </s>", bos_token="<s>", eos_token="</s>"), ["<s>"]),
        (lambda: words("<s> $A </s>"), ["<s>"]),  # which it does not call special
        (lambda: words("$A </s> </s>"), []),
        (lambda: words("<s> $A"), ["<s>"]),
        (Slow, []),
    ],
)
def test_what_closes_a_text_is_left_out_and_what_opens_it_is_kept(make: Callable[[], Any], first: list[str]) -> None:
    read = tokens(make())
    assert [WORDS[token] for token in read.clean] == [*first, "Mary", "gave", "it", "to"]
    assert [WORDS[token] for token in read.answers] == ["Mary"]


def test_what_stands_in_the_text_itself_stays() -> None:
    tokenizer = words("<s> $A </s>", bos_token="<s>", eos_token="</s>")
    assert [WORDS[token] for token in encode(["Mary </s>"], tokenizer)[0]] == ["<s>", "Mary", "</s>"]
    assert encode([], tokenizer) == []


def test_names_of_ioi_are_found_with_a_tokenizer_that_closes_texts() -> None:
    closing = load_tokenizer("tiny-ioi")
    closing.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="$A [PAD]", special_tokens=[("[PAD]", 0)]
    )
    plain, closed = (IOIDataModule(tokenizer, 4, 2, 2) for tokenizer in (load_tokenizer("tiny-ioi"), closing))
    for data in (plain, closed):
        data.setup()
    assert plain._splits == closed._splits


# ---- what it does not know -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [words, Slow, lambda: letters("?")])
def test_unknown_words_of_a_prompt_are_named(make: Callable[[], Any]) -> None:
    for prompts in ({"clean": "Märy gave it to"}, {"corrupt": "Märy gave it to"}):
        with pytest.raises(ValueError, match=r"^row 7: 'Märy' in 'Märy gave it to' is not in the tokenizer's vocab"):
            tokens(make(), **prompts)


def test_so_are_letters_that_a_tokenizer_without_a_token_for_them_leaves_out() -> None:
    with pytest.raises(ValueError, match=r"^row 7: 'ä' in 'Märy gave it to' is not in the tokenizer's vocabulary"):
        tokens(letters(), clean="Märy gave it to")
    assert len(tokens(letters(), corrupt="Anna gave it to", answers=["M"]).clean) == len("Anna gave it to")


def test_a_tokenizer_that_gives_up_is_told_with_the_row() -> None:
    tokenizer = fast(models.WordLevel(IDS, unk_token="none"), pre_tokenizers.Whitespace())
    with pytest.raises(ValueError, match=r"No spelling of it is one token here: .* for 'Mary'"):
        tokens(tokenizer, answers=[" Mary Mary"])
    with pytest.raises(ValueError, match=r"^row 7: the tokenizer cannot read 'Zoltan gave it to': WordLevel error"):
        fitting([pair(), pair("Zoltan gave it to")], tokenizer, "refuse")


def test_a_token_for_the_unknown_may_be_given_by_its_name() -> None:
    """GPT-2's is its end-of-text token, which many put before a prompt."""
    assert tokens(words(), clean="<unk> gave it to").clean[0] == IDS["<unk>"]
    assert tokens(words(), answers=[" <unk>"]).answers == [IDS["<unk>"]]


def test_prompts_that_only_a_normaliser_makes_the_same() -> None:
    model = models.WordLevel({word.lower(): number for word, number in IDS.items()}, unk_token="<unk>")
    tokenizer = fast(model, pre_tokenizers.Whitespace(), normalizers.Lowercase(), unk_token="<unk>")
    with pytest.raises(ValueError, match=r"^row 7: clean and corrupt are the same for this tokenizer"):
        tokens(tokenizer, clean="mary gave it to", corrupt="Mary gave it to")


# ---- advice ----------------------------------------------------------------------------------------------------------


def advised(tokenizer: Any, **changes: Any) -> tuple[str, str | None]:
    """The message for an answer that is refused, and the text in its place that it proposes."""
    with pytest.raises(ValueError, match=r"^row 7: the answer .* has to add exactly one token to the prompt") as caught:
        tokens(tokenizer, **changes)
    found = re.search(r"('[^']*') is one\.", str(caught.value))
    return str(caught.value), found and found[1].strip("'")


def test_a_spelling_that_is_proposed_is_one() -> None:
    upper = fast(
        models.WordLevel({"<unk>": 0, "MARY": 1, "JOHN": 2, "GAVE": 3, "IT": 4}, unk_token="<unk>"),
        pre_tokenizers.Split(Regex(r"\s"), "removed"),
        unk_token="<unk>",
    )
    for tokenizer, answer in (
        (words(), "Mary"),
        (words("<s> $A </s>"), "Mary"),
        (Slow(), "Mary"),
        (metaspace(), "Mary "),
        (metaspace("never"), "  Mary"),
    ):
        message, spelling = advised(tokenizer, answers=[answer])
        assert spelling == " Mary", message
        tokens(tokenizer, answers=[spelling])
    message, spelling = advised(upper, clean="MARY GAVE", corrupt="JOHN GAVE", answers=["IT"])
    assert spelling == " IT"


def test_a_space_at_the_end_of_the_prompts_is_seen() -> None:
    message, _ = advised(metaspace(), clean="Mary gave it to ", corrupt="John gave it to ", answers=["John"])
    assert "Without the space at the end of both prompts, ' John' is one" in message


def test_where_the_text_is_another_token_the_right_one_is_named_by_its_id() -> None:
    """The field's greater-than prompts: "13" and "00" are tokens, but one after the other they are "1300"."""
    vocabulary = [*"JohnMary 130", "13", "00", "1300"]
    numbers = {piece: number for number, piece in enumerate(vocabulary)}
    tokenizer = fast(models.BPE(numbers, [("1", "3"), ("0", "0"), ("13", "00")]))
    prompts = {"clean": "Mary 13", "corrupt": "John 13"}
    with pytest.raises(ValueError, match=r"together are .*'1300'\]\. No spelling .* as \d+ for '00'") as caught:
        tokens(tokenizer, **prompts, answers=["00"])
    token = int(re.search(r"as (\d+) for", str(caught.value))[1])
    read = tokens(tokenizer, **prompts, answers=[token])
    assert [vocabulary[token] for token in (*read.clean, *read.answers)] == [*"Mary ", "13", "00"]


def test_an_answer_of_several_tokens_is_proposed_its_first() -> None:
    message, spelling = advised(letters(), corrupt="Anna gave it to", answers=[" Mary"])
    assert spelling is None and "as 29 for ' '" in message


def test_nothing_is_proposed_that_the_tokenizer_does_not_know() -> None:
    for answer in ("Zoltan Zoltan", "Zoltan!", " "):
        message, spelling = advised(words(), answers=[answer])
        assert spelling is None and message.count("or give the id of a token") == 1
    with pytest.raises(ValueError, match="the answer ' Zoltan' is not in the tokenizer's vocabulary"):
        tokens(words(), answers=[" Zoltan"])
