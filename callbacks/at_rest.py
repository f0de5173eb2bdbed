"""A model in training, looked at without its noticing."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from copy import copy

from torch import nn


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
