"""Constants that edge pruning learns beside its gates: that they help, and that runs with them are runs like others."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from lightning_circuits import Circuit, EdgePruning, SavedCircuit
from lightning_circuits.ablation import MeanAblation, OptimalAblation
from lightning_circuits.callbacks import CircuitExport, FaithfulnessValidation
from lightning_circuits.datamodules import IOIDataModule
from lightning_circuits.gates import HardConcrete, SizeRange, TargetSparsity, TopK
from lightning_circuits.models.loading import EMBEDDED
from lightning_circuits.namespace import pl
from lightning_circuits.search import edge_pruning
from tests.search.test_ddp import on_each, trainer_of
from tests.support.training import quiet_trainer

MADE = {
    "TopK": lambda: TopK(SizeRange(warmup=0)),
    "HardConcrete": lambda: HardConcrete(TargetSparsity(0.9, warmup=0.3)),
}


def data(**options: Any) -> IOIDataModule:
    return IOIDataModule(EMBEDDED, **{"n_train": 16, "n_val": 8, "n_test": 8, "batch_size": 4, **options})


def search_for(gate: str = "TopK", lr: float = 0.03, **options: Any) -> EdgePruning:
    return EdgePruning(EMBEDDED, gate=MADE[gate](), ablation=OptimalAblation(steps=8, lr=lr), **options)


def constants_of(search: EdgePruning) -> Tensor:
    assert search.constants is not None
    return search.constants.values.detach().clone()


@pytest.mark.parametrize("warm_start", [None, "EAP"])
def test_a_second_run_has_new_constants_where_it_has_new_gates(warm_start: str | None) -> None:
    search = search_for(lr=1e-9, warm_start=warm_start)
    quiet_trainer(max_steps=1).fit(search, data())
    begun = constants_of(search)
    assert search.constants is not None
    search.constants.values.data += 1.0
    quiet_trainer(max_steps=1).fit(search, data())
    torch.testing.assert_close(constants_of(search), begun + (warm_start is None))
    assert ("resumed" in search.describe()) == (warm_start is None)


def test_constants_begin_at_the_means_and_are_learned_at_a_rate_of_their_own() -> None:
    class Rates(pl.Callback):
        seen = list[tuple[float, float]]()
        start: Tensor

        def on_train_batch_start(self, trainer: Any, pl_module: Any, *_: Any) -> None:
            first, second = trainer.optimizers[0].param_groups
            self.seen.append((first["lr"], second["lr"]))
            if trainer.global_step == 0:
                self.start = constants_of(pl_module)

    search, rates, mean = search_for(), Rates(), MeanAblation()
    quiet_trainer(rates, max_steps=10).fit(search, data())
    mean.fit(search.circuit_model, data().train_dataloader())
    assert mean.means is not None and torch.equal(rates.start, mean.means)
    assert rates.seen[0] == (0.2, 0.03)
    assert all(one / 0.2 == pytest.approx(other / 0.03) for one, other in rates.seen) and rates.seen[-1][1] < 0.03
    moved = (constants_of(search) - rates.start).abs().amax((1, 2))
    assert moved.min() > 0 and moved.max() <= 0.03 * 10 * 1.5
    assert (search.ablation.name, search.describe()["ablation"]) == ("optimal", "optimal")
    assert search.describe()["ablation_options"] == {"steps": 8, "lr": 0.03, "objective": {"class": "KL"}}


def test_gates_beside_constants_lose_less_than_gates_under_means() -> None:
    class Last(pl.Callback):
        losses = list[float]()

        def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
            self.losses.append(float(trainer.callback_metrics["train/objective"]))

    lost = {}
    for ablation in (OptimalAblation(lr=0.1), "mean"):
        last = Last()
        last.losses = []
        search = EdgePruning(EMBEDDED, gate=TopK(SizeRange(0.1)), ablation=ablation)
        quiet_trainer(last, max_steps=60).fit(search, data())
        lost[search.ablation.name] = sum(last.losses[-8:]) / 8
    assert lost["optimal"] < 0.8 * lost["mean"]


def test_other_ablations_have_nothing_to_learn() -> None:
    for ablation in ("interchange", "mean", "zero"):
        search = EdgePruning(EMBEDDED, ablation=ablation)
        assert search.constants is None and not any("constants" in name for name in search.state_dict())


@pytest.mark.parametrize("gate", MADE)
def test_a_resumed_run_ends_as_an_unbroken_one_to_the_bit(gate: str, tmp_path: Path) -> None:
    def run(folder: str, resume: Path | None = None) -> tuple[EdgePruning, Any]:
        keep = pl.callbacks.ModelCheckpoint(tmp_path / folder, every_n_train_steps=5, save_top_k=-1, filename="{step}")
        trainer = quiet_trainer(keep, max_steps=13, enable_checkpointing=True)
        search = search_for(gate)
        trainer.fit(search, data(), ckpt_path=resume, weights_only=True)
        return search, trainer.optimizers[0].state_dict()["state"]

    (whole, adam), middle = run("whole"), tmp_path / "whole" / "step=5.ckpt"
    resumed, adam_resumed = run("resumed", middle)
    assert torch.equal(constants_of(whole), constants_of(resumed))
    for name, value in whole.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name
    for index, moments in adam.items():
        assert all(torch.equal(moments[name], adam_resumed[index][name]) for name in ("exp_avg", "exp_avg_sq"))
    checkpoint = torch.load(middle, weights_only=True)
    assert not torch.equal(checkpoint["state_dict"]["constants.values"], constants_of(whole))
    assert os.path.getsize(middle) < 2_000_000

    del checkpoint["state_dict"]["constants.values"]
    torch.save(checkpoint, broken := tmp_path / "broken.ckpt")
    with pytest.raises(ValueError, match=r"it has no constants\.values"):
        run("broken", broken)
    with pytest.raises(ValueError, match=r"ablation\.lr 0\.03 there, 0\.5 here"):
        quiet_trainer(max_steps=13).fit(search_for(gate, lr=0.5), data(), ckpt_path=middle, weights_only=True)


def test_accumulated_batches_make_the_step_of_one_batch_of_all_their_prompts() -> None:
    def trained(batch_size: int, batches: int) -> EdgePruning:
        search = search_for(dtype="float64")
        quiet_trainer(max_steps=4, accumulate_grad_batches=batches).fit(search, data(batch_size=batch_size))
        return search

    several, one = trained(4, 2), trained(8, 1)
    torch.testing.assert_close(constants_of(several), constants_of(one), atol=1e-5, rtol=0)
    torch.testing.assert_close(several.edge_scores(), one.edge_scores(), atol=1e-4, rtol=0)


def test_in_spans_there_is_a_constant_for_each() -> None:
    search = search_for(spans=True)
    quiet_trainer(max_steps=3).fit(search, data(spans="roles"))
    values = constants_of(search)
    assert values.shape == (search.layout.n_writers, search.layout.n_spans, search.layout.d_model)
    assert search.layout.n_spans > 2 and not torch.equal(values[:, 0], values[:, 1])


def test_its_steps_are_not_captured(monkeypatch: pytest.MonkeyPatch) -> None:
    def capture(*_: Any) -> None:
        raise AssertionError("a step was captured")

    monkeypatch.setattr(edge_pruning, "worth_capturing", lambda *_: True)
    monkeypatch.setattr(edge_pruning.CapturedLosses, "__call__", capture)
    quiet_trainer(max_steps=1).fit(search_for(), data())
    with pytest.raises(AssertionError, match="captured"):
        quiet_trainer(max_steps=1).fit(EdgePruning(EMBEDDED), data())


def test_what_is_exported_says_the_ablation_and_is_fitted_anew_when_it_is_judged(tmp_path: Path) -> None:
    judged = OptimalAblation(steps=4, lr=0.03)
    validation = FaithfulnessValidation(sizes=[0.1], ablations=[judged])
    search = search_for()
    quiet_trainer(validation, CircuitExport(tmp_path, sizes=[0.1], formats=["json"]), max_steps=4).fit(search, data())
    before = next(row for row in validation.rows if row.circuit == "10%")
    path = tmp_path / "circuit-last-10pct.json"
    metadata = Circuit.load(path).metadata
    assert metadata["ablation"] == "optimal" and metadata["measured_under"]["optimal"]["fitted_over"] == 16
    again = FaithfulnessValidation(ablations=[OptimalAblation(steps=4, lr=0.03)])
    saved = SavedCircuit(EMBEDDED, path=path, ablation="optimal")
    quiet_trainer(again).validate(saved, data())
    rows = {row.edges: row for row in again.rows if "random" not in row.circuit and "complement" not in row.circuit}
    assert rows[before.edges].kl == pytest.approx(before.kl, rel=1e-4)


def learned(devices: int) -> dict[str, Tensor]:
    search = search_for(dtype="float64")
    source = data(n_train=12, batch_size=4 // devices, n_val=2)
    trainer_of(devices, max_steps=4).fit(search, source)
    return {"constants": constants_of(search), "scores": search.edge_scores()}


@pytest.mark.slow
def test_two_processes_learn_what_one_does(tmp_path: Path) -> None:
    one, other = on_each(tmp_path, 2, learned, 2)
    assert torch.equal(one["constants"], other["constants"]) and torch.equal(one["scores"], other["scores"])
    torch.testing.assert_close(one["constants"], learned(1)["constants"], atol=1e-5, rtol=0)
