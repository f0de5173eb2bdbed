"""Edge attribution patching: every edge's effect predicted from one gradient, in the time of two or three forwards.

score(w -> r) = sum over tokens of <ref_w - out_w, dL/dx_r>, at the clean prompt (Syed et al. 2023).
"""

from __future__ import annotations

from lightning_circuits.search.base import METHODS
from lightning_circuits.search.by_gradients import GradientAttribution


@METHODS.register
class EAP(GradientAttribution):
    """Edge attribution patching: gradients on the clean prompts. Arguments are those of `Attribution`.

    Scores are those of the library EAP-IG, which divides them once more by its batch size. Under mean ablation they
    differ: there, means are taken over nodes, and of the last token of each prompt alone.
    """
