"""A formation: its numbers are those of its circuits, and a file of it is the same again or refused."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from lightning_circuits.evaluation.formation import Formation, Moment
from lightning_circuits.layout import Layout
from tests.support.made_curves import make_row
from tests.support.made_formation import LAYOUT, make_formation


def grouped(members: torch.Tensor, layout: Layout) -> Formation:
    rows = [make_row(name, "zero", 1, 0.5) for name in ("full", "empty", "some")]
    return Formation("EAP", "a", layout, 0.9, [Moment(0, rows, {"some": members})])


@pytest.mark.parametrize("layout", [LAYOUT, Layout(3, 4, 8, n_kv_readers=2), Layout(2, 2, 8, parallel=True)])
def test_edges_are_counted_where_they_begin_and_end(layout: Layout) -> None:
    """Against the names of the edges, one by one."""
    members = torch.rand(layout.n_edges, generator=torch.Generator().manual_seed(1)) < 0.4
    expected = dict.fromkeys(layout.writer_names, 0)
    for name in layout.edge_names(members.nonzero()[:, 0]):
        writer, reader = name.split("->")
        expected[writer] += 1
        node, _, letter = reader.removesuffix(">").partition("<")
        heads = [node]
        if letter in ("k", "v") and layout.kv == "group":
            each = layout.n_heads // layout.n_kv_readers
            before, number = node.rsplit(".", 1)
            group = int(number.lstrip("hg"))
            heads = [f"{before}.h{group * each + i}" for i in range(each)]
        for head in heads:
            if head != "logits":
                expected[head] += 1
    [found] = grouped(members, layout).edges_at("some").tolist()
    assert dict(zip(layout.writer_names, found, strict=True)) == expected


def test_overlap_with_the_last_circuit_beside_chance() -> None:
    formation = make_formation()
    for size in formation.sizes:
        last = set(formation.moments[-1].members[size].nonzero()[:, 0].tolist())
        for moment, found in zip(formation.moments, formation.overlaps(size), strict=True):
            here = set(moment.members[size].nonzero()[:, 0].tolist())
            assert found is not None and found.iou == pytest.approx(len(here & last) / len(here | last))
            drawn = [set(torch.randperm(LAYOUT.n_edges)[: len(last)].tolist()) for _ in range(2000)]
            mean = sum(len(each & last) / len(each | last) for each in drawn) / len(drawn)
            assert found.expected == pytest.approx(mean, abs=0.01)
        assert found.iou == 1.0


def test_a_circuit_without_edges_has_nothing_in_common() -> None:
    assert make_formation({"none": 0, "20 edges": 20}).overlaps("none") == [None] * 3


def test_the_size_to_look_at_is_the_smallest_that_is_enough_in_the_end() -> None:
    assert make_formation({"20 edges": 20, "10 edges": 10}).enough() == "10 edges"
    assert make_formation(f=(1.0, 0.5, 0.5)).enough() == "20 edges"  # none: the largest
    assert make_formation(f=(1.0, 1.0, math.nan)).enough() == "20 edges"
    with pytest.raises(ValueError, match=r"no circuit of '1%' was looked at, but of 10 edges, 20 edges"):
        make_formation().edges_at("1%")


def test_a_file_of_it_is_the_same_again(tmp_path: Path) -> None:
    formation = make_formation(f=(math.nan, 0.5, 0.9), metadata={"data": {"task": "ioi"}})
    again = Formation.load(formation.save(tmp_path / "formation.json"))
    assert repr(again) == repr(formation)  # in which NaN equals NaN
    for one, other in zip(again.moments, formation.moments, strict=True):
        assert all(torch.equal(one.members[size], other.members[size]) for size in formation.sizes)


def edited(**changes: Any) -> Callable[[dict[str, Any]], None]:
    return lambda content: content["moments"][1].update(changes)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda content: content.pop("layout"), "missing 'layout'"),
        (lambda content: content.update(moments=[]), "there is no moment of the training"),
        (lambda content: content.update(model=7), "its 'model' is 7, not a text"),
        (lambda content: content.update(faithfulness=None), "its 'faithfulness' is None, not a number"),
        (lambda content: content["layout"].update(n_heads="two"), "its 'layout' is none: n_heads takes a whole"),
        (lambda content: content["layout"].update(n_layers=3), "its full model has .* edges, and its layout"),
        (edited(step=0), "the moment of step 0 comes after that of step 0"),
        (edited(step=-1), "entry 1 of its 'moments': its 'step' is -1"),
        (edited(rows=[]), "the moment of step 10 has no row for 'full'"),
        (edited(members={"10 edges": [10**6], "20 edges": []}), "entry 1 .*its circuit of '10 edges' is no list of ed"),
        (edited(members={"10 edges": [1]}), "step 10 has circuits of '10 edges', the first one of '10 edges', '20 ed"),
        (edited(members=[]), "its 'members' no object"),
    ],
)
def test_what_is_no_formation_is_refused(tmp_path: Path, change: Any, said: str) -> None:
    content = make_formation().to_dict()
    change(content)
    path = tmp_path / "formation.json"
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=f"formation.json cannot be read as a formation: .*{said}"):
        Formation.load(path)


def test_moments_of_another_layout_are_refused() -> None:
    formation = make_formation()
    with pytest.raises(ValueError, match="expected one value for each of"):
        replace(formation, layout=Layout(3, 2, 8))
    with pytest.raises(FileNotFoundError, match="no formation at nowhere"):
        Formation.load("nowhere.json")
