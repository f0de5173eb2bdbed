"""EAP with integrated gradients over activations: one component's output at a time is moved, not the whole input.

In turn the embedding, all heads of a layer, and each MLP put out something between what they do on the clean prompt and
the reference, while everything else computes as ever (Hanna et al. 2024, "Have Faith in Faithfulness", appendix).
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from lightning_circuits.arguments import require_flags, require_whole_numbers
from lightning_circuits.batch import Batch
from lightning_circuits.scoring.one_component import one_component_scores
from lightning_circuits.search.base import METHODS
from lightning_circuits.search.frozen_model import LanguageModel
from lightning_circuits.search.one_pass import Attribution


@METHODS.register
class EAPIGActivations(Attribution):
    """EAP-IG over activations, in its two definitions.

    A run in which a component is moved gives a gradient at every reader. Which runs does the score of an edge go by?

    * ``pooled=True``: all of them, whichever component was moved. This is what the library EAP-IG computes (its method
      "EAP-IG-activations"), and so what published results under that name are.
    * ``pooled=False``: those in which the edge's own writer (with the heads beside it) was moved. This is the
      definition by which the scores are an integral of the writer's effect.

    Args:
        model: see `Attribution`.
        steps: runs of each component, at k / steps of the way to the clean output, k = 1 .. steps.
        pooled: which of the two.
        options: ``objective``, ``absolute``, ``ablation``, ``kv``, ``dtype``, see `Attribution`.

    Raises, beside what `Attribution` does:
        ValueError: less than one step.

    It costs ``steps`` forward and backward passes for each of the 2 L + 1 components, half of them saved because a run
    differs from the clean one above its component only. Under zero and mean ablation outputs move towards what the
    ablation says; the library moves them to zero under mean ablation too.
    """

    def __init__(
        self, model: LanguageModel | None = None, *, steps: int = 5, pooled: bool = True, **options: Any
    ) -> None:
        require_whole_numbers(steps=steps)
        require_flags(pooled=pooled)
        if steps < 1:
            raise ValueError(f"an integral takes at least 1 step, got {steps}")
        super().__init__(model, **options)
        self.steps, self.pooled = steps, pooled

    @property
    def at_full_model_alone(self) -> bool:
        return self.steps == 1  # k / steps of the way: the clean run

    def attribute(self, batch: Batch) -> tuple[Tensor, Tensor]:
        return one_component_scores(self.circuit_model, batch, self.ablation, self.objective, self.steps, self.pooled)
