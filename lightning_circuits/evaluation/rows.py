"""What a circuit is worth: exact ablation over a data set, with everything that the number has to be compared with.

A circuit is judged by running the model with all other edges cut (`masked.masked_stream` with binary gates): no
approximation, no gradient, no soft gates. A figure by itself says little, so every circuit comes with its controls:

| row                 | what it is                                                                                    |
|---------------------|-----------------------------------------------------------------------------------------------|
| `full`              | the stock model: f = 1, KL = 0; its accuracy is the measure for all others                    |
| `empty`             | nothing but the ablation: f = 0                                                               |
| `1%`                | the circuit, under the name it was given                                                      |
| `1% pruned`         | without the edges on no way from input to logits, where that changes the result               |
| `1% random`         | as many edges drawn at random: what any circuit of the size would reach                       |
| `1% complement`     | everything but the circuit: what is left of the behaviour without it                          |

Pruning never changes what a circuit puts out under interchange ablation. Under zero and mean ablation it does, a pruned
circuit is a different circuit there, and gets a row of its own.

    >>> rows = evaluate(model, loader, {"1%": circuit}, [ABLATIONS.make("interchange")])          # doctest: +SKIP
    >>> rows[2].circuit, rows[2].faithfulness, rows[2].edges, rows[2].edges_pruned               # doctest: +SKIP
    ('1%', 0.97, 324, 301)
    >>> rich.print(rows_table(rows))                                        # drawing.tables       # doctest: +SKIP

The stock runs of a batch are made once and serve all circuits and all ablations; the stream that the references of an
ablation make is summed once and serves all circuits. A circuit of all edges, or of none, then needs no run of its own.

Under optimal ablation every circuit has references of its own, fitted to it first: each of the rows above, those of
random circuits, complements and the empty circuit too, is then as good as constants can make it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor

from lightning_circuits.ablation import Ablation
from lightning_circuits.arguments import require_numbers
from lightning_circuits.batch import Batch, shared_out
from lightning_circuits.circuit import Circuit
from lightning_circuits.evaluation.exact import ExactAblation, captured_runs
from lightning_circuits.evaluation.metrics import CircuitFaithfulness, TokenEdges
from lightning_circuits.files.numbers import to_json
from lightning_circuits.measures import DEFAULT, MEASURES, AnyMeasure, measure_name
from lightning_circuits.models import CircuitModel
from lightning_circuits.progress import length_of, progress

REFERENCES = ("full", "empty")
"""Rows that others are held against: on all the prompts that any of them has seen."""

CONTROLS = (" pruned", " random", " complement")
"""What the names of a circuit's controls end with."""

NOTHING = 0.05
"""Faithfulness below which a circuit is no better than the empty one, as far as anybody would care."""

LEAST_PROMPTS = 32
"""No circuit is judged on fewer, if there are as many, however narrow the interval of its faithfulness: of few prompts
a bootstrap knows little of what others would say."""

OVERSHOOT = 1.005
"""Faithfulness above which a row is marked as overshooting: above 1 also as it is printed."""


@dataclass(frozen=True)
class Row:
    """One circuit under one ablation, by one measure. Numbers that do not exist are NaN (`CircuitFaithfulness`).

    ``size`` is the share of the model's edges, ``edges`` their number, both before pruning; ``edges_pruned`` is how
    many lie on a way from input to logits. ``token_edges`` counts each edge, before pruning, once for every token at
    which it may be cut to some effect, in the mean over prompts (see `Circuit.token_edges`); NaN in older files.
    ``measure`` is the name of what faithfulness is of; ``value`` its mean F(C), ``ratio`` the plain F(C) / F(M), and
    ``difference`` F(C) - F(M); older files, all by the logit difference, do not have them. ``faithfulness_low`` and
    ``faithfulness_high``, and the same of ratio and difference, are the bootstrap's 95 % interval over prompts.
    """

    circuit: str
    ablation: str
    split: str
    measure: str = field(default=DEFAULT, kw_only=True)
    size: float
    edges: int
    edges_pruned: int
    token_edges: float = field(default=math.nan, kw_only=True)
    prompts: int
    faithfulness: float
    faithfulness_low: float
    faithfulness_high: float
    faithfulness_q1: float
    faithfulness_median: float
    faithfulness_q3: float
    value: float = field(default=math.nan, kw_only=True)
    ratio: float = field(default=math.nan, kw_only=True)
    ratio_low: float = field(default=math.nan, kw_only=True)
    ratio_high: float = field(default=math.nan, kw_only=True)
    difference: float = field(default=math.nan, kw_only=True)
    difference_low: float = field(default=math.nan, kw_only=True)
    difference_high: float = field(default=math.nan, kw_only=True)
    kl: float
    accuracy: float
    agreement_when_right: float
    agreement_when_wrong: float
    logit_difference: float

    @property
    def overshoot(self) -> bool:
        """Whether the circuit answers more surely than the full model does: f above `OVERSHOOT`."""
        return self.faithfulness > OVERSHOOT

    def scalars(self) -> dict[str, float]:
        """The numbers alone, as loggers want them."""
        values = {key: value for key, value in asdict(self).items() if not isinstance(value, str)}
        return {key: float(value) for key, value in (values | {"overshoot": self.overshoot}).items()}

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON data, ``overshoot`` included; NaN, which JSON does not have, becomes None."""
        return to_json({**asdict(self), "overshoot": self.overshoot})


@torch.no_grad()
def evaluate(
    model: CircuitModel,
    batches: Iterable[Batch],
    circuits: Mapping[str, Circuit | Tensor],
    ablations: Sequence[Ablation],
    split: str = "val",
    seed: int = 0,
    controls: bool = True,
    rank: int = 0,
    world_size: int = 1,
    measure: AnyMeasure = DEFAULT,
    narrow: float | None = None,
) -> list[Row]:
    """Judge circuits by exact ablation.

    Args:
        model: the frozen model; batches are moved to its device.
        batches: the whole data set, on every process (see `batch.Batch`).
        circuits: by name; a bool tensor ``[n_edges]`` will do for a circuit.
        ablations: those that need data already fitted; what is fitted to circuits is fitted here to each of them.
        split: what the batches are called in the rows.
        seed: of the random circuits. They are nested: a smaller one is part of a larger one.
        controls: whether each circuit comes with a random one and its complement, which take most of the time.
        rank: which process of a `torch.distributed` group this is. Each takes every ``world_size``-th batch, none is
            repeated, and all get the same result.
        world_size: how many processes there are.
        measure: what faithfulness is of: a name (`measures.MEASURES`), or a function ``(logits, batch, full_logits) ->
            [B]`` that has a name.
        narrow: a circuit or control is not run on the prompts that are left once the 95 % interval of its faithfulness
            is no wider than this. That is looked at whenever the batches seen have doubled, from `LEAST_PROMPTS` on.
            Rows then differ in ``prompts``, so their KL and accuracy are of other prompts too. Default: all prompts.

    Returns:
        For each ablation: full, empty, and each circuit with its controls (see the module).

    Raises:
        ValueError: no batches; circuits of another layout; a circuit called like one of the rows above; an unknown
            measure, one without a name, or one that does not give one number per prompt; a width that is not above 0.
        TypeError: gates that are not binary; a measure that is none; a width that is no number.
    """
    require_narrow(narrow)
    name_of_measure = measure_name(measure := MEASURES.make(measure, "measure"))
    lineups = {ablation.name: _lineup(model, circuits, ablation, seed, controls) for ablation in ablations}
    runs = [(ablation, name) for ablation, lineup in lineups.items() for name in lineup]
    own = {
        (ablation.name, name): ablation.of_circuit(model, circuit.members)
        for ablation in ablations
        for name, circuit in lineups[ablation.name].items()
    }
    # Alone, a metric must not wait for the other processes, which may be elsewhere.
    sync = {"sync_on_compute": world_size > 1}
    faithfulness = {run: CircuitFaithfulness(measure, **sync).to(model.device) for run in runs}
    token_edges = {run: TokenEdges(**sync).to(model.device) for run in runs}
    captured, seen = captured_runs(model), 0
    judged, done = {run for run in runs if run[1] not in REFERENCES}, set[tuple[str, str]]()
    n_batches = length_of(batches, world_size)
    total = None if n_batches is None else n_batches * len(runs)
    with progress(f"Judging circuits ({split})", total) as bar:
        for seen, (batch, counts) in enumerate(shared_out(batches, rank, world_size), 1):
            batch = model.receive(batch)
            full_logits, corrupt = model.run_pair(batch)
            for ablation in ablations:
                exact = empty = ExactAblation(model, batch, full_logits, own[ablation.name, "empty"], corrupt, captured)
                live_tokens = ablation.live_tokens(exact.places, batch).cpu()
                for name, circuit in lineups[ablation.name].items():
                    bar.advance()
                    if (ablation.name, name) in done:
                        continue
                    if exact.ablation is not (its := own[ablation.name, name]):
                        exact = ExactAblation(model, batch, full_logits, its, corrupt, captured)
                    logits = exact.logits(circuit.members)
                    if counts:
                        faithfulness[ablation.name, name].update(logits, full_logits, empty.empty_logits, batch)
                        token_edges[ablation.name, name].update(circuit, live_tokens)
            if narrow is not None and seen & (seen - 1) == 0:
                done |= {run for run in judged - done if _narrow_enough(faithfulness[run], narrow)}
                if judged and done == judged:
                    break
    if not seen:
        raise ValueError(f"no batches in the {split} split to evaluate circuits on")

    rows = []
    for ablation_name, name in runs:
        circuit = lineups[ablation_name][name]
        measured = faithfulness[ablation_name, name].compute()
        values: dict[str, Any] = {key: value.item() for key, value in measured.items()}
        values |= {"measure": name_of_measure, "token_edges": token_edges[ablation_name, name].compute().item()}
        rows.append(Row(name, ablation_name, split, circuit.size, circuit.n_edges, circuit.prune().n_edges, **values))
    return rows


def require_narrow(width: float | None) -> None:
    """See that it is a width at which an interval is narrow enough, or None.

    Raises:
        ValueError: one that no interval is below.
        TypeError: no number.
    """
    if width is not None:
        require_numbers(narrow=width)
        if not width > 0:
            raise ValueError(f"narrow is {width}: it has to be above 0; leave it out to see all prompts")


def _narrow_enough(metric: CircuitFaithfulness, width: float) -> bool:
    """Whether more prompts would hardly say more; the same in all processes."""
    so_far = metric.compute()
    enough_seen = int(so_far["prompts"]) >= LEAST_PROMPTS
    return enough_seen and (so_far["faithfulness_high"] - so_far["faithfulness_low"]).item() <= width


def _lineup(
    model: CircuitModel, circuits: Mapping[str, Circuit | Tensor], ablation: Ablation, seed: int, controls: bool
) -> dict[str, Circuit]:
    """The circuits to run under an ablation, by the name of their row."""
    layout = model.layout
    lineup = {"full": Circuit.full(layout), "empty": Circuit.empty(layout)}
    for name, members in circuits.items():
        circuit = members if isinstance(members, Circuit) else Circuit(layout, members)
        circuit = circuit.of_model(layout, f"circuit {name!r}")
        rows = {name: circuit}
        pruned = circuit.prune()
        if not ablation.pruning_keeps_output and pruned != circuit:
            rows[f"{name} pruned"] = pruned
        if controls:
            rows[f"{name} random"] = circuit.rival(seed)
            rows[f"{name} complement"] = circuit.complement()
        if taken := [row for row in rows if row in lineup]:
            raise ValueError(f"circuit {name!r}: there is a row {taken[0]!r} already; give the circuit another name")
        lineup |= rows
    return lineup
