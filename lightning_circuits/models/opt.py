"""OPT and Galactica: learned positions, a norm before attention and MLP, an MLP without a module.

The one size with norms after them (350M, where token embeddings have a width of their own too) is not read.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from lightning_circuits.models.base import CircuitModel
from lightning_circuits.models.biogpt import BioGptCircuitModel
from lightning_circuits.pages import see_page


class OPTCircuitModel(BioGptCircuitModel):
    """Raises ValueError for a model with norms after its parts, without the last norm, or with a projection of its
    token embeddings."""

    model_types = ("opt",)

    where = BioGptCircuitModel.where._replace(
        decoder="model.decoder",
        final_norm="final_layer_norm",
        mlp_norm=None,  # within `mlp_module`
    )

    def __init__(self, model: Any, kv: str = "head", freeze: bool = True) -> None:
        config = model.config
        lacking = {
            "do_layer_norm_before=False, that is with norms after attention and MLP": not config.do_layer_norm_before,
            "word_embed_proj_dim, that is with token embeddings of another width than the stream's": (
                config.word_embed_proj_dim != config.hidden_size
            ),
            "_remove_final_layer_norm, that is without a norm before the head": config._remove_final_layer_norm,
        }
        for what, holds in lacking.items():
            if holds:
                raise ValueError(
                    f"OPT with {what}, is not supported. Models without are, all sizes but 350M "
                    f"{see_page('own-model', 'From Hugging Face')}"
                )
        super().__init__(model, kv, freeze)

    def mlp_module(self, layer: int) -> nn.Module:
        return _InOneRow(self.blocks[layer])

    def head(self, x: Tensor) -> Tensor:
        return CircuitModel.head(self, x)


class _InOneRow(nn.Sequential):
    """The norm and the MLP of an OPT block, which it calls on the tokens of all prompts in one row, ``[B * T, d]``;
    hooks here see prompts, ``[B, T, d]``."""

    def __init__(self, block: Any) -> None:
        super().__init__(block.final_layer_norm, block.fc1, block.activation_fn, block.fc2)
        self._on_block = block.register_forward_pre_hook

    @contextmanager
    def register_forward_pre_hook(self, hook: Callable[..., Any], **options: Any) -> Iterator[None]:  # type: ignore[override]
        def of_prompts(module: nn.Module, inputs: tuple[Tensor], *named: Any) -> None:
            hook(module, (inputs[0].view(*shape),), *named)

        with self._shape() as shape, self[0].register_forward_pre_hook(of_prompts, **options):
            yield

    @contextmanager
    def register_forward_hook(self, hook: Callable[..., Any]) -> Iterator[None]:  # type: ignore[override]
        def of_prompts(module: nn.Module, inputs: tuple[Tensor], output: Tensor) -> None:
            hook(module, inputs, output.view(*shape))

        with self._shape() as shape, self[-1].register_forward_hook(of_prompts):
            yield

    @contextmanager
    def _shape(self) -> Iterator[list[int]]:
        """While open, a list that holds the shape of what the block has last been given."""
        shape: list[int] = []

        def note(_block: nn.Module, inputs: tuple[Any, ...]) -> None:
            shape[:] = inputs[0].shape

        with self._on_block(note):
            yield shape
