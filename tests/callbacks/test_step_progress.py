"""The bar of a run counts steps, not batches of an epoch, on one line of 80 columns."""

from __future__ import annotations

import io
import re
from typing import Any

import pytest
import rich
from rich.console import Console

from lightning_circuits.callbacks import FaithfulnessValidation, StepProgressBar
from lightning_circuits.datamodules import IOIDataModule
from lightning_circuits.namespace import pl
from tests.support.drift import Drift, make_trainer

CODES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> io.StringIO:
    sent = io.StringIO()
    console = Console(file=sent, force_terminal=True, width=80, legacy_windows=False)
    monkeypatch.setattr(rich, "get_console", lambda: console)
    return sent


def drawn(terminal: io.StringIO) -> list[str]:
    return [CODES.sub("", line) for line in re.split(r"[\r\n]", terminal.getvalue()) if CODES.sub("", line).strip()]


class Shown(Drift):
    def training_step(self, batch: Any, batch_idx: int) -> Any:
        loss = super().training_step(batch, batch_idx)
        self.log("train/objective", loss, prog_bar=True)
        return loss


def fit(data: IOIDataModule, *callbacks: pl.Callback, **options: Any) -> pl.Trainer:
    trainer = make_trainer(StepProgressBar(), *callbacks, enable_progress_bar=True, **options)
    trainer.fit(Shown(), data)
    return trainer


@pytest.mark.parametrize("options", [{"max_steps": 4}, {"max_epochs": 2, "max_steps": -1}])
def test_it_counts_the_steps_of_the_whole_run(
    data: IOIDataModule, terminal: io.StringIO, options: dict[str, int]
) -> None:
    planned = fit(data, **options).global_step
    lines = drawn(terminal)
    assert f"{planned}/{planned}" in lines[-1] and lines[-1].startswith("Shown") and "objective " in lines[-1]
    assert not re.search(r"Epoch|v_num|-\d", "".join(lines)) and max(map(len, lines)) <= 80


def test_a_resumed_run_begins_where_it_was(data: IOIDataModule, terminal: io.StringIO, tmp_path: Any) -> None:
    fit(data, max_steps=3).save_checkpoint(tmp_path / "half.ckpt")
    terminal.truncate(0)
    trainer = make_trainer(StepProgressBar(), enable_progress_bar=True, max_steps=6)
    trainer.fit(Shown(), data, ckpt_path=tmp_path / "half.ckpt")
    assert "3/6" in drawn(terminal)[0] and "6/6" in drawn(terminal)[-1]


def test_no_bar_is_left_behind_by_a_run_that_fails(data: IOIDataModule, terminal: io.StringIO) -> None:
    class Explode(pl.Callback):
        def on_train_batch_end(self, *_: Any) -> None:
            raise ValueError("the bug")

    with pytest.raises(ValueError, match="the bug"):
        fit(data, Explode(), max_steps=4)
    assert terminal.getvalue().endswith("\x1b[2K")


def test_who_wants_no_bars_gets_none(data: IOIDataModule, terminal: io.StringIO) -> None:
    make_trainer(FaithfulnessValidation(every_n_steps=1, sizes=[0.1]), max_steps=2).fit(Drift(), data)
    assert terminal.getvalue() == ""
    bar = StepProgressBar()
    trainer = make_trainer(bar, enable_progress_bar=True, max_steps=2)
    bar.disable()
    trainer.fit(Drift(), data)
    assert terminal.getvalue() == ""
