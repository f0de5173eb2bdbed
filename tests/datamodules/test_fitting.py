"""Prompts that a model cannot read are named before anything runs, in every split."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path

import pytest
import torch

from lightning_circuits import EAP
from lightning_circuits.datamodules import IOIDataModule, PairDataModule, PromptPair
from lightning_circuits.models import CircuitModel, wrap
from lightning_circuits.models.loading import load_model
from lightning_circuits.namespace import pl

LIMIT = load_model("tiny-ioi").config.n_positions


class Walks(PairDataModule):
    """Short prompts, and one split with a prompt of so many words."""

    def __init__(self, split: str, words: int) -> None:
        super().__init__("tiny-ioi", batch_size=2)
        self.long = {split: words}

    def make_splits(self) -> dict[str, list[PromptPair]]:
        def pair(words: int, where: str) -> PromptPair:
            rest = " ".join(["gave"] * (words - 1))
            return PromptPair(f"Mary {rest}", f"John {rest}", (" Mary",), (" John",), where)

        return {name: [pair(4, "short"), pair(self.long.get(name, 5), name)] for name in ("train", "val", "test")}

    def describe(self) -> dict[str, object]:
        return {}


@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_a_prompt_longer_than_the_context_is_named_before_training(split: str, tmp_path: Path) -> None:
    trainer = pl.Trainer(default_root_dir=tmp_path, logger=False, enable_progress_bar=False, max_epochs=1)
    with pytest.raises(ValueError, match=rf"^{split}: the prompts have {LIMIT + 1} tokens, more than the {LIMIT} "):
        trainer.fit(EAP("tiny-ioi"), Walks(split, LIMIT + 1))
    Walks(split, LIMIT).require_fit(wrap(load_model("tiny-ioi")))


def smaller() -> CircuitModel:
    model = deepcopy(load_model("tiny-ioi"))
    model.resize_token_embeddings(20)
    return wrap(model)


def test_tokens_of_another_vocabulary_are_named() -> None:
    with pytest.raises(
        ValueError, match=r"^train prompt 0: token \d+ is none of the 20 that this GPT2LMHeadModel knows"
    ):
        IOIDataModule("tiny-ioi", 4, 2, 2).require_fit(smaller())


def test_whoever_runs_a_model_without_a_data_module_is_told_too() -> None:
    model, mask = wrap(load_model("tiny-ioi")), torch.ones(2, LIMIT + 1, dtype=torch.int64)
    mask[0, 4:] = 0
    last = mask.sum(-1) - 1
    with pytest.raises(
        ValueError, match=f"prompt 1 of a batch has {LIMIT + 1} tokens, more than the {LIMIT} .*positions"
    ):
        model.run(torch.ones_like(mask), mask, last)
    padding = torch.cat([mask[:1], mask[:1]])  # wide, but no prompt is long
    model.run(torch.ones_like(mask), padding, last[:1].repeat(2))
    ids = torch.ones(1, 4, dtype=torch.int64)
    for wrong in (-1, -100, model.vocabulary):
        ids[0, 2] = wrong
        with pytest.raises(ValueError, match=f"token 2 of prompt 0 of a batch has the id {wrong}, .* from 0 to"):
            model.run(ids, torch.ones_like(ids), torch.tensor([3]))
