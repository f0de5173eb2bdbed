"""Pairs without distractors: what every objective and measure makes of them, and a run of a search on them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from lightning_circuits import EAP
from lightning_circuits.callbacks import FaithfulnessValidation
from lightning_circuits.datamodules import PromptPairDataModule
from lightning_circuits.evaluation.rows import Row
from lightning_circuits.measures import MEASURES, correct, values
from lightning_circuits.models.loading import load_tokenizer
from lightning_circuits.namespace import pl
from lightning_circuits.objectives import OBJECTIVES, losses
from tests.datamodules.test_jsonl import record

LOGITS = torch.tensor([[1.0, 3.0, 0.0, -1.0], [0.5, -2.0, 4.0, 1.0]])
FULL = torch.tensor([[0.0, 2.5, 0.2, -1.0], [3.5, -2.0, 2.0, 1.0]])
BATCH = {"answers": torch.tensor([[1, -100], [2, 3]]), "distractors": torch.full((2, 2), -100)}


@pytest.mark.parametrize("name", [name for name in OBJECTIVES.names() if name != "Maximise"])
def test_objectives_do_without(name: str) -> None:
    logits = LOGITS.clone().requires_grad_()
    loss = losses(OBJECTIVES.make(name, "objective"), logits, BATCH, FULL)
    assert loss.isfinite().all()
    loss.sum().backward()
    assert logits.grad is not None and logits.grad.isfinite().all()


def test_measures_do_without() -> None:
    found = {name: values(MEASURES.make(name, "measure"), LOGITS, BATCH, FULL) for name in ("logit_difference", "kl")}
    assert found["logit_difference"].tolist() == [3.0, 2.5]  # 3, and the mean of 4 and 1
    assert found["kl"].isfinite().all()
    said = values(MEASURES.make("probability_difference", "measure"), LOGITS, BATCH, FULL)
    expected = [LOGITS[0].exp()[1] / LOGITS[0].exp().sum(), LOGITS[1].exp()[2:].sum() / LOGITS[1].exp().sum()]
    torch.testing.assert_close(said, torch.stack(expected))
    assert correct(LOGITS, BATCH).tolist() == [True, True] and correct(FULL, BATCH).tolist() == [True, False]


def test_a_search_does_without(tmp_path: Path) -> None:
    rows = [{name: value for name, value in record(n).items() if name != "distractors"} for n in range(20)]
    data = PromptPairDataModule(load_tokenizer("tiny-ioi"), rows, val_fraction=0.2, test_fraction=0.2)
    found: list[Row] = []

    class Keep(pl.Callback):
        def on_circuits_measured(self, trainer: object, search: object, measured: object) -> None:
            found.extend(measured.rows)  # type: ignore[attr-defined]

    validation = FaithfulnessValidation(sizes=[0.1], ablations=["interchange"])
    trainer = pl.Trainer(
        default_root_dir=tmp_path, logger=False, enable_progress_bar=False, max_epochs=1, callbacks=[validation, Keep()]
    )
    trainer.fit(EAP("tiny-ioi"), data)
    assert {row.circuit for row in found} >= {"full", "empty"}
    assert all(row.kl >= 0 and 0 <= row.accuracy <= 1 for row in found)


def test_pairs_with_and_without_are_not_mixed() -> None:
    rows = [record(n) for n in range(20)]
    del rows[7]["distractors"]
    with pytest.raises(ValueError, match=r"1 of 20 pairs have no distractors.*all or to none.*train\[7\]"):
        PromptPairDataModule(load_tokenizer("tiny-ioi"), rows).setup()
