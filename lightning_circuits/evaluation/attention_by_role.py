"""Attention by role: how much heads look from one named place of the prompts to another, in the model and in a circuit.

Which of two tokens a head prefers can be read from its attention. In IOI, S-inhibition heads look from END to S2, name
movers to IO; a circuit that leaves out what makes IO stand out in a variant of the prompts makes its heads surer of S2
than the model's are, and answers better than the model for it ("Adaptive Circuit Behavior and Generalization in
Mechanistic Interpretability", 2024). The measures are that paper's:

| measure                 | what it is                                                                         |
|-------------------------|------------------------------------------------------------------------------------|
| confidence ratio        | attention to the right role / to the wrong one, in the model and in the circuit    |
| functional faithfulness | attention to a role in the circuit / in the model                                  |
| attention deviation     | attention to a role on prompts of a variant - on those of the base                 |

    >>> data = IOIDataModule("gpt2", spans="roles")                                                # doctest: +SKIP
    >>> rows = attention_by_role(model, loader, circuit, right="S2", wrong="IO")                   # doctest: +SKIP
    >>> [row.head for row in rows if row.changes_sides]                                            # doctest: +SKIP
    ['a7.h9', 'a8.h6']
    >>> rich.print(attention_by_role_table(rows))                             # drawing.tables     # doctest: +SKIP

Ratios are of means over prompts, not means of ratios, which one prompt without attention to the wrong role would decide
alone. Each number has the 95 % interval of a bootstrap over prompts.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from lightning_circuits.ablation import ABLATIONS, Ablation
from lightning_circuits.batch import Batch, prompts_alone
from lightning_circuits.circuit import Circuit
from lightning_circuits.evaluation.attention import attention_in, chosen_heads
from lightning_circuits.evaluation.metrics.bootstrap import Estimate, estimate, mean_estimate, resampled_means
from lightning_circuits.models import CircuitModel
from lightning_circuits.progress import tracked

LEAST_ATTENTION = 0.01
"""A ratio is absent where neither of the two means reaches this: one of two nothings says nothing."""


@dataclass(frozen=True)
class HeadAttention:
    """Where one head looks from the tokens of ``query``: to the ``right`` role or to the ``wrong`` one.

    ``model_right`` ... ``circuit_wrong``: attention to each of the two, from 0 to 1, mean over the ``prompts`` of a
    ``split``. ``model_ratio``, ``circuit_ratio``: the confidence ratios. ``faithfulness_right``,
    ``faithfulness_wrong``: functional faithfulness. The circuit's are under the ``ablation``.
    """

    head: str
    query: str
    right: str
    wrong: str
    ablation: str
    split: str
    prompts: int
    model_right: Estimate
    model_wrong: Estimate
    circuit_right: Estimate
    circuit_wrong: Estimate
    model_ratio: Estimate
    circuit_ratio: Estimate
    faithfulness_right: Estimate
    faithfulness_wrong: Estimate

    @property
    def question(self) -> str:
        """What was asked, and of which prompts."""
        asked = f"{self.query} to {self.right} / {self.wrong}"
        return f"{asked}, {self.ablation} ablation, {self.split} split, {self.prompts:,} prompts"

    @property
    def changes_sides(self) -> bool:
        """Whether the head prefers one role in the model and the other in the circuit: its ratio crosses 1, which
        lies in neither interval."""
        model, circuit = self.model_ratio, self.circuit_ratio
        return model.high < 1 < circuit.low or circuit.high < 1 < model.low

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON data, ``changes_sides`` included; of each number ``name``, ``name_low`` and ``name_high``. What is
        not finite, which JSON does not have, becomes None."""
        flat: dict[str, Any] = {}
        for name, field in asdict(self).items():
            if isinstance(field, Estimate):
                ends = field.named(name).items()
                flat |= {key: number if math.isfinite(number) else None for key, number in ends}
            else:
                flat[name] = field
        return {**flat, "changes_sides": self.changes_sides}


def attention_by_role(
    model: CircuitModel,
    batches: Iterable[Batch],
    circuit: Circuit,
    right: str,
    wrong: str,
    query: str = "END",
    ablation: Ablation | str = "interchange",
    heads: Sequence[str] | None = None,
    split: str = "val",
) -> list[HeadAttention]:
    """Where heads look in the model and in a circuit: one pass over the prompts.

    Args:
        model: the frozen model; batches are moved to its device.
        batches: held-out prompts with spans (see `batch.Spans`).
        circuit: of the model, in spans or not.
        right: the span that the heads should look at.
        wrong: the span that is held against it.
        query: the span that they look from.
        ablation: what cut edges carry, an object or a name; mean ablations already fitted.
        heads: names such as ``a9.h6``. Default: the heads in the circuit.
        split: what the prompts are called in the rows.

    Returns:
        A row for each head.

    Raises:
        ValueError: prompts without spans; one of the three spans is none of theirs, or a prompt has no token in it; a
            circuit of another layout; no such head, or none in the circuit; no batches.
    """
    model = model.in_spans(circuit.layout.spans)
    heads = chosen_heads(model, circuit, heads)
    ablation = ABLATIONS.make(ablation, "ablation")
    both = [Circuit.full(model.layout), circuit]
    found = _attention(model, batches, both, [right, wrong], query, ablation, heads)
    rows = []
    for head, ((model_right, model_wrong), (circuit_right, circuit_wrong)) in zip(heads, found, strict=True):
        rows.append(
            HeadAttention(
                head=head,
                query=query,
                right=right,
                wrong=wrong,
                ablation=ablation.name,
                split=split,
                prompts=len(model_right),
                model_right=mean_estimate(model_right),
                model_wrong=mean_estimate(model_wrong),
                circuit_right=mean_estimate(circuit_right),
                circuit_wrong=mean_estimate(circuit_wrong),
                model_ratio=ratio_of_means(model_right, model_wrong),
                circuit_ratio=ratio_of_means(circuit_right, circuit_wrong),
                faithfulness_right=ratio_of_means(circuit_right, model_right),
                faithfulness_wrong=ratio_of_means(circuit_wrong, model_wrong),
            )
        )
    return rows


def attention_to(
    model: CircuitModel,
    batches: Iterable[Batch],
    role: str,
    query: str = "END",
    circuit: Circuit | None = None,
    ablation: Ablation | str = "interchange",
) -> dict[str, Tensor]:
    """How much every head of the model looks from one span to another, prompt by prompt.

    Args:
        model: the frozen model; batches are moved to its device.
        batches: prompts with spans (see `batch.Spans`).
        role: the span that is looked at; attention is summed over its tokens.
        query: the span that is looked from; mean over its tokens.
        circuit: of the model, in spans or not: the heads look as they do in it, by exact ablation. Default: as they
            do in the model.
        ablation: what cut edges carry, an object or a name; mean ablations already fitted.

    Returns:
        By the names of the heads, float64 ``[n_prompts]`` on the CPU, from 0 to 1; prompts in the order of the batches.

    Raises:
        ValueError: prompts without spans; a span that is none of theirs, or of which a prompt has no token; a circuit
            of another layout; no batches.
    """
    circuit = Circuit.full(model.layout.plain) if circuit is None else circuit
    model = model.in_spans(circuit.layout.spans)
    heads = chosen_heads(model, circuit, [name for name in model.layout.writer_names if name.startswith("a")])
    found = _attention(model, batches, [circuit], [role], query, ablation, heads)
    return {head: per_prompt for head, ((per_prompt,),) in zip(heads, found, strict=True)}


# ---- the measures ----------------------------------------------------------------------------------------------------


def ratio_of_means(a: Tensor, b: Tensor) -> Estimate:
    """Mean of a over mean of b: the confidence ratio of right and wrong, functional faithfulness of circuit and model.

    NaN where neither mean reaches `LEAST_ATTENTION`, and where that of b is 0.

        >>> ratio_of_means(torch.tensor([0.5, 0.5]), torch.tensor([0.25, 0.25]))
        Estimate(value=2.0, low=2.0, high=2.0)

    Args:
        a: attention on n >= 1 prompts, ``[n]``.
        b: on the same prompts, ``[n]``.

    Raises:
        ValueError: they are not of the same prompts.
    """
    if a.shape != b.shape:
        raise ValueError(f"a ratio is of the same prompts, got {list(a.shape)} and {list(b.shape)}")
    pairs = torch.stack([a, b], dim=1).double()
    means, resampled = pairs.mean(0), resampled_means(pairs)
    if means.max() < LEAST_ATTENTION or not means[1]:
        return Estimate(math.nan, math.nan, math.nan)
    return estimate(means[0] / means[1], resampled[:, 0] / resampled[:, 1])


def attention_deviation(variant: Tensor, base: Tensor) -> Estimate:
    """Mean attention on the prompts of a variant - on those of the base, each drawn by itself.

    Both are of `attention_to`, of a head at its own place (``query``): where a head of this kind is known to work.

    Args:
        variant: ``[n]``.
        base: ``[m]``.
    """
    difference = resampled_means(variant[:, None])[:, 0] - resampled_means(base[:, None], seed=1)[:, 0]
    return estimate(variant.double().mean() - base.double().mean(), difference)


# ---- where heads look ------------------------------------------------------------------------------------------------


def _attention(
    model: CircuitModel,
    batches: Iterable[Batch],
    circuits: Sequence[Circuit],
    roles: Sequence[str],
    query: str,
    ablation: Ablation | str,
    heads: Sequence[str],
) -> Tensor:
    """float64 ``[n_heads, n_circuits, n_roles, n_prompts]``: mean over the tokens of ``query``, sum over a role's."""
    parts: list[Tensor] = []
    n = 0
    for batch in tracked(batches, "Reading attention"):
        batch = prompts_alone(model.receive(batch))
        looking, *looked_at = (_tokens_in(batch, name, n).cpu() for name in (query, *roles))
        keys = torch.stack(looked_at).double()  # [n_roles, B, T]
        n += len(looking)
        of_circuits = [
            # Rows of padding may be NaN, and are left out rather than multiplied by 0.
            torch.einsum("hbqk,rbk->hrb", weights.double().masked_fill(~looking[:, :, None], 0.0), keys)
            for weights in attention_in(model, batch, circuits, ablation, heads)
        ]
        parts.append(torch.stack(of_circuits, dim=1) / looking.sum(1))
    if not parts:
        raise ValueError("no batches to look at; a loader can be gone through again, an iterator cannot")
    return torch.cat(parts, dim=-1)


def _tokens_in(batch: Batch, name: str, before: int) -> Tensor:
    """bool ``[B, T]``: the tokens of a span, of which every prompt has some; ``before``: how many prompts came before
    these."""
    names = batch.get("span_names", ())
    if not names:
        raise ValueError(
            "attention by role is between named places of the prompts, and these have no spans: give data that name "
            "them, such as IOIDataModule(..., spans='roles')"
        )
    if name not in names:
        raise ValueError(f"these prompts have no span {name!r}: they have {', '.join(names)}")
    tokens = batch["spans"] == names.index(name)
    if (without := ~tokens.any(1)).any():
        row = int(without.nonzero()[0])
        there = [names[i] for i in batch["spans"][row].unique().tolist() if i >= 0]
        raise ValueError(
            f"prompt {before + row} has no token in the span {name!r}: it has {', '.join(there)}. Name a span that all "
            "prompts have, or give those that have it"
        )
    return tokens
