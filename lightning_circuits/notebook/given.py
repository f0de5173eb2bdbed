"""Prompts, however a notebook has them: dicts, a frame, a file, or the batches of a split."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

from torch import nn

from lightning_circuits.arguments import require_whole_numbers, shortened
from lightning_circuits.batch import Batch, PromptSource
from lightning_circuits.datamodules.loader import PairLoader
from lightning_circuits.datamodules.misfits import fitting
from lightning_circuits.datamodules.reading import Source, read_pairs, require_distractors_in_all
from lightning_circuits.datamodules.tokenising import AnswerTokens, PromptPair, TokenPair, in_spans
from lightning_circuits.models.loading import PreTrainedTokenizerBase, load_tokenizer
from lightning_circuits.search.random_numbers import drawing_nothing, undisturbed

LanguageModel: TypeAlias = str | Path | nn.Module
Prompts: TypeAlias = Source | Iterable[Batch]
Tokenizer: TypeAlias = str | Path | PreTrainedTokenizerBase


class PromptBatches(NamedTuple):
    """Prompts as batches that can be gone through again. ``pairs``: their tokens, and ``texts``, what they are called;
    both empty of prompts that were given as batches."""

    batches: Iterable[Batch]
    pairs: Sequence[TokenPair] = ()
    texts: Sequence[str] = ()


def prompt_batches(
    prompts: Prompts,
    model: LanguageModel,
    tokenizer: Tokenizer | None = None,
    batch_size: int = 8,
    answer_tokens: AnswerTokens = "one",
    spans: bool = False,
) -> PromptBatches:
    """Read prompts, of whatever kind they are.

    Args:
        prompts: pairs as `PromptPairDataModule` takes them: dicts with ``clean``, ``corrupt``, ``answers`` and
            ``distractors``, a frame of pandas, a dataset of `datasets`, or a file of JSON Lines, JSON or CSV; or the
            batches of a split, ``data.val_dataloader()``.
        model: whose tokenizer reads them.
        tokenizer: another one, or its name; needed for a model in memory that does not say where it is from.
        batch_size: pairs run together. It changes no number.
        answer_tokens: how many tokens an answer may have: ``one``, or ``any`` number.
        spans: whether the places that prompts name are told apart.

    Raises:
        FileNotFoundError: no such file, no such tokenizer.
        ValueError: no prompts; those that cannot be used, by their numbers or lines; distractors in some alone; no
            tokenizer.
        TypeError: something else.
    """
    require_whole_numbers(batch_size=batch_size)
    if batch_size < 1:
        raise ValueError(f"batch_size is {batch_size}: it has to be at least 1")
    if isinstance(prompts, Iterator):  # a loader begins anew each time; an iterator would be at its end after one pass
        prompts = list(prompts)
    if _gives_batches(prompts):
        return PromptBatches(prompts)  # type: ignore[arg-type]
    texts = read_pairs(prompts, name="prompts")
    if not texts:
        raise ValueError("there are no prompts: give at least one pair")
    require_distractors_in_all(texts)
    reads = _tokenizer(model, tokenizer)
    _, tokens, _ = fitting(texts, reads, "refuse", answer_tokens=answer_tokens)
    if spans:
        tokens = in_spans(tokens, texts, reads)
    return PromptBatches(PairLoader(tokens, batch_size), tokens, [pair.clean for pair in texts])


def _gives_batches(prompts: Any) -> bool:
    """Whether prompts are batches already, as their first shows, and not pairs of texts."""
    if isinstance(prompts, PromptSource):
        raise TypeError(
            f"{type(prompts).__name__} has three splits: give one of them, such as data.train_dataloader() to score, "
            "and data.val_dataloader() to evaluate"
        )
    if isinstance(prompts, (str, Path)):
        return False
    if isinstance(prompts, (Mapping, PromptPair)) or not isinstance(prompts, Iterable):
        raise TypeError(
            "prompts takes a list of dicts, a frame of pandas, a file or the loader of a split, got "
            f"{shortened(prompts)}"
        )
    with undisturbed(), drawing_nothing(prompts):
        first = next(iter(prompts), None)
    return isinstance(first, Mapping) and not any(isinstance(value, str) for value in first.values())


def _tokenizer(model: LanguageModel, given: Tokenizer | None) -> PreTrainedTokenizerBase:
    if isinstance(given, PreTrainedTokenizerBase):
        return given
    config = getattr(getattr(model, "_orig_mod", model), "config", None)
    name = given or (getattr(config, "name_or_path", None) if isinstance(model, nn.Module) else model)
    if not name:
        raise ValueError(
            f"this {type(model).__name__} does not say where it is from, so its tokenizer cannot be found: give "
            "tokenizer=, a name or one of transformers"
        )
    return load_tokenizer(name)
