"""A model that does not fit one device: the weights of its blocks are shared out among processes (PyTorch's FSDP2).

Each process keeps its part of every matrix of a block, and all of what is small or outside of blocks: vectors,
embeddings, the last norm, the head. Where a block is at work, in a forward or where its weights are read, the processes
put their parts together, and let go of those of the others afterwards:

    with gathered(block):
        block.mlp.down_proj.weight      # a plain parameter; outside, a DTensor

A gradient through a block's weights is taken while it is gathered, too.

All processes have to gather the same blocks in the same order, or they wait for each other for ever: each on prompts of
its own, but on equally many batches (`batch.shared_out`).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from inspect import signature
from typing import Any

import torch
from torch import nn
from torch.distributed.device_mesh import DeviceMesh

from lightning_circuits.pages import see_page

_ALWAYS_THERE = nullcontext()


def shard(model: Any, mesh: DeviceMesh) -> None:
    """Share the weights of a model's blocks out, in place; once is enough.

    A block at a time goes to the device of the processes, so that no device ever holds the model.

    Args:
        model: a `CircuitModel` whose parameters are frozen, whole on every process.
        mesh: of the processes, in one dimension.

    Raises:
        ValueError: its adapter names no blocks; an older PyTorch, which cannot leave vectors whole.
    """
    blocks = getattr(model, "blocks", None)
    if blocks is None:
        raise ValueError(
            f"{type(model).__name__} does not say which modules are the blocks of {type(model.model).__name__}, so "
            "that their weights cannot be shared out: give it `blocks`, the list of its layers, or use strategy=ddp "
            f"{see_page('multi-gpu', 'Models larger than one GPU')}"
        )
    from torch.distributed.fsdp import fully_shard

    if "ignored_params" not in signature(fully_shard).parameters:
        raise ValueError(f"weights are shared out by PyTorch 2.7 or later, and this is {torch.__version__}")

    for block in blocks:
        if hasattr(type(block), "unshard"):
            continue
        # They are little, are read one by one (biases, the norms that attribution folds in), and stay whole.
        vectors = {each for each in block.parameters() if each.ndim < 2}
        fully_shard(block, mesh=mesh, reshard_after_forward=True, ignored_params=vectors)
        # Gathered here, before FSDP's own hook, which would do it on streams of each block's own: what is allocated on
        # one is of no use to the next, and in the end a device held the whole model after all.
        block.register_forward_pre_hook(_gather, prepend=True)


def is_shared_out(model: Any) -> bool:
    """Whether the weights of a `CircuitModel`'s blocks are shared out among processes."""
    return any(hasattr(type(block), "unshard") for block in getattr(model, "blocks", ()))


def gathered(block: nn.Module) -> AbstractContextManager[None]:
    """While open, the weights of a block are whole; one that is not shared out, or is gathered already, is as it is."""
    if hasattr(type(block), "unshard") and _is_apart(block):
        return _gathered(block)
    return _ALWAYS_THERE


@contextmanager
def _gathered(block: Any) -> Iterator[None]:
    _gather(block)
    try:
        yield
    finally:
        block.reshard()


def _gather(block: Any, *_inputs: Any) -> None:
    # What is made in Lightning's inference mode could not be used in a training step afterwards.
    with torch.inference_mode(False), torch.no_grad():
        block.unshard()


def _is_apart(block: nn.Module) -> bool:
    from torch.distributed.tensor import DTensor

    return any(isinstance(each, DTensor) for each in block.parameters())
