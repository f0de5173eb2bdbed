"""The loss of gates on a batch, by plain autograd and as what is recorded once for every shape of batch."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM
from transformers.utils import import_utils

from lightning_circuits import EAP, EAPIG, EdgePruning
from lightning_circuits import captured as captured_module
from lightning_circuits.ablation import ABLATIONS
from lightning_circuits.batch import Batch
from lightning_circuits.captured import filled_up, worth_capturing
from lightning_circuits.datamodules import IOIDataModule
from lightning_circuits.evaluation.exact import captured_runs
from lightning_circuits.models import CircuitModel, wrap
from lightning_circuits.namespace import pl
from lightning_circuits.objectives import OBJECTIVES
from lightning_circuits.search import edge_pruning
from lightning_circuits.search.gated_loss import CapturedLosses, gated_losses
from tests.support.gated import assert_close, random_gates, wrapped
from tests.support.tiny_models import FAMILIES, VOCABULARY
from tests.support.training import quiet_trainer

FAMILY = {"gpt2": "head", "llama-gqa": "group"}
families = pytest.mark.parametrize(("family", "kv"), FAMILY.items())
ROWS = {"left": ["..xxx", "xxxxx", ".xxxx"], "right": ["xxxxx", "xxx..", "xxxx."], "eight": ["xxxxxxxx", "xxxxx..."]}


def batch(padding: str, seed: int = 0, rows: int | None = None, device: str = "cpu") -> Batch:
    """Random prompts, answered with one of some tokens."""
    generator = torch.Generator().manual_seed(seed)
    mask = torch.tensor([[int(token == "x") for token in row] for row in ROWS[padding]])[:rows]
    clean, corrupt = torch.randint(0, VOCABULARY, (2, *mask.shape), generator=generator)
    answers, distractors = torch.randint(0, VOCABULARY, (2, len(mask), 2), generator=generator)
    answers[0, 1] = -100
    made = dict(
        clean_ids=clean, corrupt_ids=corrupt, attention_mask=mask, answers=answers, distractors=distractors,
        positions=torch.tensor([row.rindex("x") for row in ROWS[padding]])[: len(mask)],
    )  # fmt: skip
    return cast(Batch, {name: value.to(device) for name, value in made.items()})


def plain(
    model: CircuitModel, gates: Tensor, given: Batch, weights: Tensor, ablation: str, objective: str
) -> tuple[Tensor, Tensor, Tensor]:
    """Weighted sum, losses and gradient."""
    gates = gates.clone().requires_grad_()
    losses = gated_losses(model, gates, given, ABLATIONS.make(ablation), OBJECTIVES.make(objective))
    total = losses @ weights.to(losses.dtype)
    return total.detach(), losses.detach(), torch.autograd.grad(total, gates)[0]


def recorded(captured: CapturedLosses, gates: Tensor, given: Batch, weights: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    gates = gates.clone().requires_grad_()
    total, losses = captured(gates, given, weights)
    assert not losses.requires_grad
    return total.detach(), losses, torch.autograd.grad(total, gates)[0]


def losses_of(model: CircuitModel, ablation: str = "interchange", objective: str = "KL") -> CapturedLosses:
    return CapturedLosses(model, ABLATIONS.make(ablation), OBJECTIVES.make(objective))


@pytest.mark.parametrize("ablation", ["interchange", "zero"])
@pytest.mark.parametrize("objective", ["KL", "LogitDifference", "CrossEntropy"])
@pytest.mark.parametrize("padding", ROWS)
@families
def test_what_is_recorded_is_what_autograd_says(
    family: str, kv: str, padding: str, objective: str, ablation: str
) -> None:
    """Four batches, so that the first comes by as a plain call and others through the tensors of the recording; other
    gates and weights for each. Five tokens are filled up to eight."""
    model = wrapped(family, kv, torch.float64)
    captured = losses_of(model, ablation, objective)
    for seed in range(4):
        given, gates = batch(padding, seed), random_gates(model, "mixed", seed)
        weights = torch.rand(len(given["positions"]), generator=torch.Generator().manual_seed(seed))
        expected = plain(model, gates, given, weights, ablation, objective)
        for mine, theirs in zip(recorded(captured, gates, given, weights), expected, strict=True):
            assert_close(mine, theirs, 1e-9)
        assert expected[2].abs().max() > 1e-3


def test_the_last_batch_may_be_smaller_and_longer_ones_may_come_between() -> None:
    model = wrapped("gpt2", "head", torch.float64)
    captured, gates = losses_of(model), random_gates(model, "soft")
    for _ in range(3):
        for padding, rows in (("left", 3), ("left", 1), ("eight", 2), ("right", 2)):
            given = batch(padding, rows=rows)
            weights = torch.full((rows,), 1 / rows)
            expected = plain(model, gates, given, weights, "interchange", "KL")
            for mine, theirs in zip(recorded(captured, gates, given, weights), expected, strict=True):
                assert_close(mine, theirs, 1e-9)


def test_all_lengths_up_to_eight_have_one_recording() -> None:
    model = wrapped("gpt2", "head", torch.float64)
    captured, gates = losses_of(model), random_gates(model, "soft")
    for padding, rows in (("left", 2), ("right", 2), ("eight", 2)):
        recorded(captured, gates, batch(padding, rows=rows), torch.ones(rows))
    [one] = captured._captured.captured.values()
    assert len(one.seen) == 1


def test_a_loss_in_a_larger_sum_hands_its_gradient_on() -> None:
    model = wrapped("gpt2", "head", torch.float64)
    captured, given, weights = losses_of(model), batch("left"), torch.ones(3)
    gates = random_gates(model, "soft").requires_grad_()
    total, _ = captured(gates, given, weights)
    (both,) = torch.autograd.grad(3 * total + gates.sum(), gates)
    (alone,) = torch.autograd.grad(captured(gates, given, weights)[0], gates)
    assert_close(both, 3 * alone + 1, 1e-9)


def test_batches_are_filled_up_on_the_right() -> None:
    given = cast(Any, batch("left")) | {
        "spans": torch.zeros(3, 5, dtype=torch.int64),
        "span_names": ("END",),
        "answers": torch.arange(15).view(3, 5),
    }
    filled = cast(Any, filled_up(given, 8))
    assert filled["clean_ids"].shape == filled["corrupt_ids"].shape == (3, 8)
    assert torch.equal(filled["clean_ids"][:, :5], given["clean_ids"])
    assert not filled["attention_mask"][:, 5:].any() and (filled["spans"][:, 5:] == -1).all()
    for name in ("positions", "answers", "distractors", "span_names"):
        assert filled[name] is given[name], name
    assert torch.equal(cast(Any, filled_up(filled, 8))["clean_ids"], filled["clean_ids"])


# ---- which batches are taken ---------------------------------------------------------------------------------------


def on_a_gpu(tokens: int = 64, **more: Any) -> Any:
    """What is asked of a batch on a GPU, where there is none."""
    return {"clean_ids": SimpleNamespace(is_cuda=True, numel=lambda: tokens), **more}


def test_small_batches_on_a_gpu_are_taken_and_no_others(monkeypatch: pytest.MonkeyPatch) -> None:
    model = wrapped("gpt2", "head", torch.float32)
    assert worth_capturing(model, on_a_gpu())
    assert not worth_capturing(model, batch("left")), "on a CPU there is no graph"
    assert not worth_capturing(model, on_a_gpu(continues=torch.zeros(2, dtype=torch.int64)))
    assert not worth_capturing(model.in_spans(["END"]), on_a_gpu())
    stack = model.layout.n_writers * model.layout.d_model * 4
    assert worth_capturing(model, on_a_gpu(captured_module.SMALL // stack))
    assert not worth_capturing(model, on_a_gpu(captured_module.SMALL // stack + 1))
    monkeypatch.setattr(captured_module, "is_shared_out", lambda model: True)
    assert not worth_capturing(model, on_a_gpu()), "its weights come and go"


# ---- nothing looks at a value --------------------------------------------------------------------------------------


@pytest.fixture
def without_values(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tensors of the device ``meta``, which have shapes and no values, are taken for those of a GPU that records."""
    monkeypatch.setattr(torch.Tensor, "is_cuda", property(lambda tensor: tensor.is_meta))
    monkeypatch.setattr(import_utils, "is_cuda_stream_capturing", lambda: True)


@pytest.mark.parametrize("ablation", ["interchange", "zero"])
@pytest.mark.parametrize("objective", OBJECTIVES.names())
@families
def test_what_is_recorded_looks_at_no_value(
    family: str, kv: str, objective: str, ablation: str, without_values: None
) -> None:
    stock = AutoModelForCausalLM.from_config(FAMILIES[family]())
    model = wrap(stock, kv)
    stock.to("meta")
    given, gates = batch("left", device="meta"), torch.rand(model.layout.n_edges, device="meta").requires_grad_()
    captured = losses_of(model, ablation, objective)
    assert worth_capturing(model, given)
    total, losses = captured(gates, given, torch.ones(3, device="meta"))
    (dgates,) = torch.autograd.grad(total, gates)
    assert losses.shape == (3,) and dgates.shape == gates.shape


@pytest.mark.parametrize("ablation", ["interchange", "zero"])
@families
def test_what_is_recorded_of_circuits_and_of_attribution_looks_at_no_value(
    family: str, kv: str, ablation: str, without_values: None
) -> None:
    stock = AutoModelForCausalLM.from_config(FAMILIES[family]())
    model = wrap(stock, kv)
    searches = EAP(stock, kv=kv, ablation=ablation), EAPIG(stock, kv=kv, ablation=ablation)
    stock.to("meta")
    given = batch("left", device="meta")
    for search in searches:
        edges, writers = search._of_every_token(given)
        assert edges.shape == (model.layout.n_edges,) and writers.shape == (model.layout.n_writers,)
    _, corrupt = model.run_pair(given)
    bases = torch.empty(model.layout.n_streams, *corrupt.shape[1:], device="meta")
    gates = torch.empty(model.layout.n_edges, dtype=torch.bool, device="meta")
    prompts = given["clean_ids"], given["attention_mask"], given["positions"]
    with torch.no_grad():
        (logits,) = captured_runs(model)(gates, *prompts, bases, corrupt)
    assert logits.shape == (3, VOCABULARY)


@pytest.mark.parametrize("look", [Tensor.item, bool, Tensor.nonzero, Tensor.tolist, Tensor.cpu, lambda x: x[x > 0]])
def test_whoever_looks_at_a_value_is_caught(look: Callable[[Tensor], object], without_values: None) -> None:
    with pytest.raises((RuntimeError, NotImplementedError)):
        look(torch.rand(1, device="meta"))


# ---- in a run ------------------------------------------------------------------------------------------------------


def trained(capture: Any, folder: Path | None = None, resume: Path | None = None, steps: int = 4) -> EdgePruning:
    search = EdgePruning("tiny-ioi", capture=capture)
    data = IOIDataModule("tiny-ioi", n_train=10, n_val=4, n_test=4, batch_size=4)
    options: dict[str, Any] = {}
    callbacks = []
    if folder is not None:
        callbacks = [pl.callbacks.ModelCheckpoint(folder, every_n_train_steps=2, save_top_k=-1, filename="{step}")]
        options["enable_checkpointing"] = True
    trainer = quiet_trainer(*callbacks, max_steps=steps, max_epochs=99, **options)
    trainer.fit(search, data, ckpt_path=resume, weights_only=True)
    return search


def same(a: EdgePruning, b: EdgePruning) -> bool:
    there = b.gate.state_dict()
    return all(torch.equal(value, there[name]) for name, value in a.gate.state_dict().items())


def test_on_a_cpu_both_are_the_same_run_and_one_goes_on_as_the_other(tmp_path: Path) -> None:
    auto, never = trained("auto", tmp_path), trained("never")
    assert same(auto, never)
    assert auto._options() == never._options()
    assert same(trained("never", resume=tmp_path / "step=2.ckpt"), auto)


def test_a_run_that_is_recorded_is_the_plain_run(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    original = CapturedLosses.__call__
    monkeypatch.setattr(edge_pruning, "worth_capturing", lambda *given: True)
    monkeypatch.setattr(CapturedLosses, "__call__", lambda *args: calls.append(args) or original(*args))
    auto, never = trained("auto", steps=7), trained("never", steps=7)
    assert len(calls) == 7, "never means never, and auto every step"
    start = EdgePruning("tiny-ioi")
    for name, value in never.gate.state_dict().items():
        torch.testing.assert_close(auto.gate.state_dict()[name], value, rtol=1e-4, atol=1e-4)
    assert not same(never, start)


def test_what_capture_takes_is_said() -> None:
    with pytest.raises(ValueError, match=r"capture.*'auto'.*'never'.*'always'"):
        EdgePruning("tiny-ioi", capture=cast(Any, "always"))


# ---- on a GPU ------------------------------------------------------------------------------------------------------


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU that CUDA graphs run on")
@families
def test_the_graph_is_what_autograd_says(family: str, kv: str) -> None:
    torch.manual_seed(0)
    model = wrap(AutoModelForCausalLM.from_config(FAMILIES[family]()).to("cuda"), kv)
    captured = losses_of(model)
    for seed in range(5):
        given, gates = batch("left", seed, device="cuda"), random_gates(model, "mixed", seed).cuda()
        weights = torch.rand(3, device="cuda")
        expected = plain(model, gates, given, weights, "interchange", "KL")
        for mine, theirs in zip(recorded(captured, gates, given, weights), expected, strict=True):
            assert_close(mine, theirs, 1e-4)
    [one] = captured._captured.captured.values()
    assert not one.refused
