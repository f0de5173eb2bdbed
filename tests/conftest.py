"""What every test runs under: no network, one thread, the same random numbers each time.

The environment is set before anything that reads it is imported, and the processes that tests start inherit it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

os.environ.update(HF_HUB_OFFLINE="1", WANDB_MODE="offline", TOKENIZERS_PARALLELISM="false", OMP_NUM_THREADS="1")

import random

import numpy as np
import pytest
import torch
from hypothesis import settings

torch.set_num_threads(1)

# Examples are drawn from a fixed seed, so that a run of CI can be repeated; timing is not what properties are about.
settings.register_profile("repeatable", deadline=None, derandomize=True)
settings.register_profile("thorough", deadline=None, max_examples=2000)
settings.load_profile(os.environ.get("FUZZ", "repeatable"))


def registered_for_it_alone() -> Iterator[None]:
    """What a test or a file of tests registers, by itself or by an example that it loads, goes with it."""
    from lightning_circuits.ablation import ABLATIONS
    from lightning_circuits.files import FORMATS
    from lightning_circuits.gates import GATES, SPARSITIES
    from lightning_circuits.measures import MEASURES
    from lightning_circuits.models.registry import FAMILIES
    from lightning_circuits.objectives import OBJECTIVES
    from lightning_circuits.search.base import METHODS

    with pytest.MonkeyPatch.context() as patch:
        for registry in (ABLATIONS, FAMILIES, FORMATS, GATES, MEASURES, METHODS, OBJECTIVES, SPARSITIES):
            patch.setattr(registry, "_classes", dict(registry._classes))
        yield


file_alone = pytest.fixture(registered_for_it_alone, autouse=True, scope="module", name="file_alone")
test_alone = pytest.fixture(registered_for_it_alone, autouse=True, name="test_alone")


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The command line is called in a folder of its own, into which runs write."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["lightning-circuits"])
    return tmp_path


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with slow tests first, and pages: with several workers, the last file to end is then a short one."""
    slow = {item.path for item in items if item.get_closest_marker("slow") or item.path.suffix == ".md"}
    items.sort(key=lambda item: item.path not in slow)


def pytest_runtest_setup(item: pytest.Item) -> None:
    """The same result alone as within the suite: seeds, and nothing of W&B that an earlier test has left behind."""
    os.environ.pop("WANDB_SERVICE", None)  # else a program started by a test writes through the service of this process
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)
