"""A few steps of training gates in the middle of somebody else's run, of which nothing is touched.

A second Trainer would take the model to a device and back, set it to train, and write files of its own. Here are only
the steps that one would make: on a model that stands still, the circuit is the same.

    >>> search = EdgePruning()                                                          # doctest: +SKIP
    >>> search.borrow_model(model, "a model in training")                               # doctest: +SKIP
    >>> scores = briefly_trained(search, 50, data.train_dataloader, data.val_dataloader)    # doctest: +SKIP
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import count, islice

import torch
from torch import Tensor

from lightning_circuits.batch import Batch
from lightning_circuits.progress import tracked
from lightning_circuits.search.edge_pruning import EdgePruning


def briefly_trained(
    search: EdgePruning, steps: int, train: Callable[[], Iterable[Batch]], val: Callable[[], Iterable[Batch]]
) -> Tensor:
    """Edge scores, float32 ``[n_edges]``: those that a Trainer of ``max_steps=steps`` comes to.

    No parameter of the language model gets a gradient. Processes do not talk to each other, each makes the same steps.
    No step is captured as a CUDA graph, which might meet the run's own work on the GPU.

    Args:
        search: of a language model that it owns or borrows, which it may be left to train.
        steps: of the optimizer, on a batch each.
        train: begins a pass over the training prompts, all of them.
        val: likewise over the validation prompts, on which is decided how many edges go by what was learned
            (`search.splice`).

    Raises:
        ValueError: a pass over the training prompts has no batch.
        FloatingPointError: the objective is not finite.
    """
    with torch.inference_mode(False), torch.enable_grad():
        search.start_within(train)
        optimizer, schedule = search.optimizer_for(steps)
        learned = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        for step, batch in enumerate(tracked(islice(_epochs(train), steps), type(search).__name__, steps)):
            loss = _loss(search, batch, step, steps)
            # Not backward(), which would leave gradients at the language model's parameters, too.
            for parameter, gradient in zip(learned, torch.autograd.grad(loss, learned, allow_unused=True), strict=True):
                parameter.grad = gradient
            optimizer.step()
            schedule.step()
            search.gate.after_step((step + 1) / steps)
        search.learned_edges.fill_(search.worth_learning(val()))
    return search.edge_scores().detach().float()


def _loss(search: EdgePruning, batch: Batch, step: int, steps: int) -> Tensor:
    """Objective and penalty on a batch, a scalar."""
    batch, progress = search.circuit_model.receive(batch), step / steps
    objective = search.losses(search.draw(step, progress), batch, progress).mean()
    if not objective.isfinite():
        raise FloatingPointError(
            f"the objective of {type(search).__name__} is {objective.item()} at step {step} of {steps}. Usual causes: "
            f"weights that are no longer finite, a dtype too narrow for this model ({search.circuit_model.dtype}), or "
            "a broken prompt"
        )
    penalty = search.gate.penalty(progress)
    return objective if penalty is None else objective + penalty


def _epochs(batches: Callable[[], Iterable[Batch]]) -> Iterator[Batch]:
    """Pass after pass, each in the order that Lightning gives its epoch."""
    for epoch in count():
        loader, batch = batches(), None
        set_epoch = getattr(getattr(loader, "sampler", None), "set_epoch", None)
        if set_epoch is not None:
            set_epoch(epoch)
        for batch in loader:
            yield batch
        if batch is None:
            raise ValueError(f"pass {epoch + 1} over the training prompts has no batch to train gates on")
