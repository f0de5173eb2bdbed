"""Node pruning: what it leaves, against the same greedy rule by exact ablation; its scores; kills and processes."""

from __future__ import annotations

import math
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from lightning_circuits import Circuit, NodePruning
from lightning_circuits.ablation import MeanPositionalAblation
from lightning_circuits.callbacks import CircuitExport, FaithfulnessValidation
from lightning_circuits.datamodules import IOIDataModule
from lightning_circuits.evaluation.completeness import cut_edges, measure_contributions
from lightning_circuits.evaluation.per_prompt import measured
from lightning_circuits.layout import Layout
from lightning_circuits.namespace import pl
from lightning_circuits.search.node_pruning import lower_of_both_nodes
from tests.search.test_ddp import on_each
from tests.support.training import QUIET


def data(batch_size: int = 5, **options: Any) -> IOIDataModule:
    return IOIDataModule("tiny-ioi", **{"n_train": 12, "n_val": 4, "n_test": 4} | options, batch_size=batch_size)


def fit(search: NodePruning, source: IOIDataModule | None = None, **options: Any) -> pl.Trainer:
    resume = options.pop("ckpt_path", None)
    trainer = pl.Trainer(**QUIET | {"devices": 1, "num_sanity_val_steps": 0} | options)
    trainer.fit(search, source or data(), ckpt_path=resume, weights_only=resume is not None)
    return trainer


def performances(search: NodePruning, sets: list[set[str]]) -> list[float]:
    """F / F(M) of the model without some nodes, by exact ablation of all their edges."""
    layout = search.layout
    members = [~cut_edges(layout, names) for names in (set(), *sets)]
    source = data(batch_size=12)
    source.setup("fit")
    search.ablation.fit(search.circuit_model, source.train_dataloader() if search.ablation.needs_data else ())
    of_model, *others = measured(search.circuit_model, source.train_dataloader(), members, search.ablation).mean(1)
    return [float(each / of_model) for each in others]


def removed_by(search: NodePruning) -> list[str]:
    """In order."""
    found = [(place, name) for place, name in zip(search.removed_as.tolist(), search.layout.writer_names, strict=True)]
    return [name for place, name in sorted(found) if place]


@pytest.mark.parametrize("ablation", ["interchange", MeanPositionalAblation("corrupt")])
@pytest.mark.parametrize("order", ["backward", "forward"])
def test_it_removes_what_the_same_rule_removes_edge_by_edge(order: Any, ablation: Any) -> None:
    search = NodePruning("tiny-ioi", order=order, threshold=0.7, ablation=ablation)
    fit(search)
    down = [f"m{layer}" if part == 4 else f"a{layer}.h{3 - part}" for layer in (3, 2, 1, 0) for part in (4, 0, 1, 2, 3)]
    sweep, gone = down if order == "backward" else down[::-1], list[str]()
    while True:
        before = len(gone)
        for node in sweep:
            if node not in gone and performances(search, [{*gone, node}])[0] >= 0.7:
                gone.append(node)
        if len(gone) == before:
            break
        sweep = sweep[::-1]
    assert 2 < len(gone) < 19, "a test of nothing"
    assert removed_by(search) == gone
    assert search.describe()["performance"] == pytest.approx(performances(search, [set(gone)])[0], abs=1e-5)


@pytest.mark.parametrize("seed", [0, 1])
def test_no_order_of_those_left_could_go_on(seed: int) -> None:
    search = NodePruning("tiny-ioi", order="random", seed=seed)
    fit(search)
    gone = set(removed_by(search))
    left = [name for name in search.layout.writer_names[1:] if name not in gone]
    assert performances(search, [gone])[0] >= 0.8
    assert max(performances(search, [gone | {name} for name in left])) < 0.8


def test_random_orders_are_those_of_their_seed() -> None:
    orders = [NodePruning("tiny-ioi", order="random", seed=seed)._nodes() for seed in (0, 0, 1)]
    assert orders[0] == orders[1] != orders[2]
    assert sorted(orders[0]) == list(range(1, 21))


# ---- scores ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def pruned() -> NodePruning:
    search = NodePruning("tiny-ioi")
    fit(search)
    return search


def test_the_circuit_is_every_edge_between_the_nodes_kept(pruned: NodePruning) -> None:
    circuit, gone = pruned.circuit(), removed_by(pruned)
    for name, inside in zip(pruned.layout.edge_names(range(479)), circuit.members.tolist(), strict=True):
        ends = [end.split("<")[0] for end in name.split("->")]
        assert inside == (not set(ends) & set(gone)), name
    assert 0 < circuit.n_edges == pruned.trained_size() < 479
    # Edges into removed nodes carry nothing anywhere.
    by_nodes, by_edges = measured(
        pruned.circuit_model, data().train_dataloader(), [~cut_edges(circuit.layout, gone), circuit], pruned.ablation
    )
    torch.testing.assert_close(by_nodes, by_edges, rtol=1e-5, atol=1e-6)  # other products, rounded in float32


def test_circuits_of_other_sizes_are_those_on_the_way(pruned: NodePruning) -> None:
    scores, gone = pruned.edge_scores(), removed_by(pruned)
    for k in range(len(gone) + 1):
        left = set(pruned.layout.writer_names) - set(gone[:k])
        on_the_way = scores > k / 20 + 1e-6
        names = [[end.split("<")[0] for end in name.split("->")] for name in pruned.layout.edge_names(range(479))]
        assert on_the_way.tolist() == [ends[0] in left and ends[1] in left | {"logits"} for ends in names]


def test_of_the_nodes_kept_the_one_most_missed_ranks_highest(pruned: NodePruning) -> None:
    scores = dict(zip(pruned.layout.writer_names, pruned.node_scores().tolist(), strict=True))
    loader = data(batch_size=12).train_dataloader()
    lost = measure_contributions(pruned.circuit_model, loader, pruned.circuit(), pruned.ablation, of="nodes")
    by_loss = [lost.parts[i] for i in lost.values.argsort()]
    assert sorted(by_loss, key=scores.__getitem__) == by_loss
    assert math.isnan(scores.pop("input")) and 0 < min(scores.values()) < max(scores.values()) == 1


def test_a_file_holds_it(pruned: NodePruning, tmp_path: Path) -> None:
    circuit = pruned.circuit()
    for name in ("circuit.json", "circuit.safetensors"):
        again = Circuit.load(circuit.save(tmp_path / name))
        assert again == circuit and again.metadata["order"] == "backward" and again.metadata["threshold"] == 0.8


def test_a_reader_of_several_heads_is_there_as_long_as_one_of_them() -> None:
    layout = Layout(n_layers=1, n_heads=4, d_model=8, n_kv_readers=2)
    found = lower_of_both_nodes(layout, torch.tensor([9.0, 1.0, 2.0, 3.0, 4.0, 5.0]))
    scores = dict(zip(layout.edge_names(range(layout.n_edges)), found.tolist(), strict=True))
    assert scores["input->a0.h2<q>"] == 3 and scores["input->a0.g0<k>"] == 2 and scores["input->a0.g1<v>"] == 4
    assert scores["a0.h1->m0"] == 2 and scores["m0->logits"] == 5 and scores["input->logits"] == 9


def test_nothing_is_known_before_a_sweep() -> None:
    search = NodePruning("tiny-ioi")
    assert search.trained_size() is None
    with pytest.raises(RuntimeError, match="no scores yet: fit it first"):
        search.circuit(size=0.1)


# ---- as a Lightning run ----------------------------------------------------------------------------------------------


def state(search: NodePruning) -> list[Tensor]:
    return [search.removed_as, search.without, search.performance]


def test_batches_padding_and_limits_of_the_trainer_change_nothing(pruned: NodePruning) -> None:
    other = NodePruning("tiny-ioi")
    trainer = fit(other, data(batch_size=3, padding_side="left"), max_steps=1, max_epochs=1)
    for one, another in zip(state(pruned), state(other), strict=True):
        torch.testing.assert_close(one, another, atol=1e-5, rtol=0)
    assert trainer.global_step == int(other.sweeps) > 1 and trainer.max_epochs == 1


def test_fewer_prompts() -> None:
    limited = NodePruning("tiny-ioi")
    fit(limited, data(batch_size=4), limit_train_batches=1)
    (first, *_) = data(batch_size=4).train_dataloader()
    members = [~cut_edges(limited.layout, names) for names in (removed_by(limited), ())]
    circuit, full = measured(limited.circuit_model, [first], members, limited.ablation).mean(1)
    assert limited.describe()["performance"] == pytest.approx(float(circuit / full), abs=1e-5)


def test_a_second_fit_begins_anew(pruned: NodePruning) -> None:
    search = NodePruning("tiny-ioi")
    fit(search)
    fit(search)
    assert all(torch.equal(one, other) for one, other in zip(state(search), state(pruned), strict=True))


def test_callbacks_judge_and_export_it(tmp_path: Path) -> None:
    search, validation = NodePruning("tiny-ioi"), FaithfulnessValidation()
    fit(search, callbacks=[validation, CircuitExport(tmp_path)])
    (row,) = [row for row in validation.rows if row.circuit == f"{search.trained_size()} edges"]
    assert row.split == "val" and row.ratio > 0.5
    assert Circuit.load(tmp_path / f"circuit-last-{search.trained_size()}-edges.json") == search.circuit()


@pytest.mark.parametrize("step", [1, 2])
def test_a_run_that_died_goes_on_with_the_next_sweep(step: int, pruned: NodePruning, tmp_path: Path) -> None:
    class Die(pl.Callback):
        def on_train_batch_start(self, trainer: Any, *_: Any) -> None:
            if trainer.global_step == step and not trainer.is_last_batch:
                raise InterruptedError

    keep = pl.callbacks.ModelCheckpoint(tmp_path, every_n_train_steps=1, save_top_k=-1, filename="{step}")
    search = NodePruning("tiny-ioi", threshold=0.5)
    whole = NodePruning("tiny-ioi", threshold=0.5)
    fit(whole)
    assert int(whole.sweeps) > 1
    with suppress(InterruptedError):
        fit(search, callbacks=[keep, Die()], enable_checkpointing=True)
    resumed = NodePruning("tiny-ioi", threshold=0.5)
    fit(resumed, ckpt_path=tmp_path / f"step={step}.ckpt")
    assert all(torch.equal(one, other) for one, other in zip(state(resumed), state(whole), strict=True))


def pruned_in(devices: int) -> dict[str, Tensor]:
    search = NodePruning("tiny-ioi")
    strategy = "ddp" if devices > 1 else "auto"
    fit(search, data(batch_size=4 // devices, n_train=13), devices=devices, strategy=strategy)
    return {"removed_as": search.removed_as, "without": search.without}


@pytest.mark.slow
def test_two_processes_find_what_one_finds(tmp_path: Path) -> None:
    one = pruned_in(1)
    for other in on_each(tmp_path, 2, pruned_in, 2):
        assert torch.equal(one["removed_as"], other["removed_as"])
        torch.testing.assert_close(one["without"], other["without"], atol=1e-5, rtol=0)


# ---- what cannot work ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"threshold": 0}, "threshold of performance must be positive and finite, got 0"),
        ({"threshold": float("nan")}, "threshold of performance must be positive and finite"),
        ({"order": "upward"}, "order is one of 'backward', 'forward', 'random', got 'upward'"),
        ({"measure": "logits"}, "measure"),
    ],
)
def test_options_that_cannot_be(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        NodePruning("tiny-ioi", **options)


def test_a_measure_of_which_the_model_has_none() -> None:
    with pytest.raises(ValueError, match=r"a share of F\(M\), and the model's mean kl is 0"):
        fit(NodePruning("tiny-ioi", measure="kl"))


def test_a_measure_that_is_not_a_number() -> None:
    def broken(logits: Tensor, batch: Any, full_logits: Tensor) -> Tensor:
        found = logits[:, 0] - logits[:, 1] + 9
        return found if torch.equal(logits, full_logits) else found * torch.nan

    with pytest.raises(FloatingPointError, match="the performance without m3 is nan"):
        fit(NodePruning("tiny-ioi", measure=broken))
