"""Circuits on each other's tasks: what of the behaviour of one does the circuit of another keep?

Two circuits may share most of their heads and do nothing for each other's task (Hanna et al. 2024), or one may do for
a whole family of tasks. `transfer` runs every circuit on the prompts of every task by exact ablation, a matrix with the
data in its rows and the circuits in its columns, and holds it against what the circuits share (`overlap`).

A figure in the matrix is compared with controls, which are columns beside the circuits:

| column    | what it is                                                                                            |
|-----------|-------------------------------------------------------------------------------------------------------|
| `random`  | edges drawn evenly, as many as the largest circuit has: what is mostly called a random circuit        |
| `a paths` | the match of circuit `a`: random paths, as many edges as `a` has once it is pruned                    |

Few edges that are drawn evenly lie on any way from the input to the logits, which makes `random` a weak control: of
2 % of SmolLM2-135M's edges it keeps a fifth after pruning, found circuits nearly all.

A circuit and data of the same name belong together: there the circuit is on its own task. Of any other data that have
a circuit of their own, a circuit makes a *pair*: what the two circuits share beside what the one does on the task of
the other. The rank correlation over the pairs says whether overlap foretells transfer. Pairs of the same circuits are
not independent, so it comes without a p-value.

    >>> found = transfer(model, {"ioi": a, "capital": b}, {"ioi": loader, "capital": other})       # doctest: +SKIP
    >>> found.row("ioi", "capital").faithfulness, found.row("ioi", "capital paths").faithfulness   # doctest: +SKIP
    (0.06, 0.01)
    >>> rich.print(transfer_table(found))                                   # drawing.tables       # doctest: +SKIP
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from typing import Any, NamedTuple

import torch

from lightning_circuits.ablation import ABLATIONS, Ablation
from lightning_circuits.arguments import require_seed
from lightning_circuits.batch import Batch
from lightning_circuits.circuit import Circuit, ComparedBy
from lightning_circuits.evaluation.agreement import spearman_rho
from lightning_circuits.evaluation.overlap import Null, Overlap, overlap
from lightning_circuits.evaluation.random_circuits import paths_like
from lightning_circuits.evaluation.rows import Row, evaluate
from lightning_circuits.files.numbers import to_json
from lightning_circuits.measures import DEFAULT, MEASURES, AnyMeasure, by_measure
from lightning_circuits.models import CircuitModel

RANDOM = "random"
"""The column of edges drawn evenly."""
EXACT_NULLS: tuple[Null, ...] = ("size", "layer")
"""What overlaps are held against: the nulls that are known without drawing."""
SHARED: tuple[ComparedBy, ...] = ("nodes", "edges")
"""What circuits may have in common."""


def match_of(circuit: str) -> str:
    """The column of a circuit's match: random paths."""
    return f"{circuit} paths"


@dataclass(frozen=True)
class TransferRow(Row):
    """A `Row`, and whose prompts it was measured on: a cell of the matrix."""

    data: str

    def to_dict(self) -> dict[str, Any]:
        return {"data": self.data, **super().to_dict()}


class SharedPart(NamedTuple):
    """What the circuits of two names have in common."""

    a: str
    b: str
    overlap: Overlap

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON data."""
        return {"a": self.a, "b": self.b, **self.overlap.to_dict()}


class TransferPair(NamedTuple):
    """A circuit on another's task, and what it has in common with that other."""

    row: TransferRow
    overlap: Overlap


@dataclass(frozen=True)
class TransferCorrelation:
    """Whether overlap foretells transfer: Spearman's rho of f, over so many ``pairs``, with the IoU of what is
    shared (``iou``) and with how many standard deviations that lies above the null (``z``). NaN where either is the
    same in all pairs, as the overlap is of two circuits, or does not exist in one."""

    ablation: str
    of: str
    null: str
    pairs: int
    iou: float
    z: float


@dataclass(frozen=True)
class Transfer:
    """The matrix and what the circuits share.

    ``circuits`` and ``data``: the names of columns and rows, in the order in which they were given. ``rows``: for each
    data and ablation those of the full model, of the empty circuit, of each circuit, then of the controls (see the
    module); under an ablation where pruning makes another circuit, of the pruned ones too (see `evaluation.rows`).
    ``shared``: for each two circuits their nodes and edges in common, against each of `EXACT_NULLS`.
    """

    circuits: list[str]
    data: list[str]
    ablations: list[str]
    rows: list[TransferRow]
    shared: list[SharedPart]

    @property
    def controls(self) -> list[str]:
        """The columns that are compared with."""
        return [RANDOM, *map(match_of, self.circuits)]

    @property
    def measure(self) -> str:
        """What faithfulness is of, by name."""
        return self.rows[0].measure

    @property
    def measured_on(self) -> str:
        """The split, how many prompts the data have, and by which measure where that is not the default, in words."""
        prompts = sorted({row.prompts for row in self.rows})
        number = f"{prompts[0]:,}" if len(prompts) == 1 else f"{prompts[0]:,} to {prompts[-1]:,}"
        return by_measure(f"{self.rows[0].split} split, {number} prompts", self.measure, ", f by ")

    def row(self, data: str, circuit: str, ablation: str | None = None) -> TransferRow:
        """One cell; default: under the first ablation."""
        of = (data, circuit, ablation or self.ablations[0])
        return next(row for row in self.rows if (row.data, row.circuit, row.ablation) == of)

    def pairs(self, ablation: str, of: ComparedBy, null: Null) -> list[TransferPair]:
        """Every circuit on the data of every other circuit."""
        between = {
            frozenset((part.a, part.b)): part.overlap
            for part in self.shared
            if (part.overlap.of, part.overlap.null) == (of, null)
        }
        return [
            TransferPair(self.row(data, circuit, ablation), between[frozenset((data, circuit))])
            for data in self.data
            for circuit in self.circuits
            if data in self.circuits and data != circuit
        ]

    def correlation(self, ablation: str, of: ComparedBy, null: Null) -> TransferCorrelation:
        """Whether overlap foretells transfer, over all pairs."""
        pairs = self.pairs(ablation, of, null)
        f, iou, z = (
            torch.tensor(values, dtype=torch.float64)
            for values in (
                [pair.row.faithfulness for pair in pairs],
                [pair.overlap.iou for pair in pairs],
                [pair.overlap.z for pair in pairs],
            )
        )
        return TransferCorrelation(ablation, of, null, len(pairs), spearman_rho(iou, f), spearman_rho(z, f))

    @property
    def correlations(self) -> list[TransferCorrelation]:
        """Those of all ablations, of nodes and of edges, against all nulls."""
        return [
            self.correlation(ablation, of, null) for ablation in self.ablations for of in SHARED for null in EXACT_NULLS
        ]

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON data: every number; one that does not exist is None."""
        return {
            "circuits": self.circuits,
            "data": self.data,
            "ablations": self.ablations,
            "rows": [row.to_dict() for row in self.rows],
            "shared": [part.to_dict() for part in self.shared],
            "correlations": [to_json(asdict(each)) for each in self.correlations],
        }


def transfer(
    model: CircuitModel,
    circuits: Mapping[str, Circuit],
    data: Mapping[str, Iterable[Batch]],
    ablations: Sequence[Ablation | str] = ("interchange",),
    split: str = "val",
    seed: int = 0,
    references: Mapping[str, Iterable[Batch]] | None = None,
    measure: AnyMeasure = DEFAULT,
) -> Transfer:
    """Judge every circuit, and its controls, on the prompts of every task. One pass over each.

    Args:
        model: the frozen model; batches are moved to its device.
        circuits: by name, of the model's layout.
        data: by name, the held-out prompts of each task. Those of a circuit's own task have the circuit's name.
        ablations: what cut edges carry: objects or names.
        split: what the prompts are called in the rows.
        seed: of the random circuits.
        references: by the names of the data, what ablations that need data, such as the mean, are fitted on before
            each row of the matrix; the prompts are then gone through twice. Default: they are fitted already, and the
            same for all data.
        measure: what faithfulness is of (see `evaluate`).

    Raises:
        ValueError: no circuit, or no data; a circuit of another layout, one that has no path from the input to the
            logits, or one called like another column; no batches; an unknown ablation or measure; no reference for some
            data, or for one of their prompts.
    """
    require_seed(seed)
    measure = MEASURES.make(measure, "measure")
    made = [ABLATIONS.make(ablation, "ablation") for ablation in ablations]
    if not (circuits and data and made):
        raise ValueError("transfer is of at least one circuit, on the prompts of one task, under one ablation")
    if references is not None:
        if missing := [name for name in data if name not in references]:
            raise ValueError(f"ablations are to be fitted on a reference for each data, and {missing[0]!r} have none")
        for name, batches in data.items():
            for ablation in made:
                ablation.require_known(references[name] if ablation.needs_data else (), batches)
    columns = _columns(model, circuits, seed)
    shared = [
        SharedPart(a, b, overlap(circuits[a], circuits[b], of, null))
        for a, b in combinations(circuits, 2)
        for of in SHARED
        for null in EXACT_NULLS
    ]
    rows = []
    for name, batches in data.items():
        if references is not None:
            for ablation in made:
                ablation.fit(model, references[name] if ablation.needs_data else ())
        found = evaluate(model, batches, columns, made, split, seed, controls=False, measure=measure)
        rows += [TransferRow(**vars(row), data=name) for row in found]
    return Transfer(list(circuits), list(data), [ablation.name for ablation in made], rows, shared)


def _columns(model: CircuitModel, circuits: Mapping[str, Circuit], seed: int) -> dict[str, Circuit]:
    """The circuits and their controls, by the names of their columns."""
    generator = torch.Generator().manual_seed(seed)
    matches = {}
    for name, circuit in circuits.items():
        pruned = circuit.of_model(model.layout, f"circuit {name!r}").prune()
        if not pruned.n_edges:
            raise ValueError(
                f"circuit {name!r} has no path from the input to the logits, so that it does nothing on any task "
                f"({circuit.n_edges:,} edges, none after pruning)"
            )
        matches[match_of(name)] = paths_like(pruned, generator)
    largest = max(circuits.values(), key=lambda circuit: circuit.n_edges)
    controls = {RANDOM: largest.rival(seed), **matches}
    if taken := [name for name in circuits if name in controls]:
        raise ValueError(f"circuit {taken[0]!r} is called like one of the controls: give it another name")
    return {**circuits, **controls}
