"""Path patching: what one node tells another directly, as a table of senders and receivers.

How much of the behaviour goes from head h straight into the query, key or value of head r? Let r's reader see what h
puts out on the corrupt prompt, while all that r reads besides is as on the clean one, and run the model from r on
(Wang et al. 2022, "Interpretability in the Wild"). That is the edge h->r cut and everything else left open:

    effect(h -> r) = F(model in which r reads h's reference) - F(model),        F the mean of a measure over prompts

negative where the path helps. The paper freezes all heads between the two and lets the MLPs compute: what h tells r
through them counts as direct, too. `through_mlps` does so.

Prompts that name their places tell where: at the role t, r reads h's reference at the tokens of t alone, of a key or
value the tokens that are looked at.

    >>> effects = path_patching(model, loader, ["a7.h3", "a7.h9"], ["a9.h9<q>", "a10.h0<q>"], roles=["END"])
    ...                                                                                                # doctest: +SKIP
    >>> effects[0].sender, effects[0].receiver, effects[0].effect                                      # doctest: +SKIP
    ('a7.h3', 'a9.h9<q>', Estimate(value=-0.41, low=-0.53, high=-0.3))
    >>> path_patching_figure(effects).savefig("paths.pdf")                    # drawing.path_patching  # doctest: +SKIP

A pair of the two costs the part of a stock forward above its receiver.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from lightning_circuits.ablation import ABLATIONS, Ablation
from lightning_circuits.batch import Batch
from lightning_circuits.evaluation.metrics.bootstrap import Estimate, mean_estimate
from lightning_circuits.layout import Layout
from lightning_circuits.measures import DEFAULT, MEASURES, AnyMeasure, measure_name
from lightning_circuits.models import CircuitModel
from lightning_circuits.objectives import Maximise
from lightning_circuits.progress import tracked
from lightning_circuits.scoring.exact_patching import ExactPatching, chunks

EDGES_AT_ONCE = 32
"""Each in a copy of the batch."""


@dataclass(frozen=True)
class PathEffect:
    """What a sender tells a receiver directly, at the tokens of a role.

    ``receiver``: a reader, such as ``a9.h9<q>``, ``m3`` or ``logits``. ``role``: "" for all tokens. ``effect``: of a
    path patched under the ``ablation``, with its 95 % interval over prompts; ``full``: F(M), both in the unit of the
    ``measure``. ``through_mlps``: whether what MLPs between the two make of it counts.
    """

    sender: str
    receiver: str
    role: str
    effect: Estimate
    full: float
    measure: str
    ablation: str
    through_mlps: bool
    split: str
    prompts: int

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON data: of the effect ``effect``, ``effect_low`` and ``effect_high``."""
        return {**asdict(self), **self.effect.named("effect")}


def path_patching(
    model: CircuitModel,
    batches: Iterable[Batch],
    senders: Sequence[str],
    receivers: Sequence[str],
    roles: Sequence[str] = (),
    ablation: Ablation | str = "interchange",
    measure: AnyMeasure = DEFAULT,
    through_mlps: bool = False,
    split: str = "val",
) -> list[PathEffect]:
    """Patch the path from every sender to every receiver, one at a time.

    Args:
        model: the frozen model; batches are moved to its device.
        batches: held-out prompts; with roles, prompts with spans (see `batch.Spans`).
        senders: writers by name, such as ``a7.h3``, ``m0``, ``input``.
        receivers: readers by name, such as ``a9.h9<q>``, ``m3``, ``logits``.
        roles: spans of the prompts, each a table of its own. Default: all tokens at once.
        ablation: what a patched path carries, an object or a name; mean ablations already fitted.
        measure: what F is the mean of: a name, or a function ``(logits, batch, full_logits) -> [B]`` with a name.
        through_mlps: let MLPs between the two compute, on what they read of the sender.
        split: what the prompts are called.

    Returns:
        A row for each role, sender and receiver, in this order; none for a sender that does not come before a
        receiver.

    Raises:
        ValueError: no such writer or reader; no sender that comes before a receiver; roles of prompts that have no
            spans, or not this one; no batches; an unknown measure, or one without a name.
    """
    name_of_measure = measure_name(measure := MEASURES.make(measure, "measure"))
    ablation = ABLATIONS.make(ablation, "ablation")
    paths, roles = _paths(model.layout.plain, senders, receivers), list(dict.fromkeys(roles))
    kind = _ThroughMLPs if through_mlps else ExactPatching
    parts: list[Tensor] = []
    full: list[Tensor] = []
    for batch in tracked(batches, "Patching paths"):
        names = batch.get("span_names", ()) if roles else ()
        if missing := [role for role in roles if role not in names]:
            raise ValueError(f"these prompts have no span {missing[0]!r}: they have {', '.join(names) or 'none'}")
        placed = model.in_spans(names)
        edges = torch.tensor(
            [placed.layout.edge_index(f"{path}@{role}" if role else path) for role in roles or [""] for path in paths]
        )
        batch = model.receive(batch)
        patching = kind(placed, batch, ablation, Maximise(measure))
        full.append(-patching.full_loss.double().cpu())
        effects = torch.empty(len(edges), len(full[-1]), dtype=torch.float64)
        place = torch.full((placed.layout.n_edges,), -1)
        place[edges] = torch.arange(len(edges))
        for some in chunks(placed.layout, EDGES_AT_ONCE, among=place >= 0):
            effects[place[some]] = -patching.scores(some).double().cpu()
        parts.append(effects)
    if not parts:
        raise ValueError("no batches to patch paths in; a loader can be gone through again, an iterator cannot")
    of_model, found = float(torch.cat(full).mean()), iter(torch.cat(parts, dim=1))
    rows = []
    for role in roles or [""]:
        for path in paths:
            per_prompt, (sender, receiver) = next(found), path.split("->")
            rows.append(
                PathEffect(
                    sender=sender,
                    receiver=receiver,
                    role=role,
                    effect=mean_estimate(per_prompt),
                    full=of_model,
                    measure=name_of_measure,
                    ablation=ablation.name,
                    through_mlps=through_mlps,
                    split=split,
                    prompts=len(per_prompt),
                )
            )
    return rows


def _paths(layout: Layout, senders: Sequence[str], receivers: Sequence[str]) -> list[str]:
    """The names of the edges from any of the one to any of the other."""
    for what, given, known in (("sender", senders, layout.writer_names), ("receiver", receivers, layout.reader_names)):
        if unknown := [name for name in given if name not in known]:
            raise ValueError(
                f"no {what} {unknown[0]!r} in {layout}: senders are named like 'a0.h1', 'm2', receivers like "
                "'a1.h0<q>', 'm2', 'logits'"
            )
    senders, receivers = list(dict.fromkeys(senders)), list(dict.fromkeys(receivers))
    places = [layout.writer_names.index(name) for name in senders]
    ends = [int(layout.reader_prefix[layout.reader_names.index(name)]) for name in receivers]
    found = [
        f"{sender}->{receiver}"
        for sender, place in zip(senders, places, strict=True)
        for receiver, end in zip(receivers, ends, strict=True)
        if place < end
    ]
    if not found:
        raise ValueError(f"none of the senders {', '.join(senders)} comes before a receiver of {', '.join(receivers)}")
    return found


class _ThroughMLPs(ExactPatching):
    """Exact patching of an edge and of all ways from its writer to its reader that go through MLPs alone."""

    def _change(self, writers: Tensor, span: int, stream: int) -> Tensor:
        change = super()._change(writers, span, stream)
        layout = self.model.layout
        # The stream into which each writer comes: that which the next component reads.
        into = torch.tensor([component.stream + 1 for component in layout.components])
        written = into[layout.writer_component[writers]]
        for layer in range(layout.n_layers):
            read = layout.of_layer(layer)[1].stream
            if read < stream and (below := written <= read).any():
                before = self.streams[read]
                change[below] += self.model.mlp(layer, before + change[below]) - self.model.mlp(layer, before)
        return change
