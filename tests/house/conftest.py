"""What tests of scripts share."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

EXPERIMENTS = str(Path(__file__).parents[2] / "experiments")


@pytest.fixture(scope="module")
def experiments() -> Iterator[None]:
    """Their modules can be imported, inside tests."""
    sys.path.insert(0, EXPERIMENTS)
    yield
    sys.path.remove(EXPERIMENTS)
