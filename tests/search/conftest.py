"""One trained search for all tests that only look at it."""

from __future__ import annotations

import pytest

from lightning_circuits import EdgePruning
from lightning_circuits.models.loading import EMBEDDED
from tests.support.edge_pruning import STEPS, Trained, data, fit


@pytest.fixture(scope="session")
def trained() -> Trained:
    """The six lines of the README, on the embedded model."""
    search = EdgePruning(model=EMBEDDED, seed=1)
    weights = {name: value.clone() for name, value in search.model.state_dict().items()}
    source = data(n_train=300)
    trainer = fit(search, STEPS, source)
    return Trained(search, source, trainer, weights)
