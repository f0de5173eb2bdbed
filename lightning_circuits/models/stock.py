"""The stock model at work: what its modules write and read, written down, and its layers called one at a time.

Hugging Face's modules stay as they are, so whatever has to be seen is seen by hooks, which are there while a block is
open and gone after it:

- `embedded_as` puts a stream in the place of what the tokens are embedded as;
- `writers_recorded` and `streams_recorded` keep what each writer puts into the residual stream, and the stream itself
  before every component. `CircuitModel.run` is a forward under these three;
- `StockLayers` keeps what each layer was given beside the stream (masks in whatever form the attention wants, rotary
  angles) and calls the layers again with streams of one's own. Cutting one edge changes the model from the layer of
  its reader upwards and nothing below: those layers alone are run.

    >>> layers = StockLayers(model)                                                        # doctest: +SKIP
    >>> with layers.listen():                                                              # doctest: +SKIP
    ...     model.run(input_ids, attention_mask, positions)
    >>> x = layers(5, x)    # layer 5 of the stock model, on [n * B, T, d]                 # doctest: +SKIP
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from lightning_circuits.layout import Layout
from lightning_circuits.models.head_outputs import HeadOutputs


class Recordable(Protocol):
    """What must be known of a model to record it: which modules write and read the stream. A `CircuitModel` is one."""

    layout: Layout
    blocks: Any
    token_embedding: Any
    final_norm: nn.Module
    embedding_multiplier: float
    residual_multiplier: float

    def attention_norm(self, layer: int) -> nn.Module: ...
    def mlp_norm(self, layer: int) -> nn.Module: ...
    def norm_after_mlp(self, layer: int) -> nn.Module: ...
    def attention_module(self, layer: int) -> Any: ...
    def mlp_module(self, layer: int) -> nn.Module: ...
    def output_module(self, layer: int) -> Any: ...
    def outputs(self, layer: int) -> HeadOutputs: ...


def first_of(output: Any) -> Tensor:
    """``[B, T, d]``: what a module puts out, where some give back attention weights or a router's scores too."""
    first: Tensor = output[0] if isinstance(output, tuple) else output
    return first


def scaled(x: Tensor, multiplier: float) -> Tensor:
    """``x`` ``[...]`` times a number; ``x`` itself where that is 1."""
    return x if multiplier == 1 else x * multiplier


@contextmanager
def embedded_as(model: Recordable, embedding: Tensor) -> Iterator[None]:
    """While open, forwards of the model see this ``[B, T, d]`` in place of what the tokens are embedded as."""
    output = scaled(embedding, 1 / model.embedding_multiplier)
    with model.token_embedding.register_forward_hook(lambda *_: output):
        yield


@contextmanager
def writers_recorded(model: Recordable, writers: Tensor, subtract: bool = False) -> Iterator[None]:
    """While open, a forward of the model leaves behind what every writer puts into the stream.

    Args:
        model: the model.
        writers: ``[n_writers, b, T, d]``, filled with the outputs in the last ``b`` prompts of the forward.
        subtract: take the outputs off what stands in ``writers`` instead.
    """
    write = Tensor.sub_ if subtract else Tensor.copy_
    last = writers.shape[1]

    def keep_output(out: Tensor, multiplier: float) -> Any:
        def hook(_module: nn.Module, _inputs: Any, output: Any) -> None:
            of_prompts = first_of(output).view(-1, *out.shape[1:])  # OPT has the tokens of all prompts in one row
            write(out, scaled(of_prompts[-last:], multiplier))

        return hook

    def keep_heads(layer: int, out: Tensor) -> Any:
        def hook(_module: nn.Module, inputs: tuple[Tensor]) -> None:
            z = inputs[0][-last:].unflatten(-1, (model.layout.n_heads, -1)).movedim(-2, 0)
            write(out, model.outputs(layer)(z))

        return hook

    with ExitStack() as hooks:
        of_input = keep_output(writers[0], model.embedding_multiplier)
        hooks.enter_context(model.token_embedding.register_forward_hook(of_input))
        for layer in range(model.layout.n_layers):
            heads, mlp = model.layout.own_writers(layer)
            of_heads = keep_heads(layer, writers[heads])
            hooks.enter_context(model.output_module(layer).register_forward_pre_hook(of_heads))
            of_mlp = keep_output(writers[mlp], model.residual_multiplier)
            writes = _there(model.norm_after_mlp(layer), model.mlp_module(layer))
            hooks.enter_context(writes.register_forward_hook(of_mlp))
        yield


@contextmanager
def streams_recorded(model: Recordable, streams: Tensor) -> Iterator[None]:
    """While open, a forward of the model leaves the residual stream before every component in ``streams``.

    Args:
        model: the model.
        streams: ``[n_streams, B, T, d]``, filled in place.
    """
    layout = model.layout

    def keep_input(stream: int) -> Any:
        def hook(_module: nn.Module, inputs: tuple[Tensor, ...], named: dict[str, Tensor]) -> None:
            streams[stream].copy_((inputs[0] if inputs else named["hidden_states"]).view_as(streams[stream]))

        return hook

    with ExitStack() as hooks:
        for first, *_ in layout.stages[:-1]:  # those of a stage read the same stream
            if first.kind == "attention":
                reads = _there(model.attention_norm(first.layer), model.attention_module(first.layer))
            else:
                reads = _there(model.mlp_norm(first.layer), model.mlp_module(first.layer))
            hooks.enter_context(reads.register_forward_pre_hook(keep_input(first.stream), with_kwargs=True))
        hooks.enter_context(model.final_norm.register_forward_pre_hook(keep_input(-1), with_kwargs=True))
        yield


def _there(norm: nn.Module, otherwise: nn.Module) -> nn.Module:
    """A norm, or what takes its place where there is none."""
    return otherwise if isinstance(norm, nn.Identity) else norm


class StockLayers:
    """The decoder blocks of a model, called as its own forward has called them."""

    def __init__(self, model: Recordable) -> None:
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

        with ExitStack() as hooks:
            for layer, block in enumerate(self.blocks):
                hooks.enter_context(block.register_forward_pre_hook(keep(layer), with_kwargs=True))
            yield

    def __call__(self, layer: int, x: Tensor) -> Tensor:
        """One layer, attention and MLP, on streams ``[n * B, T, d]``: all prompts, then all again, n times."""
        given = self._repeated(self.given[layer], len(x) // self.batch)
        return first_of(self.blocks[layer](x, *given["positional"], **given["named"]))

    def _repeated(self, value: Any, times: int) -> Any:
        """Whatever has a row for each prompt, n times; what all prompts share, as it is."""
        if isinstance(value, dict):
            return {key: self._repeated(each, times) for key, each in value.items()}
        if isinstance(value, (tuple, list)):
            return tuple(self._repeated(each, times) for each in value)
        # Rows of prompts have a token dimension too; a vector over the tokens is not taken for one over the prompts.
        # Of one prompt nothing tells the two apart, and rows that are shared may stand there as often as prompts.
        if isinstance(value, Tensor) and value.ndim > 1 and len(value) == self.batch:
            return torch.cat([value] * times)
        return value
