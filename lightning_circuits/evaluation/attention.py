"""Where the heads of a circuit look, in the full model and in the circuit itself, side by side.

A head that is in a circuit need not do there what it does in the model: with the edges into its query cut, it may look
elsewhere, or nowhere in particular, and the circuit may still answer right (a head that copies S2 where the model's
copies IO, say). Numbers do not show that; attention patterns do.

    >>> patterns = attention_patterns(search.circuit_model, batch, circuit)               # doctest: +SKIP
    >>> patterns.heads, patterns.full.shape                   # heads of the circuit, [heads, B, T, T]  # doctest: +SKIP
    (['a9.h6', 'a9.h9'], torch.Size([2, 8, 17, 17]))
    >>> patterns_figure(patterns, data.tokenizer, prompt=0).savefig("patterns.pdf")       # doctest: +SKIP

The patterns of the circuit are those of exact ablation: all edges outside it carry what the ablation says, the queries
and keys of each head are made from what the circuit's edges bring it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from lightning_circuits.ablation import ABLATIONS, Ablation
from lightning_circuits.batch import Batch
from lightning_circuits.circuit import Circuit
from lightning_circuits.masked import masked_logits
from lightning_circuits.models import CircuitModel, Context


@dataclass(frozen=True)
class Patterns:
    """Attention of some heads on some prompts.

    ``heads``: their names. ``full``, ``circuit``: float32 ``[n_heads_chosen, B, T, T]`` on the CPU, query by key; each
    row sums to 1. ``input_ids``, ``attention_mask``: ``[B, T]``, the clean prompts; rows and columns of padding mean
    nothing. ``spans``: int64 ``[B, T]``, in which of the ``span_names`` each token stands, below 0 for none; None for
    prompts without spans.
    """

    heads: list[str]
    full: Tensor
    circuit: Tensor
    input_ids: Tensor
    attention_mask: Tensor
    spans: Tensor | None = None
    span_names: tuple[str, ...] = ()


def attention_patterns(
    model: CircuitModel,
    batch: Batch,
    circuit: Circuit,
    ablation: Ablation | str = "interchange",
    heads: Sequence[str] | None = None,
) -> Patterns:
    """The attention patterns of heads on the clean prompts of a batch, in the full model and in a circuit.

    Args:
        model: the frozen model; the batch is moved to its device.
        batch: prompts (see `batch.Batch`); all of them are run.
        circuit: of this model.
        ablation: what cut edges carry, an object or a name; mean ablations already fitted.
        heads: names such as ``a9.h6``. Default: the heads in the circuit.

    Raises:
        ValueError: a circuit of another layout; no such head; a circuit without heads, and none named.
    """
    heads = chosen_heads(model, circuit, heads)
    batch = model.receive(batch)
    full, own = attention_in(model, batch, [Circuit.full(model.layout), circuit], ablation, heads)
    spans = batch["spans"].cpu() if "spans" in batch else None
    names = tuple(batch.get("span_names", ()))
    return Patterns(heads, full, own, batch["clean_ids"].cpu(), batch["attention_mask"].cpu(), spans, names)


def chosen_heads(model: CircuitModel, circuit: Circuit, heads: Sequence[str] | None = None) -> list[str]:
    """The heads to look at: those named, or those in a circuit.

    Raises:
        ValueError: a circuit of another layout; no such head; a circuit without heads, and none named.
    """
    layout = model.layout
    layout.require(circuit.layout, "the circuit")
    if heads is None:
        heads = [name for name in circuit.node_names() if name.startswith("a")]
        if not heads:
            raise ValueError("no head is in the circuit: name those to look at, such as heads=['a0.h1']")
    for name in heads:
        if not name.startswith("a") or name not in layout.writer_names:
            raise ValueError(f"no head {name!r} in {layout}: heads are named like 'a0.h1'")
    return list(heads)


@torch.no_grad()
def attention_in(
    model: CircuitModel,
    batch: Batch,
    circuits: Sequence[Circuit],
    ablation: Ablation | str,
    heads: Sequence[str],
) -> list[Tensor]:
    """The attention of heads in each of some circuits; the references of cut edges are made once for all.

    Args:
        model: the frozen model.
        batch: on its device.
        circuits: of its layout; all edges are the model itself.
        ablation: what cut edges carry, an object or a name.
        heads: their names.

    Returns:
        For each circuit float32 ``[n_heads_chosen, B, T, T]`` on the CPU, query by key.
    """
    _, corrupt = model.run_pair(batch)
    ablation = ABLATIONS.make(ablation, "ablation")
    reference, places = ablation.reference(batch, corrupt), ablation.places(model.layout, batch)
    prompts = batch["clean_ids"], batch["attention_mask"], batch["positions"]
    found = []
    for circuit in circuits:
        gates = circuit.members.float().to(model.device)
        with _noting(model, heads) as seen:
            masked_logits(model, gates, *prompts, reference.clone(), places=places)
        found.append(torch.stack([seen[name] for name in heads]))
    return found


@contextmanager
def _noting(model: CircuitModel, heads: Sequence[str]) -> Iterator[dict[str, Tensor]]:
    """While open, forwards note the attention ``[B, T, T]`` of some heads, by name.

    Fused attention gives no weights, so they are computed beside it, from the same queries and keys.
    """
    wanted: dict[int, list[int]] = {}
    for name in heads:
        layer, head = map(int, re.findall(r"\d+", name))
        wanted.setdefault(layer, []).append(head)
    seen: dict[str, Tensor] = {}
    attend = model.attend

    def noted(layer: int, q: Tensor, k: Tensor, v: Tensor, context: Context, units: Tensor | None = None) -> Tensor:
        if layer in wanted:
            weights = model.attention_weights(layer, q, k, context, units)[wanted[layer]].float()
            seen.update({f"a{layer}.h{head}": w.cpu() for head, w in zip(wanted[layer], weights, strict=True)})
        return attend(layer, q, k, v, context, units)

    model.attend = noted  # type: ignore[method-assign]
    try:
        yield seen
    finally:
        del model.attend
