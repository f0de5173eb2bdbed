"""A pair as tokens; what is refused, and how that is said, stands in `test_jsonl`."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from lightning_circuits.datamodules import PromptPair
from lightning_circuits.datamodules.ioi import NAMES
from lightning_circuits.datamodules.misfits import fitting
from lightning_circuits.models.loading import load_tokenizer

TOKENIZER = load_tokenizer("tiny-ioi")


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(*[st.sampled_from(NAMES)] * 3).filter(lambda t: len(set(t)) == 3), min_size=1, max_size=8))
def test_tokens_are_those_of_each_text_alone(triples: list[tuple[str, str, str]]) -> None:
    """Tokenised all at once, a pair is what it is when its texts are tokenised one by one."""
    pairs = [
        PromptPair(f"{a} gave {b} to", f"{c} gave {b} to", (f" {a}", f" {b}"), (f" {c}",), "row") for a, b, c in triples
    ]
    for pair, tokens in zip(pairs, fitting(pairs, TOKENIZER, "refuse")[1], strict=True):
        assert TOKENIZER.decode(tokens.clean) == pair.clean
        assert TOKENIZER.decode(tokens.corrupt) == pair.corrupt
        assert [f" {TOKENIZER.decode([token])}" for token in tokens.answers] == list(pair.answers)
        assert [f" {TOKENIZER.decode([token])}" for token in tokens.distractors] == list(pair.distractors)
