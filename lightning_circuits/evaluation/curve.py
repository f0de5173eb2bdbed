"""Faithfulness against size: what a ranking of edges is worth, measured on its circuits of many sizes.

One circuit is one point. A method that ranks edges gives a circuit of every size, and methods are compared by the whole
curve: how few edges are enough, and does it stay good as edges are added? A `Curve` holds the rows of
`evaluation.rows`, for each ablation and each ranking, beside those of random circuits of the same sizes,
and three numbers for each of its lines (`evaluation.metrics`):

| number     | what                                     | read it so                          |
|------------|------------------------------------------|-------------------------------------|
| `cpr`      | area under f, sizes linear               | high; but f > 1 is rewarded         |
| `cmd`      | area between f and 1, sizes linear       | low; what a comparison should go by |
| `log_area` | mean of f over the logarithm of the size | near 1: good from small circuits on |

`cpr` and `cmd` are half decided by what lies between 50 % and 100 % of the edges. MIB takes edges by their signed
scores for the first and by |score| for the second, hence a line for each ranking where the signs mean something.

A curve is saved as `curve.csv` (a line per circuit) and `curve.json`, which is read back and compared:

    >>> curve = Curve.load("runs/eap/curve.json")                                                # doctest: +SKIP
    >>> [(row.edges, row.faithfulness) for row in curve.points("interchange", "signed")]         # doctest: +SKIP
    [(32, 0.11), (64, 0.35), ...]
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from lightning_circuits.evaluation.metrics import cmd, cpr, log_area
from lightning_circuits.evaluation.rows import Row
from lightning_circuits.evaluation.smallest import Bound, clears
from lightning_circuits.files.atomic import write_atomically
from lightning_circuits.files.base import read_as, require_keys, require_texts
from lightning_circuits.files.numbers import from_json, to_csv, to_json
from lightning_circuits.files.plain_json import plain_data

Entry = TypeVar("Entry")

RANDOM = "random"
"""The ranking of random circuits."""


class CurvePlace(NamedTuple):
    """Where a circuit stands on a curve: by which ranking its edges were taken, and the share of edges asked for."""

    ranking: str
    share: float


@dataclass(frozen=True)
class CurveRow(Row):
    """A `Row`, and where it stands on a curve.

    ``ranking``: ``signed``, ``absolute`` or ``random``; None for the full model and the empty circuit. ``share``: the
    share of the edges that was asked for; NaN for these two. ``pruned``: whether it is the row of a circuit after
    pruning, under an ablation where that makes it another.
    """

    ranking: str | None
    share: float
    pruned: bool

    def to_dict(self) -> dict[str, Any]:
        fields = super().to_dict()
        place = {name: fields.pop(name) for name in ("ranking", "share", "pruned")}
        return fields | place  # which stands last in the files


@dataclass(frozen=True)
class CurveAreas:
    """One line of a curve in three numbers, NaN if f is undefined somewhere, and whether it overshoots at any size
    (see `Row.overshoot`)."""

    ablation: str
    ranking: str
    cpr: float
    cmd: float
    log_area: float
    overshoot: bool


@dataclass(frozen=True)
class Curve:
    """Circuits of many sizes of one method, model and split.

    ``rows``: one for each circuit and ablation. ``summary``: the areas, for each ablation and ranking. ``metadata``:
    plain JSON data on where the circuits come from.
    """

    method: str
    model: str
    split: str
    rows: list[CurveRow]
    summary: list[CurveAreas]
    metadata: dict[str, Any]

    @classmethod
    def of(
        cls, rows: Sequence[Row], places: Mapping[str, CurvePlace], method: str, model: str, metadata: Mapping[str, Any]
    ) -> Curve:
        """The curve of what `evaluation.evaluate` measured.

        Args:
            rows: of one split.
            places: of the circuits, by the name they were evaluated under; at least two sizes for each ranking.
            method: what the method is called.
            model: what the model is called.
            metadata: plain JSON data on where the circuits come from.
        """
        placed = []
        for row in rows:
            pruned = row.circuit not in places and row.circuit.endswith(" pruned")
            place = places.get(row.circuit.removesuffix(" pruned") if pruned else row.circuit)
            if pruned and place is not None and place.ranking == RANDOM:
                continue  # random circuits are there for their size
            ranking, share = (None, math.nan) if place is None else place
            placed.append(CurveRow(**vars(row), ranking=ranking, share=share, pruned=pruned))
        bare = cls(method, model, rows[0].split, placed, [], dict(metadata))
        summary = [bare._sum_up(ablation, ranking) for ablation in bare.ablations for ranking in bare.rankings]
        return cls(method, model, rows[0].split, placed, summary, dict(metadata))

    def _sum_up(self, ablation: str, ranking: str) -> CurveAreas:
        points = self.points(ablation, ranking)
        shares, f = [row.share for row in points], [row.faithfulness for row in points]
        areas = {area.__name__: float(area(shares, f)) for area in (cpr, cmd, log_area)}
        return CurveAreas(ablation, ranking, **areas, overshoot=any(row.overshoot for row in points))

    # ---- what is in it -----------------------------------------------------------------------------------------

    @property
    def ablations(self) -> list[str]:
        return list(dict.fromkeys(row.ablation for row in self.rows))

    @property
    def rankings(self) -> list[str]:
        """The method's own, then `RANDOM` if there are random circuits."""
        return list(dict.fromkeys(row.ranking for row in self.rows if row.ranking is not None))

    @property
    def shares(self) -> list[float]:
        """The sizes that were asked for, as shares of the edges, smallest first."""
        return sorted({row.share for row in self.rows if row.ranking is not None})

    def points(self, ablation: str, ranking: str) -> list[CurveRow]:
        """The rows of one line, smallest circuit first, as they were before pruning."""
        line = [row for row in self.rows if (row.ablation, row.ranking, row.pruned) == (ablation, ranking, False)]
        return sorted(line, key=lambda row: row.share)

    def smallest(
        self, f: float = 0.85, bound: Bound = "lower", ablation: str | None = None, ranking: str | None = None
    ) -> CurveRow | None:
        """The smallest circuit of a line that is as faithful as asked; None if none is.

        Only the sizes of the curve are looked at; `smallest.smallest_circuit` looks between them, by exact ablation.

        Args:
            f: what has to be cleared.
            bound: by what: the ``lower`` end of the 95 % interval, or the ``estimate``.
            ablation: whose line; default: the curve's first.
            ranking: the same; default: the method's first.
        """
        line = self.points(ablation or self.ablations[0], ranking or self.rankings[0])
        return next((row for row in line if clears(row, f, bound)), None)

    def reference(self, ablation: str, circuit: str) -> CurveRow:
        """The row of the ``full`` model or the ``empty`` circuit."""
        return next(row for row in self.rows if (row.ablation, row.circuit) == (ablation, circuit))

    def areas(self, ablation: str, ranking: str) -> CurveAreas:
        """The entry of the summary for one line."""
        return next(areas for areas in self.summary if (areas.ablation, areas.ranking) == (ablation, ranking))

    @property
    def prompts(self) -> int:
        return self.rows[0].prompts

    @property
    def measure(self) -> str:
        """What faithfulness is of, by name."""
        return self.rows[0].measure

    @property
    def n_edges(self) -> int:
        """How many edges the model has."""
        return self.reference(self.ablations[0], "full").edges

    # ---- out and in --------------------------------------------------------------------------------------------

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON data, as `load` reads it back; a number that does not exist becomes None."""
        rows = [row.to_dict() for row in self.rows]
        return {**vars(self), "rows": rows, "summary": [to_json(asdict(areas)) for areas in self.summary]}

    def save(self, folder: Path, stem: str = "curve") -> list[Path]:
        """Write ``stem.csv`` and ``stem.json``, each whole and then moved into its place; gives their paths.

        A number that does not exist is left empty in the one, and null in the other.
        """
        fields = self.to_dict()
        content = {"csv": to_csv(fields["rows"]), "json": json.dumps(fields, indent=1, allow_nan=False) + "\n"}
        paths = [folder / f"{stem}.{suffix}" for suffix in content]
        for path, text in zip(paths, content.values(), strict=True):
            write_atomically(path, text.encode())
        return paths

    @classmethod
    def load(cls, path: Path) -> Curve:
        """Read ``curve.json``.

        Raises:
            FileNotFoundError: no such file.
            ValueError: not JSON, or not the JSON of a curve (see `from_dict`).
        """
        return read_as("curve", path, cls.from_dict)

    @classmethod
    def from_dict(cls, content: Any) -> Curve:
        """The curve that `to_dict` was made of.

        Args:
            content: what stands in a file; anything.

        Raises:
            ValueError: something is missing, of another type, or contradicts the rest (which row is said).
        """
        require_keys(content, *cls.__dataclass_fields__)
        require_texts(content, "method", "model", "split")
        rows = _entries(CurveRow, content, "rows")
        for number, row in enumerate(rows):
            if row.split != content["split"]:
                raise ValueError(
                    f"entry {number} of its 'rows' is of the split {row.split!r}, not {content['split']!r}"
                )
            if row.measure != rows[0].measure:
                raise ValueError(f"entry {number} of its 'rows' is by {row.measure!r}, not by {rows[0].measure!r}")
            if row.ranking is not None and not 0 <= row.share <= 1:
                raise ValueError(f"entry {number} of its 'rows' has the share {row.share}, not one from 0 to 1")
        curve = cls(
            method=content["method"],
            model=content["model"],
            split=content["split"],
            rows=rows,
            summary=_entries(CurveAreas, content, "summary"),
            metadata=plain_data(content["metadata"]),
        )
        for ablation in curve.ablations:
            for what, found in (
                ("full", [row for row in rows if (row.ablation, row.circuit) == (ablation, "full")]),
                ("empty", [row for row in rows if (row.ablation, row.circuit) == (ablation, "empty")]),
                *((ranking, curve.points(ablation, ranking)) for ranking in curve.rankings),
            ):
                if not found:
                    raise ValueError(f"its 'rows' have none of {what!r} under {ablation!r} ablation")
            for ranking in curve.rankings:
                if not any((areas.ablation, areas.ranking) == (ablation, ranking) for areas in curve.summary):
                    raise ValueError(f"its 'summary' lacks the ranking {ranking!r} under {ablation!r} ablation")
        return curve


def _entries(kind: type[Entry], content: Mapping[str, Any], part: str) -> list[Entry]:
    """A list of a file, typed."""
    if not isinstance(content[part], list) or not content[part]:
        raise ValueError(f"its {part!r} are no list, or an empty one")
    found = []
    for number, entry in enumerate(content[part]):
        try:
            found.append(from_json(kind, entry))
        except ValueError as error:
            raise ValueError(f"entry {number} of its {part!r}: {error}") from error
    return found
