"""CircuitExport in real runs of the Trainer: what it writes, whatever happens to the run."""

from __future__ import annotations

import itertools
import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from lightning_circuits.callbacks import CircuitExport, FaithfulnessValidation
from lightning_circuits.callbacks.announcing import Measured, Written
from lightning_circuits.circuit import Circuit
from lightning_circuits.datamodules import IOIDataModule
from lightning_circuits.evaluation.rows import Row
from lightning_circuits.namespace import pl
from tests.support import processes
from tests.support.drift import Drift, Memory, files, make_trainer, refused

# ---- export --------------------------------------------------------------------------------------------------------


def measured_in(path: Path) -> list[dict[str, Any]]:
    return Circuit.load(path).metadata["measured"]


@pytest.mark.parametrize("order", [1, -1])
def test_it_writes_the_last_and_the_best_whatever_the_order_of_callbacks(
    data: IOIDataModule, tmp_path: Path, measured: list, order: int
) -> None:
    logger = Memory()
    validation, export = FaithfulnessValidation(every_n_steps=1, sizes=[0.3]), CircuitExport(tmp_path, save_top_k=2)
    callbacks = [validation, export][::order]
    search = Drift()
    make_trainer(*callbacks, max_steps=6, logger=logger).fit(search, data)
    assert len(measured) == 6  # nothing is measured twice
    by_step = {step: m["val/interchange/30%/kl"] for step, m in logger.metrics if "val/interchange/30%/kl" in m}
    best = sorted(by_step, key=by_step.__getitem__)[:2]
    stems = ["circuit-last-30pct", *(f"circuit-step{step:06d}-30pct" for step in best)]
    assert files(tmp_path) == {f"{stem}.{suffix}" for stem in stems for suffix in ("json", "pt", "safetensors")}
    assert files(tmp_path) == {path.name for path in export.paths}
    for step in best:
        for suffix in ("json", "pt", "safetensors"):
            [row] = measured_in(tmp_path / f"circuit-step{step:06d}-30pct.{suffix}")
            assert row["kl"] == by_step[step] and row["split"] == "val"
    assert Circuit.load(tmp_path / "circuit-last-30pct.json", search.layout) == search.circuit(0.3).prune()


@pytest.mark.parametrize("ablation", ["interchange", "zero"])
def test_it_writes_the_pruned_circuit_where_pruning_changes_nothing(
    data: IOIDataModule, tmp_path: Path, ablation: str
) -> None:
    search = Drift(trained=0.2, ablation=ablation)
    make_trainer(CircuitExport(tmp_path, formats=["pt"])).fit(search, data)
    expected = {"interchange": search.circuit().prune(), "zero": search.circuit()}
    assert expected["interchange"] != expected["zero"]
    assert Circuit.load(tmp_path / "circuit-last-20pct.pt") == expected[ablation]


def test_the_file_says_how_it_was_made(data: IOIDataModule, tmp_path: Path) -> None:
    validation = FaithfulnessValidation(sizes=[0.3], ablations=["interchange", "zero"])
    search = Drift()
    make_trainer(validation, CircuitExport(tmp_path, formats=["json"]), max_steps=3).fit(search, data)
    circuit = Circuit.load(tmp_path / "circuit-last-30pct.json")
    assert circuit.metadata["data"] == json.loads(json.dumps(data.describe()))
    for key in ("method", "model", "model_hash", "ablation", "objective", "kv", "versions"):
        assert circuit.metadata[key] == search.describe()[key]
    n = int(0.3 * search.layout.n_edges)
    told = {key: circuit.metadata[key] for key in ("step", "edges", "edges_pruned", "size")}
    assert told == {
        "step": 3,
        "edges": n,
        "edges_pruned": search.circuit(0.3).prune().n_edges,
        "size": n / search.layout.n_edges,
    }
    assert [(row["ablation"], row["circuit"]) for row in circuit.metadata["measured"]] == [
        ("interchange", "30%"),
        ("zero", "30%"),
        ("zero", "30% pruned"),
    ]


def write(export: CircuitExport, step: int, f: float, kl: float = 0.5, accuracy: float = 0.5) -> None:
    """Write a circuit of the size `c` as if it had been measured so."""
    others = {f"faithfulness_{of}": 0.0 for of in ("low", "high", "q1", "median", "q3")} | {"logit_difference": 0.0}
    others |= dict.fromkeys(("agreement_when_right", "agreement_when_wrong"), 1.0)
    row = Row("c", "interchange", "val", 0.1, 1, 1, 8, faithfulness=f, kl=kl, accuracy=accuracy, **others)
    export._write("c", Circuit.full(Drift().layout), [row], step)


@pytest.mark.parametrize(
    ("monitor", "k", "kept"),
    [
        ("kl", 1, [30]),
        ("faithfulness", 1, [20]),  # .97, not the overshooting 1.4
        ("accuracy", 2, [10, 30]),
        ("kl", -1, [10, 20, 30]),
        ("kl", 0, []),
    ],
)
def test_the_best_are_those_of_the_monitor(tmp_path: Path, monitor: str, k: int, kept: list[int]) -> None:
    export = CircuitExport(tmp_path, formats=["safetensors"], monitor=monitor, save_top_k=k)
    write(export, 10, f=1.4, kl=0.4, accuracy=1.0)
    write(export, 20, f=0.97, kl=0.5, accuracy=0.8)
    write(export, 30, f=0.5, kl=0.3, accuracy=0.9)
    assert files(tmp_path) == {"circuit-last-c.safetensors", *(f"circuit-step{s:06d}-c.safetensors" for s in kept)}


def test_a_circuit_without_a_number_is_never_the_best(tmp_path: Path) -> None:
    export = CircuitExport(tmp_path, formats=["safetensors"], monitor="faithfulness")
    write(export, 10, f=math.nan)
    assert files(tmp_path) == {"circuit-last-c.safetensors"}
    write(export, 20, f=5.0)
    write(export, 30, f=math.nan)
    assert files(tmp_path) == {"circuit-last-c.safetensors", "circuit-step000020-c.safetensors"}


def test_without_validation_or_for_other_sizes_only_the_last_is_written(data: IOIDataModule, tmp_path: Path) -> None:
    make_trainer(CircuitExport(tmp_path / "a", formats=["pt"])).fit(Drift(trained=0.25), data)
    assert files(tmp_path / "a") == {"circuit-last-25pct.pt"}
    assert measured_in(tmp_path / "a" / "circuit-last-25pct.pt") == []
    validation = FaithfulnessValidation(every_n_steps=2, sizes=[0.1])
    make_trainer(validation, CircuitExport(tmp_path / "b", formats=["dot"], sizes=[50])).fit(Drift(), data)
    assert files(tmp_path / "b") == {"circuit-last-50-edges.dot"}


def test_a_run_that_dies_while_it_writes_leaves_whole_files(
    data: IOIDataModule, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Died after each possible number of files, the folder always holds a best circuit, and everything in it loads."""
    save = Circuit.save
    for survived in range(3, 12):
        left = itertools.repeat(True, survived)

        def dying(circuit: Circuit, path: Path, left: Any = left) -> Path:
            if next(left, None) is None:
                raise OSError("no space left on device")
            return save(circuit, path)

        monkeypatch.setattr(Circuit, "save", dying)
        folder = tmp_path / str(survived)
        export = CircuitExport(folder, formats=["json", "safetensors"])
        folder.mkdir()
        with pytest.raises(OSError, match="no space"):
            for step in range(1, 9):
                write(export, step, f=0.0, kl=1 / step)
        for path in folder.iterdir():
            Circuit.load(path)
        whole = [
            name
            for name in files(folder)
            if name.startswith("circuit-step")
            and name.endswith(".json")
            and name.replace(".json", ".safetensors") in files(folder)
        ]
        assert whole or survived < 4


def test_a_resumed_run_goes_on_with_the_best_of_its_checkpoint(data: IOIDataModule, tmp_path: Path) -> None:
    def callbacks(folder: Path) -> list[pl.Callback]:
        validation = FaithfulnessValidation(every_n_steps=1, sizes=[0.3])
        return [validation, CircuitExport(folder, formats=["json"], save_top_k=3)]

    class Repeatable(Drift):
        def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
            torch.manual_seed(self.global_step)
            return super().training_step(batch, batch_idx)

    def content(folder: Path) -> dict[str, Any]:
        files = {path.name: json.loads(path.read_text()) for path in folder.iterdir()}
        for file in files.values():
            file["metadata"]["run"].pop("max_steps")
            changed = file["metadata"].pop("resumed", [{"changed": {"max_steps": [3, 6]}}])
            assert [one["changed"] for one in changed] == [{"max_steps": [3, 6]}]
        return files

    make_trainer(*callbacks(tmp_path / "whole"), max_steps=6).fit(Repeatable(), data)
    first = make_trainer(*callbacks(tmp_path / "parts"), max_steps=3)
    first.fit(Repeatable(), data)
    first.save_checkpoint(tmp_path / "half.ckpt")
    make_trainer(*callbacks(tmp_path / "parts"), max_steps=6).fit(Repeatable(), data, ckpt_path=tmp_path / "half.ckpt")
    assert len(content(tmp_path / "whole")) == 4
    assert content(tmp_path / "parts") == content(tmp_path / "whole")


def test_a_run_that_goes_on_in_another_folder_brings_the_best_along(data: IOIDataModule, tmp_path: Path) -> None:
    """Each run has a folder of its own, also one that goes on."""

    class Worse(Drift):
        def edge_scores(self) -> Tensor:
            return -super().edge_scores() if self.global_step > 2 else super().edge_scores()

    def run(folder: str, steps: int, **options: Any) -> pl.Trainer:
        validation = FaithfulnessValidation(every_n_steps=1, sizes=[0.3])
        export = CircuitExport(tmp_path / folder, formats=["json"], save_top_k=1)
        trainer = make_trainer(validation, export, max_steps=steps)
        trainer.fit(Worse(), data, **options)
        assert all(path.is_file() for path in export.paths)
        return trainer

    run("first", 2).save_checkpoint(tmp_path / "half.ckpt")
    [best] = (path for path in (tmp_path / "first").iterdir() if "step" in path.name)
    run("second", 3, ckpt_path=tmp_path / "half.ckpt")
    names = {path.name for path in (tmp_path / "second").iterdir()}
    kept = [path for path in (tmp_path / "second").iterdir() if "step" in path.name]
    assert len(names) == 2 and kept and (kept[0].name != best.name or kept[0].read_bytes() == best.read_bytes())
    best.unlink()  # what is gone is no longer the best
    run("third", 3, ckpt_path=tmp_path / "half.ckpt")
    assert {path.name for path in (tmp_path / "third").iterdir()} == {
        "circuit-last-30pct.json",
        "circuit-step000003-30pct.json",
    }


def test_the_last_that_is_the_best_is_one_file_of_two_names(data: IOIDataModule, tmp_path: Path) -> None:
    make_trainer(FaithfulnessValidation(sizes=[0.3]), CircuitExport(tmp_path, ["pt"]), max_steps=2).fit(Drift(), data)
    last, best = (tmp_path / f"circuit-{name}-30pct.pt" for name in ("last", "step000002"))
    assert last.samefile(best)


def test_a_disk_without_links_has_two_files(
    data: IOIDataModule, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> None:
        raise OSError("operation not permitted")

    monkeypatch.setattr("os.link", refuse)
    make_trainer(FaithfulnessValidation(sizes=[0.3]), CircuitExport(tmp_path, ["pt"]), max_steps=2).fit(Drift(), data)
    last, best = (tmp_path / f"circuit-{name}-30pct.pt" for name in ("last", "step000002"))
    assert not last.samefile(best) and last.read_bytes() == best.read_bytes()


def test_a_folder_that_cannot_be_written_is_said_before_training(data: IOIDataModule, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    for folder in (tmp_path / "file", tmp_path / "file" / "below"):
        said = refused(Drift(trained=0.1), data, CircuitExport(folder))
        assert str(folder) in said and "another dirpath" in said
    assert "rounds to 0 edges" in refused(Drift(), data, CircuitExport(tmp_path / "new", sizes=[0.0001]))


# ---- two processes -------------------------------------------------------------------------------------------------


class Note(pl.Callback):
    """What each process is told of."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def on_circuits_measured(self, trainer: pl.Trainer, search: Drift, measured: Measured) -> None:
        self.rows = [row.to_dict() for row in measured.rows]

    def on_circuits_written(self, trainer: pl.Trainer, search: Drift, written: Written) -> None:
        told = {"rows": self.rows, "paths": [path.name for path in written.paths]}
        (self.folder / f"told-{trainer.global_rank}.json").write_text(json.dumps(told))


def fit_with(folder: Path, **options: Any) -> None:
    data = IOIDataModule("tiny-ioi", n_train=21, n_val=18, n_test=4, batch_size=4)  # 5 batches, the last of 2
    validation = FaithfulnessValidation(every_n_steps=2, sizes=[0.3], ablations=["interchange", "mean"])
    search = Drift()
    with torch.no_grad():
        search.scores += torch.linspace(0, 99, len(search.scores)).sin()
    search.lr = 0.0
    export = CircuitExport(folder, formats=["json"])
    make_trainer(validation, export, Note(folder), max_steps=3, **options).fit(search, data)


def test_two_processes_measure_what_one_does_and_write_once(tmp_path: Path) -> None:
    fit_with(tmp_path / "one")
    # From a fresh process: this one may hold threads, which do not survive a fork.
    both = processes.call(tmp_path / "log.txt", fit_with, tmp_path / "two", strategy="ddp_fork", devices=2)
    status, printed = both.end()
    assert status == 0, printed[-3000:]
    written = {"circuit-last-30pct.json", "circuit-step000002-30pct.json"}
    assert files(tmp_path / "one") == {"told-0.json", *written}
    assert files(tmp_path / "two") == {"told-0.json", "told-1.json", *written}
    told = [json.loads((tmp_path / "two" / f"told-{rank}.json").read_text()) for rank in range(2)]
    assert told[0] == told[1] and set(told[0]["paths"]) == written
    for name in written:
        one, two = (measured_in(tmp_path / folder / name) for folder in ("one", "two"))
        assert [row["prompts"] for row in two] == [18, 18, 18]
        assert [row["ablation"] for row in two] == ["interchange", "mean", "mean"]
        for expected, found in zip(one, two, strict=True):
            assert found == pytest.approx(expected, nan_ok=True)
