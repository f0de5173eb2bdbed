"""Token embeddings with a norm behind them, as one module: the writer ``input`` is what goes into the stream."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle


class NormedEmbedding(nn.Module):
    """For a model without learned positions. A hook on it is one on what the first block is given.

    Args:
        embedding: of the tokens, with a ``weight`` ``[V, d]``.
        norm: what is behind; it may stand in other places of the model too.
        first_block: of the decoder.
    """

    def __init__(self, embedding: Any, norm: nn.Module, first_block: nn.Module) -> None:
        super().__init__()
        self.embedding, self.norm = embedding, norm
        self._on_block = first_block.register_forward_pre_hook

    @property
    def weight(self) -> Tensor:
        """``[V, d]``: of the embedding."""
        weight: Tensor = self.embedding.weight
        return weight

    def forward(self, input_ids: Tensor) -> Tensor:
        """``[B, T]`` to ``[B, T, d]``."""
        normed: Tensor = self.norm(self.embedding(input_ids))
        return normed

    def register_forward_hook(self, hook: Callable[..., Any]) -> RemovableHandle:  # type: ignore[override]
        def of_input(_block: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...] | None:
            instead = hook(self, (), inputs[0])
            return None if instead is None else (instead, *inputs[1:])

        return self._on_block(of_input)
