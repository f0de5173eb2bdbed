"""Some heads of an attention, with their weights alone: what an extracted circuit has in the place of the whole.

`CircuitModel.projection` and `CircuitModel.outputs` take a model's weights apart at every call. Here that is done: for
each head its blocks of the projections, with the norm's gain in them, and its block of the output matrix. Heads that
share a key and a value share their block.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor, nn

from lightning_circuits.models.norms import Norm
from lightning_circuits.models.projections import NormedProjection

KINDS = ("q", "k", "v")


class LiveHeads(nn.Module):
    """The heads of an attention that are alive, or all of them.

    Args:
        weights: of each of `KINDS` the blocks ``[n_blocks, d, d_head]``, what they add as ``k_constant`` ``[n_blocks,
            d_head]`` if they do, and as ``k_blocks``, int64 ``[n_readers]``, which reader has which block, if that is
            not so many consecutive ones to each; ``output`` ``[n_heads, d_head, d]``, raw as of `HeadOutputs`.
        readers: how many queries, keys and values are read.

    Raises:
        KeyError: a weight that is missing.
    """

    output: Tensor

    def __init__(self, weights: Mapping[str, Tensor], readers: Sequence[int]) -> None:
        super().__init__()
        self.readers = readers
        self.register_buffer("output", weights["output"])
        for kind in KINDS:
            self.register_buffer(kind, weights[kind])
            for more in (f"{kind}_constant", f"{kind}_blocks"):
                self.register_buffer(more, weights.get(more))

    def projection(self, norm: Norm) -> NormedProjection:
        """What makes their queries, keys and values of streams, behind a norm whose gain is in the weights."""
        return NormedProjection.of_folded(norm, [self._of_readers(kind) for kind in KINDS], self.readers)

    def _of_readers(self, kind: str) -> tuple[Tensor, Tensor | None]:
        """Weight and constant, so many consecutive readers to each block."""
        weight, constant, blocks = (getattr(self, kind + more) for more in ("", "_constant", "_blocks"))
        if blocks is None:
            return weight, constant
        return weight[blocks], None if constant is None else constant[blocks]
