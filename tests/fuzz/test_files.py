"""Files in which anything may stand: what was valid is the same again, all else is one error that names the file.

By hand, with more examples and others each time: FUZZ=thorough pytest tests/fuzz
"""

from __future__ import annotations

import json
import resource
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lightning_circuits import EdgePruning
from lightning_circuits.callbacks import FaithfulnessValidation
from lightning_circuits.circuit import Circuit
from lightning_circuits.datamodules import read_pairs
from lightning_circuits.evaluation.curve import Curve
from lightning_circuits.evaluation.formation import Formation
from lightning_circuits.layout import Layout
from lightning_circuits.models.loading import load_model
from lightning_circuits.search.checkpoints import read_checkpoint
from tests.support.made_circuits import circuit
from tests.support.made_curves import BETTER, F, make_curve
from tests.support.made_formation import make_formation
from tests.support.mutations import ANYTHING, TENSORS, as_json, changed, damaged, read_or_refused
from tests.support.training import quiet_trainer, small

fuzz = settings(suppress_health_check=[*HealthCheck])
MEGABYTES = 500
SMALL = Layout(1, 2, 8)
CIRCUITS = {suffix: circuit(SMALL, node_scored=True) for suffix in (".json", ".pt", ".safetensors")}
CIRCUITS[" in spans.json"] = circuit(SMALL.in_spans(["S2", "END"]), node_scored=True)
CURVE = make_curve({"signed": F, "absolute": BETTER}).to_dict()

FORMATION = make_formation(steps=(0, 10), f=(0.1, 0.9)).to_dict()


def lines(rows: Any) -> bytes:
    return b"\n".join(map(as_json, rows)) if isinstance(rows, list) else as_json(rows)


PAIRS = [
    {
        "clean": f"{name} gave a drink to",
        "corrupt": "Mary gave a drink to",
        "answers": [" John"],
        "distractors": [" Tom"],
    }
    for name in ("John", "Tom")
]


@pytest.fixture(autouse=True)
def bounded() -> Iterator[None]:
    """No file may take more memory than there is reason for."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    yield
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < MEGABYTES * 1024


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("fuzz")


def saved(suffix: str, folder: Path) -> bytes:
    return CIRCUITS[suffix].save(folder / f"valid{suffix}").read_bytes()


def same_again(path: Path) -> None:
    """A circuit that is read is written and read as the same."""
    if (found := read_or_refused(Circuit.load, path)) is not None:
        for suffix in (".json", ".safetensors") if found.layout.spans else (".json", ".pt", ".safetensors"):
            again = Circuit.load(found.save(path.with_name(f"again{suffix}")))
            assert torch.equal(again.members, found.members) and again.layout == found.layout


@pytest.mark.parametrize("suffix", CIRCUITS)
@given(data=st.data())
@fuzz
def test_bytes_of_a_circuit(suffix: str, folder: Path, data: st.DataObject) -> None:
    path = folder / f"damaged{suffix}"
    path.write_bytes(data.draw(damaged(saved(suffix, folder))))
    same_again(path)


@pytest.mark.parametrize("suffix", [".json", " in spans.json"])
@given(data=st.data())
@fuzz
def test_values_of_a_circuit_in_json(suffix: str, folder: Path, data: st.DataObject) -> None:
    path = folder / "changed.json"
    path.write_bytes(as_json(data.draw(changed(json.loads(saved(suffix, folder))))))
    same_again(path)


@given(data=st.data())
@fuzz
def test_values_of_a_circuit_in_pt(folder: Path, data: st.DataObject) -> None:
    path = folder / "changed.pt"
    saved(".pt", folder)
    torch.save(data.draw(changed(torch.load(folder / "valid.pt"), ANYTHING | TENSORS)), path)
    same_again(path)


@given(content=changed(CURVE).map(as_json) | damaged(as_json(CURVE)))
@fuzz
def test_curves(folder: Path, content: bytes) -> None:
    path = folder / "curve.json"
    path.write_bytes(content)
    if (found := read_or_refused(Curve.load, path)) is not None:
        again = folder / "again"
        again.mkdir(exist_ok=True)
        found.save(again, "curve")
        assert repr(Curve.load(again / "curve.json")) == repr(found)


@given(content=changed(FORMATION).map(as_json) | damaged(as_json(FORMATION)))
@fuzz
def test_formations(folder: Path, content: bytes) -> None:
    path = folder / "formation.json"
    path.write_bytes(content)
    if (found := read_or_refused(Formation.load, path)) is not None:
        assert repr(Formation.load(found.save(folder / "again.json"))) == repr(found)


@given(content=changed(PAIRS).map(lines))
@fuzz
def test_values_of_pairs(folder: Path, content: bytes) -> None:
    path = folder / "pairs.jsonl"
    path.write_bytes(content)
    read_or_refused(read_pairs, path)


@given(content=damaged(lines(PAIRS)))
@fuzz
def test_bytes_of_pairs(folder: Path, content: bytes) -> None:
    path = folder / "pairs.jsonl"
    path.write_bytes(content)
    read_or_refused(read_pairs, path)


# ---- checkpoints -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def search() -> EdgePruning:
    return EdgePruning(load_model("tiny-ioi"))


@pytest.fixture(scope="module")
def checkpoint(search: EdgePruning, folder: Path) -> dict[str, Any]:
    trainer = quiet_trainer(FaithfulnessValidation(sizes=[0.1]), max_steps=1)
    trainer.fit(search, small())
    trainer.save_checkpoint(folder / "valid.ckpt")
    return torch.load(folder / "valid.ckpt")


@given(data=st.data())
@fuzz
def test_bytes_of_a_checkpoint(folder: Path, checkpoint: dict[str, Any], data: st.DataObject) -> None:
    path = folder / "damaged.ckpt"
    path.write_bytes(data.draw(damaged((folder / "valid.ckpt").read_bytes())))
    read_or_refused(read_checkpoint, path)


@given(data=st.data())
@fuzz
def test_values_of_a_checkpoint(
    folder: Path, search: EdgePruning, checkpoint: dict[str, Any], data: st.DataObject
) -> None:
    """Of what is ours in it; how loops and optimizers stand is Lightning's."""
    ours = {key: checkpoint[key] for key in ("state_dict", "lightning_circuits")}
    path = folder / "changed.ckpt"
    torch.save({**checkpoint, **draw_dict(data, ours)}, path)
    read = read_or_refused(read_checkpoint, path)
    if read is not None:
        read_or_refused(lambda _: search.on_load_checkpoint(read), path, "checkpoint")


def draw_dict(data: st.DataObject, content: dict[str, Any]) -> dict[str, Any]:
    drawn = data.draw(changed(content, ANYTHING | TENSORS))
    return drawn if isinstance(drawn, dict) else dict.fromkeys(content, drawn)
