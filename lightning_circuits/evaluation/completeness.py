"""Is everything in the circuit that the behaviour uses, and nothing else? Knock-outs, after Wang et al. (2022).

A circuit C can be faithful and still miss half of the mechanism: a backup that only wakes when its better is gone. So
the same parts K are knocked out of the circuit and of the whole model M, and the two should suffer alike. With F the
mean logit difference over a data set ("Interpretability in the Wild", section 4), or that of another measure,

    faithfulness      |F(M) - F(C)| is small
    completeness      |F(C without K) - F(M without K)|, the incompleteness of K, is small for *every* set K of parts
    minimality        every part v of C matters: |F(C without v) - F(C)| is large (here with nothing else knocked out)

Nobody can try every K. Two ways to draw some: at random, and greedily, part by part, always the one that makes the
incompleteness largest. Parts are nodes (heads and MLPs) or edges, by their names; to knock out a node is to cut every
edge that leaves it. A cut edge carries what the ablation says.

Of a circuit in spans every edge is a part in its span, ``a0.h2->m3@END``. A node, ``a0.h2``, is knocked out in all
spans at once; in one alone it is ``a0.h2@END``: what others read of it at the tokens of END.

    >>> loader, ablation = data.val_dataloader(), ABLATIONS.make("interchange")                         # doctest: +SKIP
    >>> drawn = random_knockouts(circuit, n=20, of="nodes", seed=0)                                    # doctest: +SKIP
    >>> rich.print(knockouts_table(measure_knockouts(model, loader, circuit, drawn, ablation)))        # doctest: +SKIP
    >>> worst = greedy_knockout(model, loader, circuit, ablation, steps=5, of="edges")[-1]             # doctest: +SKIP
    >>> worst.parts, worst.incompleteness                                                              # doctest: +SKIP
    (('a1.h0->m3', 'a0.h2->a1.h0<v>', ...), 1.93)
    >>> rich.print(contributions_table(measure_contributions(model, loader, circuit, ablation)))       # doctest: +SKIP
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from lightning_circuits.ablation import Ablation
from lightning_circuits.batch import Batch
from lightning_circuits.circuit import Circuit
from lightning_circuits.evaluation.metrics import RESOLUTION
from lightning_circuits.evaluation.per_prompt import measured
from lightning_circuits.layout import Layout
from lightning_circuits.measures import DEFAULT, MEASURES, AnyMeasure, measure_name
from lightning_circuits.models import CircuitModel

Parts = Literal["edges", "nodes", "nodes-in-spans"]
"""What is knocked out: edges, in spans each in its own; nodes, in all spans at once, or in one."""


@dataclass(frozen=True)
class Knockout:
    """One set K and what it does, by ``measure``: ``circuit`` is F(C without K), ``full`` F(M without K), ``behaviour``
    F(M) - F(empty), what there is to explain."""

    parts: tuple[str, ...]
    circuit: float
    full: float
    behaviour: float
    measure: str = DEFAULT

    @property
    def incompleteness(self) -> float:
        """|F(C without K) - F(M without K)|, in the measure's unit."""
        return abs(self.circuit - self.full)

    @property
    def relative_incompleteness(self) -> float:
        """The incompleteness over the behaviour; NaN where there is no behaviour."""
        return self.incompleteness / abs(self.behaviour) if abs(self.behaviour) >= RESOLUTION else math.nan


# ---- parts -----------------------------------------------------------------------------------------------------------


def circuit_parts(circuit: Circuit, of: Parts) -> list[str]:
    """What can be knocked out of a circuit: the names of its edges, or of its heads and MLPs, in the layout's order.

    The input is no part: the model without it is the ablated model. A node counts if an edge of the circuit leaves it,
    in any span, or in the span that its name says.

    Raises:
        ValueError: ``of`` is another word; nodes in spans of a circuit that has none.
    """
    if of not in get_args(Parts):
        raise ValueError(f"parts of a circuit are its 'edges', its 'nodes' or its 'nodes-in-spans', not {of!r}")
    if of == "edges":
        return circuit.edge_names()
    layout = circuit.layout
    if of == "nodes-in-spans" and not layout.spans:
        raise ValueError("the circuit has no spans, so its nodes are parts as a whole: of='nodes'")
    leaves = torch.zeros(layout.n_spans, layout.n_writers, dtype=torch.bool)
    leaves[layout.edge_span[circuit.members], layout.edge_writer[circuit.members]] = True
    leaves[:, 0] = False  # the input
    if of == "nodes":
        return [layout.writer_names[writer] for writer in leaves.any(0).nonzero()[:, 0].tolist()]
    return [f"{layout.writer_names[writer]}@{layout.spans[span]}" for span, writer in leaves.nonzero().tolist()]


def cut_edges(layout: Layout, names: Iterable[str]) -> Tensor:
    """bool ``[n_edges]``: the edges that a knock-out cuts; of a node every edge that leaves it, in all spans or in one.

    Raises:
        ValueError: a name that is neither an edge nor a writer of the layout.
    """
    edges = torch.zeros(layout.n_edges, dtype=torch.bool)
    writers = torch.zeros(layout.n_spans, layout.n_writers, dtype=torch.bool)
    for name in names:
        node, at, span = name.partition("@")
        if "->" in name:
            edges[layout.edge_index(name)] = True
        elif node in layout.writer_names and (not at or span in layout.spans):
            writers[layout.spans.index(span) if at else slice(None), layout.writer_names.index(node)] = True
        else:
            raise ValueError(
                f"cannot knock out {name!r}: {layout} has no such node; they are named like 'a0.h1', 'm2', in one span "
                "'a0.h1@END'"
            )
    return edges | writers[layout.edge_span, layout.edge_writer]


# ---- completeness ----------------------------------------------------------------------------------------------------


def measure_knockouts(
    model: CircuitModel,
    batches: Iterable[Batch],
    circuit: Circuit,
    knockouts: Sequence[Sequence[str]],
    ablation: Ablation,
    measure: AnyMeasure = DEFAULT,
) -> list[Knockout]:
    """Knock sets of parts out of a circuit and of the model (Wang et al. 2022, section 4).

    Args:
        model: the frozen model.
        batches: the prompts; see `per_prompt.measured`.
        circuit: C.
        knockouts: the sets K, each the names of nodes or edges of the circuit, mixed as you like; from
            `random_knockouts`, or a group of heads that you know. The empty set gives |F(C) - F(M)|.
        ablation: what a cut edge carries.
        measure: what F is the mean of, see `per_prompt.measured`.

    Returns:
        one `Knockout` a set, in the same order.

    Raises:
        ValueError: a part that the circuit does not have; no batches; a circuit of another layout; a measure that is
            none, or without a name.
    """
    name_of_measure = measure_name(measure := MEASURES.make(measure, "measure"))
    kinds: tuple[Parts, ...] = get_args(Parts) if circuit.layout.spans else ("edges", "nodes")
    known = {name for of in kinds for name in circuit_parts(circuit, of)}
    for names in knockouts:
        if unknown := [name for name in names if name not in known]:
            raise ValueError(
                f"cannot knock out {unknown[0]!r}: the circuit has no such node or edge; see circuit_parts()"
            )
    cuts = [cut_edges(circuit.layout, names) for names in knockouts]
    full, empty = Circuit.full(circuit.layout), Circuit.empty(circuit.layout)
    runs: list[Circuit | Tensor] = [full, empty, *(circuit.members & ~k for k in cuts), *(~k for k in cuts)]
    f_full, f_empty, *rest = measured(model, batches, runs, ablation, measure).mean(1).tolist()
    found = zip(knockouts, rest[: len(cuts)], rest[len(cuts) :], strict=True)
    return [
        Knockout(tuple(names), of_circuit, of_model, f_full - f_empty, name_of_measure)
        for names, of_circuit, of_model in found
    ]


def random_knockouts(
    circuit: Circuit, n: int, of: Parts = "nodes", probability: float = 0.5, seed: int = 0
) -> list[list[str]]:
    """n random sets K of parts of a circuit.

    Args:
        circuit: C.
        n: how many sets.
        of: what the parts are, see `circuit_parts`.
        probability: of every part to be in K. At 0.5 all subsets are equally likely. Of edges, half are usually more
            than any circuit survives: take less.
        seed: the same sets for a seed, on every machine.

    Raises:
        ValueError: a probability outside (0, 1]; as `circuit_parts`.
    """
    if not 0 < probability <= 1:
        raise ValueError(f"the probability that a part is knocked out lies in (0, 1], got {probability}")
    names, generator = circuit_parts(circuit, of), torch.Generator().manual_seed(seed)
    drawn = torch.rand(n, len(names), generator=generator) < probability
    return [[name for name, inside in zip(names, row.tolist(), strict=True) if inside] for row in drawn]


def greedy_knockout(
    model: CircuitModel,
    batches: Iterable[Batch],
    circuit: Circuit,
    ablation: Ablation,
    steps: int = 5,
    of: Parts = "nodes",
    candidates: int | None = None,
    seed: int = 0,
    measure: AnyMeasure = DEFAULT,
) -> list[Knockout]:
    """The set K that shows the circuit incomplete, grown one part at a time (Wang et al. 2022, section 4).

    Every step adds the part that makes |F(C without K) - F(M without K)| largest, also when all of them make it
    smaller. A step costs two masked forwards a candidate and batch.

    Args:
        model: the frozen model.
        circuit: the circuit that is taken apart.
        ablation: what a cut edge carries.
        batches: a loader that can be gone through once a step.
        steps: how many parts K has in the end; fewer if the circuit has fewer.
        of: what the parts are, see `circuit_parts`.
        candidates: how many parts, drawn anew at random, are tried a step; default all.
        seed: of the candidates.
        measure: what F is the mean of, see `per_prompt.measured`.

    Returns:
        a `Knockout` a step, each with one part more; the largest incompleteness need not be the last.

    Raises:
        ValueError: steps or candidates below 1; as `measure_knockouts`.
    """
    if steps < 1 or (candidates is not None and candidates < 1):
        raise ValueError(f"a greedy knock-out takes at least 1 step and 1 candidate, got {steps} and {candidates}")
    left, generator = circuit_parts(circuit, of), torch.Generator().manual_seed(seed)
    path: list[Knockout] = []
    while left and len(path) < steps:
        chosen = path[-1].parts if path else ()
        tried = left
        if candidates is not None and candidates < len(left):
            tried = [left[i] for i in sorted(torch.randperm(len(left), generator=generator)[:candidates].tolist())]
        found = measure_knockouts(model, batches, circuit, [(*chosen, part) for part in tried], ablation, measure)
        path.append(max(found, key=lambda knockout: knockout.incompleteness))
        left.remove(path[-1].parts[-1])
    return path


# ---- minimality ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class PartContributions:
    """What each part of a circuit contributes alone: ``(F(C) - F(C without v)) / (F(M) - F(empty))``.

    ``parts`` are their names; ``values`` float64 ``[n_parts]``: above 0 the part helps, below it hurts; ``errors``
    float64 ``[n_parts]`` the standard errors over prompts (the ratio's denominator is taken as known). NaN where there
    is no behaviour. ``faithfulness`` is that of the circuit as it is: of C without v it is that minus the value. All by
    ``measure``.
    """

    parts: list[str]
    values: Tensor
    errors: Tensor
    faithfulness: float
    measure: str = DEFAULT


def measure_contributions(
    model: CircuitModel,
    batches: Iterable[Batch],
    circuit: Circuit,
    ablation: Ablation,
    of: Parts = "edges",
    measure: AnyMeasure = DEFAULT,
) -> PartContributions:
    """Cut every part out of a circuit, one at a time (minimality of Wang et al. 2022, with K empty).

    A contribution of 0 says that the circuit does as well without the part. Two parts that stand in for each other
    contribute 0 each. One masked forward a part and batch.

    Args:
        model: the frozen model.
        batches: a loader that can be gone through again.
        circuit: the circuit whose parts are cut.
        ablation: what a cut edge carries.
        of: what the parts are, see `circuit_parts`.
        measure: what F is the mean of, see `per_prompt.measured`.
    """
    measure = MEASURES.make(measure, "measure")
    name_of_measure, names = measure_name(measure), circuit_parts(circuit, of)
    full, empty = Circuit.full(circuit.layout), Circuit.empty(circuit.layout)
    runs: list[Circuit | Tensor] = [
        full,
        empty,
        circuit,
        *(circuit.members & ~cut_edges(circuit.layout, [name]) for name in names),
    ]
    return _contributions(names, measured(model, batches, runs, ablation, measure), name_of_measure)


def _contributions(names: list[str], scores: Tensor, measure: str = DEFAULT) -> PartContributions:
    """From scores ``[3 + n_parts, n_prompts]``: of full, empty, circuit, and circuit without each part."""
    full, empty, circuit, without = scores[0], scores[1], scores[2], scores[3:]
    behaviour = full.mean() - empty.mean()
    if behaviour.abs() < RESOLUTION:
        behaviour = behaviour.new_tensor(torch.nan)
    changes = (circuit - without) / behaviour
    n = changes.shape[1]
    errors = changes.std(1) / n**0.5 if n > 1 else torch.full((len(names),), torch.nan, dtype=changes.dtype)
    f = float((circuit.mean() - empty.mean()) / behaviour)
    return PartContributions(names, changes.mean(1), errors, f, measure)
