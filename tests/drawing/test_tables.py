"""Printed tables, to the letter: `tables/NAME.txt` is what each prints at 80 columns."""

from __future__ import annotations

import io
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from rich.console import Console, RenderableType

from lightning_circuits.drawing.tables import (
    attention_by_role_table,
    contributions_table,
    curve_table,
    curves_table,
    hypotheses_table,
    knockouts_table,
    pareto_table,
    rows_table,
    stability_table,
    transfer_table,
    weights_table,
)
from lightning_circuits.drawing.text_tables import add_numbers, begin
from lightning_circuits.evaluation.comparison import pareto_points
from lightning_circuits.evaluation.completeness import Knockout, PartContributions
from lightning_circuits.evaluation.hypotheses import CLAIMS, HypothesisReport, HypothesisVerdict
from lightning_circuits.evaluation.stability import Stability
from tests.support.made_attention import make_head
from tests.support.made_curves import make_curve, make_row
from tests.support.made_transfer import make_transfer
from tests.support.made_weights import make_weight_row

GOLDEN = Path(__file__).parent / "tables"
F = {0.001: -0.25, 0.01: 0.2, 0.1: 0.7, 0.5: 1.4, 1.0: 1.0}


def rows() -> RenderableType:
    full = replace(make_row("full", "interchange", 123211, 1.0, "val"), agreement_when_wrong=1.0)
    return rows_table(
        [
            full,
            make_row("0.25% complement", "interchange", 122903, 1.234, "val"),
            make_row("[1%]", "mean-positional", 1232, -0.001, "val"),
            replace(make_row("1% pruned", "mean-positional", 1100, math.nan, "val"), kl=15.944),
            make_row("1%", "zero", 1232, 1.004),
        ]
    )


def rows_in_spans() -> RenderableType:
    circuit = replace(make_row("1%", "interchange", 3696, 0.97, "val"), token_edges=4123.25)
    full = replace(make_row("full", "interchange", 369633, 1.0, "val"), token_edges=862477.0)
    return rows_table([full, make_row("empty", "interchange", 0, 0.0, "val"), circuit])


def curve() -> RenderableType:
    return curve_table(
        make_curve({"signed": F, "absolute": F | {0.01: math.nan}}, "EdgePruning", ablations=("interchange", "mean"))
    )


def knockouts() -> RenderableType:
    long = tuple(f"a{i}.h{i}->a{i + 1}.h{i}<q>" for i in range(9))
    return knockouts_table(
        [Knockout((), 7.0, 7.5, 7.5), Knockout(long, -1.25, 6.75, 7.5), Knockout(("m0",), 1, 1, 0.0)]
    )


def contributions() -> RenderableType:
    names = [f"input->a{i}.h0<v>" for i in range(30)]
    return contributions_table(PartContributions(names, torch.linspace(1, -1, 30), torch.full((30,), 0.01), 0.97), n=3)


def hypotheses() -> RenderableType:
    verdicts = [
        HypothesisVerdict(test, claim, 0.51234, 1200, 0.0123, 0.0456, holds=test != "minimality")
        for test, claim in CLAIMS.items()
    ]
    return hypotheses_table(
        HypothesisReport(verdicts, 0.05, "zero", torch.arange(1325), torch.ones(1325), torch.ones(1325))
    )


def stability() -> RenderableType:
    return stability_table(
        [Stability(0.625, 0.1, 0.5, 0.75, 12, 1232.0, 0.0052), Stability(1.0, math.nan, 1.0, 1.0, 2, 24.5, 0.1)]
    )


def curves() -> RenderableType:
    return curves_table(
        {
            "EAP": make_curve({"signed": F, "absolute": F | {0.01: math.nan, 0.1: -40.0}}),
            "InformationFlowRoutes of run 2": make_curve({"signed": {0.1: 0.5, 1.0: 1.0}}, random=False),
        }
    )


def pareto() -> RenderableType:
    found = {"EAP": make_curve({"signed": F, "absolute": F}), "gates": make_curve({"signed": {0.01: 0.3, 0.1: 1.2}})}
    panels = {
        f"interchange ablation by {y}": pareto_points(found, "interchange", "edges", y)
        for y in ("faithfulness", "accuracy")
    }
    return pareto_table(panels, "edges", "faithfulness")


def transfer() -> RenderableType:
    return transfer_table(make_transfer(("ioi", "capital"), data=("ioi", "other"), ablations=("interchange", "zero")))


def weights() -> RenderableType:
    broken = dict(agreement=-0.0, answer_nll=27.2388, answer_nll_low=26.1992, answer_nll_high=28.2245)
    wide = dict(text_nll=18.354, text_nll_low=17.999, text_nll_high=19.004)
    return weights_table(
        [
            make_weight_row("full", density=1.0, agreement=1.0, agreement_low=1.0, agreement_high=1.0),
            make_weight_row("[50%]", agreement_low=0.725, agreement_high=0.975, answer_nll_low=0.9),
            make_weight_row("random, whole", **broken, **wide),
            make_weight_row("complement", density=0.00049, text_nll=math.nan),
        ]
    )


def attention_by_role() -> RenderableType:
    return attention_by_role_table(
        [
            make_head("a8.h6", model=(1.05, 0.9, 1.2), circuit=(2.345, 2.0, 2.8)),
            make_head("a7.h9", model=(0.5, 0.4, 0.7), circuit=(1234.5, 800.0, 2000.25)),
            make_head("a29.h10", model=(2.0, 1.5, 2.5), circuit=(0.5, 0.25, 0.75)),
            make_head("a0.h0", model=(math.nan, math.nan, math.nan), circuit=(math.nan, math.nan, math.nan)),
            make_head("a7.h9", model=(0.5, 0.4, 0.7), circuit=(0.5, 0.4, 0.7), wrong="[IO2]"),
        ]
    )


TABLES = (
    transfer,
    weights,
    rows,
    rows_in_spans,
    curve,
    knockouts,
    contributions,
    hypotheses,
    stability,
    attention_by_role,
    curves,
    pareto,
)


def printed(view: RenderableType, width: int = 80) -> str:
    console = Console(width=width, force_terminal=False)
    with console.capture() as capture:
        console.print(view)
    return capture.get()


@pytest.mark.parametrize("table", TABLES, ids=lambda table: str(table.__name__))
def test_a_table_is_printed_to_the_letter(table) -> None:
    width = 100 if table is curve else 80  # its circuits have longer names than usual
    assert printed(table(), width) == (GOLDEN / f"{table.__name__}.txt").read_text(encoding="utf-8")


def test_curves_of_ten_sizes_fit_80_columns() -> None:
    ten = dict.fromkeys((0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0), 0.25)
    text = printed(curves_table({"EAP": make_curve({"signed": ten, "absolute": ten})}))
    assert "…" not in text and ["EAP,", "signed", *["0.25"] * 10] in [line.split() for line in text.splitlines()]


def test_tables_name_the_measure_where_it_is_not_the_logit_difference() -> None:
    by_kl = make_curve({"signed": F})
    by_kl = replace(by_kl, rows=[replace(row, measure="kl") for row in by_kl.rows])
    for view in (curve_table(by_kl), curves_table({"EAP": by_kl}), rows_table(by_kl.rows)):
        assert "f by kl" in printed(view, 100)
    assert "mean kl of circuit" in printed(knockouts_table([Knockout((), 7.0, 7.5, 7.5, "kl")]), 100)
    names = [f"input->a{i}.h0<v>" for i in range(30)]
    parts = PartContributions(names, torch.linspace(1, -1, 30), torch.full((30,), 0.01), 0.97, "kl")
    assert "f 0.97 by kl" in " ".join(printed(contributions_table(parts)).split())


def test_where_no_circuit_is_better_than_the_empty_one_the_table_says_so() -> None:
    """Under one of two ablations; neither controls nor the whole model make a circuit of nothing one of something."""
    full, empty = make_row("full", "mean", 123211, 1.0, "val"), make_row("empty", "mean", 0, 0.0, "val")
    found = [make_row("1%", "mean", 10, 0.04, "val"), make_row("10%", "mean", 100, math.nan, "val")]
    control = make_row("1% complement", "mean", 900, 0.9, "val")
    other = make_row("1%", "zero", 10, 0.06, "val")
    said = "Under mean ablation no circuit is better than the empty one (f 0.04 at most)"
    text = " ".join(printed(rows_table([full, empty, *found, control, other])).split())
    assert said in text and "Under zero" not in text
    flat = {size: 0.01 if size < 1 else 1.0 for size in F}
    assert "no circuit is better than the empty one" in " ".join(
        printed(curve_table(make_curve({"signed": flat}))).split()
    )
    assert "no circuit is better" not in printed(curve_table(make_curve({"signed": F})))


@pytest.mark.parametrize("width", [50, 60, 80, 120])
def test_where_there_is_no_room_columns_are_left_out_and_no_number_is_cut(width: int) -> None:
    view = begin("Title", "caption")
    view.spare = ("seldom", "less")
    view.add_column("name", no_wrap=True)
    add_numbers(view, "most", "less", "seldom")
    numbers = [str(10**14 + number) for number in range(6)]
    view.add_row("one", *numbers[:3])
    view.add_section()
    view.add_row("two", *numbers[3:])
    sent = io.StringIO()
    Console(file=sent, width=width).print(view)
    said = sent.getvalue()
    assert max(map(len, said.splitlines())) <= width and "…" not in said
    assert [name in said.split("Not shown")[0] for name in ("seldom", "less", "most")] == [
        width >= 60, width >= 50, True,
    ]  # fmt: skip
    assert ("Not shown for width: seldom." in said) == (width == 50) and "caption" in said
    assert len(view.columns) == 4  # the table itself is as it was


def test_edges_at_all_tokens_are_not_counted_by_tokens_because_an_ablation_cuts_at_more_of_them() -> None:
    made = [
        replace(make_row(name, ablation, edges, 0.5, "val"), token_edges=edges * tokens)
        for ablation, tokens in (("interchange", 5.32), ("mean", 16.59))
        for name, edges in (("full", 479), ("empty", 0), ("5%", 23))
    ]
    assert [str(column.header) for column in rows_table(made).columns][1:3] == ["edges", "pruned"]
    placed = [replace(row, token_edges=1.5 * row.token_edges) if row.circuit == "5%" else row for row in made]
    assert [str(column.header) for column in rows_table(placed).columns][1:3] == ["edges", "token-edges"]


def test_a_folder_is_called_by_its_last_part_in_titles_too() -> None:
    curve = make_curve({"signed": F}, model="/home/somebody/models/smollm2-135m")
    assert str(curve_table(curve).title).startswith("EAP on smollm2-135m: ")
    assert "/home" not in printed(curves_table({"EAP": curve}))


def test_where_kl_is_the_distance_it_stands_there_once() -> None:
    points = pareto_points({"EAP": make_curve({"signed": F})}, "interchange", "edges", "kl")
    [heading] = [
        line.split() for line in printed(pareto_table({"t": points}, "edges", "kl")).splitlines() if "pruned" in line
    ]
    assert heading == ["edges", "pruned", "f", "KL", "accuracy", "run"]
