"""WeightValidation in real runs of the Trainer: what it measures, logs and writes, and what it refuses."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from lightning_circuits import EAP, SavedWeightCircuit, WeightPruning
from lightning_circuits.batch import TextBatch
from lightning_circuits.callbacks import (
    CircuitExport,
    CircuitReport,
    FaithfulnessCurve,
    FaithfulnessValidation,
    WeightValidation,
)
from lightning_circuits.namespace import pl
from lightning_circuits.weights.judging import beside, judge
from lightning_circuits.weights.weight_circuit import WeightCircuit
from tests.support.babble import Babble, ioi
from tests.support.drift import Memory, files, make_trainer, refused

OTHERS = ["complement", "random", "random, whole", "magnitude"]


def search(**options: Any) -> WeightPruning:
    return WeightPruning("tiny-ioi", Babble(), **options)


def fitted(folder: Path, steps: int = 3, logger: Any = False, **options: Any) -> tuple[WeightValidation, WeightPruning]:
    validation, found = WeightValidation(folder, **{"every_n_steps": 2, **options}), search()
    make_trainer(validation, max_steps=steps, max_epochs=-1, logger=logger).fit(found, ioi())
    return validation, found


def test_rows_are_those_of_the_circuit_on_held_out_prompts_and_text_and_at_the_end_of_others(tmp_path: Path) -> None:
    validation, found = fitted(tmp_path, seed=3, rest="mean")
    circuit, model = found.circuit(), found.circuit_model
    others = beside(circuit, model, seed=3)
    expected = judge(
        model, {"50%": circuit, **others}, ioi().val_dataloader(), found.text.held_out("val"), "mean", "val"
    )
    assert validation.rows == expected and [row.circuit for row in expected] == ["full", "50%", *OTHERS]


def test_it_measures_every_n_steps_and_at_the_end(tmp_path: Path) -> None:
    logger = Memory()
    validation, _ = fitted(tmp_path, steps=5, logger=logger)
    steps = [step for step, metrics in logger.metrics if "val/zero/50%/agreement" in metrics]
    assert steps == [2, 4, 5]
    numbers = ("agreement", "answer_nll", "text_nll")
    logged = {key: value for _, metrics in logger.metrics for key, value in metrics.items() if key.startswith("val/")}
    names = {row.circuit: row.circuit.replace(", ", "-") for row in validation.rows}
    assert logged == {
        f"val/zero/{names[row.circuit]}/{number}": getattr(row, number) for row in validation.rows for number in numbers
    }
    [with_others] = [step for step, metrics in logger.metrics if "val/zero/random-whole/text_nll" in metrics]
    assert with_others == 5
    [(key, columns, table)] = logger.tables
    assert key == "val/weights" and [line[columns.index("circuit")] for line in table] == ["full", "50%", *OTHERS]


def test_it_leaves_the_last_circuit_the_best_and_the_rows(tmp_path: Path) -> None:
    logger = Memory()
    validation, found = fitted(tmp_path, steps=6, logger=logger, monitor="text_nll", save_top_k=1)
    by_step = {step: m["val/zero/50%/text_nll"] for step, m in logger.metrics if "val/zero/50%/text_nll" in m}
    best = min(by_step, key=by_step.__getitem__)
    assert set(by_step) == {2, 4, 6}
    circuits = {"circuit-last-50pct.safetensors", f"circuit-step{best:06d}-50pct.safetensors"}
    assert files(tmp_path) == {*circuits, "weights.json", "weights.csv"}
    assert {path.name for path in validation.paths} == files(tmp_path)
    last, kept = (WeightCircuit.load(tmp_path / name, found.space) for name in sorted(circuits))
    assert last == found.circuit()
    for circuit, step in ((last, 6), (kept, best)):
        said = circuit.metadata
        assert (said["step"], said["data"]["data"], said["text"]["text"]) == (step, "IOIDataModule", "babble")
        assert [(row["circuit"], row["text_nll"]) for row in said["measured"]][1] == ("50%", by_step[step])
    written = json.loads((tmp_path / "weights.json").read_text())
    assert written["rows"] == [row.to_dict() for row in validation.rows]
    assert (written["made"]["method"], written["made"]["step"]) == ("WeightPruning", 6)
    with (tmp_path / "weights.csv").open() as file:
        table = list(csv.DictReader(file))
    assert [(row["circuit"], float(row["text_nll"])) for row in table] == [
        (row.circuit, row.text_nll) for row in validation.rows
    ]


def test_the_test_split_has_files_of_its_own_and_changes_no_circuit(tmp_path: Path) -> None:
    validation, found = fitted(tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    [logged] = make_trainer(validation).test(found, ioi(), verbose=False)
    [row] = [row for row in validation.rows if row.circuit == "50%"]
    assert row.split == "test" and row.prompts == 8
    assert logged["test/zero/50%/text_nll"] == pytest.approx(row.text_nll)
    assert logged["test/zero/complement/agreement"] == 0
    assert files(tmp_path) == {*before, "weights-test.json", "weights-test.csv"}
    assert all((tmp_path / name).read_bytes() == content for name, content in before.items())


def test_a_saved_circuit_is_judged_as_it_was(tmp_path: Path) -> None:
    validation, found = fitted(tmp_path)
    saved = SavedWeightCircuit("tiny-ioi", Babble(), path=tmp_path / "circuit-last-50pct.safetensors")
    assert saved.circuit() == found.circuit() and saved.circuit().metadata["made_by"]["method"] == "WeightPruning"
    again = WeightValidation(tmp_path / "again")
    make_trainer(again).validate(saved, ioi(), verbose=False)
    assert again.rows == validation.rows and files(tmp_path / "again") == {"weights.json", "weights.csv"}


def test_measuring_changes_nothing_about_training(tmp_path: Path) -> None:
    plain = search()
    make_trainer(max_steps=5, max_epochs=-1).fit(plain, ioi())
    _, measured = fitted(tmp_path, steps=5)
    for one, other in zip(plain.logits.parameters(), measured.logits.parameters(), strict=True):
        assert torch.equal(one, other)
    for one, other in zip(plain.model.parameters(), measured.model.parameters(), strict=True):
        assert torch.equal(one, other)


def test_numbers_can_be_monitored_and_others_are_refused(tmp_path: Path) -> None:
    logger, found = Memory(), search()
    stop = pl.callbacks.EarlyStopping(monitor="val/zero/50%/text_nll")
    make_trainer(WeightValidation(tmp_path), stop, max_steps=4, max_epochs=-1, logger=logger).fit(found, ioi())
    by_step = {step: m["val/zero/50%/text_nll"] for step, m in logger.metrics if "val/zero/50%/text_nll" in m}
    assert set(by_step) == {3, 4}  # by the end of the first epoch nothing would have been measured
    assert float(stop.best_score) == pytest.approx(by_step[3])
    wrong = pl.callbacks.EarlyStopping(monitor="val/zero/50%/texts")
    said = refused(search(), ioi(), WeightValidation(tmp_path), wrong)
    assert "nothing logs that while this run trains. Did you mean 'val/zero/50%/text_nll'?" in said


def test_a_full_disk_is_told_and_ends_the_run_with_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr("lightning_circuits.callbacks.weights.write_atomically", full)
    with (
        pytest.warns(UserWarning, match="no space left on device.*Training goes on"),
        pytest.raises(OSError, match=r"no space left on device.*search\.circuit\(\)\.save"),
    ):
        fitted(tmp_path)


# ---- what is refused -----------------------------------------------------------------------------------------------


class Silent(Babble):
    def held_out(self, split: str) -> list[TextBatch]:
        return []


@pytest.mark.parametrize("callback", [FaithfulnessValidation, FaithfulnessCurve, CircuitExport, CircuitReport])
def test_callbacks_for_edges_refuse_a_search_for_weights(callback: type, tmp_path: Path) -> None:
    said = refused(search(), ioi(), callback(), default_root_dir=tmp_path)
    assert f"{callback.__name__} is for circuits of edges, and WeightPruning has one of weights" in said
    assert "WeightValidation in its place" in said


def test_a_search_for_edges_is_refused(tmp_path: Path) -> None:
    said = refused(EAP("tiny-ioi"), ioi(), WeightValidation(tmp_path))
    assert "WeightValidation is for circuits of weights, and EAP has none" in said
    assert "FaithfulnessValidation and CircuitExport in its place" in said


def test_what_cannot_be_measured_is_said_before_training(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    silent = WeightPruning("tiny-ioi", Silent())
    assert "the text of WeightPruning has no val lines" in refused(silent, ioi(), WeightValidation(tmp_path))
    loader = ioi().train_dataloader()
    assert "circuits are measured on the val split, and there is none" in refused(
        search(), loader, WeightValidation(tmp_path)
    )
    said = refused(search(), ioi(), WeightValidation(tmp_path / "file" / "folder"))
    assert "circuits cannot be written to" in said and "give WeightValidation another dirpath" in said


@pytest.mark.parametrize(
    ("options", "error", "said"),
    [
        ({"every_n_steps": 0}, ValueError, "every_n_steps is 0"),
        ({"rest": "one"}, ValueError, "rest"),
        ({"monitor": "kl"}, ValueError, "monitor"),
        ({"save_top_k": -2}, ValueError, "save_top_k is -2"),
        ({"save_top_k": 0.5}, TypeError, "save_top_k takes a whole number"),
        ({"seed": -1}, ValueError, "seed"),
        ({"dirpath": 3}, TypeError, "dirpath takes a folder"),
    ],
)
def test_options_that_are_none(options: dict[str, Any], error: type, said: str) -> None:
    with pytest.raises(error, match=said):
        WeightValidation(**options)
