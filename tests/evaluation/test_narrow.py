"""Circuits that are judged on no more prompts than the interval of their faithfulness asks for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from lightning_circuits.ablation import ABLATIONS
from lightning_circuits.batch import Batch
from lightning_circuits.callbacks import FaithfulnessValidation
from lightning_circuits.circuit import Circuit
from lightning_circuits.datamodules import IOIDataModule
from lightning_circuits.drawing.tables import rows_table
from lightning_circuits.evaluation.rows import LEAST_PROMPTS, Row, evaluate
from lightning_circuits.files.numbers import from_json
from lightning_circuits.models import wrap
from lightning_circuits.models.loading import load_model
from tests.support import processes

WIDTH = 0.05


def batches(n: int = 90) -> list[Batch]:
    return list(IOIDataModule("tiny-ioi", n_train=1, n_val=n, n_test=1, batch_size=8).val_dataloader())


def judged(prompts: list[Batch], narrow: float | None, rank: int = 0, world_size: int = 1) -> list[dict[str, Any]]:
    torch.use_deterministic_algorithms(True)
    model = wrap(load_model("tiny-ioi"))
    n_edges = model.layout.n_edges
    circuits = {f"{n}": Circuit.random(model.layout, n, seed=2) for n in (20, n_edges // 2, n_edges - 12)}
    ablations = [ABLATIONS.make(name) for name in ("interchange", "zero")]
    rows = evaluate(model, prompts, circuits, ablations, rank=rank, world_size=world_size, narrow=narrow)
    return [row.to_dict() for row in rows]  # NaN, which equals nothing, is None there


def test_a_row_is_that_of_its_prompts_and_stops_where_it_is_narrow_enough() -> None:
    prompts = batches()
    looked_at = [32, 64, 90]  # one, two, four, eight batches of 8, and all
    found = judged(prompts, WIDTH)
    on_fewer = {n: judged(prompts[: -(-n // 8)], None) for n in looked_at}
    stops = set()
    for place, row in enumerate(found):
        if row["circuit"] in ("full", "empty"):
            assert row == on_fewer[90][place]
            continue
        narrow_at = [n for n in looked_at if (wide := width(on_fewer[n][place])) <= WIDTH and wide >= 0]
        n = min(narrow_at, default=90)
        assert row == on_fewer[n][place] and row["prompts"] == n >= LEAST_PROMPTS
        stops.add(n)
    assert {32, 90} <= stops


def width(row: dict[str, Any]) -> float:
    return row["faithfulness_high"] - row["faithfulness_low"]


def test_of_few_prompts_all_are_taken() -> None:
    prompts = batches(24)
    assert judged(prompts, 10.0) == judged(prompts, None)


def test_when_all_are_narrow_enough_nothing_more_is_run(monkeypatch: pytest.MonkeyPatch) -> None:
    prompts = batches()
    found = judged(prompts, 100.0)
    assert {row["prompts"] for row in found} == {LEAST_PROMPTS}
    none_to_judge = evaluate(wrap(load_model("tiny-ioi")), prompts, {}, [ABLATIONS.make("zero")], narrow=100.0)
    assert {row.prompts for row in none_to_judge} == {90}


def of_a_share(folder: str, rank: int) -> None:
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2)
    torch.save(judged(batches(92), WIDTH, rank, 2), f"{folder}/{rank}.pt")


@pytest.mark.slow
def test_two_processes_stop_together(tmp_path: Path) -> None:
    started = [processes.call(tmp_path / f"log-{rank}", of_a_share, str(tmp_path), rank) for rank in range(2)]
    for one in started:
        status, printed = one.end()
        assert status == 0, printed
    first, second = (torch.load(tmp_path / f"{rank}.pt") for rank in range(2))
    assert first == second
    prompts = batches(92)
    # of two processes' batches, 2, 4, 8 and 12 are looked at
    on_fewer = {n: judged(prompts[: -(-n // 8)], None) for n in (32, 64, 92)}
    assert {row["prompts"] for row in first} >= {32, 92}
    for place, row in enumerate(first):
        alone = on_fewer[row["prompts"]][place]
        for key, value in row.items():
            assert value == (pytest.approx(alone[key], abs=1e-6) if isinstance(value, float) else alone[key]), key


def test_the_table_says_on_how_many_prompts_each_row_is() -> None:
    rows = [from_json(Row, row) for row in judged(batches(), WIDTH)]
    narrow, whole = rows_table(rows), rows_table([from_json(Row, row) for row in judged(batches(), None)])
    assert "at most 90 prompts" in str(narrow.title) and "val split, 90 prompts" in str(whole.title)
    names = [str(column.header) for column in narrow.columns]
    assert "prompts" in names and "prompts" not in [str(column.header) for column in whole.columns]
    assert "pruned" in names  # other prompts have other numbers of tokens, and edges are at all of them all the same
    cells = list(narrow.columns[names.index("prompts")].cells)
    assert [*filter(None, map(str, cells))] == [str(row.prompts) for row in rows]


@pytest.mark.parametrize("narrow", [0, -0.1, float("nan")])
def test_a_width_that_no_interval_has_is_refused(narrow: float) -> None:
    for judge in (lambda narrow: FaithfulnessValidation(narrow=narrow), lambda narrow: judged([], narrow)):
        with pytest.raises(ValueError, match=r"narrow is .*: it has to be above 0"):
            judge(narrow)
        with pytest.raises(TypeError, match="narrow takes a number"):
            judge("0.1")  # type: ignore[arg-type]
