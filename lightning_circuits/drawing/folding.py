"""What of a circuit a figure shows: the strongest nodes as boxes of their own, all others by layers, in one box each.

A page has room for some thirty rows of a dozen boxes, and lines can be followed while there are few. So there are
levels of detail (`LEVELS`). The first is taken on which at most `LEFT_OUT` of what the edges are worth has no line, or
that on which it is least:

- the first has a box for every node. A row is a layer's heads, or its MLP; where that makes too many rows, neighbours
  share one, as long as no line goes from one of their boxes to another.
- on all others, nodes beyond the strongest are *folded*: those of the layers of a row stand in one box, unless it would
  hold one alone. Edges between the same two boxes are one line, a *bundle*; of all lines the `MAX_LINES` strongest are
  drawn.

Every edge is in a line, or inside of a row (from one of its folded nodes to another, or to a box beside it), or in a
line that is not drawn; `Plan` counts each.

Strength is |score|, and in a bundle the sum of it; without scores, the number of edges. The score of a learned gate
only says which gate is further open: there it is the distance from the lowest score, in a bundle the largest.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from lightning_circuits.circuit import Circuit, scores_are
from lightning_circuits.drawing.columns import Stand, in_columns

MAX_LINES = 240
"""So many lines are drawn at most: more cannot be followed."""
LEFT_OUT = 0.08
"""A level of detail will do if the edges that are in no line of it are worth no more than this share."""
LEVELS = ((None, 1.0), (60, 1.0), (45, 0.9), (32, 0.75), (24, 0.6), (16, 0.5))
"""Levels of detail: how many nodes keep a box of their own, and the share of the rows that there is room for."""


class Line(NamedTuple):
    """One line of a figure: the edges from one box to another; at a node of its own, those into one of its readers.

    ``reader``: ``q``, ``k``, ``v``, ``mlp`` or ``logits``; empty if the edges of a bundle end at several.
    """

    writer: Stand
    reads: Stand
    reader: str
    edges: tuple[str, ...]
    strength: float
    negative: bool


@dataclass(frozen=True)
class Plan:
    """What a figure shows, and what it does not.

    ``rows``: boxes by rows, from the bottom. A box is a node in a column, or, with a name that begins with ``+``, all
    folded nodes of a row in a column. ``layers``: of each row, its layers. ``folded``: for each box of folded nodes,
    their names. ``lines``: those drawn, the strongest first. ``inside``: edges that begin and end in one row.
    ``left_out``: lines that are not drawn. ``columns``: of each column, its spans.
    """

    rows: list[list[Stand]]
    layers: list[list[int]]
    nodes: Mapping[Stand, Mapping[str, Any]]
    folded: Mapping[Stand, list[Stand]]
    lines: list[Line]
    inside: list[Line]
    left_out: list[Line]
    columns: list[list[int]]

    @property
    def missing(self) -> float:
        """The share of what all edges are worth that no line stands for."""
        missing = sum(line.strength for line in [*self.inside, *self.left_out])
        return missing / (missing + sum(line.strength for line in self.lines) or 1.0)


def plan(circuit: Circuit, max_rows: int, max_boxes: Callable[[int], int]) -> Plan:
    """What a figure with room for so many rows and boxes shows of a circuit.

    Args:
        circuit: of any size.
        max_rows: with that of the input and that of the logits.
        max_boxes: for how many a row has room, of a figure with so many columns, in all of them together.
    """
    every, values = in_columns(circuit), _values(circuit)
    levels = []
    for n_kept, share in LEVELS:
        # A row may hold a box and one of folded nodes in each column.
        most = max(n for n in range(1, circuit.layout.n_spans + 1) if n == 1 or max_boxes(n) >= n * (1 + bool(n_kept)))
        graph, columns = _few_columns(every, values, circuit.layout.n_spans, most)
        kept = _strongest_first(graph, values, n_kept)
        level = _level(circuit, graph, values, columns, kept, int(share * max_rows), max_boxes(len(columns)))
        levels += [] if level is None else [level]
        if level is not None and level.missing <= LEFT_OUT:
            return level
    return min(levels, key=lambda level: level.missing)


def _strongest_first(graph: Any, values: Mapping[str, float], n: int | None) -> list[Stand]:
    """The input, the logits, and so many of the other nodes; all of them for None."""
    strength: dict[Stand, float] = defaultdict(float)
    for writer, reader, edge in graph.edges(data="edge"):
        strength[writer] += abs(values[edge])
        strength[reader] += abs(values[edge])
    ends = [stand for stand, node in graph.nodes(data=True) if node["kind"] in ("input", "logits")]
    ranked = sorted(set(graph) - set(ends), key=lambda stand: (-strength[stand], stand))
    return [*ends, *ranked[:n]]


def _values(circuit: Circuit) -> dict[str, float]:
    """What each edge is worth, by name: its score; for ranks, by how far it is above the lowest; 1 without scores."""
    names = circuit.edge_names()
    if circuit.scores is None:
        return dict.fromkeys(names, 1.0)
    scores = circuit.scores[circuit.members].double()
    if scores_are(circuit.metadata) == "ranks" and len(names):
        low, high = scores.min(), scores.max()
        scores = (scores - low) / (high - low) if high > low else scores.new_ones(len(names))
    return dict(zip(names, scores.tolist(), strict=True))


def _few_columns(graph: Any, values: Mapping[str, float], n_spans: int, most: int) -> tuple[Any, list[list[int]]]:
    """The graph with so many columns at most, and the spans of each: of more, the weakest share the last."""
    if n_spans <= most:
        return graph, [[span] for span in range(n_spans)]
    import networkx as nx

    worth: dict[int, float] = defaultdict(float)
    for writer, reader, edge in graph.edges(data="edge"):
        for span in {writer[1], reader[1]}:
            worth[span] += abs(values[edge])
    own = sorted(sorted(range(n_spans), key=lambda span: (-worth[span], span))[: most - 1])
    columns = [*([span] for span in own), [span for span in range(n_spans) if span not in own]]
    column = {span: i for i, spans in enumerate(columns) for span in spans}
    few = nx.MultiDiGraph()
    few.add_nodes_from(((name, column[span]), node) for (name, span), node in graph.nodes(data=True))
    few.add_edges_from(((w, column[s]), (r, column[t]), edge) for (w, s), (r, t), edge in graph.edges(data=True))
    return few, columns


def _level(
    circuit: Circuit,
    graph: Any,
    values: Mapping[str, float],
    columns: list[list[int]],
    kept: list[Stand],
    max_rows: int,
    max_boxes: int,
) -> Plan | None:
    """The plan with boxes for these nodes alone; None where they do not fit."""
    stage = {stand: _stage(node, circuit.layout.parallel) for stand, node in graph.nodes(data=True)}
    own = set(kept)
    room = _room(stage, own, len(columns), max_boxes)
    while (rows := _rows(graph, stage, own, room, max_rows)) is None:
        if len(kept) == len(graph):
            return None
        # The weakest of a chain that is longer than the page is high.
        weakest = next(stand for stand in reversed(kept) if stand in own)
        own.remove(weakest)

    starts = [min((stage[stand] for stand in row), default=0) for row in rows]
    box = {stand: stand for stand in own}
    together: dict[Stand, list[Stand]] = defaultdict(list)
    for stand in sorted(set(graph) - own, key=lambda stand: (stage[stand], stand)):
        at = min(max(bisect_right(starts, stage[stand]) - 1, 1), len(rows) - 2)
        together[f"+{at}", stand[1]].append(stand)
    for group, stands in together.items():
        # One alone takes no more room by its own name.
        shown = stands[0] if len(stands) == 1 else group
        box |= dict.fromkeys(stands, shown)
        rows[int(group[0][1:])].append(shown)
    folded = {group: stands for group, stands in together.items() if len(stands) > 1}
    row_of = {stand: at for at, row in enumerate(rows) for stand in row}

    lines = _lines(graph, values, box, ranks=scores_are(circuit.metadata) == "ranks")
    inside = [line for line in lines if row_of[line.writer] >= row_of[line.reads]]
    across = [line for line in lines if row_of[line.writer] < row_of[line.reads]]
    layers = [
        sorted({graph.nodes[node]["layer"] for stand in row for node in folded.get(stand, [stand])}) for row in rows
    ]
    return Plan(
        rows,
        layers,
        dict(graph.nodes(data=True)),
        folded,
        across[:MAX_LINES],
        inside,
        across[MAX_LINES:],
        columns,
    )


def _stage(node: Mapping[str, Any], parallel: bool) -> int:
    """Where a node stands in the order of the model: every edge goes to a later stage."""
    above = node["kind"] == "mlp" and not parallel
    return 2 * int(node["layer"]) + int(above)


def _room(stage: Mapping[Stand, int], own: Collection[Stand], n_columns: int, max_boxes: int) -> list[int]:
    """For how many boxes of their own each column has room: more where more stand side by side."""
    fold = 1 if len(own) < len(stage) else 0
    widest = [1] * n_columns
    for (_, column), n in Counter((stage[stand], stand[1]) for stand in own).items():
        widest[column] = max(widest[column], n)
    room = [1] * n_columns
    for _ in range(max_boxes - n_columns * (1 + fold)):
        most = max(range(n_columns), key=lambda column: widest[column] / room[column])
        room[most] += 1
    return room


def _rows(
    graph: Any, stage: Mapping[Stand, int], own: Collection[Stand], room: Sequence[int], max_rows: int
) -> list[list[Stand]] | None:
    """Boxes in rows, as few stages to a row as there is room for; None where even with all that can share one it is
    higher than the page."""
    by_stage: dict[int, list[Stand]] = defaultdict(list)
    for stand in sorted(own, key=lambda stand: _in_order(graph, stand)):
        by_stage[stage[stand]].append(stand)
    first, *middle, last = sorted(by_stage)
    middle = middle or [first + 1]
    for together in (1, 2, 3, 4, 6, 8, 12, 2 * len(middle) + 2):
        rows: list[list[Stand]] = []
        begins = 0
        for at in middle:
            parts = list(_parts(by_stage.get(at, []), room))
            shared = rows and len(parts) == 1 and at - begins < together
            if shared and _fit(rows[-1] + parts[0], room) and not _joined(graph, rows[-1], parts[0]):
                rows[-1] += parts[0]
            else:
                rows += parts
                begins = at
        if len(rows) + 2 <= max_rows:
            return [by_stage[first], *rows, by_stage[last]]
    return None


def _in_order(graph: Any, stand: Stand) -> tuple[int, int, str]:
    return stand[1], len(stand[0]), stand[0]


def _parts(stands: Sequence[Stand], room: Sequence[int]) -> Iterable[list[Stand]]:
    """The boxes of one stage in rows that have room for them, equally many in each."""
    counts = Counter(column for _, column in stands)
    n = max([1, *(-(-count // room[column]) for column, count in counts.items())])
    seen: Counter[int] = Counter()
    parts: list[list[Stand]] = [[] for _ in range(n)]
    for stand in stands:
        parts[seen[stand[1]] * n // counts[stand[1]]].append(stand)
        seen[stand[1]] += 1
    return parts


def _fit(stands: Sequence[Stand], room: Sequence[int]) -> bool:
    return all(n <= room[column] for column, n in Counter(column for _, column in stands).items())


def _joined(graph: Any, below: Sequence[Stand], above: Sequence[Stand]) -> bool:
    return any(graph.has_edge(writer, reader) for writer in below for reader in above)


def _lines(graph: Any, values: Mapping[str, float], box: Mapping[Stand, Stand], ranks: bool) -> list[Line]:
    """Edges by the boxes that they join, the strongest first."""
    single: dict[tuple[Stand, Stand, str], list[tuple[str, str]]] = defaultdict(list)
    for writer, reader, edge in graph.edges(data=True):
        ends = box[writer], box[reader]
        alone = ends == (writer, reader)
        single[ends[0], ends[1], edge["reader"] if alone else ""].append((edge["edge"], edge["reader"]))
    lines = []
    for (writer, reads, _), edges in single.items():
        readers = {reader for _, reader in edges}
        worth = [values[name] for name, _ in edges]
        strength = max(worth) if ranks else sum(map(abs, worth))
        reader = readers.pop() if len(readers) == 1 and not reads[0].startswith("+") else ""
        names = tuple(name for name, _ in edges)
        lines.append(Line(writer, reads, reader, names, strength, not ranks and sum(worth) < 0))
    return sorted(lines, key=lambda line: (-line.strength, line.writer, line.reads, line.reader))
