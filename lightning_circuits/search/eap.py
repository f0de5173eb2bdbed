"""Edge attribution patching: every edge's effect predicted from one gradient, in the time of two or three forwards.

score(w -> r) = sum over tokens of <ref_w - out_w, dL/dx_r>, at the clean prompt (Syed et al. 2023).
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from lightning_circuits.batch import Batch
from lightning_circuits.captured import CapturedOnBatches, worth_capturing
from lightning_circuits.places import Places
from lightning_circuits.scoring.gradients import gradient_scores
from lightning_circuits.scoring.paths import CLEAN, PathPoint, clean_alone
from lightning_circuits.search.base import METHODS
from lightning_circuits.search.one_pass import Attribution


@METHODS.register
class EAP(Attribution):
    """Edge attribution patching: gradients on the clean prompts. Arguments are those of `Attribution`.

    Scores are those of the library EAP-IG, which divides them once more by its batch size. Under mean ablation they
    differ: there, means are taken over nodes, and of the last token of each prompt alone.
    """

    points: Sequence[PathPoint] = CLEAN
    """Where gradients are taken."""
    _graphs: CapturedOnBatches | None = None

    @property
    def at_full_model_alone(self) -> bool:
        return clean_alone(self.points)

    def attribute(self, batch: Batch) -> tuple[Tensor, Tensor]:
        if not worth_capturing(self.circuit_model, batch):
            return self._scores(batch)
        if self._graphs is None:
            self._graphs = CapturedOnBatches(self._of_every_token)
        edges, writers = self._graphs(batch)
        return edges, writers

    def _of_every_token(self, batch: Batch) -> tuple[Tensor, Tensor]:
        return self._scores(batch, Places.in_order(batch["positions"], batch["clean_ids"].shape[1]))

    def _scores(self, batch: Batch, places: Places | None = None) -> tuple[Tensor, Tensor]:
        return gradient_scores(self.circuit_model, batch, self.ablation, self.objective, self.points, places)

    # Graphs hold what the ablation was fitted to: of another pass they are made anew, and after it let go.

    def begin(self) -> None:
        super().begin()
        self._graphs = None

    def _forget(self) -> None:
        super()._forget()
        self._graphs = None

    def on_train_start(self) -> None:
        super().on_train_start()
        self._graphs = None

    def on_train_end(self) -> None:
        super().on_train_end()
        self._graphs = None
