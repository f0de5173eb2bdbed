"""What circuits of weights are worth: do they answer as the model does, and can they still speak?

A circuit that agrees with the model on the facts that it was trained on may know nothing else, so there is a row for
held-out facts, and beside every number of facts the NLL of ordinary text. All by running the model with the other
weights at zero, or at their mean.

    >>> rows = judge(model, {"half": circuit, **beside(circuit, model)}, facts, lines)                  # doctest: +SKIP
    >>> rows[1].circuit, rows[1].agreement, rows[1].text_nll, rows[0].text_nll                          # doctest: +SKIP
    ('half', 0.91, 3.74, 3.45)
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from lightning_circuits.batch import Batch, TextBatch, own_rows
from lightning_circuits.evaluation.metrics.bootstrap import estimate, mean_estimate, resampled_means
from lightning_circuits.files.numbers import to_json
from lightning_circuits.measures import log_softmax, negative_log_likelihood
from lightning_circuits.models import CircuitModel
from lightning_circuits.progress import tracked
from lightning_circuits.weights.space import WeightSpace
from lightning_circuits.weights.weight_circuit import Rest, WeightCircuit


@dataclass(frozen=True)
class WeightRow:
    """A circuit of weights on some prompts and on ordinary text.

    ``density`` is the share of the ``weights`` that there are. ``agreement``: the share of ``prompts`` on which it says
    the token that the full model says; ``answer_nll``: of the answers, in nats a prompt; ``text_nll``: of ``lines`` of
    ordinary text, in nats a token. Those with ``_low`` and ``_high`` are the ends of a bootstrap's 95 % interval, over
    prompts or lines.
    """

    circuit: str
    rest: str
    split: str
    density: float
    weights: int
    prompts: int
    lines: int
    agreement: float
    agreement_low: float
    agreement_high: float
    answer_nll: float
    answer_nll_low: float
    answer_nll_high: float
    text_nll: float
    text_nll_low: float
    text_nll_high: float

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON data; a number that does not exist is None."""
        return to_json(asdict(self))


def beside(circuit: WeightCircuit, model: CircuitModel, seed: int = 0) -> dict[str, WeightCircuit]:
    """What a circuit is held against, by name: its complement; random weights, and the largest, as many as it keeps of
    every tensor; random ones in the whole."""
    return {
        "complement": circuit.complement(),
        "random": circuit.random(seed),
        "random, whole": circuit.random(seed, within="whole"),
        "magnitude": circuit.magnitude(model),
    }


@torch.no_grad()
def judge(
    model: CircuitModel,
    circuits: Mapping[str, WeightCircuit],
    prompts: Iterable[Batch],
    text: Iterable[TextBatch],
    rest: Rest = "zero",
    split: str = "val",
) -> list[WeightRow]:
    """Judge circuits of weights; first comes the full model.

    Args:
        model: the frozen model.
        circuits: by name.
        prompts: held-out ones, with the true answers; gone through once for each circuit.
        text: lines of ordinary text that nothing was trained on; likewise.
        rest: what the weights are that a circuit does not keep.
        split: what the prompts are called in the rows.

    Raises:
        ValueError: no prompts, or no text; a circuit of another model, or called ``full``.
    """
    if "full" in circuits:
        raise ValueError("a circuit is called 'full', which is the whole model: give it another name")
    said, answers = _of_prompts(model, prompts)
    lines = line_nll(model, text)
    of = max((circuit.space.n_weights for circuit in circuits.values()), default=WeightSpace.of(model).n_weights)
    rows = []
    judged: dict[str, WeightCircuit | None] = {"full": None, **circuits}
    for name, circuit in tracked(judged.items(), f"Judging circuits ({split})"):
        with circuit.applied(model, rest) if circuit is not None else nullcontext():
            if circuit is None:
                here, nll, spoken = said, answers, lines
            else:
                (here, nll), spoken = _of_prompts(model, prompts), line_nll(model, text)
        agreement = (here == said).double()
        numbers = {
            **mean_estimate(agreement).named("agreement"),
            **mean_estimate(nll).named("answer_nll"),
            **text_estimate(spoken),
        }
        density, kept = (1.0, of) if circuit is None else (circuit.density, circuit.n_weights)
        rows.append(WeightRow(name, rest, split, density, kept, len(said), len(lines), **numbers))
    return rows


def text_estimate(lines: Tensor) -> dict[str, float]:
    """``text_nll`` and its interval, from `line_nll` ``[n_lines, 2]``: nats a token, every token counted alike."""
    total, tokens = lines.mean(0)
    resampled = resampled_means(lines)
    return estimate(total / tokens, resampled[:, 0] / resampled[:, 1]).named("text_nll")


@torch.no_grad()
def line_nll(model: CircuitModel, text: Iterable[TextBatch]) -> Tensor:
    """Of every line its NLL in nats, summed over its tokens but the first, and how many those are.

    Args:
        model: as it stands.
        text: the lines.

    Returns:
        float64 ``[n_lines, 2]``.

    Raises:
        ValueError: there are none.
    """
    found = []
    for batch in text:
        ids, mask = (each.to(model.device) for each in (batch["input_ids"], batch["attention_mask"]))
        logs = log_softmax(model.token_logits(ids, mask))[:, :-1]
        of_tokens = -logs.gather(-1, ids[:, 1:, None])[..., 0].double() * mask[:, 1:]
        found.append(torch.stack([of_tokens.sum(-1), mask[:, 1:].sum(-1).double()], dim=1).cpu())
    if not found:
        raise ValueError("there is no ordinary text to judge circuits of weights by")
    return torch.cat(found)


def _of_prompts(model: CircuitModel, prompts: Iterable[Batch]) -> tuple[Tensor, Tensor]:
    """int64 ``[n]``: the token that is said after each prompt; float64 ``[n]``: the NLL of its answers."""
    said, nll = [], []
    for batch in prompts:
        batch = model.receive(batch)
        logits = model.run(batch["clean_ids"], batch["attention_mask"], batch["positions"])
        own = own_rows(batch)
        said.append(logits[own].argmax(-1).cpu())
        nll.append(negative_log_likelihood(logits, batch["answers"], batch).double().cpu())
    if not said:
        raise ValueError("there are no prompts to judge circuits of weights on; an iterator is gone through but once")
    return torch.cat(said), torch.cat(nll)
