"""A circuit from a file as a method, so that what judges a search judges a saved circuit too:

lightning-circuits test --config ioi_gpt2.yaml --model SavedCircuit --model.path runs/circuit.json
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor

from lightning_circuits.ablation import Ablation
from lightning_circuits.arguments import require_flags
from lightning_circuits.batch import Batch
from lightning_circuits.circuit import Circuit, scores_are
from lightning_circuits.files.base import ranks_all_edges
from lightning_circuits.layout import KV
from lightning_circuits.models.loading import DType
from lightning_circuits.search.base import METHODS, CircuitSearch
from lightning_circuits.search.frozen_model import LanguageModel


@METHODS.register
class SavedCircuit(CircuitSearch):
    """The circuit of a file; it is judged as it is, in its spans if it has some, and cannot be trained.

    Args:
        model: the language model it belongs to, as for every `CircuitSearch`.
        path: a circuit file: ``.json``, ``.pt`` or ``.safetensors``, from here or from EAP-IG and MIB.
        absolute: whether circuits of other sizes take edges by |score|. Default: as the file says; the files of other
            tools do not say it, and are taken by score.
        ablation: what it was found under: under interchange, it is exported without the edges that lead nowhere.
        kv: see `CircuitSearch`.
        dtype: see `CircuitSearch`.
        attention: see `CircuitSearch`.

    Raises, beside what `CircuitSearch` does:
        FileNotFoundError: no such file.
        ValueError: a circuit of another layout.
    """

    def __init__(
        self,
        model: LanguageModel,
        *,
        path: str | Path,
        absolute: bool | None = None,
        ablation: Ablation | str = "interchange",
        kv: KV = "head",
        dtype: DType = "float32",
        attention: str | None = None,
    ) -> None:
        if not isinstance(path, (str, Path)):
            raise TypeError(f"path takes that of a circuit file, got {path!r}")
        if absolute is not None:
            require_flags(absolute=absolute)
        super().__init__(model, ablation=ablation, kv=kv, dtype=dtype, attention=attention)
        self.path = str(path)
        self.saved = Circuit.load(path)
        self.circuit_model = self.circuit_model.in_spans(self.saved.layout.spans)
        self.saved = self.saved.of_model(self.layout, f"the circuit in {path}")
        self.absolute = self.saved.absolute if absolute is None else absolute
        self.scores_are = scores_are(self.saved.metadata)

    takes_constants_of_circuits = True

    def edge_scores(self) -> Tensor:
        return self.saved.members.float() if self.saved.scores is None else self.saved.scores

    def ranked_edges(self) -> int:
        if ranks_all_edges(self.saved):
            return self.layout.n_edges
        return 0 if self.saved.scores is None else self.saved.n_edges

    def node_scores(self) -> Tensor | None:
        return self.saved.node_scores

    def trained_size(self) -> int:
        return self.saved.n_edges

    def circuit(self, size: float | int | None = None, threshold: float | None = None, greedy: bool = False) -> Circuit:
        """The circuit of the file; with a size or a threshold, the best edges by the scores of the file."""
        if size is None and threshold is None:
            return replace(self.saved, metadata=self.describe())
        return super().circuit(size, threshold, greedy)

    def describe(self) -> dict[str, Any]:
        return {**super().describe(), "path": self.path, "made_by": self.saved.metadata}

    def configure_optimizers(self) -> None:
        raise TypeError(
            "a saved circuit is not trained: use 'test' or 'validate' with SavedCircuit, or fit another method"
        )

    def training_step(self, batch: Batch, batch_idx: int) -> None:
        """Never reached: there for Lightning to get as far as asking for the optimizers, which says what is wrong."""
