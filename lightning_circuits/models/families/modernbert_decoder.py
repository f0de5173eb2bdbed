"""ModernBERT as a decoder (Ettin): layer norms, one behind the embedding and therefore none before the first attention.

Two of three layers attend to a window, and turn queries and keys by angles of their own. The head has a hidden layer.
"""

from __future__ import annotations

from torch import Tensor

from lightning_circuits.models.families.rotary_by_kind import RotaryByKind
from lightning_circuits.models.normed_embedding import NormedEmbedding
from lightning_circuits.models.where import Where


class ModernBertDecoderCircuitModel(RotaryByKind):
    model_types = ("modernbert-decoder",)

    where = Where(
        decoder="model",
        token_embedding="embeddings",
        blocks="layers",
        final_norm="final_norm",
        attention_norm="attn_norm",
        attention="attn",
        output="Wo",
        mlp_norm="mlp_norm",
        mlp="mlp",
    )

    def place(self) -> None:
        super().place()
        embeddings = self.token_embedding
        self.token_embedding = NormedEmbedding(embeddings.tok_embeddings, embeddings.norm, self.blocks[0])

    def head(self, x: Tensor) -> Tensor:
        logits: Tensor = self.model.decoder(self.model.lm_head(x))
        return logits
