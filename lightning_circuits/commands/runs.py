"""Finding what runs have left behind: their faithfulness curves, in folders, files, or Weights & Biases.

A run is a folder, searched to its bottom for the `curve.json` that `callbacks.FaithfulnessCurve` writes (an offline run
of Weights & Biases is a folder too), such a file itself, or `entity/project/run_id` of Weights & Biases.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Sequence
from itertools import takewhile
from pathlib import Path
from typing import NamedTuple

from lightning_circuits.evaluation.comparison import distinct
from lightning_circuits.evaluation.curve import Curve
from lightning_circuits.pages import see_page

IS_CURVE = re.compile(r"curve(-[^/]+)?\.json")
OF_WEIGHTS = re.compile(r"weights(-[^/]+)?\.(json|csv)")
RUN_ID = re.compile(r"[^/\s]+/[^/\s]+/[^/\s]+")


class FoundCurve(NamedTuple):
    """A curve and where it was found: the source that was asked for, and the file in it."""

    source: str
    place: str
    curve: Curve


def find_curves(sources: Sequence[str], split: str | None = None) -> list[FoundCurve]:
    """The curves of the runs named, all of one split, each once.

    Args:
        sources: folders, files, or `entity/project/run_id`.
        split: which. Default: ``test`` if every source has a curve of it, else ``val`` or what else they have in
            common.

    Raises:
        FileNotFoundError: there is no such folder, or no curve in it (what was looked for is said).
        ValueError: a file that holds no curve; a W&B run that cannot be read; no split that every source has.
    """
    found: dict[str, FoundCurve] = {}
    splits: dict[str, set[str]] = {}
    for source in sources:
        curves = _curves_of(source)
        splits[source] = {one.curve.split for one in curves}
        found |= {one.place: one for one in curves if one.place not in found}
    common = set.intersection(*splits.values()) if split is None else {split}
    if missing := [source for source in splits if not splits[source] & common] or ([] if common else list(splits)):
        have = "; ".join(f"{source} has {' and '.join(sorted(splits[source]))}" for source in splits)
        asked = f"a curve of the {split} split" if split else "a split in common"
        raise ValueError(
            f"the runs do not have {asked} ({have}): measure {missing[0]} on the same one, with 'lightning-circuits "
            "evaluate' (test) or 'lightning-circuits validate' (val)"
        )
    chosen = next(name for name in ("test", "val", *sorted(common)) if name in common)
    return [one for one in found.values() if one.curve.split == chosen]


def _curves_of(source: str) -> list[FoundCurve]:
    path = Path(source).expanduser()
    if OF_WEIGHTS.fullmatch(path.name) and path.is_file():
        raise ValueError(f"{path} has the rows of circuits of weights, which have no curve over sizes to compare")
    if path.suffix == ".safetensors" and path.is_file():
        raise ValueError(
            f"{path} is a circuit, not a curve: 'lightning-circuits evaluate' measures that of a circuit of edges, and "
            "writes its curve.json"
        )
    if path.is_file():
        return [FoundCurve(source, str(path.resolve()), Curve.load(path))]
    if path.is_dir():
        files = {file.resolve(): file for file in sorted(path.rglob("curve*.json")) if _is_curve(file, path)}
        if not files:
            raise FileNotFoundError(
                f"no curve in {path}: looked for curve.json in it and all folders below. FaithfulnessCurve among a "
                "run's callbacks writes one, and so does 'lightning-circuits evaluate' for a saved circuit"
            )
        return [FoundCurve(source, str(place), Curve.load(file)) for place, file in files.items()]
    if RUN_ID.fullmatch(source):
        return _from_wandb(source)
    raise FileNotFoundError(f"there is no run at {source}: neither a folder, a file, nor entity/project/run_id of W&B")


def _is_curve(file: Path, below: Path) -> bool:
    """By its name. What stands in a hidden folder is being written, or a copy that some editor keeps."""
    hidden = any(part.startswith(".") for part in file.relative_to(below).parts)
    return bool(IS_CURVE.fullmatch(file.name)) and not hidden


def _from_wandb(run_id: str) -> list[FoundCurve]:
    """The curves among the files of a W&B run, else among its artifacts."""
    try:
        import wandb
    except ImportError:
        raise ValueError(f"{run_id} is no folder here; to read it from Weights & Biases: pip install wandb") from None
    with tempfile.TemporaryDirectory() as folder:
        try:
            run = wandb.Api().run(run_id)
            files = [file for file in run.files() if IS_CURVE.fullmatch(Path(file.name).name)]
            for file in files:
                file.download(root=folder, replace=True).close()
            for artifact in [] if files else run.logged_artifacts():
                for name in artifact.manifest.entries:
                    if IS_CURVE.fullmatch(Path(name).name):
                        artifact.get_entry(name).download(root=folder)
        except Exception as error:  # not logged in, offline, no such run: each version of wandb has classes of its own
            said = str(error).strip().splitlines() or [type(error).__name__]
            raise ValueError(
                f"{run_id} is no folder here, and cannot be read from Weights & Biases: {said[0].rstrip('.')}. Is the "
                "name right (entity/project/run_id), are you logged in (wandb login), is there a network? The folder "
                f"of an offline run can be named instead {see_page('sweeps', 'What came of it')}"
            ) from error
        curves = [file for file in sorted(Path(folder).rglob("*.json")) if IS_CURVE.fullmatch(file.name)]
        if not curves:
            raise FileNotFoundError(
                f"no curve in the W&B run {run_id}: looked for curve.json among its files and artifacts. "
                "FaithfulnessCurve among the run's callbacks puts it there"
            )
        return [FoundCurve(run_id, f"{run_id}/{file.name}", Curve.load(file)) for file in curves]


def name_curves(found: Sequence[FoundCurve]) -> dict[str, Curve]:
    """Curves by the name of their method; where several are of one method, with what tells their places apart."""
    methods = [one.curve.method for one in found]
    named: dict[str, Curve] = {}
    for apart, one in zip(told_apart([Path(one.place) for one in found]), found, strict=True):
        name = one.curve.method if methods.count(one.curve.method) == 1 else f"{one.curve.method} {apart}"
        named[distinct(name, named)] = one.curve
    return named


def told_apart(places: Sequence[Path]) -> list[str]:
    """Of each path what tells it from the others: its parts but for those that all begin or end with."""
    parts = [place.with_suffix("").parts for place in places]
    start = _alike(parts)
    end = _alike([place[start:][::-1] for place in parts])
    return ["/".join(place[start : len(place) - end]) or place[-1] for place in parts]


def _alike(places: Sequence[Sequence[str]]) -> int:
    """How many parts, from the first, are the same in all."""
    return sum(1 for _ in takewhile(lambda parts: len(set(parts)) == 1, zip(*places, strict=False)))
