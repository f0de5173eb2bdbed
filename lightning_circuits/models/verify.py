"""Whether a model computes what is read from its weights: a few tokens through both, compared part by part.

Each layer is compared with what the stock model's modules put out on the same stream, and the stream itself with the
sum of what they put out. At the end the logits are compared with those of ``model(...)``, called as everybody calls it:
decoder and head are run one by one here, so what the model's own ``forward`` does besides is seen nowhere else.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from lightning_circuits.components import Component
from lightning_circuits.models.base import CircuitModel
from lightning_circuits.pages import see_page

LENGTH = 5
"""Tokens of the longest prompt. The others are about half as long, so that masks and positions matter."""

ON_THE_RIGHT, ON_THE_LEFT = slice(0, 2), slice(2, 3)
"""Which of the prompts are padded where: the first not at all, the second on the right, the third on the left."""


@torch.no_grad()
def verify(model: CircuitModel) -> None:
    """Run three prompts and compare, layer by layer, with the stock model.

    Args:
        model: as its family reads it.

    Raises:
        ValueError: a part that comes out differently, by name. The module is then not what its family's file takes it
            for: changed weights layout, an adapter in front of a projection, a hook, a ``forward`` that scales or caps
            the logits. Or a norm that does not do what `CircuitModel.read_norm` says. Or numbers that are not finite.
    """
    length = LENGTH if model.prompt_limit is None else min(LENGTH, model.prompt_limit.tokens)
    ids = torch.arange(3 * length, device=model.device).view(3, length) * model.vocabulary // (3 * length)
    mask = torch.ones_like(ids)
    mask[1, length - length // 2 :] = 0
    mask[2, : length // 2] = 0
    # Compiled as a whole, a model does the same as when it is not, and no one has to wait for the compiler.
    with torch.compiler.set_stance("force_eager"):
        logits = _compare_layers(model, ids, mask)
        if not _adapted(model):
            answer = model.model(input_ids=ids[ON_THE_RIGHT], attention_mask=mask[ON_THE_RIGHT])
            _compare_logits(model, logits[ON_THE_RIGHT], answer, mask[ON_THE_RIGHT])


def _adapted(model: CircuitModel) -> bool:
    """Whether an adapter says `logits` itself: by its contract a call of the model, which need not read masks."""
    return type(model).logits is not CircuitModel.logits


def _compare_layers(model: CircuitModel, ids: Tensor, mask: Tensor) -> Tensor:
    """What is computed from the weights of every layer with what the stock model puts out; ``[B, T]`` both.

    Returns:
        logits ``[B, V]`` after the last token of each prompt.
    """
    layout, real, row = model.layout, mask.bool(), torch.arange(len(ids), device=ids.device)
    last = last_tokens(mask)
    writers = model.new_stack(ids.shape)
    streams = writers.new_empty(layout.n_streams, *writers.shape[1:])
    logits = model.run(ids, mask, last, writers, streams=streams)
    context = model.context(mask)
    tolerance = 1e-3 if torch.finfo(model.dtype).bits >= 32 else 0.1

    def compare(
        name: str, here: Tensor, stock: Tensor, fault: str, where: Tensor = real, into: Tensor | None = None
    ) -> None:
        """Two tensors ``[..., B, T, d]``, at the tokens ``[B, T]``; ``into`` the stream that they are written into."""
        for side, rows in (("right", ON_THE_RIGHT), ("left", ON_THE_LEFT)):
            ours, theirs = (x[..., rows, :, :][..., where[rows], :].float() for x in (here, stock))
            # Of a part that writes next to nothing, next to the stream, only the rounding could be compared.
            least = 1e-30 if into is None else 1e-4 * float(into[rows][where[rows]].float().norm())
            error = ((ours - theirs).norm() / theirs.norm().clamp(min=least)).item()
            if error < tolerance or (side == "left" and not model.pads_left):
                continue
            if side == "left" and _adapted(model):
                model.pads_left = False
                continue
            _refuse_not_finite(model, name, theirs)
            raise ValueError(
                f"{name} of this {type(model.model).__name__} {fault} (relative error {error:.2g}, prompts padded on "
                f"the {side}) {see_page('own-model', 'What is checked')}"
            )

    def compare_parts(name: str, here: Tensor, stock: Tensor, into: Tensor) -> None:
        fault = (
            f"does not compute what {type(model).__name__} reads from its weights: a modified module, an unmerged "
            "adapter, a hook, an attention that ignores the mask?"
        )
        compare(name, here, stock, fault, into=into)

    def called(component: Component) -> str:
        return f"the {'MLP' if component.kind == 'mlp' else 'attention'} of layer {component.layer}"

    def compare_streams(place: str, here: Tensor, stock: Tensor) -> None:
        fault = "is not the sum of what is written before it: a scaled embedding or layer, a hook on a layer?"
        compare(f"the residual stream before {place}", here, stock, fault)

    positions = model.position_embedding(context)
    stream = writers[0] if positions is None else writers[0] + positions
    for stage in layout.stages[:-1]:
        before = streams[stage[0].stream]
        compare_streams(called(stage[0]), stream, before)
        stream = before
        for component in stage:
            layer, written = component.layer, writers[component.writers]
            if component.kind == "attention":
                norm, bias = model.attention_norm(layer), model.output_bias(layer)
                normed = model.read_norm(norm)(before)
                compare_parts(f"the norm before {called(component)}", normed, norm(before), before)
                readers = before.expand(layout.n_attention_readers, *before.shape)
                compare_parts(called(component), model.attention(layer, readers, context), written, before)
                stream = stream if bias is None else stream + bias
            else:
                compare_parts(called(component), model.mlp(layer, before), written[0], before)
            stream = stream + written.sum(0)
    compare_streams("the last norm", stream, streams[-1])
    output = model.unembed(streams[-1][row, last])
    fault = "is not what its head makes of the last norm"
    compare("the output", output[:, None], logits[:, None], fault, torch.ones_like(real[:, :1]))
    return logits


def _compare_logits(model: CircuitModel, used: Tensor, answer: Any, mask: Tensor) -> None:
    """The logits that are used ``[B, V]`` with what the model gives back when it is called, on prompts ``[B, T]``."""
    owner = type(model.model).__name__
    used, logits = used.float(), logits_of(answer)
    if logits is None or logits.shape != (*mask.shape, used.shape[-1]):
        given = type(answer).__name__ if logits is None else f"logits {list(logits.shape)}"
        raise ValueError(
            f"{owner}.forward gives back {given} where its head puts out logits {[*mask.shape, used.shape[-1]]}, one "
            f"for every token of the vocabulary at every place {see_page('own-model', 'What is checked')}"
        )
    called = logits[torch.arange(len(mask)), last_tokens(mask)].float()
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
