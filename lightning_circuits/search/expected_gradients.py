"""EAP with expected gradients: each prompt's gradient is taken at a random point of the way from the reference to it.

EAP-IG takes the integral over that way by a rule, at points that are the same for all prompts, and is off by as much as
the rule with so few points is. At points drawn for each prompt the expectation is the integral itself, whatever their
number, and a mean over prompts is a mean over points too (Erion et al. 2021, "Improving performance of deep learning
models with axiomatic attribution priors and expected gradients").
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from lightning_circuits.arguments import require_seed, require_whole_numbers
from lightning_circuits.batch import Batch
from lightning_circuits.scoring.draws import drawn_points
from lightning_circuits.scoring.gradients import gradient_scores
from lightning_circuits.scoring.paths import require_steps
from lightning_circuits.search.base import METHODS
from lightning_circuits.search.frozen_model import LanguageModel
from lightning_circuits.search.one_pass import Attribution


@METHODS.register
class ExpectedGradients(Attribution):
    """EAP at points drawn for each prompt: the integral of `EAPIG` without its error, for the price of some variance.

    The draws of a prompt depend on the seed and on its tokens, clean and corrupt, alone. So scores do not depend on
    how prompts fall into batches, on their order, or on the number of processes.

    Args:
        model: see `Attribution`.
        steps: how many points for each prompt. They are spread: one is drawn in each of so many equal parts of the way.
        seed: of the draws.
        options: ``objective``, ``absolute``, ``ablation``, ``kv``, ``dtype``, see `Attribution`.

    Raises, beside what `Attribution` does:
        ValueError: less than one step or more than 1,000.
    """

    def __init__(self, model: LanguageModel | None = None, *, steps: int = 1, seed: int = 0, **options: Any) -> None:
        require_whole_numbers(steps=steps)
        require_steps(steps)
        require_seed(seed)
        super().__init__(model, **options)
        self.steps, self.seed = steps, seed

    def attribute(self, batch: Batch) -> tuple[Tensor, Tensor]:
        points = drawn_points(batch, self.steps, self.seed)
        return gradient_scores(self.circuit_model, batch, self.ablation, self.objective, points)
