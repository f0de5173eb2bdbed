"""Every example in a docstring of the package is run, and gives what it says; those that need a model are skipped."""

from __future__ import annotations

import doctest
from importlib import import_module

import pytest

from tests.house.test_import_contract import package_sources

EXAMPLES = [name.removesuffix(".__init__") for name, source in package_sources().items() if ">>> " in source]


@pytest.mark.parametrize("module", EXAMPLES)
def test_examples_give_what_they_say(module: str) -> None:
    assert not doctest.testmod(import_module(module)).failed


def test_examples_are_found() -> None:
    assert {"lightning_circuits.layout", "lightning_circuits.files"} < set(EXAMPLES)
