"""Answers of several tokens: every number against plain loops over single prompts, each read token by token."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from lightning_circuits import EAP, ActivationPatching, EdgePruning
from lightning_circuits.ablation import ABLATIONS, GroupMeanAblation, MeanAblation, MeanPositionalAblation
from lightning_circuits.batch import Batch, first_prompts, n_prompts, own_tokens, prompts_alone, repeated, require_batch
from lightning_circuits.callbacks import FaithfulnessValidation
from lightning_circuits.circuit import Circuit
from lightning_circuits.datamodules import IOIDataModule, PairDataModule, PairLoader, PromptPair
from lightning_circuits.datamodules.misfits import fitting
from lightning_circuits.evaluation.attention_by_role import attention_to
from lightning_circuits.evaluation.rows import evaluate
from lightning_circuits.masked import masked_logits
from lightning_circuits.measures import candidate_values, correct, kl, logit_difference, probability_difference, values
from lightning_circuits.models import CircuitModel, wrap
from lightning_circuits.models.loading import load_model, load_tokenizer
from lightning_circuits.namespace import pl
from lightning_circuits.objectives import CrossEntropy, LogitDifference
from lightning_circuits.scoring.gradients import gradient_scores
from lightning_circuits.scoring.information_flow import information_flow_scores
from lightning_circuits.search.identity import hash_of_prompts
from tests.support.training import quiet_trainer

TOKENIZER = load_tokenizer("tiny-ioi")
TEXT = "When Mary and John went to the {place}, {s} gave a book to"


def pair(place: str, answers: list[str], distractors: list[str], other: str = "Paul") -> PromptPair:
    clean, corrupt = TEXT.format(place=place, s="John"), TEXT.format(place=place, s=other)
    end = (clean.rindex(" ") + 1, len(clean))
    s2 = (clean.index(", ") + 2, clean.index(", ") + 6)
    return PromptPair(clean, corrupt, tuple(answers), tuple(distractors), place, {"S2": s2, "END": end}, "a" + place[0])


PAIRS = [
    pair("store", [" Mary and Mark"], [" John"]),
    pair("park", [" Mary", " Paul and the station"], [" John", " Paul and the store", " Sam at"]),
    pair("bank", [" Mary"], [" John"]),
    pair("gym", [" Mary and the"], [], other="Anna"),
    pair("shop near the park", [" Tom and"], [" Tom at", " Sam"], other="Lucy"),
]


class Mixed(PairDataModule):
    """The pairs above, in every split."""

    def make_splits(self) -> dict[str, list[PromptPair]]:
        return {split: PAIRS for split in ("train", "val", "test")}

    def describe(self) -> dict[str, Any]:
        return {"data": "mixed", **self.describe_fitting()}


@pytest.fixture(scope="module")
def model() -> CircuitModel:
    return wrap(load_model("tiny-ioi", dtype=torch.float64))


def ids_of(text: str) -> list[int]:
    return TOKENIZER(text)["input_ids"]


def one_row(clean: list[int], corrupt: list[int]) -> Any:
    return {
        "clean_ids": torch.tensor([clean]),
        "corrupt_ids": torch.tensor([corrupt]),
        "attention_mask": torch.ones(1, len(clean)).long(),
        "positions": torch.tensor([len(clean) - 1]),
        "answers": torch.tensor([[0]]),
        "distractors": torch.tensor([[1]]),
    }


def next_token(model: CircuitModel, members: Tensor, prompt: PromptPair, said: list[int]) -> Tensor:
    """Log-probabilities ``[V]`` behind a prompt and what has been said, in a circuit under interchange ablation."""
    row = one_row([*ids_of(prompt.clean), *said], [*ids_of(prompt.corrupt), *said])
    _, corrupt = model.run_pair(row)
    prompts = row["clean_ids"], row["attention_mask"], row["positions"]
    return masked_logits(model, members.to(corrupt.dtype), *prompts, corrupt)[0].log_softmax(-1)


def joint(model: CircuitModel, members: Tensor, prompt: PromptPair, word: str) -> Tensor:
    tokens = ids_of(f"{prompt.clean}{word}")[len(ids_of(prompt.clean)) :]
    return sum(
        (next_token(model, members, prompt, tokens[:n])[token] for n, token in enumerate(tokens)), torch.zeros(())
    )


def by_loops(model: CircuitModel, members: Tensor, prompt: PromptPair) -> dict[str, float]:
    """What a circuit comes to on a prompt, written out."""
    right = [float(joint(model, members, prompt, word)) for word in prompt.answers]  # type: ignore[arg-type]
    wrong = [float(joint(model, members, prompt, word)) for word in prompt.distractors]  # type: ignore[arg-type]
    return {
        "logit_difference": sum(right) / len(right) - (sum(wrong) / len(wrong) if wrong else 0),
        "probability_difference": sum(map(math.exp, right)) - sum(map(math.exp, wrong)),
        "kl": kl_by_outcomes(model, members, prompt),
        "cross_entropy": -math.log(sum(map(math.exp, right))),
    }


def kl_by_outcomes(model: CircuitModel, members: Tensor, prompt: PromptPair) -> float:
    """KL over all that may be said until it is no beginning of a candidate, outcome by outcome."""
    start = len(ids_of(prompt.clean))
    words = [tuple(ids_of(f"{prompt.clean}{word}")[start:]) for word in (*prompt.answers, *prompt.distractors)]
    beginnings = {word[:n] for word in words for n in range(len(word))}
    full, everything = torch.ones_like(members), 0.0

    def follow(said: tuple[int, ...], p: Tensor, q: Tensor) -> None:
        nonlocal everything
        log_p, log_q = (next_token(model, edges, prompt, list(said)) for edges in (full, members))
        for token in range(len(log_p)):
            here = (*said, token)
            if here in beginnings:
                follow(here, p + log_p[token], q + log_q[token])
            else:
                outcome_p, outcome_q = p + log_p[token], q + log_q[token]
                everything += float(outcome_p.exp() * (outcome_p - outcome_q))

    follow((), torch.zeros(()), torch.zeros(()))
    return everything


def loader(model: CircuitModel, batch_size: int = 5, side: str = "right", **options: Any) -> PairLoader:
    data = Mixed(TOKENIZER, batch_size=batch_size, padding_side=side, answer_tokens="any", **options)
    return data.val_dataloader()


def circuits(model: CircuitModel) -> dict[str, Tensor]:
    of = model.layout
    return {
        "full": torch.ones(of.n_edges, dtype=torch.bool),
        "most": Circuit.random(of, of.n_edges * 9 // 10, 3).members,
        "some": Circuit.random(of, of.n_edges // 2, 5).members,
    }


@pytest.mark.parametrize(("batch_size", "side"), [(1, "right"), (2, "left"), (5, "right")])
def test_measures_are_those_of_plain_loops(model: CircuitModel, batch_size: int, side: str) -> None:
    measures = {
        "logit_difference": logit_difference,
        "probability_difference": probability_difference,
        "kl": kl,
        "cross_entropy": CrossEntropy(),
    }
    for members in circuits(model).values():
        found: dict[str, list[float]] = {name: [] for name in measures}
        for batch in loader(model, batch_size, side):
            batch = model.receive(batch)
            full_logits, corrupt = model.run_pair(batch)
            prompts = batch["clean_ids"], batch["attention_mask"], batch["positions"]
            logits = masked_logits(model, members.double(), *prompts, corrupt)
            for name, measure in measures.items():
                found[name] += values_of(measure, logits, batch, full_logits)
        for number, prompt in enumerate(PAIRS):
            expected = by_loops(model, members, prompt)
            assert {name: numbers[number] for name, numbers in found.items()} == pytest.approx(expected, abs=1e-8)


def values_of(measure: Any, logits: Tensor, batch: Batch, full_logits: Tensor) -> list[float]:
    made = measure(logits, batch, full_logits)
    assert made.shape == (n_prompts(batch),)
    return made.tolist()


def test_rows_count_prompts_and_take_joint_probabilities(model: CircuitModel) -> None:
    members = circuits(model)["some"]
    for measure in ("logit_difference", "probability_difference", "kl"):
        rows = evaluate(model, loader(model, 2), {"c": members}, [ABLATIONS.make("interchange")], measure=measure)
        by_name = {row.circuit: row for row in rows}
        expected = [by_loops(model, members, prompt) for prompt in PAIRS]
        assert by_name["c"].prompts == len(PAIRS)
        assert by_name["c"].value == pytest.approx(sum(each[measure] for each in expected) / len(PAIRS), abs=1e-6)
        assert by_name["c"].kl == pytest.approx(sum(each["kl"] for each in expected) / len(PAIRS), abs=1e-6)
        assert by_name["full"].faithfulness == pytest.approx(1)


def test_an_answer_is_right_that_is_likelier_as_a_whole_or_said_token_by_token() -> None:
    """Three prompts: " a b" against " a c"; " d e" against nothing, said; " d e" against nothing, lost at its end."""
    rows = {
        "answers": [[0], [1], [3], [4], [3], [4]],
        "distractors": [[0], [2], [-100], [-100], [-100], [-100]],
        "continues": [0, 1, 0, 1, 0, 1],
    }
    batch: Any = {name: torch.tensor(value) for name, value in rows.items()}
    batch |= {"clean_ids": torch.zeros(6, 2).long(), "positions": torch.ones(6).long()}
    logits = torch.zeros(6, 5)
    logits[1, 1], logits[2, 3], logits[3, 4], logits[4, 3], logits[5, 0] = 1.0, 1.0, 1.0, 1.0, 1.0
    assert correct(logits, batch).tolist() == [True, True, False]
    found, there = candidate_values(logits, batch["distractors"], batch)
    assert there.tolist() == [[True], [False], [False]] and found[1:].tolist() == [[0.0], [0.0]]


def test_single_tokens_come_to_the_same_whether_or_not_there_might_be_several() -> None:
    rows = []
    for answer_tokens in ("one", "any"):
        data = IOIDataModule("tiny-ioi", n_train=8, n_val=8, n_test=8, answer_tokens=answer_tokens)  # type: ignore[arg-type]
        model = wrap(load_model("tiny-ioi"))
        search = EdgePruning("tiny-ioi", seed=1)
        quiet_trainer(max_steps=2).fit(search, data)
        circuit = search.circuit(size=0.2)
        rows.append(evaluate(model, data.test_dataloader(), {"c": circuit}, [ABLATIONS.make("interchange")]))
    for one, any_number in zip(*rows, strict=True):
        assert replace(one, circuit="").scalars() == pytest.approx(any_number.scalars(), abs=1e-5, nan_ok=True)


def test_eap_is_the_gradient_of_the_joint_probability(model: CircuitModel) -> None:
    gates = torch.ones(model.layout.n_edges, dtype=torch.float64, requires_grad=True)
    loss = torch.zeros(())
    for prompt in PAIRS:
        right, wrong = (
            [joint_of_gates(model, gates, prompt, word) for word in words]
            for words in (prompt.answers, prompt.distractors)
        )
        loss = loss - sum(right) / len(right) + (sum(wrong) / len(wrong) if wrong else 0)
    loss.backward()
    (batch,) = loader(model)
    found = gradient_scores(model, model.receive(batch), ABLATIONS.make("interchange"), LogitDifference())
    assert gates.grad is not None
    torch.testing.assert_close(found.edges, -gates.grad, atol=1e-9, rtol=1e-6)


def joint_of_gates(model: CircuitModel, gates: Tensor, prompt: PromptPair, word: Any) -> Tensor:
    return joint(model, gates, prompt, word)


@pytest.mark.parametrize("kind", [MeanAblation, MeanPositionalAblation, GroupMeanAblation])
@pytest.mark.parametrize("side", ["right", "left"])
def test_means_count_every_token_once(model: CircuitModel, kind: type[MeanAblation], side: str) -> None:
    """However many rows a prompt is read in: the texts are the branches of a tree, each of its tokens one."""
    ablation = kind()
    ablation.fit(model, loader(model, 2, side))
    sums: dict[Any, list[Tensor]] = {}
    for prompt in PAIRS:
        start, seen = len(ids_of(prompt.clean)), set()
        for word in (*prompt.answers, *prompt.distractors):
            ids = ids_of(f"{prompt.clean}{word}")[:-1]  # behind the last, nothing is read
            row = one_row(ids, ids)
            stack = model.new_stack(row["clean_ids"].shape)
            model.run(row["clean_ids"], row["attention_mask"], row["positions"], writers=stack)
            for token in range(len(ids)):
                if (branch := tuple(ids[start : token + 1] if token >= start else [-token])) not in seen:
                    seen.add(branch)
                    slot = {MeanAblation: 0, MeanPositionalAblation: token}.get(kind, (prompt.group, token))
                    sums.setdefault(slot, []).append(stack[:, 0, token].clone())
    (batch,) = loader(model, 5, side)
    made = ablation.reference(batch, torch.zeros(()))
    for row in range(len(batch["positions"])):
        first = int(batch["attention_mask"][row].argmax())
        for token in range(int(batch["attention_mask"][row].sum())):
            group = batch["group_names"][batch["groups"][row]]
            slot = {MeanAblation: 0, MeanPositionalAblation: token}.get(kind, (group, token))
            expected = torch.stack(sums[slot]).mean(0)
            torch.testing.assert_close(made[:, row, first + token], expected, atol=1e-9, rtol=1e-6)
    assert ablation.fitted_over == len(PAIRS)


def test_prompts_keep_their_rows_wherever_they_go(model: CircuitModel) -> None:
    (batch,) = loader(model)
    require_batch(batch, 228)
    assert n_prompts(batch) == len(PAIRS) and len(batch["positions"]) == sum(len(p.rows) for p in loader(model).pairs)
    assert torch.equal(prompts_alone(batch)["clean_ids"], batch["clean_ids"][batch["continues"] == 0])
    for n in range(1, len(PAIRS) + 1):
        some = first_prompts(batch, n)
        require_batch(some, 228)
        assert n_prompts(some) == n
    twice = repeated(batch, 2)
    require_batch(twice, 228)
    logits, _ = model.run_pair(model.receive(twice))
    once, _ = model.run_pair(model.receive(batch))
    torch.testing.assert_close(logit_difference(logits, twice), logit_difference(once, batch).repeat(2))


def test_prompts_are_hashed_alike_however_they_are_batched(model: CircuitModel) -> None:
    hashes = {hash_of_prompts(loader(model, n, side)) for n in (1, 3, 5) for side in ("right", "left")}
    assert len(hashes) == 1 and hashes.pop()[0] == len(PAIRS)
    swapped = [replace(each, answers=each.distractors, distractors=each.answers) for each in loader(model).pairs[:1]]
    assert hash_of_prompts(PairLoader(swapped, 1)) != hash_of_prompts(PairLoader(loader(model).pairs[:1], 1))


def test_live_tokens_are_those_of_the_prompt_and_its_answers(model: CircuitModel) -> None:
    """Of the second: from S2 on 5, then "Paul", "and", "the", "Sam"; behind the last of a candidate nothing is read."""
    ablation = ABLATIONS.make("interchange")
    batch = model.receive(next(iter(PairLoader(loader(model).pairs[1:2], 1))))
    assert ablation.live_tokens(ablation.places(model.layout, batch), batch).tolist() == [[9]]
    assert own_tokens(batch).sum() == len(ids_of(PAIRS[1].clean)) + 4


def test_attention_and_information_flow_are_those_of_the_prompts_alone(model: CircuitModel) -> None:
    several, alone = (
        [batch if keep else prompts_alone(batch) for batch in loader(model, 2, spans="roles")] for keep in (True, False)
    )
    found, expected = (attention_to(model, batches, "S2") for batches in (several, alone))
    assert all(torch.equal(found[head], expected[head]) for head in expected)
    (batch,) = loader(model)
    flow = information_flow_scores(model, model.receive(batch))
    assert torch.equal(flow, information_flow_scores(model, model.receive(prompts_alone(batch))))


def test_the_tokens_of_an_answer_are_in_the_span_behind_the_last() -> None:
    data = Mixed(TOKENIZER, answer_tokens="any", spans="roles")
    batch = next(iter(data.val_dataloader()))
    names = [batch["span_names"][batch["spans"][1, token]] for token in range(int(batch["positions"][1]) + 1)]
    assert names[-2:] == ["END", "END.."]


def test_every_method_takes_them() -> None:
    data = Mixed("tiny-ioi", batch_size=2, answer_tokens="any", spans="roles")
    searches = [
        EAP("tiny-ioi"),
        EdgePruning("tiny-ioi", spans=True),
        ActivationPatching("tiny-ioi", edges_per_batch=512),
    ]
    for search in searches:
        validation = FaithfulnessValidation(sizes=[0.2])
        quiet_trainer(validation, max_epochs=1).fit(search, data)
        (row,) = [row for row in validation.rows if row.circuit == "20%"]
        assert row.prompts == len(PAIRS) and math.isfinite(row.faithfulness)
    assert data.describe()["answer_tokens"] == "any"


def test_exact_patching_measures_what_cutting_an_edge_does(model: CircuitModel) -> None:
    data = Mixed(TOKENIZER, batch_size=5, answer_tokens="any")
    search = ActivationPatching(model.model, edges_per_batch=4096)
    quiet_trainer(max_epochs=1).fit(search, data)
    edge = int(search.edge_scores().abs().argmax())
    members = torch.ones(model.layout.n_edges, dtype=torch.bool)
    full = sum(by_loops(model, members, prompt)["logit_difference"] for prompt in PAIRS)
    members[edge] = False
    cut = sum(by_loops(model, members, prompt)["logit_difference"] for prompt in PAIRS)
    assert float(search.edge_scores()[edge]) == pytest.approx((full - cut) / len(PAIRS), abs=1e-6)


# ---- what is refused ----------------------------------------------------------------------------------------------


BROKEN: dict[str, Tensor] = {
    "row 0 of a batch continues none": torch.tensor([1, 0]),
    "row 1 of a batch continues none": torch.tensor([0, 2]),
    "row 1 of a batch continues row 0 by one token, and they have 3 and 3": torch.tensor([0, 1]),
    r"continues of a batch have the shape \[2, 1\], expected \[2\]": torch.tensor([[0], [1]]),
}


@pytest.mark.parametrize("message", BROKEN)
def test_rows_that_continue_nothing_are_named(message: str) -> None:
    batch = {name: value.repeat(2, *[1] * (value.ndim - 1)) for name, value in one_row([3, 4, 5], [3, 6, 5]).items()}
    with pytest.raises(ValueError, match=message):
        require_batch({**batch, "continues": BROKEN[message]}, 228)


def test_a_measure_that_gives_a_number_for_each_row_is_told_how_to_put_them_together(model: CircuitModel) -> None:
    def margin(logits: Tensor, batch: Batch, full_logits: Tensor) -> Tensor:
        return logits.gather(1, batch["answers"][:, :1].clamp(min=0))[:, 0]

    (batch,) = loader(model)
    logits, _ = model.run_pair(model.receive(batch))
    with pytest.raises(
        ValueError, match=r"for each of the 5 prompts .* read in \d+ rows: see measures.candidate_values"
    ):
        values(margin, logits, batch, logits)


def test_processes_share_prompts_not_rows() -> None:
    pairs = fitting(PAIRS, TOKENIZER, "refuse", None, "any")[1]
    shares = [list(PairLoader(pairs, 2, replicas=2, rank=rank)) for rank in range(2)]
    assert [sum(n_prompts(batch) for batch in share) for share in shares] == [3, 3]
    for batch in (batch for share in shares for batch in share):
        require_batch(batch, 228)


@pytest.mark.slow
def test_a_run_that_was_stopped_in_the_middle_of_an_epoch_goes_on_to_the_same_gates(tmp_path: Path) -> None:
    def fit(resume: Path | None = None) -> EdgePruning:
        search = EdgePruning("tiny-ioi", seed=2)
        keep = pl.callbacks.ModelCheckpoint(tmp_path, "{step}", every_n_train_steps=1, save_top_k=-1)
        trainer = quiet_trainer(keep, enable_checkpointing=True, max_steps=4, max_epochs=-1)
        trainer.fit(search, Mixed("tiny-ioi", batch_size=2, answer_tokens="any"), ckpt_path=resume)
        return search

    whole, resumed = fit(), fit(tmp_path / "step=2.ckpt")
    assert all(torch.equal(a, b) for a, b in zip(whole.gate.parameters(), resumed.gate.parameters(), strict=True))
