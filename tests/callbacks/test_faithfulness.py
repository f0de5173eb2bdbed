"""FaithfulnessValidation in real runs of the Trainer, on the embedded model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader, DistributedSampler

from lightning_circuits.ablation import ABLATIONS
from lightning_circuits.callbacks import CircuitExport, FaithfulnessValidation
from lightning_circuits.datamodules import IOIDataModule
from lightning_circuits.evaluation.rows import Row, evaluate
from lightning_circuits.namespace import pl
from tests.support.drift import N_TEST, N_VAL, Drift, Memory, make_trainer, refused


def plain(rows: list[Row]) -> list[dict[str, Any]]:
    assert rows
    return [row.to_dict() for row in rows]


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


def test_keys_name_the_measure_where_it_is_not_the_logit_difference(data: IOIDataModule) -> None:
    """So two may stand beside each other, and each can be monitored."""
    logger, search = Memory(), Drift()
    both = [FaithfulnessValidation(sizes=[0.1]), FaithfulnessValidation(sizes=[0.1], measure="kl")]
    stop = pl.callbacks.EarlyStopping(monitor="val/interchange/kl/10%/faithfulness")
    make_trainer(*both, stop, max_steps=2, logger=logger).fit(search, data)
    logged = {key: value for _, metrics in logger.metrics for key, value in metrics.items()}
    plain, by_kl = ({row.circuit: row for row in each.rows}["10%"] for each in both)
    assert (plain.measure, by_kl.measure) == ("logit_difference", "kl")
    assert logged["val/interchange/10%/faithfulness"] == plain.faithfulness
    assert logged["val/interchange/kl/10%/faithfulness"] == by_kl.faithfulness != plain.faithfulness
    assert {key for key in logged if "/kl/" in key} <= set(both[1].logged_keys(search))
    tables = {key: (columns, rows) for key, columns, rows in logger.tables}
    columns, rows = tables["val/circuits/kl"]
    assert {row[columns.index("measure")] for row in rows} == {"kl"} and "val/circuits" in tables


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
        return plain(evaluate(search.circuit_model, loader, circuits, ablations, split=split, seed=4))

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
    assert {key for key in logged[-1] if key.startswith("val/")} == {
        f"val/interchange/10%/{number}" for number in ("faithfulness", "kl", "accuracy")
    }  # the few that people watch: the rest stands in the table
    names = ["full", "empty", "10%", "10%-random", "10%-complement"]
    numbers = ["faithfulness", "faithfulness_q1", "faithfulness_median", "faithfulness_q3", "kl", "accuracy", "edges"]
    numbers += ["edges_pruned", "agreement_when_right", "agreement_when_wrong", "overshoot"]
    assert {f"val/interchange/{name}/{number}" for name in names for number in numbers} <= set(trainer.callback_metrics)
    for key in ("kl", "edges_pruned"):
        row = next(row for row in validation.rows if row.circuit == "10%-random".replace("-", " "))
        assert trainer.callback_metrics[f"val/interchange/10%-random/{key}"] == pytest.approx(getattr(row, key))
    [(key, columns, content)] = logger.tables
    rows = [dict(zip(columns, line, strict=True)) for line in content]
    assert key == "val/circuits" and [row.pop("step") for row in rows] == [2] * 3 + [4] * 5
    assert [row["circuit"] for row in rows[:3]] == names[:3]  # controls when training is done
    assert rows[3:] == plain(validation.rows)


def test_other_loggers_get_every_number(data: IOIDataModule, tmp_path: Path) -> None:
    """Those without tables have no other place for them."""
    logger = pl.loggers.CSVLogger(tmp_path, "all", version="one")
    make_trainer(FaithfulnessValidation(sizes=[0.1]), logger=logger).fit(Drift(), data)
    assert "val/interchange/10%-complement/faithfulness_q1" in (tmp_path / "all" / "one" / "metrics.csv").read_text()


def test_a_control_that_is_watched_is_measured_each_time(data: IOIDataModule) -> None:
    class Steps(pl.Callback):
        def __init__(self) -> None:
            self.names: list[list[str]] = []

        def on_circuits_measured(self, trainer: pl.Trainer, search: Any, measured: Any) -> None:
            self.names.append([row.circuit for row in measured.rows])

    def measured(*watching: pl.Callback) -> list[list[str]]:
        steps = Steps()
        callbacks = FaithfulnessValidation(every_n_steps=1, sizes=[0.1]), steps, *watching
        make_trainer(*callbacks, max_steps=2).fit(Drift(), data)
        return steps.names

    with_controls = ["full", "empty", "10%", "10% random", "10% complement"]
    assert measured() == [with_controls[:3], with_controls]
    watching = pl.callbacks.EarlyStopping("val/interchange/10%-random/kl", patience=9)
    assert measured(watching) == [with_controls, with_controls]


def test_a_run_that_is_stopped_at_a_measured_step_ends_with_controls(data: IOIDataModule) -> None:
    class Stop(pl.Callback):
        def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
            trainer.should_stop = trainer.global_step == 2

    validation = FaithfulnessValidation(every_n_steps=2, sizes=[0.1])
    make_trainer(validation, Stop(), max_steps=6).fit(Drift(), data)
    assert validation.measured is not None and validation.measured.step == 2
    assert [row.circuit for row in validation.rows][-1] == "10% complement"


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
    paths = f"Circuits: {tmp_path / 'circuit-last-10pct.json'} and 1 more\n"
    for text in ("Circuits by exact ablation", paths):
        assert 0 <= printed.rfind("Epoch") < printed.find(text)  # the bar is done by then


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
