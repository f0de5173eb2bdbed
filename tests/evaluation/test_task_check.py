"""What a model makes of a task: against the stock model on one prompt at a time, and what is warned of."""

from __future__ import annotations

import io
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
from rich.console import Console

from lightning_circuits.datamodules import IOIDataModule, PromptPairDataModule
from lightning_circuits.drawing.task_check import check_table
from lightning_circuits.evaluation.task_check import PROMPTS, TaskCheck, check_task
from lightning_circuits.models import CircuitModel, wrap
from lightning_circuits.models.loading import load_model, load_tokenizer
from tests.datamodules.test_jsonl import record

TOKENIZER = load_tokenizer("tiny-ioi")


@pytest.fixture(scope="module")
def model() -> CircuitModel:
    return wrap(load_model("tiny-ioi"))


def pairs(rows: list[dict[str, Any]], **options: Any) -> PromptPairDataModule:
    return PromptPairDataModule(TOKENIZER, rows, val_fraction=0.2, test_fraction=0.2, **options)


def look(model: CircuitModel, data: Any) -> TaskCheck:
    return check_task(model, data.check_batches(), data.tokenizer, data.pair_counts)


@torch.no_grad()
def last_logits(model: CircuitModel, ids: list[int]) -> torch.Tensor:
    return model.model(torch.tensor([ids])).logits[0, -1].double()


def ids_of(text: str) -> list[int]:
    return TOKENIZER(text)["input_ids"]


@pytest.mark.parametrize("padding_side", ["right", "left"])
def test_numbers_are_those_of_the_stock_model_on_one_prompt_at_a_time(model: CircuitModel, padding_side: Any) -> None:
    rows = [record(n) for n in range(6)] + [
        record(n, answers=[" the", " Mary"] if n % 2 else [" a"]) for n in range(40, 50)
    ]
    rows[2] = record(2, clean="Mary gave Tom to", corrupt="Mary gave Sam to", answers=[" Tom"], distractors=[" Mary"])
    found = look(model, pairs(rows, batch_size=3, padding_side=padding_side))
    data = pairs(rows)
    data.setup()
    trained = [pair.where for pair in data._splits["train"]]
    probabilities, ranks, right, clean_differences, corrupt_differences, favoured = [], [], [], [], [], []
    for where in trained:
        row = rows[int(where[len("train[") : -1])]
        answers, distractors = ([ids_of(word)[0] for word in row[name]] for name in ("answers", "distractors"))
        clean, corrupt = (last_logits(model, ids_of(row[name])) for name in ("clean", "corrupt"))
        chances = clean.softmax(0)
        probabilities.append(sum(float(chances[token]) for token in answers))
        ranks.append(min(sorted(chances.tolist(), reverse=True).index(float(chances[token])) + 1 for token in answers))
        for logits, differences, better in (
            (clean, clean_differences, right),
            (corrupt, corrupt_differences, favoured),
        ):
            of_answers, of_distractors = ([float(logits[token]) for token in words] for words in (answers, distractors))
            differences.append(sum(of_answers) / len(of_answers) - sum(of_distractors) / len(of_distractors))
            better.append(max(of_answers) > max(of_distractors))
    n = len(trained)
    assert found.prompts == n and found.pairs["train"] == n
    assert found.probability == pytest.approx(sum(probabilities) / n, abs=1e-5)
    assert found.rank == pytest.approx(sorted(ranks)[n // 2] / 2 + sorted(ranks)[(n - 1) // 2] / 2)
    assert found.wrong == n - sum(right) and found.accuracy == pytest.approx(sum(right) / n)
    assert found.logit_difference == pytest.approx(sum(clean_differences) / n, abs=1e-4)
    assert found.corrupt_logit_difference == pytest.approx(sum(corrupt_differences) / n, abs=1e-4)
    assert found.favoured == sum(favoured)


def test_examples_show_what_the_model_says(model: CircuitModel) -> None:
    found = look(model, pairs([record(n) for n in range(20)]))
    assert len(found.examples) == 5
    for one in found.examples:
        chances = last_logits(model, ids_of(one.prompt)).softmax(0)
        assert one.top[0][0] == TOKENIZER.decode([int(chances.argmax())])
        assert [value for _, value in one.top] == pytest.approx(chances.topk(3).values.tolist(), abs=1e-5)
        assert one.probability == pytest.approx(float(chances[ids_of(one.answer)[0]]), abs=1e-5)


def test_answers_of_several_tokens_count_as_a_whole(model: CircuitModel) -> None:
    rows = [record(n, answers=[" Mary and"], distractors=[" John"]) for n in range(10)]
    found = look(model, pairs(rows, answer_tokens="any"))
    one = found.examples[0]
    first, second = ids_of(" Mary and")
    prompt = ids_of(one.prompt)
    expected = last_logits(model, prompt).softmax(0)[first] * last_logits(model, [*prompt, first]).softmax(0)[second]
    assert one.probability == pytest.approx(float(expected), rel=1e-3)
    assert found.prompts == 6


def test_no_more_prompts_are_run_than_said(model: CircuitModel, monkeypatch: pytest.MonkeyPatch) -> None:
    run: list[int] = []
    stock = model.logits

    def counted(ids: torch.Tensor, *rest: Any) -> torch.Tensor:
        run.append(len(ids))
        return stock(ids, *rest)

    monkeypatch.setattr(model, "logits", counted)
    found = look(model, IOIDataModule("tiny-ioi", 100, 4, 4, batch_size=24))
    assert found.prompts == PROMPTS and sum(run) == 2 * PROMPTS
    with pytest.raises(ValueError, match="no batches"):
        check_task(model, [], TOKENIZER)


# ---- warnings --------------------------------------------------------------------------------------------------------

GOOD = TaskCheck(20, 0.5, 1.0, 0.9, 2, 3.0, 0.1, 10, 0, 0, {"train": 20, "val": 16, "test": 2}, ())


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"spaces": 3}, "3 of 20 prompts end in a space"),
        ({"unspaced": 7}, "7 of 20 prompts have an answer that would be 10 times as probable"),
        ({"probability": 0.0099}, "the answers have a probability of 0.0099 in the mean"),
        ({"favoured": 16}, "on 16 of 20 prompts the model still favours the answer when they are corrupt"),
        ({"pairs": {"val": 15}}, "the validation split has 15 pairs, too few"),
    ],
)
def test_each_warning_comes_of_one_thing(changes: dict[str, Any], said: str) -> None:
    (warning,) = replace(GOOD, **changes).warnings
    assert warning.startswith(said)


def test_nothing_is_warned_of_that_is_well() -> None:
    assert not GOOD.warnings
    assert not replace(GOOD, probability=0.01, favoured=15, pairs={}).warnings


class Spelled:
    """A tokenizer of letters, with which " b" is a token of its own."""

    tokens = ["a", "b", " b", " "]

    def decode(self, ids: list[int], **_: Any) -> str:
        return "".join(self.tokens[token] for token in ids)

    def encode(self, text: str, add_special_tokens: bool = False) -> list[int]:
        return [self.tokens.index(text)] if text in self.tokens else [self.tokens.index(letter) for letter in text]


class Says:
    """A model that says the same of every prompt."""

    def __init__(self, logits: list[float]) -> None:
        self.said = torch.tensor(logits)

    def receive(self, batch: Any) -> Any:
        return batch

    def logits(self, ids: torch.Tensor, *_: torch.Tensor) -> torch.Tensor:
        return self.said.repeat(len(ids), 1)


@pytest.mark.parametrize(
    ("ids", "answer", "logits", "spaces", "unspaced"),
    [
        ([0, 0], 1, [0.0, 0.0, 2.4, 0.0], 0, 1),  # " b" is e^2.4 > 10 times as probable
        ([0, 0], 1, [0.0, 0.0, 2.2, 0.0], 0, 0),  # and e^2.2 < 10 times
        ([0, 0], 2, [0.0, 5.0, 0.0, 0.0], 0, 0),  # has its space
        ([0, 3], 1, [0.0, 0.0, 5.0, 0.0], 1, 0),  # the space is the prompt's
        ([0, 0], 0, [0.0, 0.0, 5.0, 0.0], 0, 0),  # " a" is no token
    ],
)
def test_spaces_are_looked_for(ids: list[int], answer: int, logits: list[float], spaces: int, unspaced: int) -> None:
    batch = {
        "clean_ids": torch.tensor([ids]),
        "corrupt_ids": torch.tensor([ids]),
        "attention_mask": torch.ones(1, 2, dtype=torch.int64),
        "positions": torch.tensor([1]),
        "answers": torch.tensor([[answer]]),
        "distractors": torch.tensor([[-100]]),
    }
    look_at = partial(check_task, Says(logits), tokenizer=Spelled())  # type: ignore[arg-type]
    found = look_at([batch])
    assert (found.spaces, found.unspaced) == (spaces, unspaced)


def test_the_table_fits_a_terminal_and_says_it_all(model: CircuitModel) -> None:
    found = look(model, pairs([record(n) for n in range(20)]))
    console = Console(width=80, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(check_table(replace(found, probability=0.0004)))
    said = console.export_text()
    assert all(len(line) <= 80 for line in said.splitlines())
    flat = " ".join(said.split())
    assert "The full model on 12 pairs of the task (train 12, val 4, test 4)" in flat
    assert f"P(answer) 4e-04, median rank {found.rank:g}. Right on {12 - found.wrong} of 12" in flat
    assert "Warning: the validation split has 4 pairs" in flat and "[" not in flat


def test_where_there_is_no_room_the_prompts_end_stays_and_what_the_model_says_is_cut(model: CircuitModel) -> None:
    found = look(model, pairs([record(i) for i in range(20)]))
    said = tuple((f" {name}", 0.25) for name in ("Westminster", "Shanghai", "Constantinople"))
    examples = tuple(replace(one, prompt=f"{one.prompt} ", rank=49_152, top=said) for one in found.examples)
    console = Console(width=80, record=True, file=io.StringIO())
    console.print(check_table(replace(found, examples=examples)))
    lines = [line for line in console.export_text().splitlines() if "49,152" in line]
    assert len(lines) == len(examples) and all(len(line) <= 80 and "' Westminster' 0.25" in line for line in lines)
    for line, one in zip(lines, examples, strict=True):
        assert f"{one.prompt[-15:]}' {one.answer!r}" in line
