"""The command line with circuits of weights: trained by a config, judged again from their files, told from edges."""

from __future__ import annotations

import csv
import json
import os
import sys
import warnings
from pathlib import Path

import pytest
import yaml

from lightning_circuits.commands.main import main
from lightning_circuits.weights.weight_circuit import WeightCircuit
from tests.support import processes

LINES = """Mary went to the market and found a coat.
Tom and Paul worked late at the hospital.
Lucy got tired and sat down near the garden.
One day Jack met Kate at the museum.
The friends were waiting for Emma at the station.
Early in the morning Peter left the hotel.
"""
DATA = ["--data=IOIDataModule", "--data.n_train=16", "--data.n_val=8", "--data.n_test=12", "--trainer.accelerator=cpu"]
SMALL = ["--config=weights.yaml", "--model.model=tiny-ioi", "--model.text.lines=lines.txt", "--trainer.max_steps=2"]
SMALL += DATA


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a short search."""
    folder = tmp_path_factory.mktemp("trained")
    (folder / "lines.txt").write_text(LINES)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr("sys.argv", ["lightning-circuits"])
        main(["fit", *SMALL])
    return folder / "runs" / "weights" / "version_0"


@pytest.fixture(autouse=True)
def elsewhere(elsewhere: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.delenv("JSONARGPARSE_DEBUG", raising=False)
    (elsewhere / "lines.txt").write_text(LINES)
    return elsewhere


def rows_of(file: Path) -> list[dict]:
    return json.loads(file.read_text())["rows"]


def test_the_config_leaves_circuit_rows_numbers_and_checkpoint(trained: Path) -> None:
    names = {"circuit-last-50pct.safetensors", "circuit-step000002-50pct.safetensors", "weights.json", "weights.csv"}
    assert {path.name for path in trained.iterdir()} == {
        *names,
        "checkpoints",
        "config.yaml",
        "hparams.yaml",
        "metrics.csv",
    }
    circuit = WeightCircuit.load(trained / "circuit-last-50pct.safetensors")
    assert circuit.density == 0.5 and circuit.metadata["text"]["tokenizer"] == "tiny-ioi"  # which follows the model
    assert (trained / "checkpoints" / "last.ckpt").exists()
    with (trained / "metrics.csv").open() as file:
        last = {key: float(value) for row in csv.DictReader(file) for key, value in row.items() if value}
    [row] = [row for row in rows_of(trained / "weights.json") if row["circuit"] == "50%"]
    assert last["val/zero/50%/text_nll"] == row["text_nll"] and row["prompts"] == 8


def test_it_is_judged_again_from_its_file_and_from_its_checkpoint(
    trained: Path, elsewhere: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    saved = ["--model=SavedWeightCircuit", f"--model.path={trained / 'circuit-last-50pct.safetensors'}"]
    main(["validate", *SMALL, *saved])
    again, before = (
        rows_of(folder / "weights.json") for folder in (elsewhere / "runs" / "weights" / "version_0", trained)
    )
    assert [(row["circuit"], row["agreement"]) for row in again] == [
        (row["circuit"], row["agreement"]) for row in before
    ]
    main(["evaluate", *SMALL, *saved, "--output=a"])
    checkpoint = trained / "checkpoints" / "last.ckpt"
    main(["evaluate", *SMALL, f"--ckpt_path={checkpoint}", "--output=b"])
    a, b = (rows_of(elsewhere / name / "weights-test.json") for name in "ab")
    assert a == b and {row["prompts"] for row in a} == {12} and len(a) == 6
    assert "test split, 12 prompts" in capsys.readouterr().out


def test_without_a_config_it_is_made_of_names(elsewhere: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = "--model=WeightPruning --model.model=tiny-ioi --model.text=TextLines --model.text.lines=lines.txt".split()
    main(["fit", *options, *DATA, "--trainer.max_steps=1", "--trainer.callbacks=WeightValidation", "--quiet"])
    assert "agrees" not in (out := capsys.readouterr().out) and "circuit-last-50pct.safetensors" in out
    [config] = elsewhere.rglob("config.yaml")
    main(["fit", f"--config={config}", "--quiet"])  # what it has saved is a config
    assert "tokenizer" not in yaml.safe_load(config.read_text())["model"]["init_args"]["text"]["init_args"]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ("--model.text=null", "ordinary text is missing"),
        ("--model.text.tokenizer=gpt2", "--model.text.tokenizer gpt2: the tokenizer is the model's"),
        ("--model.text.lines=nowhere.txt", "nowhere.txt"),
        ("--model.density=1.5", "density is 1.5"),
        ("--model.kinds=[bias]", "kinds: expected one of 'attention', 'mlp', 'norm'"),
        ("--model=EAP", "WeightValidation is for circuits of weights, and EAP has none"),
        ("--trainer.callbacks=FaithfulnessValidation", "FaithfulnessValidation is for circuits of edges"),
        ("--trainer.callbacks=CircuitExport", "CircuitExport is for circuits of edges"),
        ("--trainer.callbacks.every_n_train_stepss=1", "every_n_train_stepss"),
        ("--trainer.callbacks=WeightValidation --trainer.callbacks.monitor=kl", "monitor: expected one of 'agreement'"),
        ("--model=SavedWeightCircuit --model.path=nowhere.safetensors", "nowhere.safetensors"),
        ("--model=SavedWeightCircuit --model.path={circuit}", "a saved circuit is not trained"),
        ("--model=SavedCircuit --model.path={circuit}", "it is a circuit of weights, not of edges"),
    ],
)
def test_a_mistake_is_one_line(options: str, said: str, trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    circuit = trained / "circuit-last-50pct.safetensors"
    with pytest.raises(SystemExit) as exit:
        main(["fit", *SMALL, *options.format(circuit=circuit).split()])
    assert exit.value.code == 2
    [error] = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert said in error


@pytest.mark.parametrize(
    ("command", "said"),
    [
        (
            "evaluate {small} --ckpt_path={run}/checkpoints/last.ckpt --sizes=[0.1,1]",
            "--sizes is for circuits",
        ),
        (
            "view {run}/circuit-last-50pct.safetensors",
            "a circuit of weights, not of edges: WeightCircuit.load reads it",
        ),
        ("transfer {run}/circuit-last-50pct.safetensors --data quickstart", "a circuit of weights, not of edges"),
        ("compare {run}/circuit-last-50pct.safetensors", "is a circuit, not a curve"),
        ("compare {run}/weights.json", "has the rows of circuits of weights, which have no curve"),
    ],
)
def test_commands_for_edges_say_what_it_is(
    command: str, said: str, trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as exit:
        main(command.format(small=" ".join(SMALL), run=trained).split())
    assert exit.value.code == 2
    assert said in capsys.readouterr().err.splitlines()[-1]


def show_help() -> None:
    os.environ["COLUMNS"] = "80"
    warnings.simplefilter("ignore")
    sys.argv[:] = ["-c", "fit", "--model.help", "WeightPruning"]
    main()


@pytest.mark.slow
def test_help_is_short_and_says_what_it_takes(tmp_path: Path) -> None:
    """In a process of its own: in this one there are classes of tests, which would be listed too."""
    status, printed = processes.call(tmp_path / "log.txt", show_help).end()
    assert status == 0 and len(printed.splitlines()) <= 60
    for words in ("--model.density DENSITY", "known\n                        subclasses: TextLines)"):
        assert words in printed
