"""Models of text with images or sound whose language model is Llama's like: what they do with text alone.

Beside the language model, which has a config of its own, they have a tower whose outputs stand in for some tokens'
embeddings. Prompts of text never reach it.
"""

from __future__ import annotations

from typing import Any

from lightning_circuits.models.base import CircuitModel, Dimensions
from lightning_circuits.models.llama import LlamaCircuitModel


class MultimodalCircuitModel(LlamaCircuitModel):
    model_types = ("got_ocr2", "moss_transcribe_diarize")  # Qwen2, Qwen3

    where = LlamaCircuitModel.where._replace(decoder="model.language_model")

    @staticmethod
    def read_dimensions(model: Any) -> Dimensions:
        return CircuitModel.read_dimensions(model.model.language_model)
