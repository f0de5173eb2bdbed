"""What of a model has to be computed for a circuit: a component is alive if a way leads from it to the logits.

    >>> layout = Layout(n_layers=2, n_heads=2, d_model=4)
    >>> edges = ["input->a0.h1<v>", "a0.h1->m1", "m1->logits", "input->m0"]
    >>> open_ = torch.zeros(layout.n_edges, dtype=torch.bool)
    >>> open_[[layout.edge_index(name) for name in edges]] = True
    >>> [name for name, alive in zip(layout.writer_names, Alive.of(layout, open_).writers, strict=True) if alive]
    ['input', 'a0.h1', 'm1']

Attention is counted in *units*: a key and a value reader with the query heads that share them. Where heads are coupled
(`Layout`), a whole attention is one unit; so is an MLP.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from lightning_circuits.components import Component
from lightning_circuits.layout import Layout


@dataclass(frozen=True)
class Alive:
    """What is alive of each component: bool ``[its units]``, in the order of `Layout.components`."""

    layout: Layout
    units: list[Tensor]

    @classmethod
    def everything(cls, layout: Layout) -> Alive:
        return cls(layout, [torch.ones(_n_units(layout, each), dtype=torch.bool) for each in layout.components])

    @classmethod
    def of(cls, layout: Layout, open_: Tensor, closed_writes_reference: bool = False) -> Alive:
        """Whatever lies on a way to the logits.

        Args:
            layout: without spans.
            open_: bool ``[n_edges]``, on the CPU: the edges that ways are made of.
            closed_writes_reference: whether a component that no way from the input leads to puts out its reference, as
                under `Ablation.pruning_keeps_output`: then it need not be computed either.
        """
        reached = torch.ones(layout.n_writers, dtype=torch.bool)
        for component in layout.components[1:-1] if closed_writes_reference else ():
            inputs = (layout.into(open_, component) & reached[: component.n_before]).any(1)
            reached[component.writers] = _written_by(layout, component, _units_of(layout, component, inputs))
        read = torch.zeros_like(reached)
        units = list[Tensor]()
        for component in reversed(layout.components):
            wanted = (read & reached)[component.writers].view(_n_units(layout, component), -1)
            alive = torch.ones(1, dtype=torch.bool) if component.kind == "logits" else wanted.any(1)
            read[: component.n_before] |= layout.into(open_, component)[readers_of(layout, component, alive)].any(0)
            units.append(alive)
        return cls(layout, units[::-1])

    @property
    def writers(self) -> Tensor:
        """bool ``[n_writers]``."""
        each = zip(self.layout.components[:-1], self.units[:-1], strict=True)
        return torch.cat([_written_by(self.layout, component, units) for component, units in each])


def readers_of(layout: Layout, component: Component, units: Tensor) -> Tensor:
    """bool ``[its readers]``: those of some of its units, bool ``[its units]``."""
    if _in_units(layout, component):
        return torch.cat([_written_by(layout, component, units), units, units])
    return units.expand(component.readers.stop - component.readers.start)  # the input has none


def _in_units(layout: Layout, component: Component) -> bool:
    """Whether some of a component can be computed without the rest."""
    return component.kind == "attention" and not layout.coupled


def _n_units(layout: Layout, component: Component) -> int:
    return layout.n_kv_readers if _in_units(layout, component) else 1


def _written_by(layout: Layout, component: Component, units: Tensor) -> Tensor:
    """bool ``[its writers]``: those of some of its units."""
    return units.repeat_interleave((component.writers.stop - component.writers.start) // len(units))


def _units_of(layout: Layout, component: Component, readers: Tensor) -> Tensor:
    """bool ``[its units]``: those of which there is any reader, bool ``[its readers]``."""
    if not _in_units(layout, component):
        return readers.any(0, keepdim=True)
    queries, keys, values = readers.split((layout.n_heads, layout.n_kv_readers, layout.n_kv_readers))
    return queries.view(len(keys), -1).any(1) | keys | values
