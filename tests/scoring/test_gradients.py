"""Attribution against the masked computation, and against every definition written again in loops over the oracle.

The references here know nothing of descents or batches of steps: they run the oracle with an autograd leaf for every
edge, or for every reader, one prompt and one interpolation at a time.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from lightning_circuits.ablation import ABLATIONS
from lightning_circuits.masked import masked_logits
from lightning_circuits.models import wrap
from lightning_circuits.objectives import KL, LogitDifference
from lightning_circuits.scoring.gradients import gradient_scores
from lightning_circuits.scoring.information_flow import information_flow_scores
from lightning_circuits.scoring.one_component import one_component_scores
from lightning_circuits.scoring.paths import PathPoint, integral
from tests.support.oracle import ALL_OPEN, PADDINGS, Pairs, _Prompt, oracle, pairs
from tests.support.tiny_models import tiny_model

CASES = [
    (family, kv, padding)
    for family, kv in [("gpt2", "head"), ("llama-gqa", "head"), ("llama-gqa", "group"), ("qwen2", "group")]
    for padding in ("left", "right")
] + [
    ("mistral-window", "head", "ragged"),
    ("llama-biases", "head", "left"),
    ("qwen3", "group", "ragged"),
    ("gpt-neox", "head", "left"),
    ("gptj", "head", "right"),
    ("gpt-bigcode", "group", "left"),
    ("falcon-groups", "head", "right"),
    ("persimmon", "head", "ragged"),
    ("olmo-clipped", "head", "left"),
    ("opt", "head", "ragged"),
    ("nanochat", "head", "left"),
    ("modernbert", "head", "right"),
    ("granite", "group", "left"),
    ("gemma", "head", "ragged"),
    ("cohere2", "group", "right"),
    ("gemma2", "head", "left"),
    ("gemma3", "group", "right"),
    ("olmo2", "group", "ragged"),
    ("olmo3", "head", "left"),
]
cases = pytest.mark.parametrize(("family", "kv", "padding"), CASES)


def batch_of(prompts: Pairs, rows: slice = slice(None)) -> dict[str, Tensor]:
    n = len(prompts.positions)
    answers, distractors = torch.arange(2 * n).view(n, 2) % 7, 7 + torch.arange(2 * n).view(n, 2) % 5
    answers[-1, 1] = distractors[-1, 1] = -100
    whole = {
        "clean_ids": prompts.clean_ids,
        "corrupt_ids": prompts.corrupt_ids,
        "attention_mask": prompts.attention_mask,
        "positions": prompts.positions,
        "answers": answers,
        "distractors": distractors,
    }
    return {key: value[rows] for key, value in whole.items()}


def minus_logit_difference(logits: Tensor, batch: dict[str, Tensor], i: int) -> Tensor:
    answers, distractors = (batch[name][i][batch[name][i] >= 0] for name in ("answers", "distractors"))
    return logits[distractors].mean() - logits[answers].mean()


class Traced(_Prompt):
    """One prompt of the oracle that lets a component put out something else, and keeps what every reader reads."""

    def __init__(self, model: Any, ids: Tensor, kv: str, instead: dict[str, Tensor] | None = None) -> None:
        super().__init__(model, ALL_OPEN, ids, None, kv)
        self.instead, self.readers = instead or {}, {}

        owner = self

        class Writers(dict):
            def __setitem__(self, name: str, output: Tensor) -> None:
                # A leaf, but gradients pass on to what made it.
                super().__setitem__(name, owner.instead[name].clone() if name in owner.instead else output)

            def update(self, other: Any) -> None:
                for name, output in other.items():
                    self[name] = output

        self.writers = Writers()

    def stream(self, reader: str) -> Tensor:
        if reader not in self.readers:
            plain = super().stream(reader)
            self.readers[reader] = plain if plain.requires_grad else plain.requires_grad_()
        return self.readers[reader]


def gradients(run: Traced, loss: Tensor) -> dict[str, Tensor]:
    names = list(run.readers)
    found = torch.autograd.grad(loss, [run.readers[name] for name in names], allow_unused=True)
    return {
        name: torch.zeros_like(run.readers[name]) if grad is None else grad
        for name, grad in zip(names, found, strict=True)
    }


def reference_scores(model: Any, circuit_model: Any, prompts: Pairs, kv: str, method: str, steps: int) -> Tensor:
    """The field's definitions, `edges` in our order; sums over prompts. No padding: each prompt stands alone."""
    layout, batch = circuit_model.layout, batch_of(prompts)
    totals = torch.zeros(layout.n_edges, dtype=torch.float64)
    for i in range(len(prompts.positions)):
        row = prompts.row(i)
        position = int(row.positions)

        def run(ids: Tensor, instead: dict[str, Tensor] | None = None) -> tuple[Traced, dict[str, Tensor]]:
            traced = Traced(model, ids, kv, instead)
            logits = traced.run(position).logits  # noqa: B023
            return traced, gradients(traced, minus_logit_difference(logits, batch, i))  # noqa: B023

        clean, at_clean = run(row.clean_ids[0])
        corrupt, at_corrupt = run(row.corrupt_ids[0])
        out = {name: value.detach() for name, value in clean.writers.items()}
        ref = {name: value.detach() for name, value in corrupt.writers.items()}
        heads = {}
        for name in out:
            heads.setdefault(name.split(".")[0], []).append(name)

        def mixed(names: list[str], alpha: float) -> dict[str, Tensor]:
            return {name: (alpha * out[name] + (1 - alpha) * ref[name]).requires_grad_() for name in names}  # noqa: B023

        def mean_of(runs: list[dict[str, Tensor]]) -> dict[str, Tensor]:
            return {name: sum(each[name] for each in runs) / len(runs) for name in runs[0]}

        if method == "eap":
            by_writer = dict.fromkeys(out, at_clean)
        elif method == "clean-corrupted":
            by_writer = dict.fromkeys(out, mean_of([at_clean, at_corrupt]))
        elif method == "inputs":
            moved = [run(row.clean_ids[0], mixed(["input"], k / steps))[1] for k in range(steps)]
            by_writer = dict.fromkeys(out, mean_of(moved))
        else:
            runs = {
                component: [run(row.clean_ids[0], mixed(names, k / steps))[1] for k in range(1, steps + 1)]
                for component, names in heads.items()
            }
            if method == "pooled":
                by_writer = dict.fromkeys(out, mean_of([each for some in runs.values() for each in some]))
            else:
                by_writer = {name: mean_of(runs[name.split(".")[0]]) for name in out}
        for edge in range(layout.n_edges):
            writer, reader = layout.edge_names([edge])[0].split("->")
            totals[edge] += ((ref[writer] - out[writer]) * by_writer[writer][reader]).sum()
    return totals


def close(ours: Tensor, theirs: Tensor, relative: float = 1e-7) -> None:
    assert theirs.abs().max() > 1e-3  # not everything is nothing
    torch.testing.assert_close(ours, theirs, rtol=0, atol=relative * theirs.abs().max().item(), check_dtype=False)


@cases
@pytest.mark.parametrize("ablation", ["interchange", "zero", "mean-positional"])
def test_eap_is_minus_the_gradient_of_open_gates(family: str, kv: str, padding: str, ablation: str) -> None:
    model = wrap(tiny_model(family, torch.float64), kv)
    batch = batch_of(pairs(padding))
    cut = ABLATIONS.make(ablation)
    cut.fit(model, [batch])
    full, corrupt = model.run_pair(batch)
    gates = torch.ones(model.layout.n_edges, dtype=torch.float64, requires_grad=True)
    arguments = batch["clean_ids"], batch["attention_mask"], batch["positions"], cut.reference(batch, corrupt)
    logits = masked_logits(model, gates, *arguments)
    for objective in (LogitDifference(), lambda logits, batch, full: logits.log_softmax(-1)[:, 3]):
        (gradient,) = torch.autograd.grad(objective(logits, batch, full).sum(), gates, retain_graph=True)
        close(gradient_scores(model, batch, cut, objective).edges, -gradient)


def test_eap_is_minus_the_gradient_through_the_oracle() -> None:
    model = tiny_model("llama-gqa", torch.float64)
    ours = wrap(model, "head")
    prompts = pairs("left")
    batch = batch_of(prompts)
    reference = oracle(model, ALL_OPEN, prompts.corrupt_ids, prompts).writers
    names = ours.layout.edge_names(range(ours.layout.n_edges))
    gates = {name: torch.ones((), dtype=torch.float64, requires_grad=True) for name in names}
    logits = oracle(model, gates, prompts.clean_ids, prompts, reference).logits
    loss = LogitDifference()(logits, batch, logits).sum()
    theirs = -torch.stack(torch.autograd.grad(loss, list(gates.values())))
    close(gradient_scores(ours, batch, ABLATIONS.make("interchange"), LogitDifference()).edges, theirs)


# The runs over activations take seconds in loops; those of each writer are of the same descent as the pooled ones.
@pytest.mark.parametrize(
    ("family", "kv", "padding", "method"),
    [(*case, method) for case in CASES for method in ("eap", "inputs", "clean-corrupted")]
    + [pytest.param(*case, "pooled", marks=pytest.mark.slow) for case in CASES[::2]]
    + [pytest.param(*case, "per-writer", marks=pytest.mark.slow) for case in CASES[1::3]],
)
def test_scores_are_those_of_the_definition(family: str, kv: str, padding: str, method: str) -> None:
    stock = tiny_model(family, torch.float64)
    model, prompts, steps = wrap(stock, kv), pairs(padding), 3
    batch, cut, objective = batch_of(prompts), ABLATIONS.make("interchange"), LogitDifference()
    if method in ("pooled", "per-writer"):
        ours = one_component_scores(model, batch, cut, objective, steps, pooled=method == "pooled")
    else:
        points = {
            "eap": integral("left", 1)[:0] or [PathPoint(1.0, 1.0)],
            "inputs": integral("left", steps),
            "clean-corrupted": [PathPoint(0.0, 0.5), PathPoint(1.0, 0.5)],
        }[method]
        ours = gradient_scores(model, batch, cut, objective, points)
    close(ours.edges, reference_scores(stock, model, prompts, kv, method, steps))


@pytest.mark.parametrize("family", ["gpt2", "llama-gqa", "gpt-neox"])
@pytest.mark.parametrize("pooled", [True, False, None])
def test_a_writer_is_worth_all_edges_out_of_it(family: str, pooled: bool | None) -> None:
    """Its output reaches the loss only through its readers, so at M = 1 the edges add up to it."""
    model, batch, cut = wrap(tiny_model(family, torch.float64)), batch_of(pairs("ragged")), ABLATIONS.make("zero")
    if pooled is None:
        scores = gradient_scores(model, batch, cut, LogitDifference(), integral("midpoint", 2))
    else:
        scores = one_component_scores(model, batch, cut, LogitDifference(), 2, pooled)
    out_of = torch.zeros_like(scores.writers).index_add_(0, model.layout.edge_writer, scores.edges)
    close(scores.writers, out_of)


@pytest.mark.parametrize("rule", ["left", "midpoint", "gauss-legendre"])
def test_an_integral_of_the_input_converges_to_the_effect_of_the_input(rule: str) -> None:
    """Completeness: integrated over the line, the embedding's score is what the loss changes by between its ends."""
    model, batch, cut = wrap(tiny_model("gpt2", torch.float64)), batch_of(pairs("right")), ABLATIONS.make("interchange")
    full, _ = model.run_pair(batch)
    at_corrupt = model.run(batch["corrupt_ids"], batch["attention_mask"], batch["positions"])
    change = (LogitDifference()(at_corrupt, batch, full) - LogitDifference()(full, batch, full)).sum()

    def error(steps: int) -> float:
        scores = gradient_scores(model, batch, cut, LogitDifference(), integral(rule, steps))
        return abs((scores.writers[0] - change).item())

    coarse, fine = error(8), error(64)
    assert fine < {"left": 0.3, "midpoint": 0.1, "gauss-legendre": 0.1}[rule] * coarse
    assert sum(point.weight for point in integral(rule, 7)) == pytest.approx(1)


@cases
def test_information_flow_is_the_proximity_of_writers_to_what_is_read(family: str, kv: str, padding: str) -> None:
    stock = tiny_model(family, torch.float64)
    model, prompts = wrap(stock, kv), pairs(padding)
    layout, theirs = model.layout, torch.zeros(model.layout.n_edges, dtype=torch.float64)
    for i in range(len(prompts.positions)):
        row = prompts.row(i)
        run = Traced(stock, row.clean_ids[0], kv)
        run.run(0)
        for token in range(row.clean_ids.shape[1]):
            for reader, stream in run.readers.items():
                x = stream[token].detach()
                first = int(layout.reader_offset[layout.reader_names.index(reader)])
                n = int(layout.reader_prefix[layout.reader_names.index(reader)])
                near = [
                    max(0.0, float(x.abs().sum() - (x - run.writers[name][token]).abs().sum()))
                    for name in layout.writer_names[:n]
                ]
                for w, value in enumerate(near):
                    theirs[first + w] += value / (sum(near) or 1.0) / row.clean_ids.shape[1]
    close(information_flow_scores(model, batch_of(prompts)), theirs)


@settings(max_examples=15)
@given(padding=st.sampled_from(list(PADDINGS)), seed=st.integers(0, 100), family=st.sampled_from(["gpt2", "llama-gqa"]))
def test_padding_and_company_change_nothing(padding: str, seed: int, family: str) -> None:
    model, prompts = wrap(tiny_model(family, torch.float64)), pairs(padding, seed)
    batch, cut, points = batch_of(prompts), ABLATIONS.make("interchange"), integral("left", 2)
    together = gradient_scores(model, batch, cut, KL(), points)
    alone = []
    for i in range(len(prompts.positions)):
        row = prompts.row(i)
        own = batch_of(row) | {name: batch[name][i : i + 1] for name in ("answers", "distractors")}
        alone.append(gradient_scores(model, own, cut, KL(), points).edges)
    # KL has no gradient on the clean prompt, but on the way there it has.
    close(together.edges, sum(alone), 1e-6)


def test_within_inference_mode_it_is_the_same() -> None:
    model, batch, cut = wrap(tiny_model("gpt2", torch.float64)), batch_of(pairs("left")), ABLATIONS.make("interchange")
    outside = gradient_scores(model, batch, cut, LogitDifference()).edges
    with torch.inference_mode():
        made_inside = {key: value + 0 for key, value in batch.items()}
        inside = gradient_scores(model, made_inside, cut, LogitDifference()).edges
    assert torch.equal(inside, outside)


def test_bfloat16_models_have_float32_scores() -> None:
    batch, cut = batch_of(pairs("left")), ABLATIONS.make("interchange")
    wide = gradient_scores(wrap(tiny_model("llama-gqa")), batch, cut, LogitDifference()).edges
    narrow = gradient_scores(wrap(tiny_model("llama-gqa", torch.bfloat16)), batch, cut, LogitDifference()).edges
    assert narrow.dtype == wide.dtype == torch.float32
    assert torch.corrcoef(torch.stack([wide, narrow]))[0, 1] > 0.98


def test_nothing_of_the_language_model_has_a_gradient() -> None:
    model = tiny_model("gpt2", torch.float64)
    gradient_scores(wrap(model), batch_of(pairs("left")), ABLATIONS.make("zero"), LogitDifference())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_less_than_one_step_and_unknown_rules_are_refused() -> None:
    with pytest.raises(ValueError, match=r"at most 1,000 steps, got 10,000,000: .* at once"):
        integral("left", 10_000_000)
    with pytest.raises(ValueError, match="at least 1 step, got 0"):
        integral("left", 0)
    with pytest.raises(ValueError, match="rule is one of 'left', 'midpoint', 'gauss-legendre', got 'right'"):
        integral("right", 5)


@pytest.mark.parametrize(
    ("objective", "complaint"),
    [
        (lambda logits, batch, full: logits.mean(), r"gave a tensor of shape \(\)"),
        (lambda logits, batch, full: logits, r"gave a tensor of shape \(2, 19\)"),
        (lambda logits, batch, full: 1.0, "gave 1.0"),
        (lambda logits, batch, full: (logits.argmax(-1) > 3).float(), "cannot be differentiated"),
    ],
)
def test_an_objective_has_to_give_one_loss_per_prompt(objective: Any, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        gradient_scores(wrap(tiny_model("gpt2")), batch_of(pairs("left")), ABLATIONS.make("zero"), objective)
