"""EAP with integrated gradients over inputs: gradients averaged on the way from the reference to the clean prompt.

On the clean prompt alone a gradient may be nearly 0 although the edge matters, because the model is sure there. Between
the two prompts it is not (Hanna et al. 2024, "Have Faith in Faithfulness").
"""

from __future__ import annotations

from typing import Any

from lightning_circuits.arguments import require_whole_numbers
from lightning_circuits.scoring.paths import Rule, integral
from lightning_circuits.search.base import METHODS
from lightning_circuits.search.eap import EAP
from lightning_circuits.search.frozen_model import LanguageModel


@METHODS.register
class EAPIG(EAP):
    """EAP-IG over inputs.

    The token embedding moves on a straight line from the reference's (under interchange ablation, the corrupt
    prompt's) to the clean one; learned positions stay.

    Args:
        model: see `Attribution`.
        steps: how many points of the line. 5 in the paper and in MIB; at the level of nodes 5 are known to be too few.
        rule: where they are, with k = 0 .. steps - 1: ``left``, k / steps, from the reference on (as in the paper and
            in MIB); ``midpoint``, (k + 1/2) / steps; ``gauss-legendre``, exact for polynomials up to degree
            2 steps - 1.
        options: ``objective``, ``absolute``, ``ablation``, ``kv``, ``dtype``, see `Attribution`.

    Raises, beside what `Attribution` does:
        ValueError: less than one step or more than 1,000, or an unknown rule.

    Edge scores are those of the library EAP-IG, which divides them once more by its batch size. Node scores come from
    the same points; the library takes the right ends, (k + 1) / steps, for nodes.
    """

    def __init__(
        self, model: LanguageModel | None = None, *, steps: int = 5, rule: Rule = "left", **options: Any
    ) -> None:
        require_whole_numbers(steps=steps)
        self.points = integral(rule, steps)
        super().__init__(model, **options)
        self.steps, self.rule = steps, rule
