"""What the probes of a training run found, and how it is kept in checkpoints."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lightning_circuits.callbacks.loggers import in_key
from lightning_circuits.evaluation.rows import Row
from lightning_circuits.measures import by_measure

NUMBERS = ("faithfulness", "kl", "accuracy", "logit_difference")
"""What is logged of each circuit of a probe."""


@dataclass(frozen=True)
class Probe:
    """What was found after some training step.

    ``rows``: the circuits by exact ablation, full and empty model included. ``members``: by the names of the sizes,
    which edges are in the circuit, bool ``[n_edges]``. ``edges_needed``: of the smallest circuit that is faithful
    enough, None if none is. ``iou_last``, ``iou_final``: by size, edges in common with the probe before and with the
    last of the run, over edges in either; empty where there is none (yet).
    """

    step: int
    rows: list[Row]
    members: dict[str, Tensor]
    edges_needed: int | None
    iou_last: dict[str, float] = field(default_factory=dict)
    iou_final: dict[str, float] = field(default_factory=dict)

    def scalars(self) -> dict[str, float]:
        """The numbers as loggers get them; what does not exist is left out."""
        found: dict[str, float] = {}
        for row in self.rows:
            for number in NUMBERS:
                found[f"{by_measure('probe', row.measure, '/')}/{in_key(row.circuit)}/{number}"] = getattr(row, number)
        for name, value in self.iou_last.items():
            found[f"probe/{in_key(name)}/iou_last"] = value
        if self.edges_needed is not None:
            found["probe/edges_needed"] = float(self.edges_needed)
        return {name: value for name, value in found.items() if not math.isnan(value)}

    def looks_at(self) -> tuple[str, ...]:
        """What was judged, and how: probes that differ in it are not one history."""
        return (self.rows[0].ablation, self.rows[0].measure, *self.members)

    def overlap(self, other: Probe) -> dict[str, float]:
        """Intersection over union of the circuits of two probes, by size."""
        return {
            name: int((members & other.members[name]).sum()) / max(int((members | other.members[name]).sum()), 1)
            for name, members in self.members.items()
            if name in other.members
        }

    def state_dict(self) -> dict[str, Any]:
        """Plain types and tensors; an edge is a bit. What the end of a run says is left out."""
        n_edges = [len(members) for members in self.members.values()]
        return {
            "step": self.step,
            "rows": [vars(row).copy() for row in self.rows],
            "members": {name: np.packbits(members.numpy()).tobytes() for name, members in self.members.items()},
            "n_edges": max(n_edges),
            "edges_needed": self.edges_needed,
            "iou_last": self.iou_last,
        }

    @classmethod
    def from_state_dict(cls, state: dict[str, Any]) -> Probe:
        def unpacked(bits: bytes) -> Tensor:
            flags = np.unpackbits(np.frombuffer(bits, dtype=np.uint8), count=state["n_edges"])
            return torch.from_numpy(flags.astype(bool))

        members = {name: unpacked(bits) for name, bits in state["members"].items()}
        rows = [Row(**row) for row in state["rows"]]
        return cls(state["step"], rows, members, state["edges_needed"], state["iou_last"])
