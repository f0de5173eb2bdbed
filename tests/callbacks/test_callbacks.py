"""FaithfulnessValidation and CircuitExport in real runs of the Trainer, on the embedded model."""

from __future__ import annotations

import itertools
import json
import math
import multiprocessing
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader, DistributedSampler

from lightning_circuits.ablation import ABLATIONS
from lightning_circuits.callbacks import CircuitExport, FaithfulnessValidation, exact_ablation
from lightning_circuits.circuit import Circuit
from lightning_circuits.datamodules import IOIDataModule
from lightning_circuits.evaluation.rows import Row, evaluate
from lightning_circuits.models.loading import load_model
from lightning_circuits.namespace import pl
from lightning_circuits.search.base import CircuitSearch

MODEL = load_model("tiny-ioi")
N_VAL, N_TEST = 12, 10


class Drift(CircuitSearch):
    """Scores that walk at random, by torch's global generator: cheap to train, and another circuit at each step."""

    def __init__(self, trained: float | None = None, ablation: str = "interchange") -> None:
        super().__init__(MODEL, ablation)
        self.trained = trained
        self.seen: list[int] = []
        self.lr = 0.1
        self.scores = torch.nn.Parameter(torch.zeros(self.layout.n_edges))

    def edge_scores(self) -> Tensor:
        return self.scores.detach()

    def trained_size(self) -> float | None:
        return self.trained

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        self.seen.append(self.global_step)
        return (self.scores * torch.randn(len(self.scores))).sum()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD([self.scores], lr=self.lr)


@pytest.fixture
def data() -> IOIDataModule:
    return IOIDataModule("tiny-ioi", n_train=24, n_val=N_VAL, n_test=N_TEST, batch_size=4)


def make_trainer(*callbacks: pl.Callback, **options: Any) -> pl.Trainer:
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "enable_checkpointing": False}
    return pl.Trainer(
        **{"accelerator": "cpu", "max_steps": 5, "logger": False, **quiet, **options}, callbacks=[*callbacks]
    )


def plain(rows: list[Row]) -> list[dict[str, Any]]:
    assert rows
    return [row.to_dict() for row in rows]


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The names of the circuits of each evaluation."""
    calls: list[list[str]] = []

    def spy(model: Any, circuits: dict[str, Circuit], *args: Any, **options: Any) -> list[Row]:
        calls.append(list(circuits))
        return evaluate(model, circuits, *args, **options)

    monkeypatch.setattr(exact_ablation, "evaluate", spy)
    return calls


class Memory(pl.loggers.logger.DummyLogger):
    """A logger that keeps what it is given, with W&B's method for tables."""

    def __init__(self) -> None:
        super().__init__()
        self.metrics: list[tuple[int, dict[str, float]]] = []
        self.tables: list[tuple[str, list[str], list[list[Any]]]] = []

    def log_metrics(self, metrics: dict[str, float], step: int) -> None:  # type: ignore[override]
        self.metrics.append((step, metrics))

    def log_table(self, key: str, columns: list[str], data: list[list[Any]]) -> None:
        self.tables.append((key, columns, data))


# ---- when ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("steps", "every", "accumulate", "at"),
    [(5, 2, 1, [2, 4, 5]), (4, 2, 1, [2, 4]), (3, 100, 1, [3]), (4, 2, 3, [2, 4]), (3, 1, 2, [1, 2, 3])],
)
def test_it_measures_every_n_optimizer_steps_and_once_at_the_end(
    data: IOIDataModule, measured: list, steps: int, every: int, accumulate: int, at: list[int]
) -> None:
    logger = Memory()
    validation = FaithfulnessValidation(every_n_steps=every, sizes=[0.1])
    trainer = make_trainer(validation, max_steps=steps, accumulate_grad_batches=accumulate, logger=logger)
    trainer.fit(Drift(), data)  # with Lightning's sanity check, and its own validation loop at the end of each epoch
    assert [step for step, metrics in logger.metrics if "val/interchange/10%/kl" in metrics] == at
    assert len(measured) == len(at)


def test_measuring_changes_nothing_about_training(data: IOIDataModule) -> None:
    results = []
    data.setup()
    rows = list(data._loader("val"))  # a loader that draws from the global generator whenever it is iterated
    loader = DataLoader(rows, batch_size=None, shuffle=True)
    for callbacks in ([], [FaithfulnessValidation(every_n_steps=2, ablations=["interchange", "mean"])]):
        torch.manual_seed(3)
        search = Drift()
        make_trainer(*callbacks, max_steps=7).fit(search, data.train_dataloader(), loader)
        results.append(search.scores.detach())
    assert torch.equal(*results)


# ---- what ----------------------------------------------------------------------------------------------------------


def test_rows_are_exact_ablation_on_the_validation_split_and_then_on_the_test_split(data: IOIDataModule) -> None:
    ablations = [ABLATIONS.make("interchange"), ABLATIONS.make("mean-positional")]
    ablations[1].fit(Drift().circuit_model, data.train_dataloader())
    search, validation = (
        Drift(),
        FaithfulnessValidation(sizes=[0.2, 30], ablations=["interchange", "mean-positional"], seed=4),
    )
    trainer = make_trainer(validation)

    def expected(loader: Any, split: str) -> list[dict[str, Any]]:
        circuits = {"20%": search.circuit(0.2), "30 edges": search.circuit(30)}
        return plain(evaluate(search.circuit_model, circuits, loader, ablations, split=split, seed=4))

    trainer.fit(search, data)
    assert plain(validation.rows) == expected(data.val_dataloader(), "val")
    assert validation.rows[0].prompts == N_VAL
    [logged] = trainer.test(search, data, verbose=False)
    assert plain(validation.rows) == expected(data.test_dataloader(), "test")
    assert validation.rows[0].prompts == N_TEST
    kl = {row.ablation: row.kl for row in validation.rows if row.circuit == "20%"}
    assert logged["test/mean-positional/20%/kl"] == pytest.approx(kl["mean-positional"])
    [logged] = trainer.validate(search, data, verbose=False)
    assert plain(validation.rows) == expected(data.val_dataloader(), "val")
    assert "val/interchange/30-edges-random/faithfulness" in logged


def test_numbers_reach_loggers_tables_and_other_callbacks(data: IOIDataModule, tmp_path: Path) -> None:
    logger, validation = Memory(), FaithfulnessValidation(every_n_steps=2, sizes=[0.1])
    checkpoint = pl.callbacks.ModelCheckpoint(tmp_path, monitor="val/interchange/10%/kl", every_n_train_steps=2)
    trainer = make_trainer(validation, checkpoint, max_steps=4, logger=logger, enable_checkpointing=True)
    trainer.fit(Drift(), data)
    logged = [metrics for _, metrics in logger.metrics if "val/interchange/10%/kl" in metrics]
    assert checkpoint.best_model_score == pytest.approx(min(metrics["val/interchange/10%/kl"] for metrics in logged))
    assert {type(value) for metrics in logged for value in metrics.values()} == {float}
    names = ["full", "empty", "10%", "10%-random", "10%-complement"]
    numbers = ["faithfulness", "faithfulness_q1", "faithfulness_median", "faithfulness_q3", "kl", "accuracy", "edges"]
    numbers += ["edges_pruned", "agreement_when_right", "agreement_when_wrong", "overshoot"]
    assert {f"val/interchange/{name}/{number}" for name in names for number in numbers} <= set(logged[-1])
    for key in ("kl", "edges_pruned"):
        row = next(row for row in validation.rows if row.circuit == "10%-random".replace("-", " "))
        assert logged[-1][f"val/interchange/10%-random/{key}"] == getattr(row, key)
        assert trainer.callback_metrics[f"val/interchange/10%-random/{key}"] == pytest.approx(getattr(row, key))
    [(key, columns, content)] = logger.tables
    assert key == "val/circuits" and [dict(zip(columns, line, strict=True)) for line in content] == plain(
        validation.rows
    )


@pytest.mark.parametrize(
    ("trained", "sizes", "names"),
    [
        (None, None, ["0.5%", "1%", "2%", "5%"]),
        (1 - 0.966, None, ["3.4%"]),
        (0.02, [0.02, 0.5, 1], ["2%", "50%", "1 edges"]),
        (None, [1.0], ["100%"]),
    ],
)
def test_circuits_have_the_trained_size_and_those_asked_for(
    data: IOIDataModule, measured: list, trained: float | None, sizes: list | None, names: list[str]
) -> None:
    make_trainer(FaithfulnessValidation(sizes=sizes), max_steps=1).fit(Drift(trained), data)
    assert measured == [names]


def test_limits_on_batches_are_kept(data: IOIDataModule) -> None:
    validation = FaithfulnessValidation(sizes=[0.1])
    trainer = make_trainer(validation, max_steps=1, limit_val_batches=2, limit_test_batches=0.4)
    trainer.fit(Drift(), data)
    assert validation.rows[0].prompts == 8  # 2 batches of 4
    trainer.test(Drift(), data, verbose=False)
    assert validation.rows[0].prompts == 4  # .4 of 3 batches


@pytest.mark.parametrize("order", [1, -1])
def test_a_run_ends_with_the_table_and_the_paths(
    data: IOIDataModule, tmp_path: Path, capsys: pytest.CaptureFixture, order: int
) -> None:
    callbacks = [FaithfulnessValidation(sizes=[0.1]), CircuitExport(tmp_path, formats=["json"])][::order]
    make_trainer(*callbacks, enable_progress_bar=True).fit(Drift(), data)
    printed = capsys.readouterr().out
    assert "Circuits by exact ablation: val split, 12 prompts" in printed and "10% complement" in printed
    assert f"{tmp_path / 'circuit-last-10pct.json'}\n" in printed
    for text in ("Circuits by exact ablation", "Circuits written"):
        assert printed.rfind("Epoch") < printed.find(text)  # the bar is done by then


# ---- bad input, before any training --------------------------------------------------------------------------------


class NoValidation(pl.LightningDataModule):
    def __init__(self, data: IOIDataModule, validation: Any = None) -> None:
        super().__init__()
        self.data = data
        if validation is not None:
            self.val_dataloader = lambda: validation  # type: ignore[method-assign]

    def train_dataloader(self) -> Any:
        return self.data.train_dataloader()


class NoSearch(pl.LightningModule):
    training_step = Drift.training_step
    configure_optimizers = Drift.configure_optimizers


def refused(search: pl.LightningModule, data: Any, *callbacks: pl.Callback, **options: Any) -> str:
    with pytest.raises((ValueError, TypeError)) as error:
        make_trainer(*callbacks, **options).fit(search, data)
    assert getattr(search, "seen", []) == []
    return str(error.value)


def test_bad_input_is_said_before_training(data: IOIDataModule) -> None:
    validation = FaithfulnessValidation(sizes=[0.1])
    assert "rounds to 0 edges" in refused(Drift(), data, FaithfulnessValidation(sizes=[0.1, 0.0001]))
    assert "rounds to 0 edges" in refused(Drift(trained=0.0001), data, validation)
    assert "val split, and there is none" in refused(Drift(), NoValidation(data), validation)
    assert "val split, and there is none" in refused(Drift(), NoValidation(data, validation=[]), validation)
    assert "no batch to measure" in refused(Drift(), NoValidation(data, validation=DataLoader([])), validation)
    assert "no batch to measure" in refused(Drift(), data, validation, limit_val_batches=0)
    two = [data.val_dataloader(), data.val_dataloader()]
    assert "there are several val loaders" in refused(Drift(), NoValidation(data, validation=two), validation)
    rows = list(data.val_dataloader())
    sampler = DistributedSampler(rows, num_replicas=2, rank=0)  # type: ignore[arg-type]
    loader = DataLoader(rows, batch_size=None, sampler=sampler)  # type: ignore[arg-type]
    assert "repeats prompts" in refused(Drift(), NoValidation(data, validation=loader), validation)
    for callback in (validation, CircuitExport("x")):
        assert "NoSearch is none" in refused(NoSearch(), data, callback)


def test_mean_ablation_needs_training_prompts(data: IOIDataModule) -> None:
    trainer = make_trainer(FaithfulnessValidation(sizes=[0.1], ablations=["mean"]))
    with pytest.raises(ValueError, match="means over the train split, and there is none"):
        trainer.test(Drift(), dataloaders=data.test_dataloader())


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: FaithfulnessValidation(every_n_steps=0), "at least 1"),
        (lambda: FaithfulnessValidation(ablations=["interchnage"]), "unknown ablation 'interchnage'"),
        (lambda: FaithfulnessValidation(ablations=[]), "no ablation"),
        (lambda: CircuitExport("x", formats=["json", "jpg"]), "unknown format 'jpg': choose from json, pt"),
        (lambda: CircuitExport("x", formats=[]), "no format"),
        (
            lambda: CircuitExport("x", monitor="loss"),
            "monitor is 'loss': it has to be one of kl, faithfulness, accuracy",
        ),
        (lambda: CircuitExport("x", save_top_k=-2), "save_top_k is -2"),
    ],
)
def test_bad_arguments_are_said_when_they_are_given(make: Any, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        make()


def test_a_folder_that_cannot_be_written_is_said_before_training(data: IOIDataModule, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    for folder in (tmp_path / "file", tmp_path / "file" / "below"):
        said = refused(Drift(trained=0.1), data, CircuitExport(folder))
        assert str(folder) in said and "another dirpath" in said
    assert "rounds to 0 edges" in refused(Drift(), data, CircuitExport(tmp_path / "new", sizes=[0.0001]))


# ---- export --------------------------------------------------------------------------------------------------------


def files(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


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
    for key in ("method", "model", "model_hash", "ablation", "objective", "kv", "seed", "versions"):
        assert circuit.metadata[key] == search.describe()[key]
    n = round(0.3 * search.layout.n_edges)
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
        return {path.name: json.loads(path.read_text()) for path in folder.iterdir()}

    make_trainer(*callbacks(tmp_path / "whole"), max_steps=6).fit(Repeatable(), data)
    first = make_trainer(*callbacks(tmp_path / "parts"), max_steps=3)
    first.fit(Repeatable(), data)
    first.save_checkpoint(tmp_path / "half.ckpt")
    make_trainer(*callbacks(tmp_path / "parts"), max_steps=6).fit(Repeatable(), data, ckpt_path=tmp_path / "half.ckpt")
    assert len(content(tmp_path / "whole")) == 4
    assert content(tmp_path / "parts") == content(tmp_path / "whole")


# ---- two processes -------------------------------------------------------------------------------------------------


class NoteRows(pl.Callback):
    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        rows = trainer.callbacks[0].rows  # type: ignore[attr-defined]
        (self.folder / f"rows-{trainer.global_rank}.json").write_text(json.dumps(plain(rows)))


def fit_with(folder: Path, **options: Any) -> None:
    data = IOIDataModule("tiny-ioi", n_train=21, n_val=18, n_test=4, batch_size=4)  # 5 batches, the last of 2
    validation = FaithfulnessValidation(every_n_steps=2, sizes=[0.3], ablations=["interchange", "mean"])
    search = Drift()
    with torch.no_grad():
        search.scores += torch.linspace(0, 99, len(search.scores)).sin()
    search.lr = 0.0
    export = CircuitExport(folder, formats=["json"])
    make_trainer(validation, export, NoteRows(folder), max_steps=3, **options).fit(search, data)


def test_two_processes_measure_what_one_does_and_write_once(tmp_path: Path) -> None:
    fit_with(tmp_path / "one")
    # From a fresh process: this one may hold threads, which do not survive a fork.
    context = multiprocessing.get_context("spawn")
    both = {"strategy": "ddp_fork", "devices": 2}
    process = context.Process(target=fit_with, args=(tmp_path / "two",), kwargs=both, daemon=False)
    process.start()
    process.join(timeout=300)
    process.kill()
    assert process.exitcode == 0
    written = {"circuit-last-30pct.json", "circuit-step000002-30pct.json"}
    assert files(tmp_path / "one") == {"rows-0.json", *written}
    assert files(tmp_path / "two") == {"rows-0.json", "rows-1.json", *written}
    rows = [json.loads((tmp_path / "two" / f"rows-{rank}.json").read_text()) for rank in range(2)]
    assert rows[0] == rows[1]
    for name in written:
        one, two = (measured_in(tmp_path / folder / name) for folder in ("one", "two"))
        assert [row["prompts"] for row in two] == [18, 18, 18]
        assert [row["ablation"] for row in two] == ["interchange", "mean", "mean"]
        for expected, found in zip(one, two, strict=True):
            assert found == pytest.approx(expected, nan_ok=True)
