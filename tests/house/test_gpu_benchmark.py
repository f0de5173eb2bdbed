"""benchmarks/gpu.py, where there is no GPU: what it measures is all there, and what has to be equal is."""

from __future__ import annotations

import json
import os
import runpy
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch

from lightning_circuits.alive import Alive
from lightning_circuits.layout import Layout
from tests.support import processes

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


def run(folder: Path) -> None:
    os.chdir(folder)
    sys.argv[:] = ["gpu.py", "--quick", "--device", "cpu", "--json", "gpu.json"]
    sys.path.insert(0, str(BENCHMARKS))
    runpy.run_path(str(BENCHMARKS / "gpu.py"), run_name="__main__")


def test_every_figure_is_printed_and_written(tmp_path: Path) -> None:
    status, printed = processes.call(tmp_path / "log.txt", run, tmp_path).end()
    assert status == 0, printed[-3000:]
    written = json.loads((tmp_path / "gpu.json").read_text())
    [found] = written["shapes"]
    steps = {"dense", "captured", "98 % zeros", "1 % circuit", "EAP", "EAP-IG(5)"}
    assert found["stock_steps"].keys() == steps and min(found["stock_steps"].values()) > 0
    assert found["peak_bytes"].keys() == {"stock", "stock forward", "ablation", *steps}
    assert found["difference"].keys() == {"captured", "blocks of one", "alive alone"}
    assert max(found["difference"].values()) < 1e-5, found["difference"]
    assert written["machine"] in printed and written["settings"]["quick"]
    cells = {line.split("│")[1].strip(): line.split("│")[2].strip() for line in printed.splitlines() if "│" in line}
    for name in steps:
        assert cells[f"{name}, stock steps"] == f"{found['stock_steps'][name]:.2f}"
    assert cells["ablation of a circuit, stock forwards"] == f"{found['ablation_stock_forwards']:.2f}"
    assert float(cells["run, seconds"]) > 0


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(BENCHMARKS)
    import gpu

    return gpu


def test_circuits_are_like_those_that_training_leaves(gpu: ModuleType) -> None:
    """One of 1 % that was trained on SmolLM2 has 76 of 270 heads alive, and all MLPs; of other models one is drawn, and
    of its MLPs some have no way from the input."""
    smollm2, other = Layout(n_layers=30, n_heads=9, d_model=576), Layout(n_layers=32, n_heads=32, d_model=4096)
    for layout, seeds_differ in ((smollm2, False), (other, True)):
        members = gpu.trained_circuit(layout)
        assert int(members.sum()) == round(0.01 * layout.n_edges)
        alive = Alive.of(layout, members, closed_writes_reference=True)
        kinds = [component.kind for component in layout.components]
        heads = sum(int(units.sum()) for units, kind in zip(alive.units, kinds, strict=True) if kind == "attention")
        mlps = sum(int(units.sum()) for units, kind in zip(alive.units, kinds, strict=True) if kind == "mlp")
        assert 0.25 < heads / (layout.n_layers * layout.n_heads) < 0.45 and mlps > 0.6 * layout.n_layers
        assert torch.equal(members, gpu.trained_circuit(layout, seed=1)) is not seeds_differ


def test_a_difference_is_a_part_of_the_largest_value(gpu: ModuleType) -> None:
    mine, theirs = (torch.tensor([1.0, 2.0]), torch.tensor([4.0])), (torch.tensor([1.0, 2.1]), torch.tensor([4.4]))
    assert gpu.difference(mine, theirs) == pytest.approx(0.4 / 4.4)


def test_its_table_has_a_row_for_each_figure_and_a_column_for_each_shape(gpu: ModuleType) -> None:
    found = {
        "shape": "gpt2:32x32:float32", "stock_seconds": 1.0, "stock_steps": {"dense": 2.0}, "run_seconds": None,
        "ablation_stock_forwards": None, "peak_bytes": {"dense": 10**9}, "difference": {"captured": 0.0},
    }  # fmt: skip
    rows = {row[""]: row["gpt2, 32 x 32, float32"] for row in gpu.table([found])}
    assert rows["dense, stock steps"] == "2.00" and rows["dense, peak above the model, GB"] == "1.0"
    assert rows["captured, stock steps"] == rows["run, seconds"] == "", "empty where nothing was measured"
