"""Looking at prompts in the middle of a run, which goes on with the random numbers that it would have had."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

from lightning_circuits.namespace import pl


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


@contextmanager
def undisturbed() -> Iterator[None]:
    """While open, random numbers are not those of the run, and the same ones each time."""
    with own_random_numbers():
        random.seed(0)
        np.random.seed(0)
        torch.manual_seed(0)
        yield


@contextmanager
def drawing_nothing(loader: Any) -> Iterator[None]:
    """While open, whoever iterates a loader with generators of its own leaves them as they were."""
    samplers = getattr(loader, "sampler", None), getattr(getattr(loader, "batch_sampler", None), "sampler", None)
    generators = [getattr(one, "generator", None) for one in (loader, *samplers)]
    before = {each: each.get_state() for each in generators if isinstance(each, torch.Generator)}
    yield
    for generator, state in before.items():
        generator.set_state(state)
