"""Look at a circuit that was saved: an interactive page, or a figure for a paper.

    lightning-circuits view runs/ioi/circuit-last-1pct.json                           # writes circuit-last-1pct.html
    lightning-circuits view a.json b.json --output both.html                          # what two circuits share
    lightning-circuits view circuit.json --curve runs/ioi/curve.json --output page.html
    lightning-circuits view circuit.json --output circuit.pdf                         # or .svg, .png

The page is one file that needs no network (`drawing.page`); figures: `drawing.circuit`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from lightning_circuits.circuit import Circuit
from lightning_circuits.commands.errors import Parser
from lightning_circuits.drawing.circuit import save_figure
from lightning_circuits.drawing.page import save_page
from lightning_circuits.drawing.style import SUFFIXES
from lightning_circuits.printable import printable


def main(args: Sequence[str]) -> None:
    """`lightning-circuits view`.

    Args:
        args: the words after it.

    Raises:
        ValueError, OSError: a file that is no circuit, two circuits of different layouts or for one figure.
        SystemExit: with code 2 for options that are none, 0 after `--help`.
    """
    parser = Parser(
        prog="lightning-circuits view",
        description="An interactive page (.html) of one circuit or two, or a figure (.svg, .pdf, .png) of one.",
    )
    parser.add_argument("circuits", nargs="+", type=Path, metavar="CIRCUIT", help="a .json, .pt or .safetensors file")
    parser.add_argument("--output", type=Path, help="the file to write (default: named like the circuit, .html)")
    parser.add_argument("--curve", type=Path, help="the curve.json of the circuit, for the faithfulness at each size")
    parser.add_argument("--other-curve", type=Path, help="the same of the second circuit")
    options = parser.parse_args(args)

    if len(options.circuits) > 2:
        raise ValueError(f"a page shows one circuit or two, got {len(options.circuits)}")
    circuits = [Circuit.load(path) for path in options.circuits]
    output = options.output or Path(options.circuits[0].with_suffix(".html").name)
    if output.suffix in SUFFIXES:
        if len(circuits) > 1:
            raise ValueError(f"a figure shows one circuit; two side by side are a page: --output {output.stem}.html")
        save_figure(circuits[0], output)
    else:
        names = [path.stem for path in options.circuits] if len(circuits) > 1 else None
        other = circuits[1] if len(circuits) > 1 else None
        save_page(circuits[0], output, other, curve=options.curve, other_curve=options.other_curve, names=names)
    print(f"Written:\n  {printable(output)}")
