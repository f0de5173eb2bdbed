"""Tokenizers that know the words of the tasks, each cutting texts its own way; nothing of them is downloaded."""

from __future__ import annotations

import re

from tokenizers import Regex, Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from lightning_circuits.datamodules import (
    country_capital,
    gender_bias,
    greater_than,
    hypernymy,
    known_facts,
    subject_verb_agreement,
)

TEMPLATES = [
    template
    for module in (country_capital, gender_bias, greater_than, hypernymy, subject_verb_agreement)
    for template in module.TEMPLATES
]
TEMPLATES += [text for of in known_facts.RELATIONS.values() for text in (of.prompt, *of.paraphrases)]
WORDS = [
    *(name for names in country_capital.CAPITALS for name in names),
    *(*gender_bias.HERS, *gender_bias.HIS, "man", "woman", "he", "she"),
    *greater_than.NOUNS,
    *(word for kind, things in hypernymy.KINDS.items() for word in (*kind, *things.split())),
    *(word for of in known_facts.RELATIONS.values() for true, some in of.subjects.items() for word in (true, *some)),
    *(word for pair in (*subject_verb_agreement.SUBJECTS, *subject_verb_agreement.VERBS) for word in pair),
]
CUTS = {
    "words, digits one by one": r" ?[A-Za-z]+|\d| |[^\w ]",
    "words, two digits": r" ?[A-Za-z]+| ?1[1-9]|\d\d|\d| |[^\w ]",
    "words, years whole": r" ?[A-Za-z]+|\d+| |[^\w ]",
    "pieces of seven letters": r" ?[A-Za-z]{1,7}|\d| |[^\w ]",
    "letters": r".",
}
"""What a token is, as a regular expression."""


def tokenizer_of(cut: str, after: str | None = None) -> PreTrainedTokenizerBase:
    """A tokenizer that cuts by one of `CUTS` or another expression, and puts ``after`` before every text if given."""
    cut = CUTS.get(cut, cut)
    texts = [*TEMPLATES, *(f" {word}" for word in WORDS), *(f" {year}" for year in range(10, 2000))]
    tokens = [token for text in texts for token in re.findall(cut, text)]
    vocabulary = dict.fromkeys([*map(chr, range(32, 127)), *tokens, *filter(None, [after])])
    ids = {token: number for number, token in enumerate(vocabulary)}
    tokenizer = Tokenizer(models.WordLevel(ids, unk_token="~"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(cut), "isolated")
    if after is not None:
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{after} $A", special_tokens=[(after, ids[after])]
        )
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="~", bos_token=after)
