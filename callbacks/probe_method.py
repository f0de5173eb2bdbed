"""How a probe scores edges: by attribution, one pass over its prompts, or by gates that are trained for a few steps."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

from torch import Tensor

from lightning_circuits.ablation import Ablation
from lightning_circuits.arguments import require_whole_numbers, shortened
from lightning_circuits.namespace import pl
from lightning_circuits.objectives import OBJECTIVES, AnyObjective
from lightning_circuits.search import METHODS, Attribution, EdgePruning
from lightning_circuits.search.short_training import briefly_trained

Method: TypeAlias = Attribution | EdgePruning
KINDS = (Attribution, EdgePruning)

TRAINING_STEPS = 50
"""Steps of gates at each probe when nobody names a number."""


def read_method(given: str | Method, objective: AnyObjective | None, ablation: Ablation) -> Method:
    """The method of a probe, without a model.

    Args:
        given: an object, or a name, which means the method's own defaults but for what follows.
        objective: None for the method's own.
        ablation: of the probe.

    Raises:
        ValueError: an unknown name; a method with a language model, in spans, or with an objective beside its own; an
            ablation that the method cannot go by.
        TypeError: something else.
    """
    if isinstance(given, KINDS):
        if hasattr(given, "circuit_model"):
            raise ValueError(
                f"method: {type(given).__name__} has a language model of its own, and a probe scores the edges of the "
                "one that is trained: leave its model out"
            )
        if given.spans:
            raise ValueError(f"method: a probe tells no spans of tokens apart: leave {type(given).__name__}'s out")
        if objective is not None:
            raise ValueError(f"objective: {type(given).__name__} says its own, give it there")
        return given
    names = ", ".join(name for name in METHODS.names() if issubclass(METHODS[name], KINDS))
    if not isinstance(given, str):
        raise TypeError(
            f"method takes an attribution, an EdgePruning, or the name of one ({names}), got {shortened(given)}"
        )
    if given not in METHODS or not issubclass(kind := METHODS[given], KINDS):
        raise ValueError(
            f"method: a probe scores edges by attribution or by EdgePruning, not by {shortened(given)}; choose one of "
            f"{names}"
        )
    method = kind()
    if objective is not None:
        method.objective = OBJECTIVES.make(objective, "objective")
    method.require_takes(ablation)
    method.ablation = ablation
    return method


def read_training_steps(given: int | None, method: Method) -> int | None:
    """How many steps a method is trained for at each probe, `TRAINING_STEPS` by default; None if it is not trained.

    Raises:
        ValueError: no step, or steps for a method that makes none.
        TypeError: no whole number.
    """
    if isinstance(method, Attribution):
        if given is not None:
            raise ValueError(
                f"training_steps: {type(method).__name__} is not trained, it makes one pass over the prompts. Leave "
                "them out, or take method='EdgePruning'"
            )
        return None
    steps = TRAINING_STEPS if given is None else given
    require_whole_numbers(training_steps=steps)
    if steps < 1:
        raise ValueError(f"training_steps is {steps}: it has to be at least 1")
    return steps


def scores_of(method: Method, steps: int | None, loader: Callable[[str], Any], trainer: pl.Trainer) -> Tensor:
    """float32 ``[n_edges]``, on the CPU: of the edges of the model that the method has borrowed.

    The same in all processes: sums over the prompts that they share are those of one; gates are trained on all prompts
    in each of them.

    Args:
        method: that has borrowed a model.
        steps: as `read_training_steps` gives them.
        loader: makes one over all of a split, ``train`` or ``val``.
        trainer: of the run that is probed.
    """
    if isinstance(method, Attribution):
        return method.scores_over(lambda: loader("train"), trainer).cpu()
    assert steps is not None
    scores = briefly_trained(method, steps, lambda: loader("train"), lambda: loader("val"))
    return trainer.strategy.broadcast(scores.cpu())  # on GPUs the last bits may differ
