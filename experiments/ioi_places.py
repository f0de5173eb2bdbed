"""Prompts of IOI's variants in places that carry over from one variant to the next, and circuits taken along.

A circuit in spans says where in the prompt each edge is. To take one from Base to a variant, the places of both have to
go by the same names. Those that are named do: IO, the token behind it, S1, the token behind it, S2, END. What lies
between them does not (``S1+1..S2`` of Base is ``S1+1..IO2`` and ``IO2..S2`` of DoubleIO), so all tokens up to S2 that
have no name are one place here, `ELSEWHERE`. A variant has IO2 and IO3 beside these, and there a circuit of Base has no
edge: as in the paper, whose heads work at S2, S1+1 and END and are ablated at all other tokens.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from lightning_circuits.circuit import Circuit
from lightning_circuits.datamodules import IOIDataModule
from lightning_circuits.datamodules.tokenising import PromptPair, TokenPair
from lightning_circuits.layout import Layout
from lightning_circuits.nodes import on_ways

ELSEWHERE = "elsewhere"
"""The place of all tokens before S2 that have no name."""
BEHIND_IO = "IO+1"
"""The place of the token behind the first IO, as S1+1 is that behind the first S."""


class PlacedIOI(IOIDataModule):
    """`IOIDataModule` in the places above. Arguments are the same, but for ``spans``."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **{**options, "spans": "roles"})

    def candidates(self, split: str) -> Iterator[PromptPair]:
        for pair in super().candidates(split):
            _, end = pair.spans["IO"] or (0, 0)  # every prompt has one
            behind = next(re.compile(r"\w+|[^\w\s]").finditer(pair.clean, end))
            yield replace(pair, spans={**pair.spans, BEHIND_IO: behind.span()})

    def _placed(self, texts: Sequence[PromptPair], tokens: Sequence[TokenPair]) -> Sequence[TokenPair]:
        placed = super()._placed(texts, tokens)
        return [replace(pair, spans=[_place(name) for name in pair.spans]) for pair in placed]


def _place(name: str) -> str:
    return ELSEWHERE if ".." in name and name != "S2..END" else name


# ---- circuits taken along --------------------------------------------------------------------------------------------

AS_ON_BASE = {
    "IO1": {"IO": "S1", BEHIND_IO: "S1+1"},
    "IO2": {"IO2": "S2"},
    "IO3": {"IO3": "S2"},
    ELSEWHERE: {ELSEWHERE: "S2"},
}
"""Places at which a circuit may be re-opened, and where on Base it has the edges that it gets there: of a first mention
at S1 and behind it, of a repeated one at S2."""


def carried(circuit: Circuit, layout: Layout) -> Circuit:
    """A circuit's edges in the places of another layout; it has none in a place that is new there."""
    members, spans = layout.each_span(torch.zeros(layout.n_edges, dtype=torch.bool)), circuit.layout.spans
    for name, of_place in zip(spans, circuit.layout.each_span(circuit.members), strict=True):
        members[layout.spans.index(name)] = of_place
    return Circuit(layout, members.flatten(), metadata=circuit.metadata)


def ways_through(circuit: Circuit, heads: Sequence[str]) -> Tensor:
    """bool ``[n_edges]``: the circuit's edges on ways from the input to the logits through one of some heads.

    Where such a way leads a head to a place, by a key or a value, all that the head finds there is with it: a key that
    says "look here" does nothing without the value that is looked at.
    """
    layout, members = circuit.layout, circuit.members
    writers = torch.tensor([layout.writer_names.index(head) for head in heads], dtype=torch.int64)
    readers = torch.tensor([name.partition("<")[0] in heads for name in layout.reader_names])
    leave, enter = torch.isin(layout.edge_writer, writers), readers[layout.edge_reader]
    last, first = layout.edge_reader == layout.n_readers - 1, layout.edge_writer == 0
    # Up to the heads: as if they alone wrote to the logits. From them on: as if they alone read the input.
    up, down = (members & ~last) | (leave & last), (members & ~first & ~enter) | (first & enter)
    on = [on_ways(layout, some) & some for some in (up, down)]
    ways = (on[0] & ~last | on[1] & ~enter) & members
    heads_of = [name.partition("<")[0] for name in layout.reader_names]
    number = {head: n for n, head in enumerate(dict.fromkeys(heads_of))}
    looked_at = torch.tensor([name.endswith(("<k>", "<v>")) for name in layout.reader_names])[layout.edge_reader]
    found = layout.edge_span * len(number) + torch.tensor([number[head] for head in heads_of])[layout.edge_reader]
    return ways | (members & looked_at & torch.isin(found, found[ways & looked_at]))


def reopened(circuit: Circuit, heads: Sequence[str], at: Sequence[str]) -> Circuit:
    """A circuit of Base on a variant, with what goes through some heads at these places, and at none besides.

    Args:
        circuit: in the places of the variant, see `carried`.
        heads: those that see that a name is repeated.
        at: of ``S2``, where the circuit has them, and the places in `AS_ON_BASE`, where it has not.
    """
    layout = circuit.layout
    members, ways = (layout.each_span(each).clone() for each in (circuit.members, ways_through(circuit, heads)))
    place = {name: number for number, name in enumerate(layout.spans)}
    if "S2" not in at:
        members[place["S2"]] &= ~ways[place["S2"]]
    for name in at:
        for new, known in AS_ON_BASE.get(name, {}).items():
            members[place[new]] |= ways[place[known]]
    return Circuit(layout, members.flatten())
