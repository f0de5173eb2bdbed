"""A run in training, looked at without its noticing: its model, and its random numbers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from copy import copy

from torch import nn

from lightning_circuits.namespace import pl


@contextmanager
def at_rest(model: nn.Module) -> Iterator[None]:
    """While open, a module is in eval mode, without hooks and uncompiled; afterwards it is as it was, to the attribute.

    Compiled code stays out of it, or it would be compiled again for what is run here, which the training would feel.
    """
    before = [(module, dict(vars(module))) for module in model.modules()]
    for module, state in before:
        own = {name: copy(value) for name, value in state.items() if isinstance(value, (dict, set))}
        bare = {name: type(value)() for name, value in own.items() if name.endswith(("_hooks", "_hooks_with_kwargs"))}
        vars(module).update(own | bare, training=False, _compiled_call_impl=None)
    try:
        yield
    finally:
        for module, state in before:
            vars(module).clear()
            vars(module).update(state)


@contextmanager
def own_random_numbers() -> Iterator[None]:
    """While open, what is drawn of random numbers is not missed by the run, whatever is raised.

    Lightning's `isolate_rng` gives nothing back after an error.
    """
    isolated = pl.utilities.seed.isolate_rng()
    isolated.__enter__()
    try:
        yield
    finally:
        isolated.__exit__(None, None, None)
