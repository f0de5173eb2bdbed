"""A checkpoint without what was learned, or from which nobody can go on, is refused with what is missing."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from lightning_circuits import EAP, ActivationPatching, CircuitSearch, EdgePruning
from lightning_circuits.gates import HardConcrete
from lightning_circuits.models.loading import load_model
from lightning_circuits.namespace import pl
from tests.search.test_another_search import data, evaluate, load, resume, stopped

MODEL = load_model("tiny-ioi")
MAKE: dict[str, Callable[[], CircuitSearch]] = {
    "pruning": lambda: EdgePruning(MODEL),
    "hard": lambda: EdgePruning(MODEL, gate=HardConcrete()),
    "attribution": lambda: EAP(MODEL),
    "patching": lambda: ActivationPatching(MODEL, edges_per_batch=240),
}
Change = Callable[[dict[str, Any]], object]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {name: stopped(make(), tmp_path_factory.mktemp(name), data(n_train=8), 2) for name, make in MAKE.items()}


def damaged(path: Path, change: Change, folder: Path) -> Path:
    checkpoint = torch.load(path, weights_only=True)
    change(checkpoint)
    torch.save(checkpoint, folder / "damaged.ckpt")
    return folder / "damaged.ckpt"


def put(name: str, value: Callable[[torch.Tensor], Any]) -> Change:
    return lambda checkpoint: checkpoint["state_dict"].update({name: value(checkpoint["state_dict"][name])})


def with_one(number: float) -> Callable[[torch.Tensor], torch.Tensor]:
    return lambda values: values.clone().index_fill_(0, torch.tensor([7]), number)


LEARNED: list[tuple[str, Change, str]] = [
    ("pruning", lambda c: c["state_dict"].pop("gate.logits"), "it has no gate.logits"),
    ("pruning", lambda c: c["state_dict"].clear(), "it has no gate.average; it has no .*; it has no gate.logits"),
    ("pruning", lambda c: c.update(state_dict=[1]), "its state_dict is none"),
    ("pruning", lambda c: c["state_dict"].update(more=torch.zeros(2)), "it has more, for which there is no place here"),
    ("pruning", put("gate.logits", lambda v: v[:-1]), r"gate.logits is float32 \[478\], not float32 \[479\]"),
    ("pruning", put("gate.logits", lambda v: v.double()), "gate.logits is float64 .*, not float32"),
    ("pruning", put("gate.logits", lambda v: v.tolist()), "gate.logits is no tensor"),
    ("pruning", put("gate.logits", with_one(float("nan"))), "gate.logits holds NaN or infinity"),
    ("pruning", put("gate.average", with_one(float("inf"))), "gate.average holds NaN or infinity"),
    ("pruning", put("gate.averaged", lambda v: v - 5), "gate.averaged is -5, and counts from 0 up"),
    ("pruning", put("learned_edges", lambda v: v - 500), "learned_edges is -21, and counts from 0 up"),
    ("hard", lambda c: c["state_dict"].pop("gate.sparsity.multipliers"), "it has no gate.sparsity.multipliers"),
    ("hard", put("gate.sparsity.multipliers", lambda v: v * float("nan")), "gate.sparsity.multipliers holds NaN"),
    ("attribution", lambda c: c["state_dict"].pop("edge_sums"), "it has no edge_sums"),
    ("attribution", put("edge_sums", with_one(float("nan"))), "edge_sums holds NaN"),
    ("attribution", put("edge_sums", lambda v: v.float()), "edge_sums is float32 .*, not float64"),
    ("attribution", put("writer_sums", with_one(float("inf"))), "writer_sums holds NaN or infinity"),
    ("attribution", put("examples", lambda v: v * 0), "examples is 0.0, and counts from 1 up"),
    ("attribution", put("examples", lambda v: v * -1), "examples is -8.0, and counts from 1 up"),
    ("attribution", put("examples", lambda v: v + 0.5), "examples is 8.5, and counts from 1 up"),
    ("attribution", put("rows", lambda v: v - 99), "rows is -91, and counts from 0 up"),
    ("attribution", lambda c: c["state_dict"].pop("rows"), "it has no rows"),
    ("patching", put("prompts", with_one(-1.0)), "prompts is -1.0, and counts from 0 up"),
    ("patching", put("prompts", with_one(0.5)), "prompts is 0.* and counts from 0 up"),
]  # fmt: skip


@pytest.mark.parametrize("road", [resume, evaluate, load])
@pytest.mark.parametrize(("kind", "change", "said"), LEARNED, ids=[f"{kind} {said[:40]}" for kind, _, said in LEARNED])
def test_what_was_learned_is_there_and_whole(
    kind: str, change: Change, said: str, road: Any, whole: dict[str, Path], tmp_path: Path
) -> None:
    path, search = damaged(whole[kind], change, tmp_path), MAKE[kind]()
    before = {name: value.clone() for name, value in search.state_dict().items()}
    with pytest.raises(ValueError, match=f"is damaged, or was written for something else: .*{said}") as error:
        road(path, search, data(n_train=8)) if road is resume else road(path, search)
    assert len(str(error.value).splitlines()) == 1
    assert all(torch.equal(value, before[name]) for name, value in search.state_dict().items())


def fit_loop(checkpoint: dict[str, Any]) -> dict[str, Any]:
    return checkpoint["loops"]["fit_loop"]


PROGRESS: list[tuple[str, Change, str]] = [
    ("pruning", lambda c: c.pop("optimizer_states"), "it has no optimizer_states; it was perhaps written with"),
    ("pruning", lambda c: c.update(optimizer_states=[]), "its optimizer_states are empty"),
    ("attribution", lambda c: c.update(optimizer_states=[]), "its optimizer_states are empty"),
    ("pruning", lambda c: c["optimizer_states"][0]["state"].clear(), "no exp_avg for parameter 0, .*no exp_avg_sq"),
    ("hard", lambda c: c["optimizer_states"][0]["state"].pop(1), r"no exp_avg for parameter 1, float32 \[2\]"),
    ("hard", lambda c: c["optimizer_states"][0]["param_groups"].pop(), r"moves \[1\] parameters, not \[1, 1\]"),
    ("pruning", lambda c: c["optimizer_states"][0]["state"][0]["exp_avg"].fill_(float("nan")), "hold NaN or infinity"),
    ("pruning", lambda c: c["optimizer_states"][0].pop("state"), "are not those of one optimizer"),
    ("pruning", lambda c: c.pop("lr_schedulers"), "it has no lr_schedulers"),
    ("pruning", lambda c: c.update(lr_schedulers=[]), "its lr_schedulers are not those of one optimizer"),
    ("pruning", lambda c: c.pop("loops"), "it has no loops"),
    ("attribution", lambda c: c.pop("loops"), "it has no loops"),
    ("pruning", lambda c: c["loops"].clear(), "its loops have no fit_loop"),
    ("pruning", lambda c: fit_loop(c).pop("epoch_progress"), "its loops have no fit_loop.epoch_progress"),
    ("pruning", lambda c: fit_loop(c)["epoch_progress"]["total"].update(ready=-1), "no .*epoch_progress.total.ready"),
    ("pruning", lambda c: c.pop("global_step"), "its global_step is None"),
    ("pruning", lambda c: c.update(global_step=700), "its global_step is 700, and its loops have made 2 steps"),
    ("pruning", lambda c: c.update(global_step="2"), "its global_step is '2'"),
    ("pruning", lambda c: c.pop("callbacks"), "it has no callbacks"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("kind", "change", "said"), PROGRESS, ids=[f"{kind} {said[:40]}" for kind, _, said in PROGRESS]
)
def test_what_a_training_goes_on_from_is_there(
    kind: str, change: Change, said: str, whole: dict[str, Path], tmp_path: Path
) -> None:
    path, search = damaged(whole[kind], change, tmp_path), MAKE[kind]()
    with pytest.raises(ValueError, match=f"is damaged, or was written for something else: .*{said}"):
        resume(path, search, data(n_train=8))
    if "optimizer" in said:
        evaluate(path, MAKE[kind]())  # for which it is good enough


@pytest.mark.parametrize("change", [lambda c: c["loops"].clear(), lambda c: c.update(loops=3)])
def test_a_test_needs_its_loop_as_well(change: Change, whole: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="its loops have no test_loop"):
        evaluate(damaged(whole["pruning"], change, tmp_path), EdgePruning(MODEL))


def test_what_was_written_without_an_optimizer_can_be_tested_only(tmp_path: Path) -> None:
    keep = pl.callbacks.ModelCheckpoint(tmp_path, filename="bare", save_weights_only=True, every_n_train_steps=2)
    search = EdgePruning(MODEL)
    trainer = pl.Trainer(accelerator="cpu", max_steps=2, logger=False, enable_progress_bar=False, callbacks=[keep])
    trainer.fit(search, data(n_train=8))
    loaded = EdgePruning.load_from_checkpoint(tmp_path / "bare.ckpt", model=MODEL)
    assert torch.equal(loaded.edge_scores(), search.edge_scores()) and loaded.describe()["step"] == 2
    with pytest.raises(ValueError, match="can be tested, but not gone on from"):
        resume(tmp_path / "bare.ckpt", EdgePruning(MODEL), data(n_train=8))


RECORDS: list[Change] = [
    lambda c: c.pop("lightning_circuits"), lambda c: c.update(lightning_circuits=None),
    lambda c: c.update(lightning_circuits=[1]), lambda c: c["lightning_circuits"].clear(),
    lambda c: c["lightning_circuits"].pop("model"), lambda c: c["lightning_circuits"].update(resumed={}),
    lambda c: c["lightning_circuits"].update(search="EAP"),
]  # fmt: skip


@pytest.mark.parametrize("road", [resume, evaluate, load])
@pytest.mark.parametrize("change", RECORDS)
def test_a_checkpoint_that_says_nothing_of_a_search_is_refused(
    change: Change, road: Any, whole: dict[str, Path], tmp_path: Path
) -> None:
    path = damaged(whole["pruning"], change, tmp_path)
    with pytest.raises(ValueError, match="does not say of which circuit search it is"):
        road(path, EdgePruning(MODEL))


def test_a_record_of_other_kinds_is_refused_as_well(whole: dict[str, Path], tmp_path: Path) -> None:
    for value in (None, 3, {"class": 7}, [float("nan")], {1: 2, "a": 3}, torch.ones(2)):
        path = damaged(
            whole["pruning"], lambda c, value=value: c["lightning_circuits"]["search"].update(gate=value), tmp_path
        )
        with pytest.raises(ValueError, match=r"another model or search: gate .* there, "):
            evaluate(path, EdgePruning(MODEL))
