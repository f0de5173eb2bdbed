"""Submission folders of MIB: what stands where, what comes back, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from lightning_circuits.ablation import ABLATIONS
from lightning_circuits.circuit import Circuit
from lightning_circuits.evaluation.rows import evaluate
from lightning_circuits.files import mib
from lightning_circuits.layout import Layout
from lightning_circuits.models import wrap
from lightning_circuits.selection import size_to_count, top_n

INTERPBENCH, GPT2 = mib.MODELS["interpbench"], mib.MODELS["gpt2"]
SUFFIXES = pytest.mark.parametrize("suffix", [".json", ".pt"])


def scored(layout: Layout, seed: int = 0) -> Circuit:
    scores = torch.randn(layout.n_edges, generator=torch.Generator().manual_seed(seed))
    return Circuit(layout, torch.zeros(layout.n_edges, dtype=torch.bool), scores)


def nine(layout: Layout) -> list[Circuit]:
    scores = scored(layout).scores
    return [Circuit(layout, top_n(scores, n), scores) for n in mib.counts(layout)]


def test_layouts_have_the_numbers_of_edges_that_mib_counts() -> None:
    """Its own constants, from its evaluation."""
    counts = {"gpt2": 32491, "qwen2.5": 179749, "gemma2": 74218, "llama3": 1592881, "interpbench": 1108}
    assert {name: layout.n_edges for name, layout in mib.MODELS.items()} == counts


def test_sizes_are_those_mib_evaluates_at() -> None:
    """`int(share * n_edges)`, in its evaluation, of all ten shares but the full model."""
    assert mib.counts(INTERPBENCH) == [1, 2, 5, 11, 22, 55, 110, 221, 554]


@pytest.mark.parametrize("model", ["interpbench", "gpt2"])
def test_circuits_of_its_shares_fit_their_places(tmp_path: Path, model: str) -> None:
    layout = mib.MODELS[model]
    scores = torch.randn(layout.n_edges, generator=torch.Generator().manual_seed(0))
    circuits = [Circuit(layout, top_n(scores, size_to_count(share, layout), layout)) for share in mib.SHARES]
    mib.write_circuits(tmp_path, "ioi", model, circuits, ".pt")
    assert [int(found.members.sum()) for found in mib.read(tmp_path)["ioi", model]] == mib.counts(layout)


@SUFFIXES
def test_importances(tmp_path: Path, suffix: str) -> None:
    folder = tmp_path / "mine"
    path = mib.write_importances(folder, "ioi", "interpbench", scored(INTERPBENCH), suffix)
    assert path == folder / "ioi_interpbench" / f"importances{suffix}" and path.is_file()
    [(key, [found])] = mib.read(folder).items()
    assert key == ("ioi", "interpbench") and torch.equal(found.scores, scored(INTERPBENCH).scores)
    mib.write_importances(folder, "ioi", "interpbench", scored(INTERPBENCH, 1), suffix)  # a better one
    assert torch.equal(mib.read(folder)[key][0].scores, scored(INTERPBENCH, 1).scores)


@SUFFIXES
def test_nine_circuits_in_any_order(tmp_path: Path, suffix: str) -> None:
    paths = mib.write_circuits(tmp_path, "ioi", "interpbench", nine(INTERPBENCH)[::-1], suffix)
    names = ["0.001", "0.002", "0.005", "0.01", "0.02", "0.05", "0.1", "0.2", "0.5"]
    assert [path.name for path in paths] == [name + suffix for name in names]
    assert {path.parent.name for path in paths} == {"ioi_interpbench"}
    [(key, found)] = mib.read(tmp_path).items()
    assert key == ("ioi", "interpbench") and [Circuit(*data) for data in found] == nine(INTERPBENCH)


def test_a_folder_for_every_task_and_model_with_words_joined_by_a_dash(tmp_path: Path) -> None:
    gpt2 = scored(GPT2)
    mib.write_importances(tmp_path, "ioi", "gpt2", gpt2, ".pt")
    mib.write_importances(tmp_path, "arc_easy", "gemma2", scored(mib.MODELS["gemma2"]), ".pt")
    (tmp_path / ".cache").mkdir()  # as downloads have it
    (tmp_path / "README.md").touch()
    assert sorted(path.name for path in tmp_path.iterdir() if path.is_dir()) == [
        ".cache",
        "arc-easy_gemma2",
        "ioi_gpt2",
    ]
    assert list(mib.read(tmp_path)) == [("arc-easy", "gemma2"), ("ioi", "gpt2")]


def test_files_of_other_names_without_metadata_or_scores_are_read(tmp_path: Path) -> None:
    """As another tool writes them: MIB goes by the number of edges, not by names."""
    place = tmp_path / "ioi_interpbench"
    place.mkdir()
    for i, circuit in enumerate(nine(INTERPBENCH)):
        file = json.loads(circuit.save(place / f"circuit_{9 - i}.json").read_text())
        del file["metadata"]
        for edge in file["edges"].values():
            del edge["score"]
        (place / f"circuit_{9 - i}.json").write_text(json.dumps(file))
    [found] = mib.read(tmp_path).values()
    assert [Circuit(*data) for data in found] == nine(INTERPBENCH) and all(data.scores is None for data in found)


def test_a_circuit_of_another_tool_is_evaluated(tmp_path: Path) -> None:
    """A hand-written file, for a model of InterpBench's layout, to rows of exact ablation."""
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    model = wrap(GPT2LMHeadModel(GPT2Config(vocab_size=11, n_embd=64, n_layer=6, n_head=4, n_positions=8)).eval())
    names = INTERPBENCH.edge_names(range(INTERPBENCH.n_edges))
    file = {
        "cfg": {"n_layers": 6, "n_heads": 4, "parallel_attn_mlp": False, "d_model": 64},
        "nodes": {name: {"in_graph": True} for name in [*INTERPBENCH.writer_names, "logits"]},
        "edges": {name: {"score": float(i % 7), "in_graph": True} for i, name in enumerate(names)},
    }
    place = tmp_path / "ioi_interpbench"
    place.mkdir()
    (place / "importances.json").write_text(json.dumps(file))
    [data] = mib.read(tmp_path)["ioi", "interpbench"]
    ids = torch.randint(0, 11, (2, 3, 5))
    batch = {
        "clean_ids": ids[0],
        "corrupt_ids": ids[1],
        "attention_mask": torch.ones(3, 5, dtype=torch.int64),
        "positions": torch.full((3,), 4),
        "answers": torch.tensor([[1], [2], [3]]),
        "distractors": torch.tensor([[4], [5], [6]]),
    }
    rows = evaluate(model, [batch], {"theirs": Circuit(*data)}, [ABLATIONS.make("interchange")], controls=False)
    by_name = {row.circuit: row for row in rows}
    assert by_name["theirs"].edges == 1108 and by_name["theirs"].kl == pytest.approx(0, abs=1e-5)
    assert by_name["theirs"].logit_difference == pytest.approx(by_name["full"].logit_difference, abs=1e-4)
    assert by_name["empty"].logit_difference != pytest.approx(by_name["full"].logit_difference, abs=1e-2)


# ---- refused ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("write", "what"),
    [
        (
            lambda f: mib.write_importances(f, "iio", "gpt2", scored(GPT2)),
            "no task 'iio'; its tasks are ioi, mcqa",
        ),
        (
            lambda f: mib.write_importances(f, "mcqa", "gpt2", scored(GPT2)),
            "does not measure mcqa with 'gpt2', on",
        ),
        (lambda f: mib.write_importances(f, "ioi", "gpt2", scored(GPT2), ".safetensors"), "reads .json and .pt"),
        (lambda f: mib.write_importances(f, "ioi", "gpt2", scored(INTERPBENCH)), "n_layers 6 against 12"),
        (lambda f: mib.write_importances(f, "ioi", "gpt2", Circuit.full(GPT2)), "the circuit has none"),
        (lambda f: mib.write_circuits(f, "ioi", "gpt2", []), "MIB expects 9 circuits.* got 0"),
        (
            lambda f: mib.write_circuits(f, "ioi", "gpt2", [Circuit.random(GPT2, 325, 0)] * 9),
            "for 0.1% of the edges has 325, and may have at most 32",
        ),
    ],
)
def test_what_mib_would_not_read_is_not_written(tmp_path: Path, write: Callable[[Path], object], what: str) -> None:
    with pytest.raises(ValueError, match=what):
        write(tmp_path)
    assert not list(tmp_path.iterdir())


def test_grouped_keys_and_values_are_not_mibs(tmp_path: Path) -> None:
    grouped = scored(Layout(24, 14, 896, 2))
    with pytest.raises(ValueError, match="n_kv_readers 2 against 14"):
        mib.write_importances(tmp_path, "ioi", "qwen2.5", grouped)


def test_circuits_in_spans_are_not_mibs(tmp_path: Path) -> None:
    placed = scored(INTERPBENCH.in_spans(["S2", "END"]))
    with pytest.raises(
        ValueError, match=r"ioi_interpbench: MIB ranks edges, and knows no spans .* search without spans"
    ):
        mib.write_importances(tmp_path, "ioi", "interpbench", placed)
    with pytest.raises(ValueError, match=r"ioi_interpbench: MIB knows no spans of tokens: take .*without_spans\(how="):
        mib.write_circuits(tmp_path, "ioi", "interpbench", [placed] * 9)
    assert not list(tmp_path.iterdir())
    mib.write_circuits(tmp_path, "ioi", "interpbench", [placed.without_spans()] * 9)


def test_two_kinds_of_files_in_one_folder(tmp_path: Path) -> None:
    mib.write_circuits(tmp_path, "ioi", "interpbench", nine(INTERPBENCH))
    with pytest.raises(ValueError, match=r"holds 0\.001\.json, .* already"):
        mib.write_importances(tmp_path, "ioi", "interpbench", scored(INTERPBENCH))
    with pytest.raises(ValueError, match=r"0\.001\.json"):
        mib.write_circuits(tmp_path, "ioi", "interpbench", nine(INTERPBENCH), ".pt")


def spoil(change: Callable[[Path], object], tmp_path: Path) -> Path:
    mib.write_circuits(tmp_path, "ioi", "interpbench", nine(INTERPBENCH))
    change(tmp_path / "ioi_interpbench")
    return tmp_path


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (lambda place: place.rename(place.with_name("ioi-interpbench")), r"called \{task\}_\{model\}"),
        (lambda place: place.rename(place.with_name("arc_easy_llama3")), "no task 'arc'"),
        (lambda place: place.rename(place.with_name("ioi_gpt2")), "n_layers 6 against 12"),
        (lambda place: place.rename(place.with_name("ioi_gpt4")), "does not measure ioi with 'gpt4'"),
        (lambda place: (place / "0.5.json").unlink(), "holds 8 .json and .pt files; MIB expects one"),
        (lambda place: [file.unlink() for file in place.iterdir()], "holds 0 .json and .pt files"),
        (lambda place: (place / "0.5.json").write_text("{"), r"0\.5\.json cannot be read as a circuit"),
        (lambda place: (place / "0.5.json").write_bytes((place / "0.5.json").read_bytes()[:-9]), "cannot be read"),
        (lambda place: Circuit.full(INTERPBENCH).save(place / "0.1.json"), "for 10.0% of the edges has 221, and may"),
        (
            lambda place: (
                [file.unlink() for file in place.iterdir()] and Circuit.full(INTERPBENCH).save(place / "a.pt")
            ),
            "must have a score for every edge",
        ),
        (lambda place: [[f.unlink() for f in place.iterdir()], place.rmdir()], "holds no folder"),
    ],
)
def test_folders_that_mib_could_not_score(tmp_path: Path, change: Callable[[Path], object], what: str) -> None:
    with pytest.raises(ValueError, match=what):
        mib.read(spoil(change, tmp_path))


def test_no_folder(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no submission folder at"):
        mib.read(tmp_path / "nowhere")
