"""Whether tokenised pairs can be read by a model: short enough for it, and of tokens that it has."""

from __future__ import annotations

from collections.abc import Iterable

from lightning_circuits.datamodules.tokenising import TokenPair, longest
from lightning_circuits.models import CircuitModel


def require_fit(pairs: Iterable[TokenPair], model: CircuitModel) -> None:
    """See that a model can read every pair, before any of them is run.

    Args:
        pairs: of any split.
        model: the model that is to read them.

    Raises:
        ValueError: (naming where the pair came from) a prompt that is longer than `CircuitModel.prompt_limit`; a token
            id beyond the model's vocabulary.
    """
    limit, vocabulary, owner = model.prompt_limit, model.vocabulary, type(model.model).__name__
    for pair in pairs:
        if limit is not None and (tokens := len(pair.clean) + longest(pair)) > limit.tokens:
            raise ValueError(
                f"{pair.where}: the prompts have {tokens} tokens, more than the {limit.tokens} that this "
                f"{owner} takes: {limit.reason}"
            )
        highest = max(
            max(ids) for row in pair.rows for ids in (row.clean, row.corrupt, row.answers, row.distractors) if ids
        )
        if highest >= vocabulary:
            raise ValueError(
                f"{pair.where}: token {highest} is none of the {vocabulary} that this {owner} knows: give the data the "
                "tokenizer of the model"
            )
