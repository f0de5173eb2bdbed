"""A circuit of weights from a file as a search, so that what judges a search judges a saved circuit too:

lightning-circuits test --config weights.yaml --model SavedWeightCircuit --model.path runs/weights/half.safetensors
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from lightning_circuits.batch import Batch, TextSource
from lightning_circuits.models.loading import DType
from lightning_circuits.search.frozen_model import LanguageModel
from lightning_circuits.search.weight_search import WeightSearch
from lightning_circuits.weights.weight_circuit import WeightCircuit


class SavedWeightCircuit(WeightSearch):
    """The circuit of weights of a file; it is judged as it is, and cannot be trained.

    Args:
        model: the language model whose weights they are.
        text: ordinary text to judge it by; its held-out lines are those of training if it was made alike.
        path: a ``.safetensors`` file that `WeightCircuit.save` has written.
        dtype: of a model loaded by name.

    Raises, beside what `WeightSearch` does:
        FileNotFoundError: no such file.
        ValueError: it holds no circuit of weights, or one of another model.
    """

    def __init__(
        self, model: LanguageModel, text: TextSource | None = None, *, path: str | Path, dtype: DType = "float32"
    ) -> None:
        if not isinstance(path, (str, Path)):
            raise TypeError(f"path takes that of a file of a circuit of weights, got {path!r}")
        saved = WeightCircuit.load(path)
        super().__init__(model, text, dtype)
        saved.space.parameters(self.model)
        self.path, self.saved, self.density = str(path), saved, saved.density

    def circuit(self) -> WeightCircuit:
        """That of the file."""
        return replace(self.saved, metadata=self.describe())

    def describe(self) -> dict[str, Any]:
        return {**super().describe(), "made_by": self.saved.metadata}

    def _describe_searched(self) -> dict[str, Any]:
        return {"n_weights": self.saved.space.n_weights, "tensors": len(self.saved.space.tensors)}

    def configure_optimizers(self) -> None:
        raise TypeError(
            "a saved circuit is not trained: use 'test' or 'validate' with SavedWeightCircuit, or fit WeightPruning"
        )

    def training_step(self, batch: Batch, batch_idx: int) -> None:
        """Never reached: there for Lightning to get as far as asking for the optimizers, which says what is wrong."""
