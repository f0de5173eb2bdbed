"""What a command prints is ours: no advertisements, no bars of single tensors, no warnings between libraries."""

from __future__ import annotations

import logging
import re
import subprocess
import sys
from pathlib import Path

import pytest

from lightning_circuits.callbacks import StepProgressBar
from lightning_circuits.commands import main as command
from lightning_circuits.commands.others_output import LIGHTNING, leave_out_what_is_not_ours
from lightning_circuits.namespace import pl

SMALL = ["--config=quickstart.yaml", "--trainer.accelerator=cpu", "--trainer.max_steps=2", "--data.batch_size=8"]
SMALL += [f"--data.n_{split}=16" for split in ("train", "val", "test")]


def test_a_run_says_what_is_ours(tmp_path: Path) -> None:
    """In a process of its own: loggers are set for good."""
    program = [sys.executable, "-m", "lightning_circuits.commands.main", "fit", *SMALL]
    done = subprocess.run(program, cwd=tmp_path, capture_output=True, text=True, check=True)
    said = done.stdout + done.stderr
    assert "The full model on" in said and "Circuits by exact ablation" in said
    not_ours = r"Tip|litlogger|TPU|estimate number of stepping|LeafSpec|Deprecat|FutureWarning|%\||it/s|Loading weights"
    assert not re.search(not_ours, said), said


@pytest.mark.parametrize(
    ("options", "kinds"),
    [
        ([], [StepProgressBar]),
        (["--trainer.callbacks+=TQDMProgressBar"], [pl.callbacks.TQDMProgressBar]),
        (["--trainer.enable_progress_bar=false"], []),
        (["--quiet"], []),
        (["--quiet", "--trainer.callbacks+=StepProgressBar"], []),
    ],
)
def test_a_run_has_the_bar_that_counts_steps_unless_it_has_another(
    options: list[str], kinds: list[type], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["lightning-circuits"])
    seen: list[type] = []

    def look(self: pl.Trainer, *_: object, **__: object) -> None:
        bars = [type(one) for one in self.callbacks if isinstance(one, pl.callbacks.ProgressBar)]  # type: ignore[attr-defined]
        seen.extend(bars)

    monkeypatch.setattr(command, "say_nothing", lambda: None)
    monkeypatch.setattr(command.CircuitTrainer, "fit", look)
    command.main(["fit", *SMALL, *options])
    assert seen == kinds


def test_only_what_is_no_news_is_left_out(caplog: pytest.LogCaptureFixture) -> None:
    leave_out_what_is_not_ours()
    logger = logging.getLogger(LIGHTNING[1])
    with caplog.at_level(logging.INFO, logger=LIGHTNING[1]):
        for text in (
            "💡 Tip: try litlogger",
            "TPU available: False, using: 0",
            "TPU available: True",
            "Restored all states",
        ):
            logger.info(text)
    assert [record.getMessage() for record in caplog.records] == ["TPU available: True", "Restored all states"]
