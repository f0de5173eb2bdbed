"""FaithfulnessCurve in real runs of the Trainer: its numbers are those of exact ablation, and none of them is lost."""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from lightning_circuits.ablation import ABLATIONS
from lightning_circuits.callbacks import FaithfulnessCurve
from lightning_circuits.callbacks.curve import MIB_SIZES
from lightning_circuits.circuit import Circuit
from lightning_circuits.datamodules import IOIDataModule
from lightning_circuits.evaluation.curve import Curve
from lightning_circuits.evaluation.rows import evaluate
from lightning_circuits.models.loading import load_model
from lightning_circuits.namespace import pl
from lightning_circuits.search import CircuitSearch, SavedCircuit
from tests.support import processes
from tests.support.drift import files
from tests.support.training import quiet_trainer

MODEL = load_model("tiny-ioi")


class Waves(CircuitSearch):
    """Scores of both signs that training hardly changes."""

    def __init__(self, absolute: bool = False) -> None:
        super().__init__(MODEL)
        self.absolute = absolute
        self.scores = torch.nn.Parameter(torch.linspace(0, 99, self.layout.n_edges).sin())

    def edge_scores(self) -> Tensor:
        return self.scores.detach()

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        return (self.scores * torch.randn(len(self.scores))).sum()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD([self.scores], lr=1e-3)


@pytest.fixture
def data() -> IOIDataModule:
    return IOIDataModule("tiny-ioi", n_train=12, n_val=12, n_test=10, batch_size=4)


def make_trainer(*callbacks: pl.Callback, **options: Any) -> pl.Trainer:
    return quiet_trainer(*callbacks, **{"max_steps": 2, **options})


FOUR = {"csv", "json", "png", "svg"}


# ---- the numbers ---------------------------------------------------------------------------------------------------


def test_the_curve_is_exact_ablation_of_the_best_edges(data: IOIDataModule, tmp_path: Path) -> None:
    search = Waves()
    callback = FaithfulnessCurve(sizes=[0.9, 100, 0.5], ablations=["interchange", "mean"], dirpath=tmp_path, seed=3)
    make_trainer(callback).fit(search, data)
    curve = callback.curve
    assert curve is not None and (curve.method, curve.model, curve.split, curve.prompts) == (
        "Waves",
        search.model_name,
        "val",
        12,
    )

    total = search.layout.n_edges
    ablations = [ABLATIONS.make("interchange"), ABLATIONS.make("mean")]
    ablations[1].fit(search.circuit_model, data.train_dataloader())
    for ablation in ablations:
        order = search.scores.detach().argsort(descending=True)
        for n, share, point, random in zip(
            (100, int(0.5 * total), int(0.9 * total)),
            (100 / total, 0.5, 0.9),
            curve.points(ablation.name, "signed"),
            curve.points(ablation.name, "random"),
            strict=True,
        ):
            members = torch.zeros(total, dtype=torch.bool)
            members[order[:n]] = True
            circuits = {"it": members, "chance": Circuit.random(search.layout, n, seed=3)}
            rows = evaluate(search.circuit_model, data.val_dataloader(), circuits, [ablation], controls=False)
            expected = {row.circuit: row for row in rows}
            for found, name in ((point, "it"), (random, "chance")):
                for key, value in expected[name].to_dict().items():
                    if key not in ("circuit", "split"):
                        assert found.to_dict()[key] == pytest.approx(value, abs=1e-6), key
                assert found.share == pytest.approx(share)
        line = curve.points(ablation.name, "signed")
        x, f = [row.share for row in line], [row.faithfulness for row in line]
        areas = curve.areas(ablation.name, "signed")
        width = np.diff(x)
        heights = (np.array(f[:-1]) + np.array(f[1:])) / 2
        assert areas.cpr == pytest.approx((width * heights).sum(), abs=1e-6)
        off = np.abs(1 - np.array(f))
        assert areas.cmd == pytest.approx((width * (off[:-1] + off[1:]) / 2).sum(), abs=1e-6)
        in_logs = np.diff(np.log(x))
        assert areas.log_area == pytest.approx((in_logs * heights).sum() / in_logs.sum(), abs=1e-6)
        assert areas.overshoot == any(value > 1.005 for value in f)
    assert curve.metadata["ablations"]["mean"]["fitted_over"] == len(data.train_dataloader().pairs)


def test_absolute_scores_are_ranked_both_ways(data: IOIDataModule, tmp_path: Path) -> None:
    callback = FaithfulnessCurve(sizes=[50, 200], random=False, dirpath=tmp_path)
    trainer = make_trainer(callback)
    trainer.test(Waves(absolute=True), data, verbose=False)
    assert callback.curve is not None and callback.curve.rankings == ["signed", "absolute"]
    names = [row.circuit for row in callback.curve.rows]
    assert names == [
        "full",
        "empty",
        "50 edges signed",
        "200 edges signed",
        "50 edges absolute",
        "200 edges absolute",
    ]
    only = FaithfulnessCurve(sizes=[50, 200], rankings=["absolute"], random=False, dirpath=tmp_path)
    make_trainer(only).test(Waves(absolute=False), data, verbose=False)
    assert only.curve is not None
    for key in ("faithfulness", "kl"):
        one, both = ([getattr(row, key) for row in c.curve.points("interchange", "absolute")] for c in (only, callback))  # type: ignore[union-attr]
        assert one == both


def test_the_default_sizes_are_mib_s(data: IOIDataModule, tmp_path: Path) -> None:
    callback = FaithfulnessCurve(random=False, dirpath=tmp_path)
    make_trainer(callback).test(Waves(), data, verbose=False)
    assert callback.curve is not None
    points = callback.curve.points("interchange", "signed")
    assert [row.share for row in points] == [0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0]
    assert [row.edges for row in points] == [0, 0, 2, 4, 9, 23, 47, 95, 239, 479]
    assert points[-1].edges == 479 and points[-1].faithfulness == pytest.approx(1)


def test_measuring_changes_nothing_about_training(data: IOIDataModule, tmp_path: Path) -> None:
    results = []
    for callbacks in ([], [FaithfulnessCurve(sizes=[0.1, 0.5], dirpath=tmp_path)]):
        torch.manual_seed(3)
        search = Waves()
        trainer = make_trainer(*callbacks, max_steps=4)
        trainer.fit(search, data)
        results.append((search.scores.detach(), torch.rand(3)))
    assert torch.equal(results[0][0], results[1][0]) and torch.equal(results[0][1], results[1][1])


# ---- what is left behind -------------------------------------------------------------------------------------------


def test_files_hold_the_curve_and_no_split_takes_another_s_place(
    data: IOIDataModule, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    callback = FaithfulnessCurve(sizes=[0.1, 0.5], dirpath=tmp_path / "new" / "folder")
    trainer = make_trainer(callback)
    search = Waves()
    trainer.fit(search, data)
    folder = tmp_path / "new" / "folder"
    assert files(folder) == {f"curve.{suffix}" for suffix in FOUR} == {path.name for path in callback.paths}
    first = callback.curve
    assert first is not None and Curve.load(folder / "curve.json").to_dict() == first.to_dict()
    assert {"method", "model", "split", "rows", "summary", "metadata"} == set(
        json.loads((folder / "curve.json").read_text())
    )
    assert first.metadata["data"] == json.loads(json.dumps(data.describe()))
    with (folder / "curve.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["circuit"], float(row["faithfulness"])) for row in rows] == [
        (row.circuit, row.faithfulness) for row in first.rows
    ]
    assert rows[0]["agreement_when_wrong"] == ""  # the model is never wrong
    printed = capsys.readouterr().out
    title = " ".join(printed.split())  # a long path of the model breaks the line
    assert (
        "Waves on" in title
        and "val split, 12 prompts" in title
        and f"Curve: {folder / 'curve.png'} and 3 more\n" in printed
    )

    trainer.test(search, data, verbose=False)
    assert files(folder) == {f"{stem}.{suffix}" for stem in ("curve", "curve-test") for suffix in FOUR}
    assert callback.curve is not None and callback.curve.split == "test"
    assert Curve.load(folder / "curve-test.json").to_dict() == callback.curve.to_dict()
    assert Curve.load(folder / "curve.json").to_dict() == first.to_dict()
    pictures = [(folder / name).read_bytes() for name in ("curve.png", "curve.svg")]
    trainer.validate(search, data, verbose=False)
    assert len(files(folder)) == 8
    assert Curve.load(folder / "curve.json").to_dict()["rows"] == first.to_dict()["rows"]
    assert [(folder / name).read_bytes() for name in ("curve.png", "curve.svg")] == pictures


def test_without_a_folder_it_goes_where_the_logger_writes(data: IOIDataModule, tmp_path: Path) -> None:
    logger = pl.loggers.CSVLogger(tmp_path, "runs")
    make_trainer(FaithfulnessCurve(sizes=[0.1, 0.5]), logger=logger).fit(Waves(), data)
    assert {"metrics.csv", "curve.json", "curve.png"} <= files(tmp_path / "runs" / "version_0")


class Last(pl.Callback):
    """Comes after the curve, as the export of circuits does in the packaged configs."""

    ended = False

    def on_train_end(self, *_: Any) -> None:
        self.ended = True


def test_a_full_disk_costs_the_files_of_the_curve_and_nothing_else(
    data: IOIDataModule, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(*_: Any) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr("lightning_circuits.evaluation.curve.write_atomically", full)
    callback, last = FaithfulnessCurve(sizes=[0.1, 0.5], dirpath=tmp_path), Last()
    with pytest.warns(UserWarning, match=f"the curve could not all be written to {tmp_path} .No space left on device"):
        trainer = make_trainer(callback, last)
        trainer.fit(Waves(), data)
    assert last.ended and "val/curve/interchange/signed/cmd" in trainer.callback_metrics
    assert callback.curve is not None and not files(tmp_path)
    printed = capsys.readouterr().out
    assert "50%" in printed and "Curve:" not in printed
    # The curve is all that these are for.
    with pytest.raises(OSError, match="'lightning-circuits evaluate' measures it again"):
        trainer.test(Waves(), data, verbose=False)


def test_a_size_of_no_edge_is_the_row_of_the_empty_circuit(data: IOIDataModule, tmp_path: Path) -> None:
    """As MIB has it, so that areas of small and large models are over the same sizes."""
    callback = FaithfulnessCurve(dirpath=tmp_path)
    make_trainer(callback).fit(Waves(), data)
    assert callback.curve is not None and callback.curve.shares == list(MIB_SIZES)
    first, empty = callback.curve.points("interchange", "signed")[0], callback.curve.reference("interchange", "empty")
    assert (first.circuit, first.share, first.edges, first.faithfulness) == ("0.1%", 0.001, 0, 0.0)
    assert (first.kl, first.accuracy) == (empty.kl, empty.accuracy)
    assert Curve.load(tmp_path / "curve.json").to_dict() == callback.curve.to_dict()


# ---- bad input -----------------------------------------------------------------------------------------------------


def test_bad_input_is_said_before_training(data: IOIDataModule, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match="sizes: a share of the edges lies in"):
        FaithfulnessCurve(sizes=[1.5, 0.5])
    for callback, said in (
        (FaithfulnessCurve(sizes=[480, 0.5]), "a count lies between"),
        (FaithfulnessCurve(sizes=[0.1, 0.5], dirpath=tmp_path / "file" / "folder"), "another dirpath"),
    ):
        search = Waves()
        before = search.scores.detach().clone()
        with pytest.raises(ValueError, match=said):
            make_trainer(callback).fit(search, data)
        assert torch.equal(search.scores, before)
    with pytest.raises(ValueError, match="no batch to measure"):
        make_trainer(FaithfulnessCurve(dirpath=tmp_path), limit_val_batches=0).fit(Waves(), data)


def test_a_file_that_ranks_nothing_has_no_curve(data: IOIDataModule, tmp_path: Path) -> None:
    path = Waves().circuit(0.1).complement().save(tmp_path / "members.json")  # without scores
    callback = FaithfulnessCurve(sizes=[0.1, 0.5], dirpath=tmp_path / "out")
    with pytest.raises(ValueError, match="SavedCircuit has no ranking of all edges"):
        make_trainer(callback).test(SavedCircuit(MODEL, path=path), data, verbose=False)


def test_a_curve_of_a_saved_ranking_is_its_method_s(data: IOIDataModule, tmp_path: Path) -> None:
    search = Waves(absolute=True)
    path = search.circuit(0.1).save(tmp_path / "scores.json")
    curves = []
    for judged in (search, SavedCircuit(MODEL, path=path)):
        callback = FaithfulnessCurve(sizes=[0.1, 0.5], dirpath=tmp_path)
        make_trainer(callback).test(judged, data, verbose=False)
        curves.append(callback.curve)
    one, other = (curve.to_dict() for curve in curves)
    assert one["rows"] == other["rows"] and other["method"] == "Waves"
    assert not math.isnan(curves[1].summary[0].cpr)


# ---- two processes -------------------------------------------------------------------------------------------------


def fit_with(folder: Path, **options: Any) -> None:
    data = IOIDataModule("tiny-ioi", n_train=21, n_val=18, n_test=4, batch_size=4)  # 5 batches, the last of 2
    callback = FaithfulnessCurve(sizes=[0.3, 0.6], ablations=["interchange", "mean"], dirpath=folder)
    search = Waves()
    search.configure_optimizers = lambda: torch.optim.SGD([search.scores], lr=0.0)  # type: ignore[method-assign]
    make_trainer(callback, **options).fit(search, data)


@pytest.mark.slow
def test_two_processes_measure_what_one_does_and_write_once(tmp_path: Path) -> None:
    fit_with(tmp_path / "one")
    both = processes.call(tmp_path / "log.txt", fit_with, tmp_path / "two", strategy="ddp_fork", devices=2)
    status, printed = both.end()
    assert status == 0, printed[-3000:]
    assert files(tmp_path / "two") == {f"curve.{suffix}" for suffix in FOUR}
    one, two = (Curve.load(tmp_path / name / "curve.json") for name in ("one", "two"))
    assert two.prompts == 18
    for expected, found in zip(one.rows, two.rows, strict=True):
        assert found.to_dict() == pytest.approx(expected.to_dict(), abs=1e-6)
