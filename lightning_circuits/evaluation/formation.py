"""How a circuit forms while a model is trained: what was found at some training steps, beside each other.

A `CircuitProbe` looks at the circuits of a model in training, again and again. Here are its looks as one thing, to be
saved, read back and drawn:

| question                         | answer                                                                     |
|----------------------------------|----------------------------------------------------------------------------|
| when can the model do the task?  | `rows("full")`                                                             |
| when is a circuit of 1 % enough? | `rows("1%")`                                                               |
| when is it the final one?        | `overlaps("1%")`: edges in common with that, and of as many drawn          |
| which heads and MLPs carry it?   | `edges_at("1%")`: how many of its edges begin or end at each               |

    >>> formation = Formation.load("runs/formation.json")                                        # doctest: +SKIP
    >>> [(row.accuracy, row.faithfulness) for row in formation.rows("1%")]                       # doctest: +SKIP
    [(0.0, nan), (0.31, 0.42), (0.97, 0.88), ...]
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lightning_circuits.circuit import Circuit
from lightning_circuits.evaluation.overlap import Overlap, overlap
from lightning_circuits.evaluation.rows import REFERENCES, Row
from lightning_circuits.files.atomic import write_atomically
from lightning_circuits.files.base import MOST_EDGES, layout_of, read_as, require_keys, require_texts
from lightning_circuits.files.numbers import LARGEST, from_json, to_json
from lightning_circuits.files.plain_json import plain_data
from lightning_circuits.layout import Layout
from lightning_circuits.nodes import reader_nodes


@dataclass(frozen=True)
class Moment:
    """What was found after some training step.

    ``rows``: the circuits by exact ablation under one ablation, full and empty model included. ``members``: by the
    names of their sizes, which edges are in the circuit, bool ``[n_edges]``.
    """

    step: int
    rows: Sequence[Row]
    members: Mapping[str, Tensor]

    def row(self, circuit: str) -> Row:
        """The row of a circuit, of ``full`` or of ``empty``."""
        return next(row for row in self.rows if row.circuit == circuit)


@dataclass(frozen=True)
class Formation:
    """Circuits of a model at several steps of its training, found and judged in one way.

    ``method``: that found them, by name. ``model``: what was trained. ``faithfulness``: that was asked of a circuit to
    be enough. ``moments``: at least one, by step. ``metadata``: how the circuits were found, plain JSON data.

    Raises:
        ValueError: no moment; steps that do not rise; moments with other sizes than the first, without a row for one of
            them, or with members that are not of the layout.
    """

    method: str
    model: str
    layout: Layout
    faithfulness: float
    moments: Sequence[Moment]
    metadata: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.moments:
            raise ValueError("there is no moment of the training at which circuits were looked at")
        for before, after in pairwise(self.moments):
            if after.step <= before.step:
                raise ValueError(f"the moment of step {after.step} comes after that of step {before.step}")
        for moment in self.moments:
            where = f"the moment of step {moment.step}"
            if not moment.members or moment.members.keys() != self.moments[0].members.keys():
                sizes = (", ".join(map(repr, one.members)) or "no size" for one in (moment, self.moments[0]))
                raise ValueError(f"{where} has circuits of {next(sizes)}, the first one of {next(sizes)}")
            there = {row.circuit for row in moment.rows}
            if missing := [name for name in (*REFERENCES, *moment.members) if name not in there]:
                raise ValueError(f"{where} has no row for {missing[0]!r}")
            for members in moment.members.values():
                self.layout.check(members)

    # ---- what is asked -----------------------------------------------------------------------------------------

    @property
    def steps(self) -> list[int]:
        """At which training steps circuits were looked at."""
        return [moment.step for moment in self.moments]

    @property
    def sizes(self) -> list[str]:
        """The names of the sizes of the circuits."""
        return list(self.moments[0].members)

    def enough(self) -> str:
        """The size to look at: the smallest that is faithful enough in the end; if none is, the largest."""
        by_size = sorted(self.sizes, key=lambda size: self.moments[-1].row(size).edges)
        reached = [size for size in by_size if self.moments[-1].row(size).faithfulness >= self.faithfulness]
        return reached[0] if reached else by_size[-1]

    def require_size(self, size: str) -> str:
        """Refuse a size that was not looked at.

        Raises:
            ValueError: it was not.
        """
        if size not in self.sizes:
            raise ValueError(f"no circuit of {size!r} was looked at, but of {', '.join(self.sizes)}")
        return size

    def rows(self, circuit: str) -> list[Row]:
        """The rows of a size, of ``full`` or of ``empty``, one for each moment."""
        return [moment.row(circuit) for moment in self.moments]

    def overlaps(self, size: str) -> list[Overlap | None]:
        """What the circuit of each moment has in common with the final one, beside circuits of as many edges that are
        drawn at random; None where one of them has no edge."""
        circuits = [Circuit(self.layout, moment.members[self.require_size(size)]) for moment in self.moments]
        last = circuits[-1]
        return [overlap(one, last) if one.n_edges and last.n_edges else None for one in circuits]

    def edges_at(self, size: str) -> Tensor:
        """int64 ``[n_moments, n_writers]``: how many edges of the circuit begin or end at the input, each head and MLP.

        One into a key or value that a group of heads shares ends at all of them.
        """
        layout = self.layout
        readers, nodes = reader_nodes(layout)
        found = torch.zeros(len(self.moments), layout.n_nodes, dtype=torch.int64)
        for row, moment in zip(found, self.moments, strict=True):
            edges = moment.members[self.require_size(size)].nonzero()[:, 0]
            row += torch.bincount(layout.edge_writer[edges], minlength=layout.n_nodes)
            into = torch.bincount(layout.edge_reader[edges], minlength=layout.n_readers)
            row.index_add_(0, nodes, into[readers])
        return found[:, : layout.n_writers]

    # ---- out and in --------------------------------------------------------------------------------------------

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON data, as `load` reads it back: members as flat indices of edges; None for what is NaN."""
        return {
            "method": self.method,
            "model": self.model,
            "layout": self.layout.to_dict(),
            "faithfulness": self.faithfulness,
            "moments": [
                {
                    "step": moment.step,
                    "rows": [to_json(asdict(row)) for row in moment.rows],
                    "members": {size: each.nonzero()[:, 0].tolist() for size, each in moment.members.items()},
                }
                for moment in self.moments
            ],
            "metadata": dict(self.metadata),
        }

    def save(self, path: Path) -> Path:
        """Write a JSON file, whole and then moved into its place; gives its path."""
        write_atomically(path, (json.dumps(self.to_dict(), allow_nan=False) + "\n").encode())
        return path

    @classmethod
    def load(cls, path: str | Path) -> Formation:
        """Read ``formation.json``.

        Raises:
            FileNotFoundError: no such file.
            ValueError: not JSON, or not the JSON of a formation (see `from_dict`).
        """
        return read_as("formation", Path(path), cls.from_dict)

    @classmethod
    def from_dict(cls, content: Any) -> Formation:
        """The formation that `to_dict` was made of.

        Args:
            content: what stands in a file; anything.

        Raises:
            ValueError: something is missing, of another type, or contradicts the rest (which moment is said).
        """
        require_keys(content, *cls.__dataclass_fields__)
        require_texts(content, "method", "model")
        if type(asked := content["faithfulness"]) not in (int, float) or not math.isfinite(asked):
            raise ValueError(f"its 'faithfulness' is {asked!r}, not a number")
        if not isinstance(content["moments"], list):
            raise ValueError("its 'moments' are no list")
        layout, moments = layout_of(content["layout"]), []
        for number, entry in enumerate(content["moments"]):
            try:
                moments.append(_moment(entry, layout))
            except ValueError as error:
                raise ValueError(f"entry {number} of its 'moments': {error}") from error
        return cls(content["method"], content["model"], layout, asked, moments, plain_data(content["metadata"]))


def _moment(entry: Any, layout: Layout) -> Moment:
    require_keys(entry, *Moment.__dataclass_fields__)
    if type(entry["step"]) is not int or not 0 <= entry["step"] < LARGEST:
        raise ValueError(f"its 'step' is {entry['step']!r}, not a count")
    if not isinstance(entry["rows"], list) or not isinstance(entry["members"], Mapping):
        raise ValueError("its 'rows' are no list, or its 'members' no object")
    rows = [from_json(Row, row) for row in entry["rows"]]
    for row in rows:  # before anything of the layout's size is made
        if row.circuit == "full" and row.edges != layout.n_edges:
            raise ValueError(f"its full model has {row.edges:,} edges, and its layout {layout.n_edges:,}")
    if layout.n_edges > MOST_EDGES:
        raise ValueError(f"its layout has {layout.n_edges:,} edges, and no model has more than {MOST_EDGES:,}")
    members = {}
    for size, edges in entry["members"].items():
        whole = isinstance(edges, list) and all(type(edge) is int for edge in edges)
        if not whole or not all(0 <= edge < layout.n_edges for edge in edges):
            raise ValueError(
                f"its circuit of {size!r} is no list of edges, by numbers from 0 to {layout.n_edges - 1:,}"
            )
        members[size] = torch.zeros(layout.n_edges, dtype=torch.bool)
        members[size][edges] = True
    return Moment(entry["step"], rows, members)
