"""Where boxes stand and lines run in a figure of rows: few crossings, and no line behind a box that it does not reach.

The method of Sugiyama, Tagawa and Toda (IEEE Trans. SMC 11(2), 1981): a line that passes a row has a place in it, as
a box has, but narrow. All lines that leave one box pass a row in the same place, so they run together and part where
they have to. Rows are put in order by the means of what their items are joined with, upward and downward in turn, and
the order with the fewest crossings is kept; then every item goes as near to that mean as its neighbours let it (least
squares under a fixed order: pools of adjacent violators).

Items of a column stay in it: they are put in order within. Where a line goes from one column to another, its places are
in the columns between.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np

SWEEPS = 12
"""How often rows are put in order, upward and downward."""
CENTRED = 0.04
"""How strongly the middle of a column draws all that stands in it; the two ends of a line draw with 0.15 to 1.15."""


class Item(NamedTuple):
    """A box (``row`` is -1), or the place where lines of a box pass a row: those that end in the column ``to``."""

    box: Hashable
    row: int = -1
    to: int = -1


@dataclass(frozen=True)
class Routes:
    """``x``: the middles of all items; ``columns``: where each column begins and ends."""

    x: dict[Item, float]
    columns: list[tuple[float, float]]


def routes(
    rows: Sequence[Sequence[Hashable]],
    column_of: Mapping[Any, int],
    links: Mapping[tuple[Any, Any], float],
    widths: tuple[float, float],
    room: float,
    between: float,
    least: float,
) -> Routes:
    """Places for boxes and lines.

    Args:
        rows: boxes, from the bottom.
        column_of: in which column a box stands.
        links: lines, each from a box to one in a higher row, and how thick it is: a thick one bends less.
        widths: of a box with the gap beside it, and of the place of a line beside its own thickness; places shrink
            where there is no room.
        room: how wide all columns may be together, with what is between them.
        between: two columns.
        least: how wide a column is at least.
    """
    row_of = {box: at for at, row in enumerate(rows) for box in row}
    n_columns = max(column_of.values()) + 1
    items: list[list[Item]] = [[Item(box) for box in row] for row in rows]
    column = {Item(box): at for box, at in column_of.items()}
    highest: dict[tuple[Hashable, int], int] = {}
    for writer, reader in links:
        trunk = writer, column_of[reader]
        highest[trunk] = max(highest.get(trunk, -1), row_of[reader])
    thick: dict[Item, float] = defaultdict(float)
    for (box, to), top in highest.items():
        for row in range(row_of[box] + 1, top):
            share = (row - row_of[box]) / (top - row_of[box])
            place = Item(box, row, to)
            column[place] = round(column_of[box] + share * (to - column_of[box]))
            items[row].append(place)
    joined: dict[Item, dict[Item, float]] = defaultdict(dict)
    for (writer, reader), thickness in links.items():
        items_of_line = way(writer, reader, row_of, column_of)
        for low, high in pairwise(items_of_line):
            joined[low][high] = joined[high][low] = max(thickness, joined[low].get(high, 0.0))
        for place in items_of_line[1:-1]:
            thick[place] = max(thick[place], thickness)
    level = {item: at for at, row in enumerate(items) for item in row}
    up = {item: [other for other in joined[item] if level[other] > level[item]] for item in level}
    down = {item: [other for other in joined[item] if level[other] < level[item]] for item in level}
    for neighbours in (up, down):
        for others in neighbours.values():
            others.sort(key=lambda item: (level[item], str(item)))

    items = _in_order(items, column, up, down)
    size, columns = _columns(items, column, n_columns, thick, widths, room, between, least)
    x = _straight(items, column, columns, joined, size)
    return Routes(x, columns)


def way(writer: Hashable, reader: Hashable, row_of: Mapping[Any, int], column_of: Mapping[Any, int]) -> list[Item]:
    """What a line goes through: its box, a place in each row between, the box where it ends."""
    between = [Item(writer, row, column_of[reader]) for row in range(row_of[writer] + 1, row_of[reader])]
    return [Item(writer), *between, Item(reader)]


def _in_order(
    rows: list[list[Item]],
    column: Mapping[Item, int],
    up: Mapping[Item, list[Item]],
    down: Mapping[Item, list[Item]],
) -> list[list[Item]]:
    """Every row put in order by the means of its neighbours; of all orders seen, that with the fewest crossings."""
    rows = [sorted(row, key=column.__getitem__) for row in rows]
    best, fewest = rows, _crossings(rows, up)
    for sweep in range(SWEEPS):
        neighbours = down if sweep % 2 == 0 else up
        place = {item: (i + 0.5) / len(row) for row in rows for i, item in enumerate(row)}
        order = range(len(rows)) if sweep % 2 == 0 else range(len(rows) - 1, -1, -1)
        rows = list(rows)
        for at in order:
            mean = {
                item: sum(place[other] for other in neighbours[item]) / len(neighbours[item])
                if neighbours[item]
                else place[item]
                for item in rows[at]
            }
            rows[at] = sorted(rows[at], key=lambda item: (column[item], mean[item]))
            place.update({item: (i + 0.5) / len(rows[at]) for i, item in enumerate(rows[at])})
        if (crossings := _crossings(rows, up)) < fewest:
            best, fewest = rows, crossings
    return best


def _crossings(rows: Sequence[Sequence[Item]], up: Mapping[Item, list[Item]]) -> int:
    """How many pairs of lines cross between rows."""
    total = 0
    for low, high in pairwise(rows):
        above = {item: i for i, item in enumerate(high)}
        ends = np.array([(i, above[other]) for i, item in enumerate(low) for other in up[item]]).reshape(-1, 2)
        before = ends[:, None, 0] < ends[None, :, 0]
        total += int((before & (ends[:, None, 1] > ends[None, :, 1])).sum())
    return total


def _columns(
    rows: Sequence[Sequence[Item]],
    column: Mapping[Item, int],
    n_columns: int,
    thick: Mapping[Item, float],
    widths: tuple[float, float],
    room: float,
    between: float,
    least: float,
) -> tuple[dict[Item, float], list[tuple[float, float]]]:
    """How wide items are, and the columns: each as wide as its fullest row."""
    boxes, places = np.zeros((len(rows), n_columns)), np.zeros((len(rows), n_columns))
    for at, row in enumerate(rows):
        for item in row:
            if item.row < 0:
                boxes[at, column[item]] += widths[0]
            else:
                places[at, column[item]] += thick[item] + widths[1]
    free, share = room - (n_columns - 1) * between, 1.0

    def needed(share: float) -> np.ndarray:
        return np.maximum((boxes + share * places).max(0), least)

    while needed(share).sum() > free and share > 1e-4:
        share *= 0.8
    edges, start = [], 0.0
    for width in needed(share):
        edges.append((start, start + float(width)))
        start += float(width) + between
    size = {item: widths[0] if item.row < 0 else share * (thick[item] + widths[1]) for row in rows for item in row}
    return size, edges


def _straight(
    rows: Sequence[Sequence[Item]],
    column: Mapping[Item, int],
    columns: Sequence[tuple[float, float]],
    joined: Mapping[Item, Mapping[Item, float]],
    size: Mapping[Item, float],
) -> dict[Item, float]:
    """The middles of all items: as near to the mean of their neighbours as the order and the columns let them."""
    x: dict[Item, float] = {}
    parts = []  # the items of a row in one column
    for row in rows:
        for at, (left, right) in enumerate(columns):
            part = [item for item in row if column[item] == at]
            if part:
                parts.append((part, left, right))
                x.update(_apart(part, [(left + right) / 2] * len(part), [1.0] * len(part), left, right, size))
    thickest = max((w for others in joined.values() for w in others.values()), default=1.0) or 1.0
    pulls = {
        item: [(other, 0.15 + joined[item][other] / thickest) for other in sorted(joined.get(item, ()), key=str)]
        for item in x
    }
    # A long line that bends is seen as several: its places give way less than boxes do.
    firm = {item: 1.0 if item.row < 0 else 2.0 + 10.0 * max(pull for _, pull in pulls[item]) for item in x}
    for sweep in range(4 * SWEEPS):
        for part, left, right in parts if sweep % 2 == 0 else reversed(parts):
            wanted = [_mean([(x[other], pull) for other, pull in pulls[item]], (left + right) / 2) for item in part]
            x.update(_apart(part, wanted, [firm[item] for item in part], left, right, size))
    return x


def _mean(pulls: Sequence[tuple[float, float]], middle: float) -> float:
    """The weighted mean of neighbours, drawn a little to the middle, from where all would lean to one side."""
    pulls = [*pulls, (middle, CENTRED)]
    return sum(x * weight for x, weight in pulls) / sum(weight for _, weight in pulls)


def _apart(
    part: Sequence[Item],
    wanted: Sequence[float],
    weights: Sequence[float],
    left: float,
    right: float,
    size: Mapping[Item, float],
) -> dict[Item, float]:
    """Items in this order, none nearer to the next than their widths, the weighted squares of their moves least."""
    width = np.array([size[item] for item in part])
    ends = np.cumsum(width)
    offset = ends - width / 2  # of the middles, where all stand side by side
    pools: list[tuple[float, float, int]] = []  # mean, weight, how many
    for value, weight in zip(np.asarray(wanted) - offset, weights, strict=True):
        pools.append((float(value), weight, 1))
        while len(pools) > 1 and pools[-2][0] > pools[-1][0]:
            (a, wa, na), (b, wb, nb) = pools[-2:]
            pools[-2:] = [((wa * a + wb * b) / (wa + wb), wa + wb, na + nb)]
    starts = np.concatenate([[mean] * n for mean, _, n in pools])
    starts = np.clip(starts, left, max(left, right - ends[-1]))
    return {item: float(at) for item, at in zip(part, starts + offset, strict=True)}
