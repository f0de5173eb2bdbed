"""The experiment on faithfulness and overlap: what it says of its own claims, whichever way they fall; its tables."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from lightning_circuits.evaluation.rows import Row
from lightning_circuits.evaluation.transfer import Transfer
from tests.support.made_curves import make_row
from tests.support.made_transfer import make_transfer

EXPERIMENTS = Path(__file__).parents[2] / "experiments"
SIX = ("IOI", "capital", "hypernymy", "gender", "agreement", "greater-than")


@pytest.fixture
def claims(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(EXPERIMENTS)
    import overlap_claims

    return overlap_claims


@pytest.fixture
def tables(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(EXPERIMENTS)
    import overlap_tables

    return overlap_tables


def line(f: Mapping[float, float], accuracy: float = 1.0) -> list[Row]:
    """Of the full model, the empty circuit, and circuits with these f."""
    full, empty = (
        make_row(name, "interchange", edges, f_of) for name, edges, f_of in (("full", 1000, 1), ("empty", 0, 0))
    )
    circuits = [make_row(f"{share:g}", "interchange", round(1000 * share), value) for share, value in f.items()]
    return [full, empty, *(replace(row, accuracy=accuracy) for row in circuits)]


def judged(tables: ModuleType, **methods: list[list[Row]]) -> Any:
    rows = {name.replace("_", " ").replace("EAP IG", "EAP-IG"): seeds for name, seeds in methods.items()}
    return tables.Judged("logit_difference", rows, {method: None for method in rows}, {})


def reached(rows: list[dict[str, str]], word: str) -> list[str]:
    return [row["reached"] for row in rows if word in row["required"]]


@pytest.mark.parametrize(("seeds", "verdict"), [((0.9, 0.81), "yes"), ((0.9, 0.79), "no"), ((0.85,), "yes")])
def test_attribution_is_judged_by_the_mean_of_its_seeds(
    claims: ModuleType, tables: ModuleType, seeds: tuple[float, ...], verdict: str
) -> None:
    of_seeds = [line({0.02: 0.2, 0.03: f}) for f in seeds]
    found = claims.claims({"IOI": judged(tables, EAP_IG=of_seeds)}, {})
    assert reached(found, "EAP-IG, IOI") == [verdict] and len(found) == 1
    assert all(f"{f:.2f}" in found[0]["found"] for f in seeds)


@pytest.mark.parametrize(
    ("good", "bad", "verdict"),
    [
        (5, line({0.005: 0.5, 0.01: 0.8, 0.02: 1.0}), "yes"),  # faithful too late
        (4, line({0.005: 1.2, 0.01: 1.3}), "no"),  # too sure
        (4, line({0.005: 0.9, 0.01: 1.0}, accuracy=0.85), "no"),  # wrong too often
        (5, line({0.01: 0.84}), "yes"),
    ],
)
def test_edge_pruning_has_to_be_faithful_and_right_on_five_tasks(
    claims: ModuleType, tables: ModuleType, good: int, bad: list[Row], verdict: str
) -> None:
    lines = [line({0.005: 0.7, 0.01: 1.14}, accuracy=0.9) if number < good else bad for number in range(6)]
    tasks = {name: judged(tables, edge_pruning=[rows]) for name, rows in zip(SIX, lines, strict=True)}
    [found] = claims.claims(tasks, {})
    assert found["reached"] == verdict and f"{good} of 6" in found["found"]
    assert found["found"].count(" no") == 6 - good


def changed(found: Transfer, data: str, circuit: str, f: float) -> Transfer:
    rows = [replace(row, faithfulness=f) if (row.data, row.circuit) == (data, circuit) else row for row in found.rows]
    return replace(found, rows=rows)


def test_the_matrix_is_judged_cell_by_cell(claims: ModuleType) -> None:
    made = make_transfer()
    assert reached(claims.claims({}, {"EAP-IG": made}), "diagonal") == ["yes"]
    assert reached(claims.claims({}, {"EAP-IG": changed(made, "gender", "gender", 0.69)}), "diagonal") == ["no"]
    assert reached(claims.claims({}, {"EAP-IG": made}), "random") == ["yes"]
    assert reached(claims.claims({}, {"EAP-IG": changed(made, "ioi", "random", -0.04)}), "random") == ["no"]


def test_two_circuits_are_apart_only_if_they_share_their_nodes_and_neither_help_nor_hurt(claims: ModuleType) -> None:
    made = make_transfer()
    sharing = [part._replace(overlap=replace(part.overlap, iou=0.6)) for part in made.shared]
    alike = replace(made, shared=sharing)
    for data in made.data:
        for circuit in made.circuits:
            alike = changed(alike, data, circuit, 0.5 if data != circuit else 0.9)
    for f, verdict in ((0.1, "yes"), (0.11, "no"), (-0.2, "no")):
        found = claims.claims({}, {"EAP-IG": changed(alike, "ioi", "capital", f)})
        assert reached(found, "node IoU") == [verdict]
    apart = changed(
        replace(made, shared=[p._replace(overlap=replace(p.overlap, iou=0.5)) for p in made.shared]),
        "ioi",
        "capital",
        0.0,
    )
    assert reached(claims.claims({}, {"EAP-IG": apart}), "node IoU") == ["no"]


def test_a_method_that_a_task_has_not_yet_leaves_its_cells_empty(tables: ModuleType) -> None:
    f = {share: 10 * share for share in tables.SHARES}
    tasks = {
        "IOI": judged(tables, EAP_IG=[line(f), line({0.01: 0.15})], edge_pruning=[line(f)]),
        "capital": judged(tables, EAP_IG=[line(f)]),
    }
    rows = tables.faithfulness_rows(tasks)
    assert len(rows) == 2 * len(tables.SHOWN) and len({tuple(row) for row in rows}) == 1
    assert rows[0]["EAP-IG"] == "0.10 [0.00..0.20] / 0.15, 100%, 9"
    assert [bool(row["edge pruning"]) for row in rows] == [True] * 3 + [False] * 3
    assert tables.smallest_rows(tasks)[0] == {"task": "IOI", "EAP-IG": "none up to 5%", "edge pruning": "none up to 5%"}


def test_the_matrix_has_a_column_for_the_match_of_each_task_itself(tables: ModuleType) -> None:
    made = changed(make_transfer(), "capital", "capital paths", 0.44)
    rows = tables.matrix_rows(made)
    assert [row["data"] for row in rows] == made.data
    assert rows[1]["random paths"].startswith("0.44") and rows[1]["capital"].startswith("0.90")
    pairs = tables.pair_rows(made)
    assert len(pairs) == 3 and list(pairs[0]) == list(pairs[2])


def test_the_curves_are_drawn_with_what_there_is(tables: ModuleType) -> None:
    import overlap_figures

    f = {share: 10 * share for share in tables.SHARES}
    tasks = {name: judged(tables, random=[line({0.01: 0.0})], EAP_IG=[line(f), line(f)]) for name in SIX[:4]}
    tasks["IOI"] = judged(tables, random=[line({0.01: 0.0})], EAP_IG=[line(f)], edge_pruning=[line(f)])
    figure = overlap_figures.curves_figure(tasks)
    drawn = [axes for axes in figure.axes if axes.get_title(loc="left")]
    assert [axes.get_title(loc="left") for axes in drawn] == list(tasks)
    [legend] = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["random", "EAP-IG", "edge pruning"]
