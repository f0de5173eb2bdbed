"""The places of IOI in every variant: found again token by token, by the ids of the names and the texts of tokens."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Regex, Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from lightning_circuits.datamodules import IOIDataModule
from lightning_circuits.datamodules.ioi import NAMES, TEMPLATES
from lightning_circuits.models.loading import EMBEDDED, load_tokenizer


def letters(template: str | None) -> PreTrainedTokenizerBase:
    """A token for each name with the space before it, and one for every other letter."""
    vocabulary = [*map(chr, range(32, 127)), *(f" {name}" for name in NAMES), "<s>", "</s>"]
    ids = {token: number for number, token in enumerate(vocabulary)}
    tokenizer = Tokenizer(models.WordLevel(ids, unk_token="~"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(f" ({'|'.join(NAMES)})\\b|."), "isolated")
    if template is not None:
        special = [(name, ids[name]) for name in ("<s>", "</s>")]
        tokenizer.post_processor = processors.TemplateProcessing(single=template, special_tokens=special)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>")


TOKENIZERS = {
    "words": load_tokenizer(EMBEDDED),
    "letters": letters(None),
    "letters after <s>": letters("<s> $A"),
    "letters, closed": letters("<s> $A </s>"),
}


def places_of(ids: list[int], io: int, subject: int, tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """The span of every token, read off the tokens from left to right."""
    texts = ["" if token in tokenizer.all_special_ids else tokenizer.decode([token]) for token in ids]
    s1, s2 = (i for i, token in enumerate(ids) if token == subject)
    named: list[str | None] = [None] * len(ids)
    named[ids.index(io)], named[s1], named[s2] = "IO", "S1", "S2"
    # The word after S1 goes on to the next space or mark; the last word back to the last space.
    after = s1 + 1
    while not texts[after].strip():
        after += 1
    last = len(ids) - 1
    if tokenizer is TOKENIZERS["words"]:
        named[after] = "S1+1"
    else:
        word = after
        while named[word] is None and (word == after or (texts[word].isalpha() and texts[after].isalpha())):
            named[word] = "S1+1"
            word += 1
        while texts[last - 1].isalpha():
            named[last] = "END"
            last -= 1
    named[last] = "END"
    spans: list[str] = []
    for i, name in enumerate(named):
        before = [there for there in named[:i] if there]
        behind = [there for there in named[i:] if there]
        spans.append(name or f"{before[-1] if before else ''}..{behind[0]}")
    return spans


@settings(max_examples=12, deadline=None)
@given(
    tokenizer=st.sampled_from(list(TOKENIZERS)),
    corruption=st.sampled_from(["third-name", "s2-io-flip", "abc"]),
    side=st.sampled_from(["left", "right"]),
    held_out=st.integers(0, 3),
    seed=st.integers(0, 1000),
)
def test_every_token_of_every_template_is_in_its_place(
    tokenizer: str, corruption: Any, side: Any, held_out: int, seed: int
) -> None:
    of = TOKENIZERS[tokenizer]
    n = 2 * len(TEMPLATES)  # every template in both orders
    options = dict(corruption=corruption, padding_side=side, held_out_templates=held_out, seed=seed, spans="roles")
    data = IOIDataModule(of, n_train=n, n_val=8, n_test=1, batch_size=n, **options)
    orders = set()
    for batch in (*data.train_dataloader(), *data.val_dataloader()):
        names = batch["span_names"]
        for row, real in enumerate(batch["attention_mask"].bool()):
            ids, spans = batch["clean_ids"][row][real].tolist(), batch["spans"][row]
            io, subject = int(batch["answers"][row, 0]), int(batch["distractors"][row, 0])
            assert [names[span] for span in spans[real].tolist()] == places_of(ids, io, subject, of)
            assert (spans[~real] == -1).all()
            assert names[int(spans[batch["positions"][row]])] == "END"
            orders.add(ids.index(io) < ids.index(subject))
            differs = batch["clean_ids"][row] != batch["corrupt_ids"][row]
            first = names[int(spans[int(differs.int().argmax())])]
            assert first == ("S2" if corruption != "abc" else "IO" if ids.index(io) < ids.index(subject) else "S1")
    assert orders == {True, False}


@pytest.mark.parametrize("tokenizer", TOKENIZERS)
def test_all_variants_have_the_five_places(tokenizer: str) -> None:
    data = IOIDataModule(TOKENIZERS[tokenizer], n_train=30, n_val=1, n_test=1, batch_size=30, spans="roles")
    (batch,) = data.train_dataloader()
    named = {name for name in batch["span_names"] if ".." not in name}
    assert named == {"IO", "S1", "S1+1", "S2", "END"} and batch["span_names"][-1] == "END"
    for name in named:
        assert (batch["spans"] == batch["span_names"].index(name)).any(1).all()
