"""What TensorBoard is told, as it stands in the file that its own writer writes, and what it makes of the folders."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tensorboard.backend.event_processing.plugin_event_multiplexer import EventMultiplexer
from tensorboard.plugin_util import markdown_to_safe_html
from tensorboard.util.tensor_util import make_ndarray

from lightning_circuits.commands.main import main
from lightning_circuits.evaluation.curve import Curve

SMALL = ["--config=quickstart.yaml", "--trainer.accelerator=cpu", "--data.batch_size=16", "--trainer.max_steps=2"]
SMALL += [f"--data.n_{split}=16" for split in ("train", "val", "test")]
CURVE = ["--trainer.callbacks+=FaithfulnessCurve", "--trainer.callbacks.sizes=[0.05, 0.1, 1.0]"]


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["lightning-circuits"])
    main(["fit", *SMALL])  # a run that TensorBoard is not told of
    assert (tmp_path / "runs/quickstart/latest").is_symlink()
    main(["fit", *SMALL, *CURVE, "--config=with/tensorboard.yaml"])
    return tmp_path / "runs"


def text(events: Any, key: str) -> str:
    [event] = events.Tensors(f"{key}/text_summary")
    return make_ndarray(event.tensor_proto).item().decode()


def test_it_shows_curves_tables_histograms_pictures_and_settings_of_one_run(runs: Path) -> None:
    found = EventMultiplexer().AddRunsFromDirectory(str(runs)).Reload()
    assert list(found.Runs()) == ["quickstart/version_1"]  # not once more by a link
    events = found.GetAccumulator("quickstart/version_1")

    kinds = {tag: about.plugin_data.plugin_name for tag, about in events.summary_metadata.items()}
    curves = {tag for tag, kind in kinds.items() if kind == "scalars"}
    numbers = {f"val/interchange/{size}/{key}" for size in ("5%", "10%") for key in ("faithfulness", "kl", "accuracy")}
    assert numbers <= curves and len(curves) < 30
    assert kinds["scores"] == "histograms"
    assert "_hparams_/session_start_info" in events.Tags()["tensors"]
    assert {tag for tag, kind in kinds.items() if kind == "images"} == {"circuit/5%", "circuit/10%", "val/curve"}

    table = text(events, "val/circuits")
    header, *lines = ([*filter(None, line.split("  "))] for line in table.splitlines())
    assert [cell.strip() for cell in header][:3] == ["step", "circuit", "ablation"]
    assert "5% complement" in {line[1].strip() for line in lines} | {line[0].strip() for line in lines}
    assert len({len(line) for line in table.splitlines()}) == 1  # columns under each other
    shown = markdown_to_safe_html(table)
    assert shown.startswith("<pre>") and "<td>" not in shown  # nothing that is squeezed into the width of a page

    curve = Curve.load(runs / "quickstart/version_1/curve.json")
    rows = text(events, "val/curve_table").splitlines()
    assert len(rows) == 1 + len(curve.rows)
    for line, row in zip(rows[1:], curve.rows, strict=True):
        assert f"{row.kl:.4g}" in line.split()


def test_config_circuits_and_checkpoints_stand_with_what_it_reads(runs: Path) -> None:
    folder = runs / "quickstart/version_1"
    names = {path.name for path in folder.iterdir()}
    assert {"config.yaml", "curve.json", "hparams.yaml", "checkpoints"} <= names
    assert any(name.startswith("circuit-last") for name in names)
