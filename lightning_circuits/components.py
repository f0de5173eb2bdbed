"""What computes as one in a transformer, in the order of computation: attention, MLP, attention, ...

    >>> for component in components_of(n_layers=1, n_heads=2, n_attention_readers=6, parallel=False)[1:]:
    ...     print(component.kind, component.layer, component.stream, component.n_before)
    attention 0 0 1
    mlp 0 1 3
    logits 1 2 4

In parallel blocks attention and MLP read the same stream, and both write into the next one:

    >>> for component in components_of(n_layers=1, n_heads=2, n_attention_readers=6, parallel=True)[1:]:
    ...     print(component.kind, component.layer, component.stream, component.n_before)
    attention 0 0 1
    mlp 0 0 1
    logits 1 1 4
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from torch import Tensor


class Component(NamedTuple):
    """The attention of a layer or an MLP; and at the two ends the embedding and the logits.

    ``kind``: ``"input"`` is the embedding. ``layer``: of the input -1, of the logits ``n_layers``. ``stream``: which of
    the model's residual streams it reads; what it writes comes into the next one. (The input reads none: -1.)
    ``readers``, ``writers``: where its own stand among all. ``n_before``: its readers read the first ``n_before``
    writers.
    """

    kind: Literal["input", "attention", "mlp", "logits"]
    layer: int
    stream: int
    readers: slice
    writers: slice
    n_before: int


def components_of(n_layers: int, n_heads: int, n_attention_readers: int, parallel: bool) -> list[Component]:
    """The components of a model: the input, attention and MLP of each layer, the logits.

    Args:
        n_layers: how many layers it has.
        n_heads: heads of a layer.
        n_attention_readers: query, key and value readers of a layer.
        parallel: whether the MLP of a layer reads the stream that its attention reads, and not the one after it.
    """
    components = [Component("input", -1, -1, slice(0, 0), slice(0, 1), 0)]
    readers, writers, stream = 0, 1, 0
    for layer in range(n_layers):
        before, heads = writers, slice(writers, writers + n_heads)
        of_attention = slice(readers, readers + n_attention_readers)
        components.append(Component("attention", layer, stream, of_attention, heads, before))
        if not parallel:
            before, stream = heads.stop, stream + 1
        readers, writers = of_attention.stop + 1, heads.stop + 1
        of_mlp, mlp = slice(of_attention.stop, readers), slice(heads.stop, writers)
        components.append(Component("mlp", layer, stream, of_mlp, mlp, before))
        stream += 1
    logits, nothing = slice(readers, readers + 1), slice(writers, writers)
    return [*components, Component("logits", n_layers, stream, logits, nothing, writers)]


def owners(parts: list[slice]) -> Tensor:
    """int64 ``[places]``: in which of consecutive parts each of all their places lies."""
    return torch.arange(len(parts)).repeat_interleave(torch.tensor([part.stop - part.start for part in parts]))
