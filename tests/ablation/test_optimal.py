"""Constants that are fitted to a circuit: closed forms, what they are never worse than, and whose they are."""

from __future__ import annotations

from copy import deepcopy
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, GPT2Config

from lightning_circuits import EAP, NodePruning
from lightning_circuits.ablation import ABLATIONS, MeanAblation, OptimalAblation
from lightning_circuits.batch import Batch
from lightning_circuits.callbacks import CircuitProbe, FaithfulnessValidation
from lightning_circuits.circuit import Circuit
from lightning_circuits.datamodules import IOIDataModule
from lightning_circuits.evaluation.attention import attention_in
from lightning_circuits.evaluation.exact import ExactAblation
from lightning_circuits.evaluation.per_prompt import measured
from lightning_circuits.evaluation.rows import evaluate
from lightning_circuits.measures import kl
from lightning_circuits.models import CircuitModel, wrap
from lightning_circuits.models.loading import EMBEDDED, load_model
from tests.support.ground_truth import Induction
from tests.support.training import quiet_trainer


@cache
def embedded() -> CircuitModel:
    return wrap(load_model(EMBEDDED))


@cache
def data() -> IOIDataModule:
    made = IOIDataModule(EMBEDDED, n_train=32, n_val=24, n_test=8, batch_size=8, seed=1)
    made.setup("fit")
    return made


@cache
def some_circuit() -> Circuit:
    """The best 10 % of the edges by EAP."""
    search = EAP(EMBEDDED)
    quiet_trainer().fit(search, data())
    return search.circuit(size=0.1)


def squared(logits: Tensor, batch: Batch, full_logits: Tensor) -> Tensor:
    return (logits - full_logits).square().sum(-1)


def random_batch(rows: int, vocabulary: int, seed: int = 0) -> Batch:
    ids = torch.randint(vocabulary, (rows, 5), generator=torch.Generator().manual_seed(seed))
    answers = ids[:, :1]
    ones, last = torch.ones_like(ids), torch.full((rows,), 4)
    return Batch(
        clean_ids=ids, corrupt_ids=ids, attention_mask=ones, positions=last, answers=answers, distractors=answers
    )


# ---- closed forms --------------------------------------------------------------------------------------------------


def test_the_empty_circuit_comes_to_say_the_mean_of_what_the_model_says() -> None:
    """KL(p_i || q), in the mean over prompts, is smallest at q = the mean of the p_i."""
    torch.manual_seed(0)
    config = GPT2Config(vocab_size=7, n_positions=8, n_embd=24, n_layer=2, n_head=2, initializer_range=0.3)
    model, batch = wrap(AutoModelForCausalLM.from_config(config).eval()), random_batch(16, 7)
    ablation = OptimalAblation(steps=400, lr=0.05)
    ablation.fit(model, [batch])
    nothing = torch.zeros(model.layout.n_edges, dtype=torch.bool)
    with torch.no_grad():
        full, corrupt = model.run_pair(batch)
        run = ExactAblation(model, batch, full, ablation.of_circuit(model, nothing), corrupt)
    said, mean = run.empty_logits.softmax(-1), full.softmax(-1).mean(0)
    assert full.softmax(-1).std(0).max() > 0.05
    torch.testing.assert_close(said, mean.expand_as(said), atol=2e-3, rtol=0)
    floor = (full.softmax(-1) * (full.log_softmax(-1) - mean.log())).sum(-1).mean()
    assert kl(run.logits(nothing), batch, full).mean() == pytest.approx(float(floor), abs=1e-4)


def test_of_one_cut_edge_into_linear_logits_the_constant_is_the_mean_where_they_are_read() -> None:
    """Norms are the identity in these models, so that the squared error is that of a linear regression on nothing."""
    task = Induction()
    model, batch = wrap(deepcopy(task.model())), task.batch(12, "query")
    layout = model.layout
    members = torch.ones(layout.n_edges, dtype=torch.bool)
    members[layout.edge_index("a1.h1->logits")] = False
    ablation = OptimalAblation(steps=400, lr=0.02, objective=squared)
    ablation.fit(model, [batch])
    constants, writer = ablation.of_circuit(model, members), layout.writer_names.index("a1.h1")
    stack = model.new_stack(batch["clean_ids"].shape)
    model.run(batch["clean_ids"], batch["attention_mask"], batch["positions"], writers=stack)
    read = stack[writer][torch.arange(12), batch["positions"]]
    start = ablation.start(layout)
    moved = constants.values[writer, 0] - read.mean(0), start[writer, 0] - read.mean(0)
    there, before = (
        model.unembed(difference[None]) - model.unembed(torch.zeros_like(read[:1])) for difference in moved
    )
    assert there.abs().max() < 0.02 * before.abs().max()
    others = torch.arange(layout.n_writers) != writer
    assert torch.equal(constants.values[others], start[others]), "no cut edge carries them"


# ---- what they are never worse than ---------------------------------------------------------------------------------


def mean_kl(ablation: Any, members: Tensor, split: str) -> float:
    loader = getattr(data(), f"{split}_dataloader")()
    return float(measured(embedded(), loader, [members], ablation, "kl").mean())


@pytest.mark.parametrize("which", ["found", "complement", "empty"])
def test_fitted_constants_cost_less_than_means_and_nothing(which: str) -> None:
    circuit = some_circuit()
    members = {"found": circuit, "complement": circuit.complement(), "empty": Circuit.empty(circuit.layout)}[
        which
    ].members
    cost = {}
    for ablation in (MeanAblation(), ABLATIONS.make("zero"), OptimalAblation(steps=60, lr=0.1)):
        ablation.fit(embedded(), data().train_dataloader())
        cost[ablation.name] = {split: mean_kl(ablation, members, split) for split in ("train", "val")}
    # With every edge cut all that is left is to say the same to every prompt, what was right for those in training.
    for split in ("train",) if which == "empty" else ("train", "val"):
        best = min(cost["mean"][split], cost["zero"][split])
        assert cost["optimal"][split] < (0.9 if which == "found" else 1.0) * best, cost


def test_constants_that_training_made_worse_are_the_means_with_a_warning() -> None:
    ablation = OptimalAblation(steps=3, lr=1e4)
    ablation.fit(embedded(), data().train_dataloader())
    with pytest.warns(UserWarning, match=r"3 steps with lr=10000 made .* worse, .* take a smaller learning rate"):
        constants = ablation.of_circuit(embedded(), some_circuit().members)
    assert torch.equal(constants.values, ablation.start(embedded().layout))


def test_the_same_prompts_give_the_same_constants_to_the_bit() -> None:
    def once() -> Tensor:
        torch.manual_seed(torch.seed())
        ablation = OptimalAblation(steps=5)
        ablation.fit(embedded(), data().train_dataloader())
        return ablation.of_circuit(embedded(), some_circuit().members).values

    assert torch.equal(once(), once())


def test_with_every_edge_there_is_nothing_to_fit() -> None:
    ablation = OptimalAblation(steps=5)
    ablation.fit(embedded(), data().train_dataloader())
    members = torch.ones(embedded().layout.n_edges, dtype=torch.bool)
    assert torch.equal(ablation.of_circuit(embedded(), members).values, ablation.start(embedded().layout))
    assert mean_kl(ablation, members, "val") == 0.0


# ---- judging -------------------------------------------------------------------------------------------------------


def test_every_row_has_constants_of_its_own_the_empty_circuit_too() -> None:
    circuit, ablation = some_circuit(), OptimalAblation(steps=10, lr=0.03)
    ablation.fit(embedded(), data().train_dataloader())
    rows = {row.circuit: row for row in evaluate(embedded(), data().val_dataloader(), {"c": circuit}, [ablation])}
    assert {"full", "empty", "c", "c random", "c complement"} <= rows.keys()
    assert rows["full"].kl == 0.0 and rows["full"].faithfulness == pytest.approx(1.0)
    assert rows["empty"].faithfulness == pytest.approx(0.0)
    each = {"c": circuit, "empty": Circuit.empty(circuit.layout), "c complement": circuit.complement()}
    differences = {}
    for name, one in each.items():
        own = ablation.of_circuit(embedded(), one.members)
        values = [
            float(measured(embedded(), data().val_dataloader(), [one], own, measure).mean())
            for measure in ("kl", "logit_difference")
        ]
        assert rows[name].kl == pytest.approx(values[0], rel=1e-5)
        differences[name] = values[1]
    full = rows["full"].logit_difference
    f = (differences["c"] - differences["empty"]) / (full - differences["empty"])
    assert rows["c"].faithfulness == pytest.approx(f, rel=1e-4)


def test_a_validation_fits_on_training_prompts_and_files_say_so() -> None:
    search, ablation = EAP(EMBEDDED), OptimalAblation(steps=4)
    validation = FaithfulnessValidation(sizes=[0.1], ablations=[ablation, "interchange"])
    quiet_trainer(validation).fit(search, data())
    assert {row.ablation for row in validation.rows} == {"optimal", "interchange"}
    assert ablation.describe() == {
        "name": "optimal",
        "steps": 4,
        "lr": ablation.lr,
        "objective": {"class": "KL"},
        "fitted_over": 32,
    }


# ---- whose they are ------------------------------------------------------------------------------------------------


def test_constants_of_one_circuit_do_not_judge_another() -> None:
    ablation, circuit = OptimalAblation(steps=1), some_circuit()
    ablation.fit(embedded(), data().train_dataloader())
    own = ablation.of_circuit(embedded(), circuit.members)
    batch = next(iter(data().val_dataloader()))
    full, corrupt = embedded().run_pair(batch)
    run = ExactAblation(embedded(), batch, full, own, corrupt)
    run.logits(circuit.members)
    for other in (circuit.complement(), Circuit.empty(circuit.layout)):
        with pytest.raises(ValueError, match=r"were fitted to a circuit of .* edges, and another one of"):
            run.logits(other.members)


def test_without_prompts_or_a_circuit_there_are_no_constants() -> None:
    members, ablation = some_circuit().members, OptimalAblation(steps=2)
    with pytest.raises(RuntimeError, match=r"call fit\(model, loader\) first"):
        ablation.of_circuit(embedded(), members)
    with pytest.raises(ValueError, match="has no batch"):
        ablation.fit(embedded(), [])
    ablation.fit(embedded(), data().train_dataloader())
    with pytest.raises(ValueError, match="expected one value for each of the"):
        ablation.of_circuit(embedded(), members[:-1])
    batch = next(iter(data().val_dataloader()))
    with pytest.raises(RuntimeError, match=r"give of_circuit\(model, members\)"):
        attention_in(embedded(), batch, [some_circuit()], ablation, ["a1.h0"])
    other = wrap(Induction().model())
    with pytest.raises(ValueError, match="fitted over a model of another one"):
        ablation.of_circuit(other, torch.zeros(other.layout.n_edges, dtype=torch.bool))


def test_prompts_that_constants_are_fitted_to_are_not_judged_on() -> None:
    ablation, train, val = OptimalAblation(), data().train_dataloader(), data().val_dataloader()
    ablation.require_known(train, val)
    with pytest.raises(ValueError, match=r"all 32 prompts to judge on are among the 32 .* judge on others"):
        ablation.require_known(train, train)


def test_methods_that_come_before_any_circuit_are_refused() -> None:
    for method in (EAP, NodePruning):
        with pytest.raises(ValueError, match=f"optimal ablation is fitted to a circuit, and {method.__name__} asks"):
            method(EMBEDDED, ablation="optimal")
    with pytest.raises(ValueError, match="optimal ablation is fitted to a circuit, and EAP asks"):
        CircuitProbe(data(), method="EAP", ablation="optimal")


@pytest.mark.parametrize(
    ("options", "message"),
    [({"steps": 0}, "at least 1, got 0"), ({"lr": 0.0}, "must be positive"), ({"lr": -1.0}, "positive")],
)
def test_options_out_of_range_are_refused(options: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        OptimalAblation(**options)


# ---- in spans ------------------------------------------------------------------------------------------------------


def test_in_spans_every_writer_has_a_constant_in_each_and_tokens_carry_that_of_theirs() -> None:
    layout = embedded().layout.in_spans(["S", "END"])
    values = torch.arange(2.0)[None, :, None].expand(layout.n_writers, 2, layout.d_model)
    batch = random_batch(2, 7)
    spans = torch.tensor([[0, 0, 1, 1, 0], [1, 0, 0, 0, 1]])
    batch = Batch(**batch, spans=spans, span_names=("S", "END"))  # type: ignore[misc]
    reference = OptimalAblation().holding(layout, values).reference(batch, torch.zeros(0))
    assert torch.equal(reference[3, :, :, 0], spans.float())
