"""Edit a fact by fine-tuning some of the weights: those in a circuit, or outside of it, or all.

Every weight stays within ``epsilon`` of where it began, the gradients of all others are masked, and the rest of the
model is zero, as when a circuit is judged, or kept as it is. The two are different questions. With the rest at zero an
edit meets a model that may be able to say little; in the whole model it meets one that works, and what is asked is
whether these weights can move it.

    >>> fact = facts.to_edit(facts.facts("test")[0])                     # of FactsDataModule          # doctest: +SKIP
    >>> probes = Probes(fact.paraphrases, fact.neighbours, list(text.held_out("test")))                # doctest: +SKIP
    >>> with masked_finetune(model, fact.prompt, circuit, probes=probes) as edit:                      # doctest: +SKIP
    ...     edit.after.new_nll, edit.after.neighbours            # and the model is the edited one      # doctest: +SKIP
    (2.4, 0.8)

How far a fact can be moved grows with how many weights may move: compare masks of the same budget (`same_budget`), or
at the same loss (``stop_below``).

After "Understanding Language Model Circuits through Knowledge Editing" (Ge et al. 2024): SGD of 5e-4, 10 or 50 steps,
epsilon 5e-4.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor

from lightning_circuits.arguments import require_choice, require_numbers, require_whole_numbers
from lightning_circuits.batch import Batch, TextBatch
from lightning_circuits.files.numbers import to_json
from lightning_circuits.measures import negative_log_likelihood
from lightning_circuits.models import CircuitModel
from lightning_circuits.weights.judging import line_nll, text_estimate
from lightning_circuits.weights.space import WeightSpace
from lightning_circuits.weights.weight_circuit import WeightCircuit

EditRest = Literal["zero", "keep"]
"""What the weights are that may not move: 0, or what they were."""


@dataclass(frozen=True)
class Probes:
    """What an edit is looked at by, beside its own prompt.

    ``paraphrases``: other wordings of the fact, whose ``answers`` are the new object and ``distractors`` the true one.
    ``neighbours``: prompts of which the answer should stay. ``text``: lines of ordinary text.
    """

    paraphrases: Sequence[Batch] = ()
    neighbours: Sequence[Batch] = ()
    text: Sequence[TextBatch] = ()


@dataclass(frozen=True)
class Look:
    """A model at one moment: NLL in nats of the new and of the true object after the prompt and, on average, after its
    paraphrases; the share of ``neighbours`` after which it says what it said before the edit; NLL of ordinary text in
    nats a token. NaN of what is not looked at."""

    new_nll: float
    true_nll: float
    paraphrase_new_nll: float
    paraphrase_true_nll: float
    neighbours: float
    text_nll: float

    @property
    def edited(self) -> bool:
        """Whether the new object is likelier than the true one."""
        return self.new_nll < self.true_nll


@dataclass(frozen=True)
class Edit:
    """A fact that was edited: the model ``before`` (its other weights at zero, if they are) and ``after``, how many
    weights were ``free``, how far each might go and the farthest did, and in how many ``steps``."""

    rest: str
    free: int
    epsilon: float
    steps: int
    farthest: float
    before: Look
    after: Look
    losses: list[float] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON data; a number that does not exist is None."""
        said = asdict(self)
        for moment in ("before", "after"):
            said[moment] = to_json(said[moment])
        return said


def same_budget(epsilon: float, free: int, of: int) -> float:
    """How far each of ``free`` weights may go, so that all together go as far as ``of`` weights by ``epsilon``."""
    return epsilon * of / free


@contextmanager
def masked_finetune(
    model: CircuitModel,
    fact: Batch,
    circuit: WeightCircuit | WeightSpace,
    steps: int = 50,
    lr: float = 5e-4,
    epsilon: float = 5e-4,
    rest: EditRest = "zero",
    stop_below: float | None = None,
    probes: Probes | None = None,
) -> Iterator[Edit]:
    """While open, a language model says a new fact; then it is what it was, to the bit.

    Args:
        model: the language model.
        fact: its prompt; ``answers`` are the new object, ``distractors`` the true one (`FactsDataModule.to_edit`).
        circuit: the weights that may move; a space for all of its weights.
        steps: of gradient descent, at most.
        lr: learning rate.
        epsilon: how far a weight may go from where it began.
        rest: what the weights of the space are that may not move: ``zero``, or ``keep``.
        stop_below: the NLL of the new object at which to stop. Default: all steps.
        probes: what else to look at, before and after.

    Raises:
        ValueError: an answer of several tokens; a number that is not positive; another rest; a circuit of another
            model, or without weights.
        TypeError: an argument of a wrong type.
        FloatingPointError: the loss is not finite; the model is what it was.
    """
    require_numbers(lr=lr, epsilon=epsilon)
    require_whole_numbers(steps=steps)
    require_choice("rest", rest, EditRest)
    for name, value in (("steps", steps), ("lr", lr), ("epsilon", epsilon)):
        if not 0 < value < math.inf:
            raise ValueError(f"{name} has to be positive and finite, got {value}")
    if "continues" in fact and bool((fact["continues"] > 0).any()):
        raise ValueError("the new object has several tokens; an edit is of a fact whose objects are single tokens")
    space = circuit if isinstance(circuit, WeightSpace) else circuit.space
    masks = _masks(circuit)
    free = sum(int(mask.sum()) for mask in masks.values())
    if not free:
        raise ValueError("no weight may move: the circuit keeps none")
    probes, fact = probes or Probes(), model.receive(fact)
    parameters = space.parameters(model.model)
    own = {name: parameter.data for name, parameter in parameters.items()}
    stood = _answers(model, probes.neighbours)
    try:
        start = {}
        for name, parameter in parameters.items():
            mask = masks[name] = masks[name].to(model.device)
            start[name] = own[name].where(mask, 0.0) if rest == "zero" else own[name]
            parameter.data = start[name].clone()
        before = look(model, fact, probes, stood)
        losses = []
        for _ in range(steps):
            loss = _step(model, fact, parameters, masks, start, lr, epsilon, stop_below)
            losses.append(loss)
            if not math.isfinite(loss):
                raise FloatingPointError(f"the loss of the edit is {loss} after {len(losses)} steps: lower lr ({lr})")
            if stop_below is not None and loss <= stop_below:
                break
        farthest = max(float((parameters[name].data - start[name]).abs().max()) for name in parameters)
        taken = len(losses) - (stop_below is not None and losses[-1] <= stop_below)
        yield Edit(rest, free, epsilon, taken, farthest, before, look(model, fact, probes, stood), losses)
    finally:
        for name, parameter in parameters.items():
            parameter.data, parameter.grad = own[name], None
            parameter.requires_grad_(False)


def _step(
    model: CircuitModel,
    fact: Batch,
    parameters: dict[str, torch.nn.Parameter],
    masks: dict[str, Tensor],
    start: dict[str, Tensor],
    lr: float,
    epsilon: float,
    stop_below: float | None,
) -> float:
    """One step, unless it is already as good as asked for; the loss before it."""
    with torch.inference_mode(False), torch.enable_grad():
        for parameter in parameters.values():
            parameter.requires_grad_()
        logits = model.logits(fact["clean_ids"], fact["attention_mask"], fact["positions"])
        loss = negative_log_likelihood(logits, fact["answers"], fact).mean()
        value = float(loss.detach())
        if stop_below is not None and value <= stop_below:
            return value
        gradients = torch.autograd.grad(loss, list(parameters.values()))
    for (name, parameter), gradient in zip(parameters.items(), gradients, strict=True):
        way = (parameter.data - start[name]).sub_(gradient, alpha=lr).clamp_(-epsilon, epsilon)
        parameter.data = way.add_(start[name]).where(masks[name], start[name])
    return value


@torch.no_grad()
def look(model: CircuitModel, fact: Batch, probes: Probes, stood: Sequence[int]) -> Look:
    """The model as it stands.

    Args:
        model: the language model.
        fact: as for `masked_finetune`.
        probes: what else to look at.
        stood: the tokens that it said after the neighbours before the edit.
    """
    here = _answers(model, probes.neighbours)
    kept = sum(a == b for a, b in zip(here, stood, strict=True)) / len(stood) if stood else math.nan
    text = text_estimate(line_nll(model, probes.text))["text_nll"] if probes.text else math.nan
    return Look(*_new_and_true(model, [fact]), *_new_and_true(model, probes.paraphrases), kept, text)


def _new_and_true(model: CircuitModel, batches: Iterable[Batch]) -> tuple[float, float]:
    new, true = [], []
    for batch in map(model.receive, batches):
        logits = model.run(batch["clean_ids"], batch["attention_mask"], batch["positions"])
        new.append(negative_log_likelihood(logits, batch["answers"], batch))
        true.append(negative_log_likelihood(logits, batch["distractors"], batch))
    return (float(torch.cat(new).mean()), float(torch.cat(true).mean())) if new else (math.nan, math.nan)


def _answers(model: CircuitModel, batches: Iterable[Batch]) -> list[int]:
    """The token that is said after each prompt."""
    said: list[int] = []
    for batch in map(model.receive, batches):
        said += model.run(batch["clean_ids"], batch["attention_mask"], batch["positions"]).argmax(-1).tolist()
    return said


def _masks(circuit: WeightCircuit | WeightSpace) -> dict[str, Tensor]:
    if isinstance(circuit, WeightSpace):
        return {tensor.name: torch.ones(tensor.shape, dtype=torch.bool) for tensor in circuit.tensors}
    return {tensor.name: mask for tensor, mask in circuit.masks()}
