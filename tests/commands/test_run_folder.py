"""A run has a folder: two runs share no file, the last one is found by a link, and what is resumed brings its best."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from lightning_circuits.circuit import Circuit
from lightning_circuits.commands.main import main

SMALL = ["--config=quickstart.yaml", "--trainer.accelerator=cpu", "--data.batch_size=16"]
SMALL += [f"--data.n_{split}=16" for split in ("train", "val", "test")]


@pytest.fixture(autouse=True)
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["lightning-circuits"])
    return tmp_path / "runs" / "quickstart"


def fit(*options: str, steps: int = 2) -> None:
    main(["fit", *SMALL, f"--trainer.max_steps={steps}", *options])


def seed_of(folder: Path) -> int:
    return yaml.safe_load((folder / "config.yaml").read_text())["model"]["init_args"]["seed"]


def test_two_runs_share_no_file_and_the_link_leads_to_the_last(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fit("--model.seed=3")
    assert (runs / "latest").resolve() == runs / "version_0"
    first = {path: path.read_bytes() for path in (runs / "version_0").rglob("*") if path.is_file()}
    fit("--model.seed=4")
    assert {path: path.read_bytes() for path in first} == first
    assert (runs / "latest").resolve() == runs / "version_1"
    assert [seed_of(runs / f"version_{i}") for i in (0, 1)] == [3, 4]
    said = capsys.readouterr().out.splitlines()
    assert "Config: runs/quickstart/version_1/config.yaml" in said
    assert [path.name for path in runs.parent.iterdir()] == ["quickstart"]  # and nothing beside it


def test_what_is_asked_of_the_last_run_is_not_asked_of_the_next(runs: Path) -> None:
    """A checkpoint and scores may be named by the link, which the run that begins from them is about to move."""
    fit("--trainer.callbacks+=ModelCheckpoint", "--trainer.callbacks.save_last=true")
    fit("--ckpt_path=runs/quickstart/latest/checkpoints/last.ckpt", steps=4)
    fit("--model.warm_start=runs/quickstart/latest/circuit-last-10pct.pt")
    assert (runs / "latest").resolve() == runs / "version_2"


def test_neither_judging_nor_a_folder_of_that_name_moves_the_link(
    runs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (runs / "latest").mkdir(parents=True)
    fit()
    assert not (runs / "latest").is_symlink() and list((runs / "version_0").glob("circuit-last-*"))
    (runs / "latest").rmdir()
    fit()
    capsys.readouterr()
    main(["validate", *SMALL, "--model=SavedCircuit", "--model.path=runs/quickstart/latest/circuit-last-10pct.json"])
    said = capsys.readouterr().out
    assert "Circuits by exact ablation" in said and "val/interchange" not in said  # our table, and not Lightning's too
    assert (runs / "latest").resolve() == runs / "version_1" and (runs / "version_2").is_dir()


def test_with_weights_and_biases_a_config_stands_with_its_run(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lightning would put both into the one folder that they share, one over the other."""
    monkeypatch.setenv("WANDB_MODE", "offline")
    for seed in (5, 6):
        fit("--config=with/wandb.yaml", f"--model.seed={seed}", f"--trainer.logger.version=run{seed}")
        import wandb

        wandb.finish()
    folders = [runs.parent / "circuits" / f"run{seed}" for seed in (5, 6)]
    assert [seed_of(folder) for folder in folders] == [5, 6]
    assert (runs.parent / "circuits" / "latest").resolve() == folders[1]
    assert not (runs.parent / "config.yaml").exists() and list(folders[0].glob("circuit-last-*"))


def test_a_circuit_file_says_all_that_it_takes_to_make_it_again(runs: Path) -> None:
    fit("--trainer.accumulate_grad_batches=2")
    metadata = Circuit.load(runs / "latest" / "circuit-last-10pct.json").metadata
    assert metadata["gate"] == "TopK" and metadata["gate_options"]["sizes"]["low"] == 0.02
    assert metadata["run"]["batch_size"] == 16 and metadata["run"]["max_steps"] == 2 and metadata["seed"] == 0
    assert metadata["run"]["accumulate_grad_batches"] == 2
    prompts = metadata["trained_on"]["prompts"]
    fit("--data.seed=1")
    others = Circuit.load(runs / "latest" / "circuit-last-10pct.json").metadata["trained_on"]["prompts"]
    assert prompts["number"] == others["number"] == 16 and prompts["hash"] != others["hash"]


def test_a_json_has_the_scores_of_its_own_edges_and_tensors_those_of_all(
    runs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fit()
    path = runs / "latest" / "circuit-last-10pct.json"
    edges = json.loads(path.read_text())["edges"]
    circuit, whole = Circuit.load(path), Circuit.load(path.with_suffix(".pt"))
    assert circuit == whole and len(edges) == circuit.n_edges and all(edge["in_graph"] for edge in edges.values())
    assert circuit.scores is not None and whole.scores is not None
    assert circuit.scores[circuit.members].equal(whole.scores[whole.members])
    assert whole.scores.unique().numel() > 400 and not circuit.scores[~circuit.members].any()
    with pytest.raises(SystemExit):
        main(["evaluate", *SMALL, "--model=SavedCircuit", f"--model.path={path}"])
    said = capsys.readouterr().err.splitlines()[-1]
    assert said.startswith("error: SavedCircuit has no ranking of all edges") and ".pt or .safetensors" in said
    main(["test", *SMALL, "--model=SavedCircuit", f"--model.path={path}"])  # of smaller sizes, as its scores say
    assert "5% random" in capsys.readouterr().out
