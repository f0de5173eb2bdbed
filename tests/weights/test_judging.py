"""What circuits of weights are worth, against plain loops over single prompts and lines."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from lightning_circuits.datamodules import IOIDataModule
from lightning_circuits.models import CircuitModel, wrap
from lightning_circuits.models.loading import load_model
from lightning_circuits.weights.judging import beside, judge, line_nll
from lightning_circuits.weights.space import WeightSpace
from lightning_circuits.weights.weight_circuit import WeightCircuit

LINES = [[5, 9, 40, 7], [8, 8, 60], [100, 3, 90, 17, 20]]


@pytest.fixture(scope="module")
def model() -> CircuitModel:
    return wrap(load_model("tiny-ioi"))


@pytest.fixture(scope="module")
def data() -> IOIDataModule:
    return IOIDataModule("tiny-ioi", n_train=8, n_val=12, n_test=8, batch_size=5)


def text() -> list[Any]:
    longest = max(map(len, LINES))
    ids = torch.tensor([[*line, *[0] * (longest - len(line))] for line in LINES])
    mask = torch.tensor([[1] * len(line) + [0] * (longest - len(line)) for line in LINES])
    return [{"input_ids": ids[:2], "attention_mask": mask[:2]}, {"input_ids": ids[2:], "attention_mask": mask[2:]}]


def half(model: CircuitModel) -> WeightCircuit:
    space = WeightSpace.of(model)
    generator = torch.Generator().manual_seed(0)
    return WeightCircuit.of(
        space, {each.name: torch.rand(each.shape, generator=generator) < 0.8 for each in space.tensors}
    )


def test_rows_are_those_of_plain_loops(model: CircuitModel, data: IOIDataModule) -> None:
    circuit, loader = half(model), data.val_dataloader()
    full, row = judge(model, {"c": circuit}, loader, text())

    def by_loops() -> tuple[list[int], float, float]:
        said, answers = [], []
        for batch in loader:
            for ids, mask, answer in zip(batch["clean_ids"], batch["attention_mask"], batch["answers"], strict=True):
                logs = model.model(input_ids=ids[mask.bool()][None]).logits[0, -1].log_softmax(-1)
                said.append(int(logs.argmax()))
                answers.append(-float(logs[answer[0]]))
        nll = []
        for line in LINES:
            logs = model.model(input_ids=torch.tensor([line])).logits[0].log_softmax(-1)
            nll += [-float(logs[token, line[token + 1]]) for token in range(len(line) - 1)]
        return said, sum(answers) / len(answers), sum(nll) / len(nll)

    said, answer_nll, text_nll = by_loops()
    assert (full.circuit, full.density, full.agreement) == ("full", 1.0, 1.0)
    assert (full.answer_nll, full.text_nll) == (pytest.approx(answer_nll, abs=1e-4), pytest.approx(text_nll, abs=1e-4))
    with circuit.applied(model):
        here, answer_nll, text_nll = by_loops()
    agreement = sum(a == b for a, b in zip(here, said, strict=True)) / len(said)
    assert (row.agreement, row.prompts, row.lines) == (pytest.approx(agreement), 12, 3)
    assert (row.answer_nll, row.text_nll) == (pytest.approx(answer_nll, abs=1e-4), pytest.approx(text_nll, abs=1e-4))
    assert row.weights == circuit.n_weights and row.density == circuit.density
    for name in ("agreement", "answer_nll", "text_nll"):
        low, high = getattr(row, f"{name}_low"), getattr(row, f"{name}_high")
        assert low <= getattr(row, name) <= high
    assert row.answer_nll_low < row.answer_nll_high and row.text_nll_low < row.text_nll_high


def test_a_circuit_is_judged_beside_others_of_its_density(model: CircuitModel, data: IOIDataModule) -> None:
    circuit = half(model)
    others = beside(circuit, model)
    rows = judge(model, {"c": circuit, **others}, data.val_dataloader(), text(), rest="mean")
    assert [row.circuit for row in rows] == ["full", "c", "complement", "random", "random, whole", "magnitude"]
    assert {row.density for row in rows[1:] if row.circuit != "complement"} == {circuit.density}
    assert all(row.rest == "mean" for row in rows)


def test_what_there_is_not_is_said(model: CircuitModel, data: IOIDataModule) -> None:
    with pytest.raises(ValueError, match="there is no ordinary text"):
        judge(model, {}, data.val_dataloader(), [])
    with pytest.raises(ValueError, match="there are no prompts to judge circuits of weights on"):
        judge(model, {}, [], text())
    with pytest.raises(ValueError, match="a circuit is called 'full'"):
        judge(model, {"full": half(model)}, data.val_dataloader(), text())


def test_a_line_counts_its_tokens_but_the_first(model: CircuitModel) -> None:
    assert line_nll(model, text())[:, 1].tolist() == [len(line) - 1 for line in LINES]
