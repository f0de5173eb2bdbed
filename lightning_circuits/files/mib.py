"""A folder that MIB's circuit track can score, and the same folder read back.

The Mechanistic Interpretability Benchmark (Mueller et al. 2025) judges circuits by task and model, each in a folder of
its own called ``{task}_{model}``, the words of a task joined by ``-``. The folder holds one of two things:

    ioi_gpt2/importances.json       one file with a score for every edge: MIB chooses the circuits of all sizes
    arc-easy_llama3/0.001.pt ...    nine files, each a circuit, with at most 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50 % of
                                    the edges: MIB takes them as they are, ordered by their number of edges

Both are ordinary circuit files (`eap_ig`). What does not fit, MIB passes over without a word: a folder whose name it
does not know, a tenth file. Here it is refused, when it is written and when it is read.

    >>> import tempfile, torch
    >>> gpt2 = MODELS["gpt2"]
    >>> scored = CircuitData(gpt2, torch.zeros(gpt2.n_edges, dtype=torch.bool), torch.randn(gpt2.n_edges), {})
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write_importances(folder, "ioi", "gpt2", scored, suffix=".pt").relative_to(folder).as_posix()
    ...     [(task, model, len(circuits)) for (task, model), circuits in read(folder).items()]
    'ioi_gpt2/importances.pt'
    [('ioi', 'gpt2', 1)]
    >>> counts(gpt2)
    [32, 64, 162, 324, 649, 1624, 3249, 6498, 16245]

What is written may be a `Circuit` or the `CircuitData` of one; what is read is the data, ``Circuit(*data)`` makes a
circuit of it. A submission to the leaderboard needs at least two models and two tasks. Circuits are counted with one
key and one value reader per query head.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

from lightning_circuits.files import load, save
from lightning_circuits.files.base import CircuitData, CircuitLike, ranks_all_edges
from lightning_circuits.layout import Layout

MIB_SIZES = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
"""The shares of the edges at which MIB judges a ranking; curves here, too, unless others are named."""
SHARES = MIB_SIZES[:-1]
"""The sizes of the nine circuits: the tenth would be the full model."""

MODELS = {
    "interpbench": Layout(6, 4, 64),
    "gpt2": Layout(12, 12, 768),
    "qwen2.5": Layout(24, 14, 896),
    "gemma2": Layout(26, 8, 2304),
    "llama3": Layout(32, 32, 4096),
}
"""MIB's names of models, and the layout that its files have for each."""

TASKS = {
    "ioi": ("interpbench", "gpt2", "qwen2.5", "gemma2", "llama3"),
    "mcqa": ("qwen2.5", "gemma2", "llama3"),
    "arithmetic-addition": ("llama3",),
    "arithmetic-subtraction": ("llama3",),
    "arc-easy": ("gemma2", "llama3"),
    "arc-challenge": ("llama3",),
}
"""MIB's names of tasks, and the models that it measures each with."""

SUFFIXES = (".json", ".pt")

SomeCircuit = TypeVar("SomeCircuit", bound=CircuitLike)


def counts(layout: Layout) -> list[int]:
    """The largest circuits that the nine places have room for, in edges: rounded down, as `selection.size_to_count`."""
    return [int(share * layout.n_edges) for share in SHARES]


def write_importances(
    folder: str | os.PathLike[str], task: str, model: str, circuit: CircuitLike, suffix: str = ".json"
) -> Path:
    """Write ``{task}_{model}/importances{suffix}``: the scores of a circuit, from which MIB chooses by itself.

    MIB ranks twice, by score for CPR and by |score| for CMD. Which edges the circuit has does not count.

    Args:
        folder: of the submission; made if it is not there.
        task: by MIB's name, see `TASKS`; ``arc_easy`` is taken for ``arc-easy``.
        model: by MIB's name, see `TASKS`.
        circuit: with scores.
        suffix: ``.json`` or ``.pt``.

    Raises:
        ValueError: a task or model that MIB does not measure, another suffix, a circuit of another layout than the
            model's, in spans or without scores, or files of another kind in the folder.
    """
    place = _place(folder, task, model, suffix)
    if circuit.layout.spans:
        raise ValueError(
            f"{place.name}: MIB ranks edges, and knows no spans of tokens, which the circuit's scores are of: search "
            "without spans, or let write_circuits have each circuit.without_spans(how='any')"
        )
    MODELS[model].require(circuit.layout, f"the circuit for MIB's {model}")
    if not ranks_all_edges(circuit):
        raise ValueError(
            f"{place.name}: MIB ranks all edges by their scores, and the circuit has none, or those of its own edges "
            "alone, as in a .json of CircuitExport: take its .pt or .safetensors"
        )
    _require_only(place, {f"importances{suffix}"})
    place.mkdir(parents=True, exist_ok=True)
    return save(circuit, place / f"importances{suffix}")


def write_circuits(
    folder: str | os.PathLike[str], task: str, model: str, circuits: Sequence[CircuitLike], suffix: str = ".json"
) -> list[Path]:
    """Write the nine files of ``{task}_{model}``, the smallest circuit first: ``0.001.json`` to ``0.5.json``.

    Args:
        folder: of the submission; made if it is not there.
        task: as for `write_importances`.
        model: as for `write_importances`.
        suffix: ``.json`` or ``.pt``.
        circuits: nine, in any order; sorted by size, each with no more edges than `counts` has for its place.

    Raises:
        ValueError: as `write_importances`; not nine circuits, or one with too many edges for its place.
    """
    place = _place(folder, task, model, suffix)
    for circuit in circuits:
        circuit.layout.require_plain(f"{place.name}: MIB")
        MODELS[model].require(circuit.layout, f"a circuit for MIB's {model}")
    ordered = _in_places(circuits, place.name)
    names = [f"{share:g}{suffix}" for share in SHARES]
    _require_only(place, set(names))
    place.mkdir(parents=True, exist_ok=True)
    return [save(circuit, place / name) for circuit, name in zip(ordered, names, strict=True)]


def read(folder: str | os.PathLike[str]) -> dict[tuple[str, str], list[CircuitData]]:
    """Every circuit of a submission, of this package or of another, by task and model.

    Returns:
        ``(task, model)`` to one circuit with the scores of every edge (its members are what the file has, often none),
        or to nine circuits, the smallest first.

    Raises:
        FileNotFoundError: no such folder.
        ValueError: a folder in it that is not called ``{task}_{model}`` by MIB's names; no folder at all; a folder
            with neither one nor nine circuit files; a single file without scores; a file that is no circuit, has
            another layout than the model, or more edges than its place has room for.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"no submission folder at {folder}")
    # Downloaded from Hugging Face, a folder comes with `.cache` and `.gitattributes`.
    places = sorted(place for place in folder.iterdir() if place.is_dir() and not place.name.startswith("."))
    if not places:
        raise ValueError(f"{folder} holds no folder {{task}}_{{model}}, such as ioi_gpt2")
    found = {}
    for place in places:
        task, separator, model = place.name.partition("_")
        if not separator:
            raise ValueError(f"{place}: a folder of a submission is called {{task}}_{{model}}, such as ioi_gpt2")
        _require_known(task, model, str(place))
        found[task, model] = _read_place(place, model)
    return found


def _read_place(place: Path, model: str) -> list[CircuitData]:
    files = _circuit_files(place)
    if len(files) not in (1, len(SHARES)):
        raise ValueError(
            f"{place} holds {len(files)} .json and .pt files; MIB expects one with the scores of all edges, or "
            f"{len(SHARES)} circuits"
        )
    circuits = []
    for file in files:
        circuit = load(file)
        MODELS[model].require(circuit.layout, f"the circuit in {file}")
        circuits.append(circuit)
    if len(files) > 1:
        return _in_places(circuits, str(place))
    if circuits[0].scores is None:
        raise ValueError(f"{files[0]}: a file that stands alone must have a score for every edge")
    return circuits


def _in_places(circuits: Sequence[SomeCircuit], where: str) -> list[SomeCircuit]:
    if len(circuits) != len(SHARES):
        raise ValueError(
            f"{where}: MIB expects {len(SHARES)} circuits, of at most {', '.join(f'{s:.1%}' for s in SHARES)} of the "
            f"edges; got {len(circuits)}"
        )
    ordered = sorted(circuits, key=_n_edges)
    for circuit, share, room in zip(ordered, SHARES, counts(ordered[0].layout), strict=True):
        if _n_edges(circuit) > room:
            raise ValueError(
                f"{where}: the circuit for {share:.1%} of the edges has {_n_edges(circuit):,}, and may have at most "
                f"{room:,}; see mib.counts"
            )
    return ordered


def _n_edges(circuit: CircuitLike) -> int:
    return int(circuit.members.sum())


def _place(folder: str | os.PathLike[str], task: str, model: str, suffix: str) -> Path:
    task = task.replace("_", "-")
    if suffix not in SUFFIXES:
        raise ValueError(f"MIB reads {' and '.join(SUFFIXES)} files, not {suffix!r}")
    _require_known(task, model, "a submission")
    return Path(folder) / f"{task}_{model}"


def _require_known(task: str, model: str, where: str) -> None:
    if task not in TASKS:
        raise ValueError(f"{where}: MIB has no task {task!r}; its tasks are {', '.join(TASKS)}")
    if model not in TASKS[task]:
        raise ValueError(f"{where}: MIB does not measure {task} with {model!r}, only with {', '.join(TASKS[task])}")


def _require_only(place: Path, names: set[str]) -> None:
    """Refuse to add files of one kind to a folder with another: MIB could not tell which count."""
    if others := sorted(file.name for file in _circuit_files(place) if file.name not in names):
        raise ValueError(f"{place} holds {', '.join(others)} already, and MIB would read those too; remove them first")


def _circuit_files(place: Path) -> list[Path]:
    if not place.is_dir():
        return []
    return sorted(file for file in place.iterdir() if file.suffix in SUFFIXES and not file.name.startswith("."))
