"""Whether a model computes what is read from its weights: a few tokens through both, compared part by part.

Each layer is compared with what the stock model's modules put out on the same stream, and the stream itself with the
sum of what they put out. At the end the logits are compared with those of ``model(...)``, called as everybody calls it:
decoder and head are run one by one here, so what the model's own ``forward`` does besides is seen nowhere else.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from lightning_circuits.models.base import CircuitModel
from lightning_circuits.pages import see_page

LENGTH = 5
"""Tokens of the longer of two prompts. The other is about half as long, so that masks and positions matter."""


@torch.no_grad()
def verify(model: CircuitModel) -> None:
    """Run two prompts, padded on the right and on the left, and compare, layer by layer, with the stock model.

    Args:
        model: as its family reads it.

    Raises:
        ValueError: a part that comes out differently, by name. The module is then not what its family's file takes it
            for: changed weights layout, an adapter in front of a projection, a hook, a ``forward`` that scales or caps
            the logits. Or a norm that does not do what `CircuitModel.read_norm` says. Or numbers that are not finite.
    """
    length = LENGTH if model.prompt_limit is None else min(LENGTH, model.prompt_limit.tokens)
    ids = torch.arange(2 * length, device=model.device).view(2, length) * model.vocabulary // (2 * length)
    right = torch.ones_like(ids)
    right[1, length - length // 2 :] = 0
    # Compiled as a whole, a model does the same as when it is not, and no one has to wait for the compiler.
    with torch.compiler.set_stance("force_eager"):
        for mask in (right, right.flip(1)):
            _compare_layers(model, ids, mask)
        _compare_logits(model, ids, right)


def _compare_layers(model: CircuitModel, ids: Tensor, mask: Tensor) -> None:
    """What is computed from the weights of every layer with what the stock model puts out; ``[B, T]`` both."""
    layout, real, row = model.layout, mask.bool(), torch.arange(len(ids), device=ids.device)
    last = last_tokens(mask)
    writers = model.new_stack(ids.shape)
    streams = writers.new_empty(layout.n_streams, *writers.shape[1:])
    logits = model.run(ids, mask, last, writers, streams=streams)
    context = model.context(mask)
    tolerance = 1e-3 if torch.finfo(model.dtype).bits >= 32 else 0.1

    def compare(name: str, here: Tensor, stock: Tensor, fault: str) -> None:
        error = ((here - stock).float().norm() / stock.float().norm().clamp(min=1e-30)).item()
        if not error < tolerance:
            _refuse_not_finite(model, name, stock)
            raise ValueError(
                f"{name} of this {type(model.model).__name__} {fault} (relative error {error:.2g}, prompts padded on "
                f"the {'right' if real[:, 0].all() else 'left'}) {see_page('own-model', 'What is checked')}"
            )

    def compare_tokens(name: str, here: Tensor, stock: Tensor) -> None:
        fault = (
            f"does not compute what {type(model).__name__} reads from its weights: a modified module, an unmerged "
            "adapter, a hook, an attention that ignores the mask?"
        )
        compare(name, here[..., real, :], stock[..., real, :], fault)

    def compare_streams(place: str, here: Tensor, stock: Tensor) -> None:
        fault = "is not the sum of what is written before it: a scaled embedding or layer, a hook on a layer?"
        compare(f"the residual stream before {place}", here[real], stock[real], fault)

    positions = model.position_embedding(context)
    stream = writers[0] if positions is None else writers[0] + positions
    for layer in range(layout.n_layers):
        heads, mlp = layout.own_writers(layer)
        before, between = streams[layout.attention_stream(layer)], streams[layout.mlp_stream(layer)]
        compare_streams(f"the attention of layer {layer}", stream, before)
        norm = model.attention_norm(layer)
        compare_tokens(f"the norm before the attention of layer {layer}", model.read_norm(norm)(before), norm(before))
        readers = before.expand(layout.n_attention_readers, *before.shape)
        compare_tokens(f"the attention of layer {layer}", model.attention(layer, readers, context), writers[heads])
        bias = model.output_bias(layer)
        stream = before + writers[heads].sum(0)
        stream = stream if bias is None else stream + bias
        compare_streams(f"the MLP of layer {layer}", stream, between)
        compare_tokens(f"the MLP of layer {layer}", model.mlp(layer, between), writers[mlp])
        stream = between + writers[mlp]
    compare_streams("the last norm", stream, streams[-1])
    compare("the output", model.unembed(streams[-1][row, last]), logits, "is not what its head makes of the last norm")


def _compare_logits(model: CircuitModel, ids: Tensor, mask: Tensor) -> None:
    """The logits that are used, with those of the model when it is called; ``[B, T]`` both, padded on the right."""
    if type(model).logits is not CircuitModel.logits:
        return  # an adapter's: by its contract, a call of the model
    owner, last = type(model.model).__name__, last_tokens(mask)
    used = model.run(ids, mask, last).float()
    answer = model.model(input_ids=ids, attention_mask=mask)
    logits = logits_of(answer)
    if logits is None or logits.shape != (*ids.shape, used.shape[-1]):
        given = type(answer).__name__ if logits is None else f"logits {list(logits.shape)}"
        raise ValueError(
            f"{owner}.forward gives back {given} where its head puts out logits {[*ids.shape, used.shape[-1]]}, one "
            f"for every token of the vocabulary at every place {see_page('own-model', 'What is checked')}"
        )
    called = logits[torch.arange(len(ids)), last].float()
    # By the largest number: that all logits share an offset must not hide what happens to one of them.
    off = (called - used).abs()
    error = (off.max() / used.abs().max().clamp(min=1e-30)).item()
    if not error < (1e-3 if torch.finfo(model.dtype).bits >= 32 else 2e-2):
        row, token = divmod(int(off.nan_to_num(torch.inf).argmax()), off.shape[1])
        raise ValueError(
            f"the logits of {owner} are not what its head puts out: for token {token} after prompt {row} it is "
            f"{used[row, token]:.4g} from the head and {called[row, token]:.4g} from the whole model. Something in "
            "its forward, or a hook on it, comes after the head (a scale, a cap, a bias), and no circuit would have "
            f"it. A family of one's own says it in CircuitModel.head {see_page('own-model', 'What is checked')}"
        )


def last_tokens(mask: Tensor) -> Tensor:
    """int64 ``[B]``: the column of the last real token of prompts with this attention mask ``[B, T]``."""
    return (mask * torch.arange(mask.shape[1], device=mask.device)).argmax(-1)


def logits_of(answer: Any) -> Tensor | None:
    """``[B, T, V]``: the logits in what a language model gives back, an object with fields, a tuple or the tensor."""
    logits = getattr(answer, "logits", answer)
    logits = logits[0] if isinstance(logits, (tuple, list)) and logits else logits
    return logits if isinstance(logits, Tensor) else None


def _refuse_not_finite(model: CircuitModel, name: str, stock: Tensor) -> None:
    if stock.isfinite().all():
        return
    owner = type(model.model).__name__
    for of, weight in model.model.named_parameters():
        if not weight.isfinite().all():
            raise ValueError(f"the weights {of} of this {owner} hold NaN or infinities: it computes nothing")
    raise ValueError(
        f"{name} of this {owner} puts out NaN or infinities in {str(model.dtype).removeprefix('torch.')}, from weights "
        "that are finite: load it in bfloat16 or float32, which have room for larger numbers"
    )
