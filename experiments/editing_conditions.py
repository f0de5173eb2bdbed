"""Facts that were edited under one condition, in numbers: how far, how fast, and how far beside another condition."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lightning_circuits.evaluation.metrics.bootstrap import Estimate, mean_estimate

RESTS = {"zero": "the rest at zero", "keep": "the model whole"}
"""What the weights are that may not move, in words."""
FULL = "full"
WITH_NORMS = "complement and norms"
BESIDE = WITH_NORMS, "random", "magnitude"
"""What a circuit is held against in edits: its complement with the norms, without which nothing is said and nothing can
be learned; and as many random or largest weights of every tensor."""


class Mask(NamedTuple):
    """A mask that is trained."""

    density: float
    seed: int

    @property
    def name(self) -> str:
        return f"{self.density:g}-{self.seed}"


FIRST = Mask(0.5, 0)
"""The mask whose edits are of the most facts."""


@dataclass(frozen=True)
class Condition:
    """Facts that were edited one by one in the same way.

    Args:
        mask: the name of the mask.
        weights: that might move: ``circuit``, one of `BESIDE`, or ``full``.
        rest: of `RESTS`; of the full model, which has no rest, either.
        budget: ``published``, ``same budget`` or ``same loss``.
        edits: plain data of an `Edit` each, in the order of the facts.
    """

    mask: str
    weights: str
    rest: str
    budget: str
    edits: list[dict[str, Any]]

    def at(self, moment: str, name: str) -> Tensor:
        """A number of `Look`, ``before`` or ``after`` the edit; float64 ``[n_facts]``."""
        values = [each[moment][name] for each in self.edits]
        return torch.tensor([math.nan if value is None else value for value in values], dtype=torch.float64)

    def edited(self, moment: str) -> Tensor:
        """Whether the new object is likelier than the true one, 0 or 1; float64 ``[n_facts]``."""
        return (self.at(moment, "new_nll") < self.at(moment, "true_nll")).double()

    @property
    def fall(self) -> Tensor:
        """By how many nats the NLL of the new object falls in the edit; float64 ``[n_facts]``."""
        return self.at("before", "new_nll") - self.end

    @property
    def end(self) -> Tensor:
        """The NLL of the new object after the edit; float64 ``[n_facts]``."""
        return self.at("after", "new_nll")

    @property
    def course(self) -> Tensor:
        """The NLL of the new object before each step, and after the last; float64 ``[n_facts, n_steps + 1]``."""
        before = torch.tensor([each["losses"] for each in self.edits], dtype=torch.float64)
        return torch.cat([before, self.end[:, None]], dim=1)

    @property
    def standing(self) -> Tensor:
        """The NLL of the new object in the mean over the steps, each looked at after it; float64 ``[n_facts]``."""
        return self.course[:, 1:].mean(1)

    @property
    def fallen(self) -> Tensor:
        """By how many nats it has fallen in the mean over the steps, which tells conditions apart that end alike."""
        return self.at("before", "new_nll") - self.standing

    @property
    def steps(self) -> Tensor:
        """float64 ``[n_facts]``."""
        return torch.tensor([each["steps"] for each in self.edits], dtype=torch.float64)

    @property
    def free(self) -> int:
        return int(self.edits[0]["free"])

    @property
    def epsilon(self) -> float:
        return float(self.edits[0]["epsilon"])


FALL, FALLEN, STANDING = map(attrgetter, ("fall", "fallen", "standing"))


def as_large(free: int, kept: int) -> bool:
    """Whether as many weights may move as a circuit keeps, to a hundredth."""
    return abs(free - kept) <= kept / 100


def find(edits: Sequence[Condition], mask: str, weights: str, rest: str, budget: str = "published") -> Condition | None:
    """The edits of a condition, if they have been made; of the full model, with either rest."""
    wanted = (mask, weights, budget)
    return next(
        (
            each
            for each in edits
            if (each.mask, each.weights, each.budget) == wanted and (weights == FULL or each.rest == rest)
        ),
        None,
    )


def paired(a: Tensor, b: Tensor) -> Estimate:
    """How much more a number of facts is in one condition ``[n]`` than in another ``[m]``, of the facts that both have,
    which are the first."""
    n = min(len(a), len(b))
    return mean_estimate(a[:n] - b[:n])
