"""A name says which file is meant."""

from __future__ import annotations

from collections import defaultdict

from tests.house.test_import_contract import PACKAGE, package_sources

SHELLS = {
    "circuit": {"circuit", "drawing.circuit"},
    "attention": {"evaluation.attention", "drawing.attention"},
    "curve": {"evaluation.curve", "callbacks.curve"},
    "faithfulness": {"evaluation.metrics.faithfulness", "callbacks.faithfulness"},
    "information_flow": {"scoring.information_flow", "search.information_flow"},
    "registry": {"registry", "models.registry"},
    "eap_ig": {"search.eap_ig", "files.eap_ig"},  # not a shell: the method, and the files of its authors' program
}
"""Modules of one name: what something is, and how a Trainer measures it, how it is drawn, how models are registered."""


def test_two_files_share_a_name_only_if_one_is_the_shell_of_the_other() -> None:
    found = defaultdict(set)
    for module in package_sources():
        inside = module.removeprefix(f"{PACKAGE}.")
        found[inside.rpartition(".")[-1]].add(inside)
    del found["__init__"], found["base"]  # every room may have one: it says what its files have in common
    shared = {name: modules for name, modules in found.items() if len(modules) > 1}
    assert {name: modules for name, modules in shared.items() if modules != SHELLS.get(name)} == {}
