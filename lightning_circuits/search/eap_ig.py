"""EAP with integrated gradients over inputs: gradients averaged on the way from the reference to the clean prompt.

On the clean prompt alone a gradient may be nearly 0 although the edge matters, because the model is sure there. Between
the two prompts it is not (Hanna et al. 2024, "Have Faith in Faithfulness").
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

from lightning_circuits.batch import Batch
from lightning_circuits.objectives import Objective
from lightning_circuits.scoring.gradients import Point, attribute, integral
from lightning_circuits.search.one_pass import Attribution


class EAPIG(Attribution):
    """EAP-IG over inputs.

    The token embedding moves on a straight line from the reference's (under interchange ablation, the corrupt
    prompt's) to the clean one; learned positions stay.

    Args:
        model: see `Attribution`.
        steps: how many points of the line. 5 in the paper and in MIB; at the level of nodes 5 are known to be too few.
        rule: where they are, with k = 0 .. steps - 1: ``left``, k / steps, from the reference on (as in the paper and
            in MIB); ``midpoint``, (k + 1/2) / steps; ``gauss-legendre``, exact for polynomials up to degree
            2 steps - 1.
        ablation, objective, absolute, kv, dtype, seed: see `Attribution`.

    Raises:
        ValueError: besides those of `Attribution`, less than one step, or an unknown rule.

    Edge scores are those of the library EAP-IG, which divides them once more by its batch size. Node scores come from
    the same points; the library takes the right ends, (k + 1) / steps, for nodes.
    """

    def __init__(
        self,
        model: str | nn.Module | None = None,
        steps: int = 5,
        rule: str = "left",
        ablation: str = "interchange",
        objective: Objective | Callable[..., Tensor] | None = None,
        absolute: bool = True,
        kv: str = "head",
        dtype: str = "float32",
        seed: int = 0,
    ) -> None:
        self.points = integral(rule, steps)
        super().__init__(model, ablation, objective, absolute, kv, dtype, seed)
        self.steps, self.rule = steps, rule

    def attribute(self, batch: Batch) -> tuple[Tensor, Tensor]:
        return attribute(self.circuit_model, batch, self.objective, self.ablation, self.points)

    def describe(self) -> dict[str, object]:
        return {**super().describe(), "steps": self.steps, "rule": self.rule}


class CleanCorrupted(Attribution):
    """The mean of the gradients at the two ends of the line: on the clean prompt and at the reference.

    Arguments are those of `Attribution`. Under interchange ablation this is the library EAP-IG's "clean-corrupted".
    """

    def attribute(self, batch: Batch) -> tuple[Tensor, Tensor]:
        ends = (Point(0.0, 0.5), Point(1.0, 0.5))
        return attribute(self.circuit_model, batch, self.objective, self.ablation, ends)
