"""Where a language model has its modules and weights: what a family says before anything is computed.

As they stand, methods go by `where`, and by what modules of Hugging Face are called.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from lightning_circuits.layout import Layout
from lightning_circuits.models.heads import of_linears
from lightning_circuits.models.live_heads import LiveHeads
from lightning_circuits.models.norms import Norm, read_norm
from lightning_circuits.models.stock import scaled
from lightning_circuits.models.where import Where


class ModelParts:
    """The parts of a model that a `CircuitModel` computes with."""

    model: Any
    layout: Layout
    n_groups: int
    """Of keys and values."""

    where: ClassVar[Where]
    """Where the model has its parts; what is not so simple, an adapter says by a method or attribute of its own."""

    embedding_multiplier = 1.0
    """What the model multiplies its token embeddings with outside of the embedding's module, as Granite does."""

    residual_multiplier = 1.0
    """What it multiplies what attention and MLP modules put out with, before that goes into the stream."""

    live_heads: Mapping[int, LiveHeads] | None = None
    """By layer, the heads of a model that is `stripped` to these; projections and output weights are then theirs."""

    backbone: Any  # Hugging Face's decoder without its head
    blocks: Any  # its layers
    token_embedding: Any
    final_norm: nn.Module  # before the head

    def place(self) -> None:
        """Find what `where` names."""
        if hasattr(self, "where"):
            decoder = self.backbone = self.model.get_submodule(self.where.decoder)
            self.token_embedding = decoder.get_submodule(self.where.token_embedding)
            self.blocks, self.final_norm = map(decoder.get_submodule, (self.where.blocks, self.where.final_norm))

    def attention_norm(self, layer: int) -> nn.Module:
        """The norm before the attention of a layer; `read_norm` says what it does. ``nn.Identity`` if there is none."""
        return self._part(layer, "attention_norm")

    def mlp_norm(self, layer: int) -> nn.Module:
        """The norm before the MLP of a layer; in parallel blocks it may be that of the attention."""
        return self._part(layer, "mlp_norm")

    def norm_after_attention(self, layer: int) -> nn.Module:
        """The norm of what an attention writes, heads and all, before it goes into the stream. A family that says it
        here and not in `where` says ``coupled`` in its `Dimensions`, too."""
        return self._part(layer, "norm_after_attention")

    @property
    def has_norm_after_attention(self) -> bool:
        """Whether `where` names one."""
        return hasattr(self, "where") and self.where.norm_after_attention is not None

    def norm_after_mlp(self, layer: int) -> nn.Module:
        """The same of an MLP."""
        return self._part(layer, "norm_after_mlp")

    @staticmethod
    def read_norm(norm: nn.Module) -> Norm:
        """What a norm does to a stream. As it stands, for layer norms and for RMS norms as Hugging Face has them."""
        return read_norm(norm)

    def mlp_module(self, layer: int) -> nn.Module:
        """The MLP of a layer: the normed stream ``[B, T, d]`` to what it writes, ``[B, T, d]``."""
        return self._part(layer, "mlp")

    def attention_module(self, layer: int) -> Any:
        """The attention of a layer."""
        return self._part(layer, "attention")

    def output_module(self, layer: int) -> Any:
        """The module whose input is all heads' values side by side, ``[B, T, n_heads * d_head]``."""
        return self.attention_module(layer).get_submodule(self.where.output)

    def _part(self, layer: int, name: str) -> Any:
        """A part of a block, by what it is called in `Where`; ``nn.Identity`` for a norm that is not there."""
        if not hasattr(self, "where"):
            if name.startswith("norm_after"):
                return nn.Identity()
            raise NotImplementedError(f"{type(self).__name__} says neither `where` its parts are nor {name}(layer)")
        path = getattr(self.where, name)
        return nn.Identity() if path is None else self.blocks[layer].get_submodule(path)

    def output_weight(self, layer: int) -> Tensor:
        """``[n_heads, d_head, d_model]``: the output projection, a block for each head; a view, if not multiplied."""
        if self.live_heads is not None:
            return self.live_heads[layer].output
        module = self.output_module(layer)
        weight = module.weight if isinstance(module, Conv1D) else module.weight.T
        return scaled(weight.unflatten(0, (self.layout.n_heads, -1)), self.residual_multiplier)

    def output_bias(self, layer: int) -> Tensor | None:
        """``[d_model]``: the attention's output bias. It belongs to no head: a constant of the stream.

        Raises:
            ValueError: there is a norm after it, which makes it no constant.
        """
        bias = self.output_module(layer).bias
        if bias is not None and not isinstance(self.norm_after_attention(layer), nn.Identity):
            raise ValueError(
                f"the attention of layer {layer} has an output bias and a norm behind it: what the bias writes then "
                "depends on the prompt, and no circuit has a writer for it"
            )
        return None if bias is None else scaled(bias, self.residual_multiplier)

    def projections(self, layer: int) -> list[tuple[Tensor, Tensor | None]]:
        """Of queries, keys and values: weights ``[blocks, d_model, d_head]`` as views, and biases ``[blocks, d_head]``.

        Of keys and values there are as many blocks as K/V groups, whatever the readers are. As it stands, of linear
        layers called ``q_proj``, ``k_proj`` and ``v_proj``.
        """
        attention = self.attention_module(layer)
        linears = attention.q_proj, attention.k_proj, attention.v_proj
        return of_linears(linears, (self.layout.n_heads, self.n_groups, self.n_groups))
