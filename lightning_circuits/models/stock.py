"""The stock model's layers, one at a time, on residual streams of one's own.

Cutting one edge changes the model from the layer of its reader upwards, and nothing below. To run only those layers,
the modules of Hugging Face need what the model's forward hands them beside the stream: masks in whatever form their
attention wants, rotary angles. `StockLayers` listens to an ordinary forward, keeps what each layer was given, and
calls the layers again with other streams, many for each prompt if wanted.

    >>> layers = StockLayers(model)                                                        # doctest: +SKIP
    >>> with layers.listen():                                                              # doctest: +SKIP
    ...     model.run(input_ids, attention_mask, positions)
    >>> x = layers(5, x)    # layer 5 of the stock model, on [n * B, T, d]                 # doctest: +SKIP
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from lightning_circuits.models.base import CircuitModel


class StockLayers:
    """The decoder blocks of a model, called as its own forward has called them."""

    def __init__(self, model: CircuitModel) -> None:
        self.blocks = list(model.blocks)
        self.batch = 0
        self.given: list[dict[str, Any]] = [{} for _ in self.blocks]

    @contextmanager
    def listen(self) -> Iterator[None]:
        """While open, a forward of the model leaves behind what it gives to its layers."""

        def keep(layer: int) -> Any:
            def hook(_module: nn.Module, inputs: tuple[Any, ...], named: dict[str, Any]) -> None:
                self.batch = len(inputs[0])
                self.given[layer] = {"positional": inputs[1:], "named": named}

            return hook

        handles = [
            block.register_forward_pre_hook(keep(layer), with_kwargs=True) for layer, block in enumerate(self.blocks)
        ]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def __call__(self, layer: int, x: Tensor) -> Tensor:
        """One layer, attention and MLP, on streams ``[n * B, T, d]``: all prompts, then all again, n times."""
        given = self._repeated(self.given[layer], len(x) // self.batch)
        return self.blocks[layer](x, *given["positional"], **given["named"])

    def _repeated(self, value: Any, times: int) -> Any:
        """Whatever has a row for each prompt, n times; what all prompts share, as it is."""
        if isinstance(value, dict):
            return {key: self._repeated(each, times) for key, each in value.items()}
        if isinstance(value, (tuple, list)):
            return tuple(self._repeated(each, times) for each in value)
        # Rows of prompts have a token dimension too; a vector over the tokens is not taken for one over the prompts.
        if isinstance(value, Tensor) and value.ndim > 1 and len(value) == self.batch > 1:
            return torch.cat([value] * times)
        return value
