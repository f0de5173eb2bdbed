"""Results as `rich` tables: one function for each thing that is printed, all of them at most 80 columns wide.

    >>> rich.print(rows_table(evaluate(model, loader, {"1%": circuit}, ablations)))                    # doctest: +SKIP

What stands in them: `evaluation.rows`, `evaluation.curve`, `evaluation.completeness`, `evaluation.hypotheses`,
`evaluation.stability`, `evaluation.transfer`, `evaluation.attention_by_role`, `weights.judging`; several curves side by
side: `evaluation.comparison`.

Names in them come from files: text is text here (`text_tables`), whatever rich would make of it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from rich.console import Group, RenderableType
from rich.text import Text

from lightning_circuits.drawing.style import model_title
from lightning_circuits.drawing.text_tables import TextTable, add_numbers, begin, begin_section
from lightning_circuits.evaluation.attention_by_role import LEAST_ATTENTION, HeadAttention
from lightning_circuits.evaluation.comparison import ParetoPoint, Shown, Size, lines_of, measured_on
from lightning_circuits.evaluation.completeness import Knockout, PartContributions
from lightning_circuits.evaluation.curve import RANDOM, Curve, CurveAreas, CurveRow
from lightning_circuits.evaluation.hypotheses import HypothesisReport
from lightning_circuits.evaluation.metrics import Estimate
from lightning_circuits.evaluation.rows import CONTROLS, NOTHING, OVERSHOOT, REFERENCES, Row
from lightning_circuits.evaluation.stability import Stability
from lightning_circuits.evaluation.transfer import RANDOM as RANDOM_EDGES
from lightning_circuits.evaluation.transfer import Transfer, match_of
from lightning_circuits.measures import DEFAULT, by_measure
from lightning_circuits.printable import interval, number
from lightning_circuits.weights.judging import WeightRow

# ---- circuits --------------------------------------------------------------------------------------------------------


def rows_table(rows: Sequence[Row]) -> TextTable:
    """Rows of one split, a section for each ablation and measure. Quartiles, plain ratio: see `Row.to_dict`."""
    sizes, prompts = _Sizes(rows), {row.split: row.prompts for row in sorted(rows, key=lambda row: row.prompts)}
    some_fewer = any(row.prompts < prompts[row.split] for row in rows)
    splits = [f"{split} split, {'at most ' if some_fewer else ''}{most:,} prompts" for split, most in prompts.items()]
    view = begin(
        f"Circuits by exact ablation: {'; '.join(splits)}",
        *_nothing_found([row for row in rows if row.circuit not in REFERENCES and not row.circuit.endswith(CONTROLS)]),
        *sizes.caption,
        f"f: faithfulness (! overshoots, f > {OVERSHOOT:g}). KL from the full model in nats. Agreement with "
        "the full model where it is right / where it is wrong.",
    )
    view.spare = ("token-edges", "median f", "agreement")
    view.add_column("ablation", no_wrap=True)
    add_numbers(view, *sizes.names, *["prompts"] * some_fewer, "f", "median f", "KL", "accuracy", "agreement")
    section = None
    for row in rows:
        if section != (row.split, row.ablation, row.measure):
            section = (row.split, row.ablation, row.measure)
            begin_section(view, by_measure(row.ablation, row.measure, ", f by "))
        view.add_row(
            row.circuit,
            *sizes.cells(row),
            *[f"{row.prompts:,}"] * some_fewer,
            _faithfulness(row.faithfulness, row.overshoot),
            number(row.faithfulness_median, ".2f"),
            number(row.kl, ".3f"),
            number(row.accuracy, ".1%"),
            _agreement(row.agreement_when_right, row.agreement_when_wrong),
        )
    return view


def curve_table(curve: Curve) -> TextTable:
    """A curve, a section for each ablation, and the areas of each of its lines."""
    sizes = _Sizes(curve.rows)
    view = begin(
        f"{curve.method} on {model_title(curve.model)}: {measured_on({curve.method: curve})}",
        *_nothing_found([row for row in curve.rows if row.ranking not in (None, RANDOM)]),
        *map(_areas_in_words, curve.summary),
        *sizes.caption,
        f"f: faithfulness (! overshoots, f > {OVERSHOOT:g}), the 95 % interval of its bootstrap, and f of as many "
        "random edges. KL from the full model in nats. Agreement with it where it is right / wrong.",
    )
    view.caption_justify = "left"
    view.spare = ("token-edges", "agreement", "random f")
    view.add_column("circuit", no_wrap=True)
    add_numbers(view, *sizes.names, "f", "95 % of f", "random f", "KL", "accuracy", "agreement")
    for ablation in curve.ablations:
        begin_section(view, ablation)
        rows = [row for row in curve.rows if row.ablation == ablation]
        chance = {row.edges: row.faithfulness for row in rows if row.ranking == RANDOM}
        for row in (row for row in rows if row.ranking != RANDOM):
            view.add_row(
                row.circuit,
                *sizes.cells(row),
                _faithfulness(row.faithfulness, row.overshoot),
                interval(row.faithfulness_low, row.faithfulness_high),
                "" if row.pruned else number(chance.get(row.edges), ".2f"),
                number(row.kl, ".3f"),
                number(row.accuracy, ".1%"),
                _agreement(row.agreement_when_right, row.agreement_when_wrong),
            )
    return view


def _nothing_found(circuits: Sequence[Row]) -> list[str]:
    """What is to be said of each ablation under which no circuit, short of the whole model, comes near the model."""
    said = []
    for ablation in dict.fromkeys(row.ablation for row in circuits):
        found = [row.faithfulness for row in circuits if row.ablation == ablation and row.size < 1]
        found = [f for f in found if not math.isnan(f)]
        if found and (best := max(found)) < NOTHING:
            said.append(
                f"Under {ablation} ablation no circuit is better than the empty one (f {best:.2f} at most). Found "
                "under another ablation? Or not found yet: train longer, begin at an attribution (warm_start), ask for "
                "more edges."
            )
    return said


def _areas_in_words(areas: CurveAreas) -> str:
    return (
        f"{areas.ablation}, {areas.ranking}: CPR {number(areas.cpr, '.3f')}, CMD "
        f"{number(areas.cmd, '.3f')}, log-x area {number(areas.log_area, '.3f')}"
        + (", overshoots" if areas.overshoot else "")
    )


def weights_table(rows: Sequence[WeightRow]) -> TextTable:
    """Circuits of weights on one split, and the full model."""
    first = rows[0]
    view = begin(
        f"Circuits of weights, the rest {first.rest}: {first.split} split, {first.prompts:,} prompts, {first.lines:,} "
        "lines of text",
        "Agrees: how often it says what the full model says. Answers: their NLL, nats a prompt. Text: its NLL, nats a "
        "token. Beside each its 95 % interval.",
    )
    view.add_column("circuit", no_wrap=True)
    add_numbers(view, "density", "agrees", "95 %", "answers", "95 %", "text", "95 %")
    for row in rows:
        view.add_row(
            row.circuit,
            number(row.density, ".1%"),
            number(row.agreement, ".1%"),
            f"{number(100 * row.agreement_low, '.0f')}..{number(row.agreement_high, '.0%')}",
            number(row.answer_nll, ".2f"),
            interval(row.answer_nll_low, row.answer_nll_high),
            number(row.text_nll, ".2f"),
            interval(row.text_nll_low, row.text_nll_high),
        )
    return view


def transfer_table(found: Transfer) -> RenderableType:
    """Circuits on each other's tasks, a table for each ablation, in it a section for each data."""
    parts: list[RenderableType] = []
    for ablation in found.ablations:
        view = begin(f"Circuits on each other's tasks: {ablation} ablation, {found.measured_on}")
        view.add_column("circuit", overflow="fold")
        add_numbers(view, "edges", "pruned", "f", "95 % of f", "paths f", "KL", "accuracy")
        for data in found.data:
            begin_section(view, data)
            for name in (*REFERENCES, *found.circuits, RANDOM_EDGES):
                row, mine = found.row(data, name, ablation), name in found.circuits
                view.add_row(
                    f"{name} *" if name == data else name,
                    f"{row.edges:,}",
                    f"{row.edges_pruned:,}",
                    _faithfulness(row.faithfulness, row.overshoot),
                    interval(row.faithfulness_low, row.faithfulness_high),
                    number(found.row(data, match_of(name), ablation).faithfulness, ".2f") if mine else "",
                    number(row.kl, ".3f"),
                    number(row.accuracy, ".1%"),
                )
        parts.append(view)
    parts.append(
        Text(
            f"*: the circuit of these data. f: faithfulness (! overshoots, f > {OVERSHOOT:g}), the 95 % interval of "
            "its bootstrap, and f of random paths of as many edges. KL from the full model in nats."
        )
    )
    return Group(*parts)


# ---- several curves --------------------------------------------------------------------------------------------------


def curves_table(curves: Mapping[str, Curve]) -> RenderableType:
    """Curves side by side: for each ablation f, KL and accuracy at each size, and the areas.

    With ten sizes it takes 80 columns, names of methods up to 18 letters; longer ones are folded.
    """
    lines, first = lines_of(curves), next(iter(curves.values()))
    shares = sorted({share for curve in curves.values() for share in curve.shares})
    parts: list[RenderableType] = []
    for ablation in first.ablations:
        view = begin(f"{model_title(first.model)}, {ablation} ablation: {measured_on(curves)}")
        view.add_column("share of edges", overflow="fold")
        add_numbers(view, *(f"{100 * share:.3g}%" for share in shares))
        for key, title in (("faithfulness", "faithfulness f"), ("kl", "KL"), ("accuracy", "accuracy")):
            begin_section(view, title)
            for name, line in lines.items():
                points = {row.share: row for row in line.curve.points(ablation, line.ranking)}
                view.add_row(name, *(_cell(points[share], key) if share in points else "" for share in shares))
        parts.append(view)
    areas = begin("Areas")
    areas.add_column("", overflow="fold")
    areas.add_column("ablation", no_wrap=True)
    add_numbers(areas, "CPR", "CMD", "log-x area", "f > 1")
    for ablation in first.ablations:
        areas.add_section()
        for name, line in lines.items():
            entry = line.curve.areas(ablation, line.ranking)
            values = [number(value, ".3f") for value in (entry.cpr, entry.cmd, entry.log_area)]
            areas.add_row(name, ablation, *values, "yes!" if entry.overshoot else "no")
    parts.append(areas)
    parts.append(
        Text(
            f"! overshoots, f > {OVERSHOOT:g}. KL from the full model in nats. CPR: area under f, which rewards "
            "overshoot; CMD: area of |1 - f|, low is good; log-x area: mean of f over log size, 1 is best."
        )
    )
    return Group(*parts)


def _cell(row: CurveRow, key: str) -> str:
    """At most six letters."""
    if key == "faithfulness":
        return _faithfulness(row.faithfulness, row.overshoot)
    if key == "kl":
        return number(row.kl, ".3f" if row.kl < 10 else ".1f")
    return number(row.accuracy, ".0%")


def pareto_table(panels: Mapping[str, Sequence[ParetoPoint]], x: Size, y: Shown) -> RenderableType:
    """The circuits on the front, smallest first, a table for each panel (see `curves.pareto_figure`)."""
    head = {"faithfulness": ["|1 - f|"], "kl": [], "accuracy": ["1 - acc."]}[y]  # KL stands among the others
    parts = []
    for title, points in panels.items():
        view = begin(f"Pareto front, {title}", f"the best of {len(points):,} circuits")
        add_numbers(view, x, "pruned", *head, "f", "KL", "accuracy")
        view.add_column("run", overflow="fold")
        for point in sorted((point for point in points if point.front), key=lambda point: point.size):
            view.add_row(
                f"{100 * point.size:.3g}%" if x == "share" else f"{point.size:,.0f}",
                f"{point.row.edges_pruned:,}",
                *[number(point.distance, ".3f")] * len(head),
                _faithfulness(point.row.faithfulness, point.row.overshoot),
                number(point.row.kl, ".3f"),
                number(point.row.accuracy, ".1%"),
                f" {point.label}, {point.row.circuit}",
            )
        parts.append(view)
    return Group(*parts)


# ---- tests of a circuit ----------------------------------------------------------------------------------------------


def knockouts_table(knockouts: Sequence[Knockout]) -> TextTable:
    """Knock-outs, the worst first."""
    measures = " and ".join({knockout.measure: None for knockout in knockouts} or [DEFAULT]).replace("_", " ")
    view = begin(
        f"Completeness over {len(knockouts)} knock-outs K",
        f"F(C - K), F(M - K): mean {measures} of circuit and model without K. Gap: the incompleteness "
        f"|F(C - K) - F(M - K)|, also as a share of F(M) - F(empty).",
    )
    view.add_column("K", no_wrap=True, max_width=30, overflow="ellipsis")
    add_numbers(view, "parts", "F(C - K)", "F(M - K)", "gap", "share")
    for knockout in sorted(knockouts, key=lambda knockout: -knockout.incompleteness):
        view.add_row(
            " ".join(knockout.parts) or "(nothing)",
            str(len(knockout.parts)),
            f"{knockout.circuit:.2f}",
            f"{knockout.full:.2f}",
            f"{knockout.incompleteness:.2f}",
            f"{knockout.relative_incompleteness:.0%}",
        )
    return view


def contributions_table(found: PartContributions, n: int = 10) -> TextTable:
    """The n parts that contribute most and the n that contribute least."""
    order = found.values.sort(descending=True, stable=True).indices.tolist()
    rows = order if len(order) <= 2 * n else order[:n] + order[-n:]
    view = begin(
        by_measure(f"{len(found.parts):,} parts of a circuit, f {found.faithfulness:.2f}", found.measure),
        "Faithfulness lost when the part alone is cut, and its standard error.",
    )
    view.add_column("part", no_wrap=True)
    add_numbers(view, "contribution", "error")
    for place, row in enumerate(rows):
        if place == n and len(rows) < len(order):
            view.add_section()
        view.add_row(found.parts[row], f"{float(found.values[row]):+.3f}", f"{float(found.errors[row]):.3f}")
    return view


def hypotheses_table(report: HypothesisReport) -> TextTable:
    """The verdicts of `hypotheses.examine`."""
    view = begin(
        by_measure(f"A circuit put to the test, {report.ablation} ablation", report.measure, ", by "),
        f"p: adjusted by Holm over the tests, minimality's by Bonferroni over its {len(report.edges):,} edges "
        f"before. A claim stands if it is not rejected at {report.alpha:g} (first three), or if its contrary is (last "
        "two).",
    )
    view.add_column("test", no_wrap=True)
    view.add_column("claim", no_wrap=True)
    add_numbers(view, "statistic", "n", "p", "stands")
    for verdict in report.verdicts:
        view.add_row(
            verdict.test,
            verdict.claim,
            f"{verdict.statistic:.3g}",
            f"{verdict.n:,}",
            f"{verdict.adjusted:.2g}",
            "yes" if verdict.holds else "no",
        )
    return view


def stability_table(found: Sequence[Stability]) -> TextTable:
    """How alike circuits are, a row for each size."""
    view = begin(
        "Stability: how alike are two of the circuits?",
        "Jaccard index (edges in both over edges in either) over all pairs; chance: of random circuits.",
    )
    add_numbers(view, "edges", "circuits", "Jaccard", "std", "lowest", "highest", "chance")
    for row in found:
        numbers = (row.mean, row.std, row.lowest, row.highest, row.chance)
        view.add_row(f"{row.edges:,.0f}", f"{row.circuits:,}", *(f"{value:.2f}" for value in numbers))
    return view


# ---- where heads look ------------------------------------------------------------------------------------------------


def attention_by_role_table(rows: Sequence[HeadAttention]) -> RenderableType:
    """Heads in the order in which they are given, a table for each question (see `HeadAttention.question`)."""
    parts: list[RenderableType] = []
    for question in dict.fromkeys(row.question for row in rows):
        view = begin(f"Attention from {question}")
        view.add_column("head", no_wrap=True)
        add_numbers(view, "in model", "95 %", "in circuit", "95 %", "", "f right", "f wrong")
        for row in (row for row in rows if row.question == question):
            model, circuit = row.model_ratio, row.circuit_ratio
            view.add_row(
                row.head,
                number(model.value, ".2f"),
                _interval(model),
                number(circuit.value, ".2f"),
                _interval(circuit),
                (" >" if circuit.value > 1 else " <") if row.changes_sides else "",
                number(row.faithfulness_right.value, ".2f"),
                number(row.faithfulness_wrong.value, ".2f"),
            )
        parts.append(view)
    parts.append(
        Text(
            "Attention to the right role over that to the wrong one, with 95 % intervals; > and <: the head changes "
            "sides. f: functional faithfulness, attention to a role in the circuit over that in the model. -: both "
            f"are below {LEAST_ATTENTION:g}."
        )
    )
    return Group(*parts)


def _interval(estimate: Estimate) -> str:
    return "" if math.isnan(estimate.value) else interval(estimate.low, estimate.high)


# ---- what several of them show --------------------------------------------------------------------------------------


class _Sizes:
    """Which numbers say how large the circuits of a table are: beside their edges, how many are left after pruning or,
    where an edge is open at more tokens than another, the token-edges. Both have no room in 80 columns.

    At how many tokens any edge is open depends on the ablation and the prompts, so rows of the same are compared.
    """

    def __init__(self, rows: Sequence[Row]) -> None:
        tokens: dict[tuple[str, str, int], list[float]] = {}
        for row in rows:
            if row.edges and not math.isnan(row.token_edges):
                tokens.setdefault((row.split, row.ablation, row.prompts), []).append(row.token_edges / row.edges)
        self.in_tokens = any(max(alike) > min(alike) * (1 + 1e-6) for alike in tokens.values())
        self.names = ("edges", "token-edges" if self.in_tokens else "pruned")
        words = "Token-edges: each edge once for every token at which it is open and may be cut to some effect."
        self.caption = (words,) if self.in_tokens else ()

    def cells(self, row: Row) -> tuple[str, str]:
        return f"{row.edges:,}", number(row.token_edges if self.in_tokens else row.edges_pruned, ",.0f")


def _faithfulness(value: float | None, overshoot: bool) -> str:
    return number(value, ".2f") + ("!" if overshoot else " ")


def _agreement(when_right: float | None, when_wrong: float | None) -> str:
    return f"{number(when_right, '.0%')} / {number(when_wrong, '.0%')}"
