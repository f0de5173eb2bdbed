"""Whether tokenised pairs can be read by a model: short enough for it, and of tokens that it has."""

from __future__ import annotations

from collections.abc import Iterable

from lightning_circuits.datamodules.faults import made_of_each
from lightning_circuits.datamodules.tokenising import TokenPair, longest
from lightning_circuits.models import CircuitModel


def require_fit(pairs: Iterable[TokenPair], model: CircuitModel) -> None:
    """See that a model can read every pair, before any of them is run.

    Args:
        pairs: of any split.
        model: the model that is to read them.

    Raises:
        ValueError: a token id beyond the model's vocabulary.
        BadRows: prompts that are longer than `CircuitModel.prompt_limit`. Both name where the pairs came from.
    """
    limit, vocabulary, owner = model.prompt_limit, model.vocabulary, type(model.model).__name__

    for pair in (pairs := list(pairs)):  # of the wrong tokenizer all pairs are wrong, and one is enough to tell
        highest = max(
            max(ids) for row in pair.rows for ids in (row.clean, row.corrupt, row.answers, row.distractors) if ids
        )
        if highest >= vocabulary:
            raise ValueError(
                f"{pair.where}: token {highest} is none of the {vocabulary} that this {owner} knows: give the data the "
                "tokenizer of the model"
            )

    def require_length(pair: TokenPair, where: str) -> None:
        if limit is not None and (tokens := len(pair.clean) + longest(pair)) > limit.tokens:
            raise ValueError(
                f"{where}: the prompts have {tokens} tokens, more than the {limit.tokens} that this "
                f"{owner} takes: {limit.reason}"
            )

    made_of_each(((pair.where, pair) for pair in pairs), require_length, "pairs")
