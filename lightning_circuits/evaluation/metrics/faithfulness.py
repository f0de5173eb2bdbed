"""How well a circuit does what the full model does, over a data set.

*Faithfulness* is the share of the model's behaviour that a circuit keeps. With m the mean of a measure over prompts,
the logit difference if nothing else is said (`measures`),

    f = (m(circuit) - m(empty)) / (m(full) - m(empty))

0 is what the ablation alone does, 1 the full model; f > 1 overshoots: the circuit answers more surely than the model.
The means are taken before the ratio: single prompts on which full and empty hardly differ would rule a mean of ratios.
How the ratios per prompt spread is worth seeing all the same: their median and quartiles. How far f itself can be
trusted, given no more prompts than there are, a bootstrap says: had other prompts of the kind been drawn, f would in
95 % of the cases have come out between ``faithfulness_low`` and ``faithfulness_high``, roughly.

f alone misleads, a circuit may reach 1 and say other things than the model, so there are beside it the KL divergence
from the full model, the accuracy, and how often circuit and model agree, apart for prompts where the model is right and
where it is wrong: a circuit that is right where the model is wrong is not the model's. And the plain ratio that others
report, with the difference that it is made of (`ratio`): beside f, they may tell another story.

    >>> logits = {"full": [[2.0, 0.0, 1.0]], "circuit": [[1.5, 0.0, 1.0]], "empty": [[0.0, 0.0, 1.0]]}
    >>> full, circuit, empty = (torch.tensor(logits[name]) for name in ("full", "circuit", "empty"))
    >>> metric = CircuitFaithfulness()
    >>> metric.update(circuit, full, empty, {"answers": torch.tensor([[0]]), "distractors": torch.tensor([[1]])})
    >>> {name: round(value.item(), 3) for name, value in metric.compute().items()}  # doctest: +NORMALIZE_WHITESPACE
    {'faithfulness': 0.75, 'faithfulness_low': 0.75, 'faithfulness_high': 0.75, 'faithfulness_q1': 0.75,
     'faithfulness_median': 0.75, 'faithfulness_q3': 0.75, 'value': 1.5, 'ratio': 0.75, 'ratio_low': 0.75,
     'ratio_high': 0.75, 'difference': -0.5, 'difference_low': -0.5, 'difference_high': -0.5, 'kl': 0.029,
     'accuracy': 1.0, 'agreement_when_right': 1.0, 'agreement_when_wrong': nan, 'logit_difference': 1.5, 'prompts': 1}
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

from lightning_circuits.batch import Batch, own_rows
from lightning_circuits.evaluation.metrics.bootstrap import interval_of, resampled_means
from lightning_circuits.evaluation.metrics.ratio import beside_the_model
from lightning_circuits.measures import (
    DEFAULT,
    MEASURES,
    AnyMeasure,
    candidate_values,
    correct,
    kl,
    logit_difference,
    values,
)

RESOLUTION = 1e-4
"""Means of a measure this close count as equal: between two ways of computing one model in float32, that is rounding of
logits; and a ten-thousandth of a probability or of a nat is no behaviour."""

PER_PROMPT = ("circuit", "full", "empty", "kl", "right", "full_right", "agrees", "logit_difference")


class CircuitFaithfulness(Metric):
    """Faithfulness, KL divergence, accuracy and agreement of one circuit.

    The state is a few numbers per prompt, gathered from all processes when the result is asked for. Processes may have
    seen different numbers of prompts, or none; each prompt counts once.

    `compute` gives a dict of float64 scalars:

    - ``faithfulness``: the ratio of means above; ``faithfulness_low``, ``faithfulness_high``: its 95 % interval (see
      `faithfulness_interval`); ``faithfulness_q1``, ``faithfulness_median``, ``faithfulness_q3``: quartiles of the
      ratios per prompt.
    - ``value``: m(circuit).
    - ``ratio``, ``difference``: m(circuit) / m(full) and m(circuit) - m(full), each with ``_low`` and ``_high``, its
      95 % interval (see `ratio.beside_the_model`).
    - ``kl``: mean over prompts of KL(full || circuit), summed over the vocabulary, in nats.
    - ``accuracy``: the share of prompts that the circuit gets right (see `measures.correct`).
    - ``agreement_when_right``, ``agreement_when_wrong``: of the prompts that the full model gets right (wrong), the
      share on which the circuit has the same preference. The preference is whether an answer stands above the
      distractors; where a prompt has no distractors, it is the first token of the whole vocabulary.
    - ``logit_difference``: mean over prompts of the circuit's, whatever the measure.
    - ``prompts``: how many there were.

    **NaN means that there is nothing to measure**, never an error in the model: faithfulness where the full and the
    empty model's means are equal (closer than `RESOLUTION`), so that no behaviour lies between them; the plain ratio
    where the full model's mean is not told from 0; an agreement over no prompts at all. Ratios of single prompts that
    are NaN stay out of the quartiles. Without any prompt `compute` raises a ValueError.

    Args:
        measure: what m is the mean of: a name (`MEASURES`), or a function ``(logits, batch, full_logits) -> [B]``.

    Raises:
        ValueError: an unknown name; from `update`, a measure that does not give one number per prompt.
        TypeError: something else.
    """

    full_state_update = False
    is_differentiable = False

    circuit: list[Tensor]
    full: list[Tensor]
    empty: list[Tensor]
    kl: list[Tensor]
    right: list[Tensor]
    full_right: list[Tensor]
    agrees: list[Tensor]
    logit_difference: list[Tensor]

    def __init__(self, measure: AnyMeasure = DEFAULT, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.measure = MEASURES.make(measure, "measure")
        for name in PER_PROMPT:
            self.add_state(name, default=[], dist_reduce_fx="cat")

    def update(self, circuit_logits: Tensor, full_logits: Tensor, empty_logits: Tensor, batch: Batch) -> None:
        """Take in a batch.

        Args:
            circuit_logits: ``[B, V]`` at the answer position, of the circuit.
            full_logits: the same of the full model.
            empty_logits: the same of the empty circuit under the same ablation.
            batch: the prompts; ``answers`` and ``distractors``, token ids ``[B, K]`` padded with -100, ``continues`` of
                answers of several tokens, and whatever else the measure asks for.
        """
        right, full_right = (correct(logits, batch) for logits in (circuit_logits, full_logits))
        own = own_rows(batch)
        same_token = circuit_logits[own].argmax(-1) == full_logits[own].argmax(-1)
        _, rivals = candidate_values(full_logits, batch["distractors"], batch)
        of_prompts = {
            "circuit": values(self.measure, circuit_logits, batch, full_logits),
            "full": values(self.measure, full_logits, batch, full_logits),
            "empty": values(self.measure, empty_logits, batch, full_logits),
            "kl": kl(circuit_logits, batch, full_logits),
            "right": right,
            "full_right": full_right,
            "agrees": torch.where(rivals.any(-1), right == full_right, same_token),
            "logit_difference": logit_difference(circuit_logits, batch),
        }
        for name in PER_PROMPT:
            # float32 for all: torchmetrics lets a process that saw no prompt take part with an empty float32 tensor.
            getattr(self, name).append(of_prompts[name].float())

    def compute(self) -> dict[str, Tensor]:
        """All numbers over the prompts seen, float64 scalars by name.

        Raises:
            ValueError: no prompt was seen.
        """
        # In float64, and so on the CPU: the order in which processes were gathered then leaves no trace in the means.
        circuit, full, empty, kl, right, full_right, agrees, logits_apart = (
            dim_zero_cat(getattr(self, name)).cpu().double() for name in PER_PROMPT
        )
        if not len(circuit):
            raise ValueError("faithfulness of a circuit: no process has seen a prompt, so there is nothing to measure")
        quartiles = faithfulness(circuit, full, empty).nanquantile(torch.tensor([0.25, 0.5, 0.75]).double())
        low, high = faithfulness_interval(circuit, full, empty)
        return {
            "faithfulness": faithfulness(circuit.mean(), full.mean(), empty.mean()),
            "faithfulness_low": low,
            "faithfulness_high": high,
            "faithfulness_q1": quartiles[0],
            "faithfulness_median": quartiles[1],
            "faithfulness_q3": quartiles[2],
            "value": circuit.mean(),
            **beside_the_model(circuit, full),
            "kl": kl.mean(),
            "accuracy": right.mean(),
            "agreement_when_right": agrees[full_right == 1].mean(),
            "agreement_when_wrong": agrees[full_right == 0].mean(),
            "logit_difference": logits_apart.mean(),
            "prompts": torch.tensor(len(circuit)),
        }


def faithfulness(circuit: Tensor, full: Tensor, empty: Tensor) -> Tensor:
    """The share of the way from empty to full; NaN where there is no way.

    Args:
        circuit: the measure of the circuit, of any shape: of prompts, or their means.
        full: that of the model, of the same shape.
        empty: that of the empty circuit, of the same shape.
    """
    way = full - empty
    return torch.where(way.abs() < RESOLUTION, torch.nan, (circuit - empty) / way)


def faithfulness_interval(circuit: Tensor, full: Tensor, empty: Tensor, seed: int = 0) -> Tensor:
    """The 95 % interval of faithfulness as a ratio of means, ``[2]`` float64: a bootstrap over prompts (`bootstrap`).

    Resamples in which full and empty do not differ have no f and are left out; if none has one, the interval is NaN.

    Args:
        circuit: the measure of the circuit on n >= 1 prompts, ``[n]``.
        full: ``[n]``, that of the model.
        empty: ``[n]``, that of the empty circuit.
        seed: of the draws.
    """
    # What the circuit keeps, what there was to keep.
    kept, way = resampled_means(torch.stack([circuit - empty, full - empty], dim=1), seed).unbind(1)
    return interval_of(faithfulness(kept, way, torch.zeros_like(way)))
