"""An ablation with options, in a config."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from lightning_circuits.circuit import Circuit
from lightning_circuits.commands.main import main


def test_an_ablation_may_have_data_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Means by template over prompts of three unrelated names, in the search and in what judges it, and said so."""
    monkeypatch.chdir(tmp_path)
    abc = {"tokenizer": "tiny-ioi", "corruption": "abc", "n_train": 60, "n_val": 16, "n_test": 16}
    own = {
        "class_path": "GroupMeanAblation",
        "init_args": {"prompts": "corrupt", "data": {"class_path": "IOIDataModule", "init_args": abc}},
    }
    judging = {"ablations": [own], "sizes": [0.2], "every_n_steps": 99}
    config = {
        "model": {"class_path": "EAP", "init_args": {"model": "tiny-ioi", "ablation": own}},
        "data": {"class_path": "IOIDataModule", "init_args": {"n_train": 32, "n_val": 16, "n_test": 16}},
        "trainer": {
            **{"logger": False, "accelerator": "cpu", "enable_checkpointing": False, "enable_progress_bar": False},
            "callbacks": [
                {"class_path": "FaithfulnessValidation", "init_args": judging},
                {"class_path": "CircuitExport", "init_args": {"dirpath": "out", "formats": "json"}},
            ],
        },
    }
    (tmp_path / "own.yaml").write_text(yaml.safe_dump(config))
    main(["fit", "--config=own.yaml"])
    metadata = Circuit.load(tmp_path / "out/circuit-last-20pct.json").metadata
    assert (metadata["ablation"], metadata["ablation_fitted_over"]) == ("mean-group", 60)
    own_data = metadata["ablation_options"]["data"]
    assert (own_data["corruption"], metadata["data"]["corruption"]) == ("abc", "third-name")
    [judged] = metadata["measured_under"].values()
    assert judged == {"name": "mean-group", **metadata["ablation_options"], "fitted_over": 60}
    assert metadata["measured"][0]["ablation"] == "mean-group"
