"""A probe in a training run: it finds what a search would, and the run is the same without it, to the bit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from lightning_circuits import EAP, EAPIG, ActivationPatching, EdgePruning
from lightning_circuits.ablation import ABLATIONS
from lightning_circuits.callbacks import CircuitProbe
from lightning_circuits.callbacks.history import Probe
from lightning_circuits.evaluation.rows import evaluate
from lightning_circuits.namespace import pl
from lightning_circuits.search.one_pass import Attribution
from lightning_circuits.selection import top_n
from tests.support import processes
from tests.support.tiny_models import tiny_model
from tests.support.training import QUIET, Mine, bloom, fit, small, trainable

# ---- what is found ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "search", "absolute"),
    [
        ("EAP", EAP("tiny-ioi"), True),  # a name means the method with its own defaults
        ("EAP-IG", EAPIG("tiny-ioi", steps=5), True),
        (EAPIG(steps=2, absolute=False), EAPIG("tiny-ioi", steps=2), False),
        (ActivationPatching(edges_per_batch=200), ActivationPatching("tiny-ioi", edges_per_batch=200), True),
    ],
)
def test_a_probe_finds_what_a_search_finds(method: Any, search: Attribution, absolute: bool) -> None:
    """On a model that stands still (no learning rate)."""
    probe = CircuitProbe(small(), every_n_steps=1, sizes=[40, 0.1], method=method, faithfulness=0.5)
    for _ in range(2):  # a probe may be used again, in another model
        fit(probe, Mine(trainable(), lr=0.0), max_steps=1)
    pl.Trainer(**QUIET).fit(search, small(batch_size=1))
    scores = search.edge_scores().abs() if absolute else search.edge_scores()
    members = {"40 edges": top_n(scores, 40), "10%": top_n(scores, int(0.1 * search.layout.n_edges))}
    val = small(batch_size=1).val_dataloader()
    rows = evaluate(search.circuit_model, val, members, [ABLATIONS.make("interchange")], controls=False)
    _, found = probe.history
    assert found.step == 1
    for name, chosen in members.items():
        assert torch.equal(found.members[name], chosen)
    for here, there in zip(found.rows, rows, strict=True):
        assert here.circuit == there.circuit and here.prompts == there.prompts == 7
        assert here.faithfulness == pytest.approx(there.faithfulness, abs=1e-5)
    enough = [row.edges for row in rows if row.circuit in members and row.faithfulness >= 0.5]
    assert found.edges_needed == min(enough, default=None) and enough


@pytest.mark.parametrize(
    ("options", "steps"),
    [
        ({}, 7),  # three passes over the prompts, in another order each
        ({"warm_start": None, "gate": "HardConcrete", "seed": 1}, 4),  # whose penalty has a multiplier of its own
        ({"ablation": "optimal", "objective": "LogitDifference", "warm_start": "EAP"}, 3),
    ],
)
def test_gates_trained_within_a_run_are_those_of_a_trainer(options: dict[str, Any], steps: int) -> None:
    """On a model that stands still."""
    probe = CircuitProbe(small(), every_n_steps=1, sizes=[40, 0.1], method=EdgePruning(**options), training_steps=steps)
    fit(probe, Mine(trainable(), lr=0.0), max_steps=1)
    search = EdgePruning("tiny-ioi", **options)
    pl.Trainer(**QUIET, max_steps=steps).fit(search, small())
    untrained = EdgePruning("tiny-ioi", **options)
    for found in probe.history:  # none begins at the one before
        for name, size in (("40 edges", 40), ("10%", 0.1)):
            assert torch.equal(found.members[name], search.circuit(size).members)
    assert not torch.equal(search.edge_scores().sort().indices, untrained.edge_scores().sort().indices)


def test_what_is_logged(tmp_path: Path) -> None:
    logger = pl.loggers.CSVLogger(tmp_path)
    probe = CircuitProbe(small(), every_n_steps=2, sizes=[5, 0.2], faithfulness=0.5)
    trainer = fit(probe, Mine(trainable(), lr=1e-2), max_steps=5, logger=logger, log_every_n_steps=100)
    assert [found.step for found in probe.history] == [0, 2, 4, 5]
    start, first, second, last = probe.history
    assert start.iou_last == {} and start.iou_final["5 edges"] <= 1
    before_training = CircuitProbe(small(), sizes=[5, 0.2])
    fit(before_training, Mine(trainable(), lr=0.0), max_steps=1)
    assert repr(start.rows) == repr(before_training.history[1].rows)  # of the weights that training began with
    assert set(first.iou_last) == set(second.iou_last) == {"5 edges", "20%"}
    for found, before in ((first, start), (second, first), (last, second)):
        for name, value in found.iou_last.items():
            here, there = (set(probe.members[name].nonzero().flatten().tolist()) for probe in (found, before))
            assert value == pytest.approx(len(here & there) / len(here | there))
    assert last.iou_final == {"5 edges": 1.0, "20%": 1.0}
    assert second.iou_final == pytest.approx(last.iou_last)
    assert 0 < first.iou_final["20%"] < 1
    logger.save()
    header, *lines = Path(logger.log_dir).joinpath("metrics.csv").read_text().splitlines()
    names = header.split(",")
    for name in ("probe/5-edges/faithfulness", "probe/20%/kl", "probe/full/accuracy", "probe/20%/iou_last"):
        assert name in names
    final = names.index("probe/20%/iou_final")
    written = {int(line.split(",")[names.index("step")]): line.split(",")[final] for line in lines}
    assert {step: float(value) for step, value in written.items() if value} == pytest.approx(
        {found.step: found.iou_final["20%"] for found in probe.history}
    )
    assert trainer.callback_metrics["probe/20%/faithfulness"] == pytest.approx(
        next(row.faithfulness for row in last.rows if row.circuit == "20%")
    )


def test_a_probe_judges_by_the_measure_that_it_is_given() -> None:
    probe = CircuitProbe(small(), every_n_steps=1, sizes=[1], measure="kl")
    trainer = fit(probe, Mine(trainable()), max_steps=1)
    assert {row.measure for row in probe.history[-1].rows} == {"kl"}
    judged = {key for key in trainer.callback_metrics if key.startswith("probe/kl/")}
    assert "probe/kl/full/faithfulness" in judged and judged <= set(probe.logged_keys(Mine(trainable())))


def test_where_no_size_is_faithful_enough_there_is_no_number() -> None:
    probe = CircuitProbe(small(), every_n_steps=1, sizes=[1], faithfulness=0.99)
    fit(probe, Mine(trainable()), max_steps=1)
    assert probe.history[0].edges_needed is None
    assert "probe/edges_needed" not in probe.history[0].scalars()


def test_a_resumed_run_has_the_history_of_the_run_before(tmp_path: Path) -> None:
    probe = CircuitProbe(small(), every_n_steps=1, sizes=[0.1])
    fit(probe, Mine(trainable())).save_checkpoint(tmp_path / "two.ckpt")
    resumed = CircuitProbe(small(), every_n_steps=1, sizes=[0.1])
    trainer = pl.Trainer(**QUIET, max_steps=3, callbacks=[resumed])
    trainer.fit(Mine(trainable()), small(seed=1).train_dataloader(), ckpt_path=tmp_path / "two.ckpt")
    assert [found.step for found in resumed.history] == [0, 1, 2, 3]
    rows = [[row.to_dict() for row in run.history[2].rows] for run in (probe, resumed)]
    assert rows[0] == rows[1]
    for one, other in zip(probe.history, resumed.history, strict=False):
        assert torch.equal(one.members["10%"], other.members["10%"]) and other.members["10%"].dtype == torch.bool
    assert "10%" in resumed.history[3].iou_last
    state = resumed.state_dict()["history"][0]
    assert len(state["members"]["10%"]) == -(-state["n_edges"] // 8)  # a bit an edge


# ---- several processes -----------------------------------------------------------------------------------------------


def run_of_two(
    lr: float, probed: bool = True, own: bool = False, **options: Any
) -> tuple[pl.LightningModule, CircuitProbe, pl.Trainer]:
    data = small(seed=1)
    probe = CircuitProbe(data if own else small(), every_n_steps=2, sizes=[0.05, 0.2], **options)
    module = Mine(trainable(), lr=lr)
    trainer = pl.Trainer(**QUIET, max_steps=3, devices=2, strategy="ddp", callbacks=[probe] if probed else [])
    trainer.fit(
        module,
        train_dataloaders=None if own else small(seed=1).train_dataloader(),
        datamodule=data if own else None,
    )
    return module, probe, trainer


TRAINED: dict[str, Any] = {"method": "EdgePruning", "training_steps": 3}


def probe_twice(folder: Path) -> None:
    _, still, trainer = run_of_two(0.0)
    _, own, _ = run_of_two(0.0, own=True)
    trained = run_of_two(0.0, **TRAINED)[1]
    unprobed = run_of_two(1e-3, probed=False)[0]
    for moved in (run_of_two(1e-3)[0], run_of_two(1e-3, **TRAINED)[0]):
        assert all(torch.equal(a, b) for a, b in zip(moved.parameters(), unprobed.parameters(), strict=True))
    assert trainer.world_size == 2
    torch.save([still.state_dict(), own.state_dict(), trained.state_dict()], folder / f"rank{trainer.global_rank}.pt")


@pytest.mark.slow
def test_two_processes_share_the_prompts_and_agree(tmp_path: Path) -> None:
    """7 validation and 10 training prompts in batches of 4: neither divides by two processes."""
    processes.together(tmp_path, 2, probe_twice, tmp_path)
    ranks = [torch.load(tmp_path / f"rank{rank}.pt") for rank in (0, 1)]
    runs: list[tuple[int, dict[str, Any]]] = [(0, {}), (1, {}), (0, TRAINED)]
    for (seed, options), (one, other) in zip(runs, zip(*ranks, strict=True), strict=True):
        alone = CircuitProbe(small(seed=seed), every_n_steps=2, sizes=[0.05, 0.2], **options)
        fit(alone, Mine(trainable(), lr=0.0), max_steps=3)
        assert [found["step"] for found in one["history"]] == [0, 2, 3]
        assert repr(one) == repr(other)  # in which NaN equals NaN
        for state, single in zip(one["history"], alone.history, strict=True):
            here = Probe.from_state_dict(state)
            for name, members in here.members.items():
                assert torch.equal(members, single.members[name])
            for row, expected in zip(here.rows, single.rows, strict=True):
                assert row.prompts == 7
                assert row.faithfulness == pytest.approx(expected.faithfulness, abs=1e-5)


# ---- what is refused, before the first step --------------------------------------------------------------------------


class NeverTrains(Mine):
    def training_step(self, *_: Any) -> torch.Tensor:
        raise AssertionError("a step was taken")


class Adapter(nn.Module):
    """As peft puts them in front of a layer; untrained, so that it changes nothing yet."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.base_layer = layer
        self.weight, self.bias = layer.weight, layer.bias

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.base_layer(x)


def with_adapter() -> nn.Module:
    model = trainable()
    model.transformer.h[1].attn.c_attn = Adapter(model.transformer.h[1].attn.c_attn)
    return model


@pytest.mark.parametrize(
    ("language_model", "options", "said"),
    [
        (bloom, {}, "holds no language model that can be read: .* of one of the families .*cohere, "),
        (bloom, {"model": "net.lm"}, r"NeverTrains.net.lm is a BloomForCausalLM, and no language model"),
        (with_adapter, {}, r"an adapter .* at transformer.h.1.attn.c_attn: merge it first"),
        (trainable, {"model": "net.ml"}, "there is no 'ml' in NeverTrains.net, on the way to 'net.ml'; there is lm"),
        (trainable, {"sizes": [0.00001]}, "rounds to 0 edges"),
        (trainable, {"method": EdgePruning(warm_start=torch.ones(7))}, r"\(7,\)"),
        (lambda: tiny_model("gpt2"), {}, r"IOIDataModule has token \d+ in its train split, and the model knows 19"),
    ],
)
def test_what_cannot_be_probed_is_refused_at_setup(language_model: Any, options: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        fit(CircuitProbe(small(), **options), NeverTrains(language_model()))


class MakesItLater(NeverTrains):
    """As modules do that are built in place on their device."""

    def __init__(self) -> None:
        pl.LightningModule.__init__(self)

    def configure_model(self) -> None:
        self.net = nn.ModuleDict({"lm": self.make()})

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.0)


def test_a_model_made_in_a_later_hook_is_looked_at_before_the_first_step() -> None:
    module = MakesItLater()
    module.make = bloom
    with pytest.raises(ValueError, match="holds no language model that can be read"):
        fit(CircuitProbe(small()), module)
    module = MakesItLater()
    module.make = trainable
    with pytest.raises(AssertionError, match="a step was taken"):
        fit(CircuitProbe(small()), module)


def test_a_model_in_pieces_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    probe, trainer = CircuitProbe(small()), pl.Trainer(**QUIET)
    pieces = pl.strategies.ModelParallelStrategy.__new__(pl.strategies.ModelParallelStrategy)
    monkeypatch.setattr(type(trainer), "strategy", pieces)
    with pytest.raises(ValueError, match="ModelParallelStrategy splits the model among processes"):
        probe.setup(trainer, NeverTrains(trainable()), "fit")
