"""Names come from files, and are data: whatever they are, nothing that prints or draws breaks or obeys them."""

from __future__ import annotations

import ast
import html
import importlib
import inspect
import json
import pkgutil
import re
import warnings
import xml.etree.ElementTree as ET
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from matplotlib.figure import Figure
from matplotlib.text import Text
from rich.console import Console, RenderableType

import lightning_circuits.drawing
from lightning_circuits.circuit import Circuit
from lightning_circuits.commands.compare import main as compare
from lightning_circuits.commands.view import main as view
from lightning_circuits.drawing import tables, text_tables
from lightning_circuits.drawing.attention import patterns_figure
from lightning_circuits.drawing.attention_by_role import attention_by_role_figure
from lightning_circuits.drawing.circuit import circuit_figure
from lightning_circuits.drawing.curves import curve_figure, pareto_figure
from lightning_circuits.drawing.formation import formation_figure
from lightning_circuits.drawing.page import page_html
from lightning_circuits.drawing.path_patching import path_patching_figure
from lightning_circuits.drawing.style import save
from lightning_circuits.drawing.task_check import check_table
from lightning_circuits.drawing.transfer import matrix_figure, scatter_figure, transfer_markdown
from lightning_circuits.evaluation.attention import Patterns
from lightning_circuits.evaluation.attention_by_role import HeadAttention
from lightning_circuits.evaluation.comparison import comparable, lines_of, pareto_points
from lightning_circuits.evaluation.completeness import Knockout, PartContributions
from lightning_circuits.evaluation.curve import Curve
from lightning_circuits.evaluation.hypotheses import HypothesisReport, HypothesisVerdict
from lightning_circuits.evaluation.metrics import Estimate
from lightning_circuits.evaluation.path_patching import PathEffect
from lightning_circuits.evaluation.stability import Stability
from lightning_circuits.evaluation.task_check import PromptCheck, TaskCheck
from lightning_circuits.layout import Layout
from lightning_circuits.printable import printable
from tests.support.made_attention import make_head
from tests.support.made_curves import F, make_curve, make_row
from tests.support.made_formation import make_formation
from tests.support.made_transfer import make_transfer
from tests.support.made_weights import make_weight_row

LAYOUT = Layout(2, 2, 8)
NAMES = (
    "[/red]",
    "[link=https://evil.example]x[/link] :smile:",
    "\x1b[31mred\x1b]8;;https://evil.example\x1b\\x\x9b2J",
    "two\nlines\r\b\x00\x7f\u2028",
    "a\u202eb\u2066c\u200bd",  # turned around, isolated, of no width
    r"$\frac{",
    "_private",
    "\ud800 \udfff",  # halves of characters
    "x" * 20_000,
    '</script><script>alert(1)</script>"\\',
)


def told(name: str) -> str:
    """The console's output for everything that is printed under a name, at two widths and in colour."""
    output = ""
    for table in TABLES.values():
        for options in ({"width": 80}, {"width": 200, "force_terminal": True, "color_system": "truecolor"}):
            console = Console(**options)
            with console.capture() as capture:
                console.print(table(name))
            output += capture.get()
    return output


def curve(name: str) -> Curve:
    made = make_curve({"signed": F}, method=name, model=name, split=name, ablations=(name, "zero"))
    return Curve.from_dict(json.loads(json.dumps(made.to_dict())))


def patterns(name: str) -> Patterns:
    heads, spans = torch.eye(3).expand(1, 1, 3, 3), torch.tensor([[0, 1, 1]])
    return Patterns(["a0.h0"], heads, heads, torch.arange(3)[None], torch.ones(1, 3), spans, ("S2", name))


TABLES: dict[str, Callable[[str], RenderableType]] = {
    "check_table": lambda name: check_table(
        TaskCheck(8, 0.5, 1.0, 0.9, 1, 3.0, 0.1, 4, 0, 0, {name: 8}, (PromptCheck(name, name, 0.5, 1, ((name, 0.5),)),))
    ),
    "rows_table": lambda name: tables.rows_table([make_row(name, name, 10, 0.5, name)]),
    "curve_table": lambda name: tables.curve_table(curve(name)),
    "curves_table": lambda name: tables.curves_table({name: curve(name), f"{name} b": curve(name)}),
    "pareto_table": lambda name: tables.pareto_table(
        {name: pareto_points({name: curve(name)}, name, "edges", "kl")}, "edges", "kl"
    ),
    "knockouts_table": lambda name: tables.knockouts_table([Knockout((name, name), 1.0, 1.0, 1.0)]),
    "contributions_table": lambda name: tables.contributions_table(
        PartContributions([name], torch.ones(1), torch.ones(1), 0.9)
    ),
    "hypotheses_table": lambda name: tables.hypotheses_table(
        HypothesisReport(
            [HypothesisVerdict(name, name, 0.5, 12, 0.1, 0.1, True)],  # type: ignore[arg-type]
            0.05,
            name,
            torch.arange(3),
            torch.ones(3),
            torch.ones(3),
        )
    ),
    "attention_by_role_table": lambda name: tables.attention_by_role_table([head(name)]),
    "weights_table": lambda name: tables.weights_table([make_weight_row(name, rest=name, split=name)]),
    "transfer_table": lambda name: tables.transfer_table(make_transfer([name, "b"], ablations=[name])),
    "stability_table": lambda name: tables.stability_table([Stability(0.6, 0.1, 0.5, 0.7, 12, 12.0, 0.1)]),
}
FIGURES: dict[str, Callable[[str], Figure]] = {
    "curve_figure": lambda name: curve_figure({name: curve(name), f"{name} b": curve(name)}, ("faithfulness", "kl")),
    "pareto_figure": lambda name: pareto_figure(
        {name: pareto_points({name: curve(name)}, name, "share", "kl")}, "share", "kl", name, 1000
    ),
    "matrix_figure": lambda name: matrix_figure(make_transfer([name, "b"], ablations=[name])),
    "scatter_figure": lambda name: scatter_figure(make_transfer([name, "b"], ablations=[name])),
    "path_patching_figure": lambda name: path_patching_figure(
        [PathEffect("a0.h0", "logits", name, Estimate(1.0, 0.5, 1.5), 2.0, name, name, False, name, 8)]
    ),
    "formation_figure": lambda name: formation_figure(make_formation({name: 10}, name=name, method=name, model=name)),
    "circuit_figure": lambda name: circuit_figure(in_spans(name)),
    "attention_by_role_figure": lambda name: attention_by_role_figure([head(name)]),
    "patterns_figure": lambda name: patterns_figure(patterns(name), SimpleNamespace(decode=lambda ids: name)),
}


def head(name: str) -> HeadAttention:
    return make_head(name, model=(0.5, 0.4, 0.7), circuit=(4.0, 3.0, 5.0), wrong=name)


def circuit(name: str) -> Circuit:
    said = dict.fromkeys(("method", "model", "ablation", "split", "ranking", name), name)
    return Circuit(LAYOUT, torch.ones(LAYOUT.n_edges, dtype=torch.bool), None, {**said, "nested": {name: [name]}})


def in_spans(name: str) -> Circuit:
    """Spans of whatever name a layout takes, and an example prompt of any."""
    own = printable(name, longest=300).replace("@", "").replace("->", "")
    placed = circuit(name).in_spans(["S2", own])
    return replace(placed, metadata={**placed.metadata, "example": {"S2": name, own: name, name: name}})


hostile = pytest.mark.parametrize("name", NAMES, ids=range(len(NAMES)))


def test_every_table_and_figure_is_tried() -> None:
    """A new one has to come into the lists above."""
    modules = [
        importlib.import_module(f"lightning_circuits.drawing.{found.name}")
        for found in pkgutil.iter_modules(lightning_circuits.drawing.__path__)
    ]
    names = {name for module in modules for name, _ in inspect.getmembers(module, inspect.isfunction)}
    assert {name for name in names if name.endswith("_table")} == set(TABLES)
    assert {name for name in names if name.endswith("_figure") and name != "save_figure"} == set(FIGURES)


def test_tables_are_made_in_one_place() -> None:
    """rich reads markup in a plain cell: so only `drawing.text_tables` knows its tables, where cells are text."""
    package = Path(lightning_circuits.drawing.__file__).parents[1]
    knows = {
        path.name
        for folder in (package, package.parent / "callbacks")
        for path in folder.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ImportFrom) and node.module == "rich.table"
    }
    assert knows == {"text_tables.py"}
    made = [node for node in ast.walk(ast.parse(inspect.getsource(text_tables))) if isinstance(node, ast.Call)]
    assert [node for node in made if getattr(node.func, "id", None) == "Table"] == []


@hostile
def test_tables_print_text(name: str) -> None:
    output = told(name)
    styled = re.sub(r"\x1b\[[0-9;]*m", "", output)  # bold and the like, which rich puts there itself
    assert styled.replace("\n", "").isprintable()
    assert "\x1b]8;" not in output and "\x1b[31m" not in output  # no link, no colour of the name's own
    assert len(output) < 400_000
    if len(name) < 20:
        assert printable(name) in styled


@hostile
@pytest.mark.parametrize("draw", FIGURES.values(), ids=FIGURES)
def test_figures_draw_text(tmp_path: Path, draw: Callable[[str], Figure], name: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        figure = draw(name)
        figure.canvas.draw()
        [path] = save(figure, tmp_path / "figure", (".svg",))
    for text in figure.findobj(Text):
        shown = text.get_text()
        assert all(line.isprintable() for line in shown.split("\n")) and len(shown) < 400
        assert not text.get_parse_math() or "$" not in shown
    svg = ET.parse(path)
    words = "".join("".join(node.itertext()) for node in svg.iter() if node.tag.endswith("text"))
    assert len(name) > 20 or printable(name) in words
    assert not any(node.tag.endswith("}script") or "href" in "".join(node.attrib) for node in svg.iter("script"))


@hostile
def test_pages_and_graphs_hold_text(tmp_path: Path, name: str) -> None:
    placed = in_spans(name)
    assert page_html(placed, names=[name]).count("<script") == 3
    page = page_html(circuit(name), circuit(name), names=[name, name])
    assert page.count("<script") == 3 and page.count("</script") == 3  # data, library, script
    [title] = re.findall("<title>(.*?)</title>", page, re.DOTALL)
    assert html.unescape(title).isprintable() and len(title) < 400
    [text] = re.findall(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)
    assert json.loads(text)["circuits"][0]["metadata"]["method"] == json.loads(json.dumps(name))
    page.encode()  # what is no character is escaped
    assert circuit(name).save(tmp_path / "c.dot").read_text().isascii()
    ET.parse(circuit(name).save(tmp_path / "c.graphml"))
    assert Circuit.load(placed.save(tmp_path / "placed.json")) == placed
    for suffix in (".json", ".pt", ".safetensors"):
        assert Circuit.load(circuit(name).save(tmp_path / f"c{suffix}")).metadata == circuit(name).metadata


@hostile
def test_the_commands_show_text(
    tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / re.sub(r"[/\x00]", "", name)[:80].encode("utf-8", "replace").decode()
    folder.mkdir()
    monkeypatch.chdir(folder)
    for number, method in enumerate((name, "EAP")):
        made = make_curve({"signed": F}, method=method, ablations=(name,), metadata={"data": {name: number}})
        made.save(tmp_path, f"curve-{number}")
        (folder / str(number)).mkdir()
        made.save(folder / str(number))
    for options in ([], ["--pareto"]):
        compare([str(folder), "--output", str(folder), *options])
    circuit(name).save(folder / "c.json")
    view(["c.json", "--output", str(folder / "c.html")])
    view(["c.json", "--output", str(folder / "c.svg")])
    printed = capsys.readouterr()
    assert (printed.out + printed.err).replace("\n", "").isprintable()
    assert "Written:" in printed.out and (folder / "compare.csv").read_text() and (folder / "pareto.csv").read_text()


@hostile
def test_markdown_holds_text(name: str) -> None:
    text = transfer_markdown(make_transfer([name, "b"], ablations=[name]))
    assert text.replace("\n", "").isprintable() and len(text) < 20_000


def test_notes_of_a_comparison_are_text() -> None:
    one, other = (make_curve({"signed": F}, prompts=prompts, metadata={"data": {"x": NAMES[2]}}) for prompts in (3, 4))
    assert lines_of({NAMES[2]: one}) and all(comparable({NAMES[2]: one, "b": other}))
