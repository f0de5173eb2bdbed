"""Models of text with images or sound: what they do with text alone.

Beside the language model, which has a config of its own, they have a tower whose outputs stand in for some tokens'
embeddings. Prompts of text never reach it. The language models of some are Llama's like, that of Gemma 3 is Gemma 3.
"""

from __future__ import annotations

from torch import Tensor

from lightning_circuits.models.families.gemma3 import Gemma3CircuitModel
from lightning_circuits.models.families.llama import LlamaCircuitModel


class MultimodalCircuitModel(LlamaCircuitModel):
    model_types = ("got_ocr2", "moss_transcribe_diarize")  # Qwen2, Qwen3

    where = LlamaCircuitModel.where._replace(decoder="model.language_model")


class MultimodalGemma3CircuitModel(Gemma3CircuitModel):
    model_types = ("gemma3",)

    where = Gemma3CircuitModel.where._replace(decoder="model.language_model")

    def head(self, x: Tensor) -> Tensor:
        logits: Tensor = self.model.lm_head(x)  # this class of `transformers` caps none, whatever its config says
        return logits
