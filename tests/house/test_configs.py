"""Every packaged config runs, says how it is run, and the quickstart finds what it promises."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from lightning_circuits.circuit import Circuit
from lightning_circuits.commands.config_files import CONFIGS
from lightning_circuits.commands.main import main
from lightning_circuits.datamodules import IOIDataModule

pytestmark = pytest.mark.usefixtures("elsewhere")

NAMES = sorted(path.name for path in CONFIGS.glob("*.yaml"))


def config_of(name: str) -> dict[str, Any]:
    return yaml.safe_load((CONFIGS / name).read_text())


def formats_of(name: str) -> list[str]:
    """In which the circuits of a config are written."""
    callbacks = {one["class_path"]: one.get("init_args", {}) for one in config_of(name)["trainer"]["callbacks"]}
    return ["safetensors"] if "WeightValidation" in callbacks else callbacks["CircuitExport"]["formats"]


def write_lines(folder: Path) -> Path:
    prompts = [pair.clean for pair in IOIDataModule("tiny-ioi", n_train=30, n_val=1, n_test=1).candidates("train")]
    (folder / "lines.txt").write_text("\n".join(prompts))
    return folder / "lines.txt"


def test_the_configs_promised_are_there() -> None:
    assert {
        f"{name}.yaml"
        for name in ("quickstart", "ioi_gpt2", "ioi_gpt2_hard_concrete", "ioi_gpt2_spans", "pairs", "weights")
    } <= {*NAMES}


@pytest.mark.parametrize("name", NAMES)
def test_it_runs(name: str, elsewhere: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--model.model=tiny-ioi", "--trainer.max_steps=2", "--trainer.accelerator=cpu", "--trainer.devices=1"]
    if name == "pairs.yaml":
        pairs = IOIDataModule("tiny-ioi", n_train=30, n_val=1, n_test=1).candidates("train")
        fields = ("clean", "corrupt", "answers", "distractors")
        lines = [json.dumps({field: getattr(pair, field) for field in fields}) for pair in pairs]
        (elsewhere / "own.jsonl").write_text("\n".join(lines))
        options += ["--data.train=own.jsonl"]
    else:
        options += ["--data.n_train=24", "--data.n_val=8", "--data.n_test=8"]
    if name == "weights.yaml":  # the embedded model knows no facts, and few words
        options += ["--data=IOIDataModule", f"--model.text.lines={write_lines(elsewhere)}"]
    main(["fit", "--config", name, *options])
    run = elsewhere / "runs" / Path(name).stem / "latest"
    assert all(list(run.glob(f"circuit-last-*.{suffix}")) for suffix in formats_of(name))
    assert (run / "checkpoints" / "last.ckpt").exists() and (run / "config.yaml").exists()
    assert run.resolve().name == "version_0" and {path.name for path in run.parent.iterdir()} == {"version_0", "latest"}
    said = capsys.readouterr().out
    assert "complement" in said and "circuit-last-" in said  # the table, and the paths


def test_in_spans_is_the_same_search_of_the_same_prompts() -> None:
    """So that a run with and one without can be laid side by side."""
    plain, spans = (config_of(f"ioi_gpt2{suffix}.yaml") for suffix in ("", "_spans"))
    assert spans["model"]["init_args"].pop("spans") is True and spans["data"]["init_args"].pop("spans") == "roles"
    for section in ("model", "data"):
        assert spans[section] == plain[section]
    for key in plain["trainer"].keys() - {"logger", "callbacks"}:
        assert spans["trainer"][key] == plain["trainer"][key]


@pytest.mark.slow
def test_attribution_in_spans_is_one_word_away(elsewhere: Path) -> None:
    options = ["--model=EAPIG", "--model.model=tiny-ioi", "--trainer.accelerator=cpu", "--trainer.devices=1"]
    options += ["--data.n_train=24", "--data.n_val=8", "--data.n_test=8"]
    main(["fit", "--config=ioi_gpt2_spans.yaml", *options])
    [file] = (elsewhere / "runs" / "ioi_gpt2_spans" / "version_0").glob("circuit-last-5pct.safetensors")
    circuit = Circuit.load(file)
    assert circuit.metadata["method"] == "EAPIG" and circuit.layout.spans == ("S2", "S2..END", "END")


@pytest.mark.parametrize("name", NAMES)
def test_it_says_how_it_is_run(name: str) -> None:
    head = (CONFIGS / name).read_text().split("\nmodel:")[0]
    assert f"lightning-circuits fit --config {name}" in head
    assert f"      name: {Path(name).stem}\n" in (CONFIGS / name).read_text()  # writes under its own name


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
