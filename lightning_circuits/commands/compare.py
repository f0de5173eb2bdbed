"""Several methods side by side: one table and one figure of the curves that their runs have left behind.

    lightning-circuits compare runs/eap runs/eap_ig runs/edge_pruning --output figures
    lightning-circuits compare runs/sweep --pareto --y kl          # what nothing betters, over all runs of a sweep
    lightning-circuits compare runs/eap my-team/circuits/3k9qv0xz  # a run logged to Weights & Biases

What is a run: `commands.runs`. What may be compared: `evaluation.comparison`; what makes a comparison less than fair
(other prompts, other sizes) is said below the table.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import get_args

from lightning_circuits.commands.errors import Parser
from lightning_circuits.commands.runs import find_curves, name_curves
from lightning_circuits.drawing.curves import curve_figure, pareto_figure
from lightning_circuits.drawing.style import save
from lightning_circuits.drawing.tables import curves_table, pareto_table
from lightning_circuits.drawing.text_tables import console, note
from lightning_circuits.evaluation.comparison import (
    Shown,
    Size,
    comparable,
    lines_of,
    measured_on,
    pareto_points,
    shared_part,
)
from lightning_circuits.files.atomic import write_atomically
from lightning_circuits.files.numbers import to_csv
from lightning_circuits.printable import printable


def main(args: Sequence[str]) -> None:
    """`lightning-circuits compare`.

    Args:
        args: the words after it.

    Raises:
        ValueError, OSError: nothing to compare, or what should not be compared (see `comparable`).
        SystemExit: with code 2 for options that are none, 0 after `--help`.
    """
    parser = Parser(
        prog="lightning-circuits compare",
        description="One table and one figure (PNG, SVG, CSV) of the faithfulness curves of several runs.",
    )
    parser.add_argument("runs", nargs="+", help="folders of runs, curve.json files, or W&B runs as entity/project/id")
    parser.add_argument("--output", type=Path, default=Path("."), help="the folder to write to (default: here)")
    parser.add_argument("--x", choices=get_args(Size), default="share", help="how edges are counted")
    parser.add_argument("--y", choices=get_args(Shown), default="faithfulness", help="what the figure shows")
    parser.add_argument("--split", help="which split (default: test where all runs have it, else val)")
    parser.add_argument(
        "--pareto", action="store_true", help="instead: size against distance, and the circuits that nothing betters"
    )
    options = parser.parse_args(args)

    curves = name_curves(find_curves(options.runs, options.split))
    notes = comparable(curves, options.x)
    curves = shared_part(curves)
    first = next(iter(curves.values()))
    options.output.mkdir(parents=True, exist_ok=True)
    terminal = console()
    if options.pareto:
        panels = {
            f"{ablation} ablation, {measured_on(curves)}": pareto_points(curves, ablation, options.x, options.y)
            for ablation in first.ablations
        }
        figure = pareto_figure(panels, options.x, options.y, first.model, first.n_edges)
        rows = [point.to_dict() for points in panels.values() for point in points]
        terminal.print(pareto_table(panels, options.x, options.y))
    else:
        figure = curve_figure(curves, (options.y,), options.x)
        rows = [
            {"line": name, "method": line.curve.method, **row.to_dict()}
            for name, line in lines_of(curves).items()
            for ablation in line.curve.ablations
            for row in line.curve.points(ablation, line.ranking)
        ]
        terminal.print(curves_table(curves))
    for each in notes:
        terminal.print(note(each))
    stem = options.output / ("pareto" if options.pareto else "compare")
    paths = save(figure, stem)
    paths.append(stem.with_name(f"{stem.name}.csv"))
    write_atomically(paths[-1], to_csv(rows).encode())
    print("Written:", *(f"  {printable(path)}" for path in paths), sep="\n")
