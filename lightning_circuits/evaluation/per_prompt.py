"""What circuits put out on each single prompt: the raw data of everything that is more than one mean.

A statistical test needs the prompts apart, and so does a knock-out that is compared with another. `measured` runs any
number of circuits over a loader by exact ablation and gives one matrix, circuits by prompts; what is done with it
(`completeness`, `hypotheses`) are plain functions of that matrix.

    >>> scores = measured(model, loader, [full, circuit, empty], ablation)                             # doctest: +SKIP
    >>> scores.shape, scores.mean(1)                                                                   # doctest: +SKIP
    (torch.Size([3, 200]), tensor([7.31, 7.02, 0.04], dtype=torch.float64))
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from lightning_circuits.ablation import Ablation
from lightning_circuits.batch import Batch
from lightning_circuits.circuit import Circuit
from lightning_circuits.evaluation.exact import ExactAblation, captured_runs
from lightning_circuits.measures import DEFAULT, MEASURES, AnyMeasure, values
from lightning_circuits.models import CircuitModel
from lightning_circuits.progress import length_of, progress


@torch.no_grad()
def measured(
    model: CircuitModel,
    batches: Iterable[Batch],
    circuits: Sequence[Circuit | Tensor],
    ablation: Ablation,
    measure: AnyMeasure = DEFAULT,
) -> Tensor:
    """What every circuit comes to on every prompt, by a measure.

    The stock runs of a batch are made once for all circuits. A circuit of all edges is the stock model, and costs
    nothing. The rest is one masked forward per circuit and batch.

    Args:
        model: the frozen model; batches are moved to its device.
        batches: the whole data set, on this process (see `batch.Batch`).
        circuits: circuits, or their members, bool ``[n_edges]``; ``[n_circuits, n_edges]`` will do.
        ablation: one that needs data already fitted; one that is fitted to circuits is fitted here to each.
        measure: a name (`MEASURES`), or a function ``(logits, batch, full_logits) -> [B]``.

    Returns:
        float64 ``[n_circuits, n_prompts]``, in the measure's unit, on the CPU; prompts in the order of the batches.

    Raises:
        ValueError: no batches, no circuits, or a circuit of another layout; an unknown measure, or one that does not
            give one number per prompt.
        TypeError: members that are not bool; a measure that is none.
    """
    measure = MEASURES.make(measure, "measure")
    # Circuits check themselves; thousands of them are kept as what they were given as.
    members = [_members(model, circuit) for circuit in circuits]
    if not members:
        raise ValueError("no circuits to run")
    own = [ablation.of_circuit(model, edges) for edges in members]
    rows: list[list[Tensor]] = [[] for _ in members]
    captured, n_batches = captured_runs(model), length_of(batches)
    with progress("Running circuits", None if n_batches is None else n_batches * len(members)) as bar:
        for batch in batches:
            batch = model.receive(batch)
            full_logits, corrupt = model.run_pair(batch)
            run = ExactAblation(model, batch, full_logits, own[0], corrupt, captured)
            for row, edges, its in zip(rows, members, own, strict=True):
                if run.ablation is not its:
                    run = ExactAblation(model, batch, full_logits, its, corrupt, captured)
                row.append(values(measure, run.logits(edges), batch, full_logits).double().cpu())
                bar.advance()
    if not rows[0]:
        raise ValueError("no batches to run the circuits on; a loader can be gone through again, an iterator cannot")
    return torch.stack([torch.cat(row) for row in rows])


def _members(model: CircuitModel, circuit: Circuit | Tensor) -> Tensor:
    if isinstance(circuit, Tensor):
        if circuit.dtype != torch.bool:
            raise TypeError(f"the members of a circuit are a bool tensor, got {circuit.dtype}; choose edges first")
        return model.layout.check(circuit)
    model.layout.require(circuit.layout, "a circuit")
    return circuit.members
