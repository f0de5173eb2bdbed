"""Relevance patching: EAP with the rules of relevance propagation in the place of derivatives.

score(w -> r) = sum over tokens of <ref_w - out_w, R_r>, at the clean prompt, where R_r is what relevance propagation
gives the reader of the loss (Jafari et al. 2025, "RelP", arXiv:2508.21258). `lightning_circuits.models.relevance` has
the rules.
"""

from __future__ import annotations

from torch import Tensor

from lightning_circuits.batch import Batch
from lightning_circuits.models.relevance import by_relevance
from lightning_circuits.scoring.gradients import gradient_scores
from lightning_circuits.search.base import METHODS
from lightning_circuits.search.one_pass import Attribution


@METHODS.register
class RelP(Attribution):
    """Relevance patching: coefficients of relevance on the clean prompts. Arguments are those of `Attribution`.

    Norms and routers are held, an activation counts as what it multiplies its input with, and each factor of a gated
    MLP takes half. Attention has its derivative, as in the paper's experiments, so that queries and keys have scores.
    The objective is differentiated as it is.

    Where nothing is normed, activated or multiplied, scores are those of `EAP`; it costs about as much, whatever the
    family.

    Raises, beside what `Attribution` does:
        ValueError: when fitted: a part of the model does something that has no rule, such as an activation of one's
            own. The message names both.
    """

    at_full_model_alone = True

    def attribute(self, batch: Batch) -> tuple[Tensor, Tensor]:
        with by_relevance(self.circuit_model) as model:
            return gradient_scores(model, batch, self.ablation, self.objective)
