"""Every packaged config runs, says how it is run, and the quickstart finds what it promises."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from lightning_circuits.commands.main import CONFIGS, main
from lightning_circuits.datamodules import IOIDataModule

NAMES = sorted(path.name for path in CONFIGS.glob("*.yaml"))


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["lightning-circuits"])
    return tmp_path


def test_the_configs_promised_are_there() -> None:
    assert {"quickstart.yaml", "ioi_gpt2.yaml", "ioi_gpt2_hard_concrete.yaml", "pairs.yaml"} <= set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_it_runs(name: str, elsewhere: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--model.model=tiny-ioi", "--trainer.max_steps=2", "--trainer.accelerator=cpu", "--trainer.devices=1"]
    if name == "pairs.yaml":
        pairs = IOIDataModule("tiny-ioi", n_train=30, n_val=1, n_test=1).make_splits()["train"]
        fields = ("clean", "corrupt", "answers", "distractors")
        lines = [json.dumps({field: getattr(pair, field) for field in fields}) for pair in pairs]
        (elsewhere / "own.jsonl").write_text("\n".join(lines))
        options += ["--data.train=own.jsonl"]
    else:
        options += ["--data.n_train=24", "--data.n_val=8", "--data.n_test=8"]
    main(["fit", "--config", name, *options])
    run = elsewhere / "runs" / Path(name).stem
    assert list(run.glob("circuit-last-*.json"))
    assert (run / "version_0" / "checkpoints" / "last.ckpt").exists()
    said = capsys.readouterr().out
    assert "complement" in said and "circuit-last-" in said  # the table, and the paths


@pytest.mark.parametrize("name", NAMES)
def test_it_says_how_it_is_run(name: str) -> None:
    head = (CONFIGS / name).read_text().split("\nmodel:")[0]
    assert f"lightning-circuits fit --config {name}" in head
    assert f"runs/{Path(name).stem}\n" in (CONFIGS / name).read_text()  # writes under its own name


@pytest.mark.slow
def test_the_quickstart_finds_the_circuit(elsewhere: Path) -> None:
    main(["fit", "--config", "quickstart.yaml", "--trainer.accelerator=cpu"])
    with (elsewhere / "runs" / "quickstart" / "version_0" / "metrics.csv").open() as file:
        last = {name: float(value) for row in csv.DictReader(file) for name, value in row.items() if value}
    found, random = (
        {key: last[f"val/interchange/{name}/{key}"] for key in ("faithfulness", "kl", "accuracy")}
        for name in ("10%", "10%-random")
    )
    assert 0.9 < found["faithfulness"] < 1.1 and found["kl"] < 0.01 and found["accuracy"] == 1
    assert random["faithfulness"] < 0.3 and random["kl"] > 0.3
