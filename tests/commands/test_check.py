"""`lightning-circuits check`, and the same at the start of `fit`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lightning_circuits.commands.main import main
from tests.datamodules.test_jsonl import record

pytestmark = pytest.mark.usefixtures("elsewhere")

SMALL = ["--config=quickstart.yaml", "--trainer.accelerator=cpu", "--data.n_train=20", "--data.n_val=16"]


def test_a_config_of_fit_is_checked_and_nothing_written(elsewhere: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["check", *SMALL])
    said = capsys.readouterr().out
    assert "The full model on 20 pairs of the task (train 20, val 16, test 100)" in said and "Warning" not in said
    assert not list(elsewhere.iterdir())


def test_warnings_are_no_error(elsewhere: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (elsewhere / "pairs.jsonl").write_text("\n".join(json.dumps(record(n, answers=[" the"])) for n in range(20)))
    main(["check", "--config=pairs", "--data.train=pairs.jsonl", "--model.model=tiny-ioi", "--trainer.accelerator=cpu"])
    said = " ".join(capsys.readouterr().out.split())
    assert "Warning: the answers have a probability of" in said and "Warning: the validation split has 2 pairs" in said


def test_fit_says_it_first_unless_it_is_to_be_quiet(capsys: pytest.CaptureFixture[str]) -> None:
    options = [*SMALL, "--trainer.max_steps=1", "--trainer.callbacks=null", "--trainer.logger=false", "--model=EAPIG"]
    main(["fit", *options])
    assert "The full model on 20 pairs of the task" in capsys.readouterr().out
    main(["fit", *options, "--quiet"])
    assert "The full model" not in capsys.readouterr().out
