"""Every sweep file, and the loop beside it, as they are run: commands expanded by Weights & Biases' own code, settings
drawn from what the file says, the metric found in what the run logged."""

from __future__ import annotations

import csv
import math
import os
import random
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from wandb.sdk.launch.sweeps.utils import create_sweep_command, create_sweep_command_args, load_sweep_config

from lightning_circuits.commands.config_files import CONFIGS
from lightning_circuits.commands.main import main
from tests.support.offline_run import OfflineRun

SWEEPS = sorted((CONFIGS / "sweeps").glob("*.yaml"))
NAMES = [path.stem for path in SWEEPS]
SMALL = [
    "--model.model=tiny-ioi",
    "--trainer.max_steps=2",
    "--trainer.accelerator=cpu",
    "--trainer.devices=1",
    "--data.n_train=16",
    "--data.n_val=4",
    "--data.n_test=4",
]


@pytest.fixture(autouse=True)
def elsewhere(elsewhere: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("WANDB_DATA_DIR", str(elsewhere))
    return elsewhere


def sweep(name: str) -> dict[str, Any]:
    config = load_sweep_config(str(CONFIGS / "sweeps" / f"{name}.yaml"))  # None, and a message, for a broken one
    assert config is not None
    return config


def draw(parameter: dict[str, Any], rng: random.Random) -> Any:
    if "values" in parameter:
        return rng.choice(parameter["values"])
    low, high = parameter["min"], parameter["max"]
    if parameter["distribution"] == "uniform":
        return rng.uniform(low, high)
    assert parameter["distribution"] == "log_uniform_values"
    return math.exp(rng.uniform(math.log(low), math.log(high)))


def may_be(value: str, parameter: dict[str, Any]) -> bool:
    if "values" in parameter:
        return value in map(str, parameter["values"])
    return parameter["min"] * 0.999 <= float(value) <= parameter["max"] * 1.001


def test_there_is_a_sweep_of_each_kind_and_a_loop_beside_each() -> None:
    kinds = {sweep(name)["method"] for name in NAMES}
    assert kinds == {"random", "grid", "bayes"}
    assert "hyperband" in {sweep(name).get("early_terminate", {}).get("type") for name in NAMES}
    assert [path.stem for path in sorted((CONFIGS / "sweeps").glob("*.sh"))] == NAMES


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_its_command_runs_and_logs_its_metric(name: str, elsewhere: Path) -> None:
    import wandb

    config, rng = sweep(name), random.Random(1)
    drawn = {key: {"value": draw(parameter, rng)} for key, parameter in config["parameters"].items()}
    arguments = create_sweep_command_args({"args": drawn})["args"]
    command = create_sweep_command(config["command"])
    assert command[:3] == ["${env}", "${program}", "fit"] and config["program"] == "lightning-circuits"
    words = [word for part in command[2:] for word in (arguments if part == "${args}" else [part])]
    # Its second process outlives a run here, and keeps the working folder that it was started in: no relative path.
    main([*words, *SMALL, f"--trainer.logger.save_dir={elsewhere / 'runs'}"])
    wandb.finish()

    run = OfflineRun.read(elsewhere / "runs")
    values = run.logged(config["metric"]["name"])
    assert values and all(math.isfinite(value) for value in values)
    folder = (elsewhere / "runs" / "circuits" / "latest").resolve()  # the run's own, by its id
    assert (folder / "curve.json").exists() and list(folder.glob("circuit-last-*.json"))
    given = yaml.safe_load((folder / "config.yaml").read_text())["model"]["init_args"]
    for key, setting in drawn.items():
        found: Any = given
        for part in key.split(".")[1:]:
            found = found.get("init_args", found)[part]
        found = found["class_path"].rpartition(".")[2] if isinstance(found, dict) else found
        assert found == setting["value"]


def recorded(name: str, folder: Path, **environment: str) -> list[list[str]]:
    """The commands of a loop, run with a stand-in for ours that only notes what it is asked."""
    stand_in = folder / "bin" / "lightning-circuits"
    stand_in.parent.mkdir()
    stand_in.write_text('#!/bin/bash\nprintf "%s\\t" "$@" >> commands\nprintf "\\n" >> commands\n')
    stand_in.chmod(0o755)
    path = f"{stand_in.parent}{os.pathsep}{os.environ['PATH']}"
    script = CONFIGS / "sweeps" / f"{name}.sh"
    subprocess.run(
        ["bash", str(script), "--more=1"], cwd=folder, env={**os.environ, "PATH": path, **environment}, check=True
    )
    return [line.rstrip("\t").split("\t") for line in (folder / "commands").read_text().splitlines()]


@pytest.mark.parametrize("name", NAMES)
def test_its_loop_asks_for_the_same(name: str, elsewhere: Path) -> None:
    config = sweep(name)
    *runs, comparison = recorded(name, elsewhere, RUNS="5")
    parameters = config["parameters"]
    assert len(runs) == (math.prod(len(p["values"]) for p in parameters.values()) if config["method"] == "grid" else 5)
    bases = [word for word in config["command"] if word.startswith("--config=") and "wandb" not in word]
    folders, seen = set(), set()
    for command in runs:
        assert command[0] == "fit" and command[-1] == "--more=1"
        assert [word for word in command if word.startswith("--config=")] == bases
        options = dict(word.removeprefix("--").split("=", 1) for word in command[1:])
        assert {key for key in options if key.startswith("model.")} == set(parameters)
        for key, parameter in parameters.items():
            assert may_be(options[key], parameter)
        seen.add(tuple(options[key] for key in sorted(parameters)))
        folders.add((options["trainer.logger.name"], options["trainer.logger.version"]))
    assert len(folders) == len(seen) == len(runs)  # none writes into another's folder, none is run twice
    [(project, _)] = {(project, None) for project, _ in folders}
    assert comparison == ["compare", f"runs/{project}/*", "--pareto"]  # a glob that the shell expands
    assert "compare runs/circuits/* --pareto" in (CONFIGS / "sweeps" / f"{name}.yaml").read_text()


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_a_run_of_its_loop_leaves_its_curve_and_the_metric_in_a_folder_of_its_own(name: str, elsewhere: Path) -> None:
    command = recorded(name, elsewhere, RUNS="1")[0]
    main([*command[:-1], *SMALL])
    options = dict(word.removeprefix("--").split("=", 1) for word in command[1:])
    folder = elsewhere / "runs" / options["trainer.logger.name"] / options["trainer.logger.version"]
    assert (folder / "curve.json").exists() and list(folder.glob("circuit-last-*.json"))
    with (folder / "metrics.csv").open() as file:
        assert any(row[sweep(name)["metric"]["name"]] for row in csv.DictReader(file))
