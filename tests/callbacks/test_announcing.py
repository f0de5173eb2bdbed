"""What is measured and written is announced once, to every callback that listens, wherever it stands in the list."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from lightning_circuits.callbacks import CircuitExport, CircuitReport, FaithfulnessValidation
from lightning_circuits.callbacks.announcing import Measured, Written
from lightning_circuits.circuit import Circuit
from lightning_circuits.namespace import pl
from lightning_circuits.search.base import CircuitSearch
from tests.support.drift import N_TEST, Drift, make_data, make_trainer


class Listener(pl.Callback):
    """A callback of somebody's own, which knows nothing of the others."""

    def __init__(self) -> None:
        self.measured: list[Measured] = []
        self.written: list[Written] = []
        self.loads: list[bool] = []
        self.heard: list[str] = []

    def on_circuits_measured(self, trainer: pl.Trainer, search: CircuitSearch, measured: Measured) -> None:
        assert measured.step == trainer.global_step
        for name, circuit in measured.circuits.items():
            assert circuit == search.circuit(0.3) and name == "30%"
        self.measured.append(measured)
        self.heard.append("measured")

    def on_circuits_written(self, trainer: pl.Trainer, search: CircuitSearch, written: Written) -> None:
        assert written.step == trainer.global_step
        last = Circuit.load(next(path for path in written.paths if "last" in path.name))
        self.loads.append(last == written.circuits["30%"] and last.metadata["step"] == written.step)
        self.written.append(written)
        self.heard.append("written")


# Of any three, each order there is.
ORDERS = [(0, 1, 2, 3), (0, 3, 2, 1), (1, 3, 0, 2), (2, 1, 0, 3), (2, 3, 0, 1), (3, 1, 2, 0)]


@pytest.mark.parametrize("order", ORDERS)
def test_listeners_are_told_once_in_any_order(tmp_path: Path, order: tuple[int, ...]) -> None:
    listener = Listener()
    validation = FaithfulnessValidation(every_n_steps=2, sizes=0.3)
    callbacks = [validation, CircuitExport(tmp_path, formats="pt"), CircuitReport(), listener]
    trainer = make_trainer(*(callbacks[place] for place in order), max_steps=3)
    trainer.fit(Drift(), make_data())
    assert [measured.step for measured in listener.measured] == [2, 3]
    assert [measured.split for measured in listener.measured] == ["val", "val"]
    assert [row.circuit for row in listener.measured[0].rows][:3] == ["full", "empty", "30%"]
    assert listener.measured[-1] is validation.measured
    assert [written.step for written in listener.written] == [2, 3] and listener.loads == [True, True]
    assert listener.heard == ["measured", "written"] * 2
    assert {path for path in listener.written[-1].paths} == set(tmp_path.iterdir())


def test_validate_and_test_announce_too_and_nothing_is_written(tmp_path: Path) -> None:
    listener = Listener()
    trainer = make_trainer(CircuitExport(tmp_path), listener, FaithfulnessValidation(sizes=0.3))
    trainer.test(Drift(), make_data(), verbose=False)
    trainer.validate(Drift(), make_data(), verbose=False)
    assert [measured.split for measured in listener.measured] == ["test", "val"]
    assert listener.measured[0].rows[0].prompts == N_TEST
    assert listener.written == [] and list(tmp_path.iterdir()) == []


def test_without_a_measurement_the_last_circuits_are_written_and_announced(tmp_path: Path) -> None:
    listener = Listener()
    make_trainer(CircuitExport(tmp_path, formats="json", sizes=0.3), listener, max_steps=2).fit(Drift(), make_data())
    assert listener.measured == []
    assert [written.step for written in listener.written] == [2]
    assert [path.name for path in listener.written[0].paths] == ["circuit-last-30pct.json"]


def test_a_run_that_has_nothing_left_to_do_announces_nothing(tmp_path: Path) -> None:
    def callbacks(*more: pl.Callback) -> list[Any]:
        return [FaithfulnessValidation(sizes=0.3), CircuitExport(tmp_path / "files", formats="json"), *more]

    done = make_trainer(*callbacks(), max_steps=2)
    done.fit(Drift(), make_data())
    done.save_checkpoint(tmp_path / "done.ckpt")
    before = {path: path.read_bytes() for path in (tmp_path / "files").iterdir()}
    listener = Listener()
    resumed = make_trainer(*callbacks(listener), max_steps=2)
    resumed.fit(Drift(), make_data(), ckpt_path=tmp_path / "done.ckpt")
    assert listener.measured == [] and listener.written == []
    assert {path: path.read_bytes() for path in (tmp_path / "files").iterdir()} == before
