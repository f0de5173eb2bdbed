"""What is written over and under the figure of a circuit: where it comes from, and what of it is drawn."""

from __future__ import annotations

from lightning_circuits.circuit import Circuit, scores_are
from lightning_circuits.drawing.folding import Line, Plan
from lightning_circuits.drawing.style import label, model_title


def title(circuit: Circuit) -> str:
    """Method, model and ablation, as far as the circuit says them."""
    said = circuit.metadata
    parts = [label(said["method"])] if "method" in said else []
    parts += [model_title(str(said["model"]))] if "model" in said else []
    parts += [f"{label(said['ablation'])} ablation"] if "ablation" in said else []
    return ", ".join(parts)


def caption(circuit: Circuit, shown: Plan) -> list[str]:
    """How large the circuit is, what of it is in bundles and in no line, and how lines are read, line by line."""
    lines = [f"{circuit.n_edges:,} of {circuit.layout.n_edges:,} edges ({100 * circuit.size:.3g}%)"]
    if shown.folded:
        most = max(map(len, shown.folded.values()))
        n = sum(map(len, shown.folded.values()))
        nodes = "nodes in columns" if circuit.layout.spans else "nodes"
        lines.append(
            f"dashed: {n:,} of {len(shown.nodes):,} {nodes}, by layers; +{most}: {most} heads and MLPs in one box"
        )
    bundles = [line for line in shown.lines if len(line.edges) > 1]
    if bundles:
        lines.append(f"{_edges(bundles):,} edges are in {len(bundles):,} bundles, a line for all from box to box")
    parts = []
    if shown.left_out:
        parts.append(f"{_edges(shown.left_out):,} edges of the {len(shown.left_out):,} weakest lines")
    if shown.inside:
        parts.append(f"{_edges(shown.inside):,} edges inside of a row")
    if parts:
        effects = circuit.scores is not None and scores_are(circuit.metadata) == "effects"
        worth = f" ({100 * shown.missing:.2g}% of the sum of |score|)" if effects else ""
        lines.append(f"not drawn: {' and '.join(parts)}{worth}")
    if circuit.scores is not None:
        drawn = f"line width: {_score(circuit)}"
        if bundles:
            drawn += ", of a bundle the " + ("highest" if scores_are(circuit.metadata) == "ranks" else "sum")
        lines.append(drawn + ("; dashed lines: negative score" if any(line.negative for line in shown.lines) else ""))
    elif bundles:
        lines.append("line width: number of edges")
    lines.append("at heads from the left: query, key, value" + ("; of several: the middle" if bundles else ""))
    if circuit.layout.spans:
        lines.append("from column to column: a key or value, read where the line begins, by a head that looks there")
    return lines


def _score(circuit: Circuit) -> str:
    return "score, from the lowest to the highest" if scores_are(circuit.metadata) == "ranks" else "|score|"


def _edges(lines: list[Line]) -> int:
    return len({edge for line in lines for edge in line.edges})
