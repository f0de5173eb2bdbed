"""Searches for circuits of weights: a LightningModule that says which weights of a frozen model are kept.

What `CircuitSearch` is for edges. Whoever judges such a circuit (callbacks.WeightValidation) takes from it the circuit,
and the ordinary text that it is to go on speaking.
"""

from __future__ import annotations

import warnings
from typing import Any

from lightning_circuits.arguments import shortened
from lightning_circuits.batch import TextSource
from lightning_circuits.models.loading import DType
from lightning_circuits.pages import see_page
from lightning_circuits.search.frozen_model import FrozenModelModule, LanguageModel
from lightning_circuits.weights.weight_circuit import WeightCircuit


class WeightSearch(FrozenModelModule):
    """A search for a circuit of weights; subclasses say `circuit` and its ``density``.

    Args:
        model: a Hugging Face id, a folder, a GGUF file, ``tiny-ioi``, or a model.
        text: ordinary text, such as ``TextLines(tokenizer)``.
        dtype: of a model loaded by name.

    Raises:
        FileNotFoundError: no such model.
        ValueError: no text; a model of a family that is not supported.
        TypeError: an argument of a wrong type.
    """

    density: float
    """The share of the weights that the circuit keeps."""

    def __init__(self, model: LanguageModel, text: TextSource | None, dtype: DType = "float32") -> None:
        if text is None:
            raise ValueError(
                "ordinary text is missing: a circuit that is asked for its facts alone is a lookup table in a broken "
                "model. Give text=TextLines(tokenizer), which the package has some lines for, or lines of your own"
            )
        if not isinstance(text, TextSource):
            raise TypeError(f"text takes a source of text, such as TextLines(tokenizer), got {shortened(text)}")
        super().__init__(model, dtype=dtype)
        self.text = text

    def setup(self, stage: str) -> None:
        # A step of a Trainer goes down twice here, and what is saved is meant to be what came of both.
        warnings.filterwarnings("ignore", message="Using ModelCheckpoint with manual optimization")
        super().setup(stage)
        if self._sharded:
            strategy, page = type(self.trainer.strategy).__name__, see_page("multi-gpu", "Models larger than one GPU")
            raise ValueError(
                f"{type(self).__name__} chooses among all weights of the model, which {strategy} shares out among the "
                f"processes: use strategy=ddp {page}"
            )

    def circuit(self) -> WeightCircuit:
        """The weights that are kept as it stands."""
        raise NotImplementedError(f"{type(self).__name__} does not say circuit()")

    def describe(self) -> dict[str, Any]:
        """How the circuit came about, as plain JSON data."""
        return {
            "method": type(self).__name__,
            **self._options(),
            "model": self.model_name,
            **self._describe_model(),
            **self._describe_run(),
        }
