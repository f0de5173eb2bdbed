"""EAP with integrated gradients over activations: one component's output at a time is moved, not the whole input.

In turn the embedding, all heads of a layer, and each MLP put out something between what they do on the clean prompt and
the reference, while everything else computes as ever (Hanna et al. 2024, "Have Faith in Faithfulness", appendix).
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

from lightning_circuits.batch import Batch
from lightning_circuits.objectives import Objective
from lightning_circuits.scoring.gradients import attribute_activations
from lightning_circuits.search.one_pass import Attribution


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
        ablation, objective, absolute, kv, dtype, seed: see `Attribution`.

    Raises:
        ValueError: besides those of `Attribution`, less than one step.

    It costs ``steps`` forward and backward passes for each of the 2 L + 1 components, half of them saved because a run
    differs from the clean one above its component only. Under zero and mean ablation outputs move towards what the
    ablation says; the library moves them to zero under mean ablation too.
    """

    def __init__(
        self,
        model: str | nn.Module | None = None,
        steps: int = 5,
        pooled: bool = True,
        ablation: str = "interchange",
        objective: Objective | Callable[..., Tensor] | None = None,
        absolute: bool = True,
        kv: str = "head",
        dtype: str = "float32",
        seed: int = 0,
    ) -> None:
        if steps < 1:
            raise ValueError(f"an integral takes at least 1 step, got {steps}")
        super().__init__(model, ablation, objective, absolute, kv, dtype, seed)
        self.steps, self.pooled = steps, pooled

    def attribute(self, batch: Batch) -> tuple[Tensor, Tensor]:
        return attribute_activations(self.circuit_model, batch, self.objective, self.ablation, self.steps, self.pooled)

    def describe(self) -> dict[str, object]:
        return {**super().describe(), "steps": self.steps, "pooled": self.pooled}
