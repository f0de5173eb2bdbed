"""Several methods side by side: one table and one figure of the curves that their runs have left behind.

    lightning-circuits compare runs/eap runs/eap_ig runs/edge_pruning --output figures
    lightning-circuits compare runs/sweep --pareto --y kl          # what nothing betters, over all runs of a sweep
    lightning-circuits compare runs/eap my-team/circuits/3k9qv0xz  # a run logged to Weights & Biases

A run is a folder, searched to its bottom for the `curve.json` that `callbacks.FaithfulnessCurve` writes (an offline run
of Weights & Biases is a folder too), such a file itself, or `entity/project/run_id` of Weights & Biases.

Curves are compared if they are of one model, one split, and one ablation at least. Everything else that may make a
comparison unfair (other prompts, other sizes) is said below the table.
"""

from __future__ import annotations

import argparse
import math
import re
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import takewhile
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

from rich.console import Console
from rich.text import Text

from lightning_circuits.drawing.curves import Y, curve_figure, lines_of, pareto_figure, save
from lightning_circuits.drawing.tables import curves_table, pareto_table
from lightning_circuits.evaluation.curve import RANDOM, Curve, to_csv
from lightning_circuits.files.atomic import write_atomically
from lightning_circuits.pages import see_page

IS_CURVE = re.compile(r"curve(-[^/]+)?\.json")
RUN_ID = re.compile(r"[^/\s]+/[^/\s]+/[^/\s]+")

SHOWN: dict[str, str] = {"faithfulness": "faithfulness f", "kl": "KL", "accuracy": "accuracy"}
"""What can be drawn and stands in the table, and its title there."""


class Found(NamedTuple):
    """A curve and where it was found: a file, or a run of Weights & Biases."""

    source: str
    place: str
    curve: Curve


def main(args: Sequence[str]) -> None:
    """`lightning-circuits compare`.

    Args:
        args: the words after it.

    Raises:
        ValueError, OSError: nothing to compare, or what should not be compared (see `comparable`).
        SystemExit: with code 2 for options that are none, 0 after `--help`.
    """
    parser = Parser(
        prog="lightning-circuits compare",
        description="One table and one figure (PNG, SVG, CSV) of the faithfulness curves of several runs.",
    )
    parser.add_argument("runs", nargs="+", help="folders of runs, curve.json files, or W&B runs as entity/project/id")
    parser.add_argument("--output", type=Path, default=Path("."), help="the folder to write to (default: here)")
    parser.add_argument("--x", choices=("share", "edges"), default="share", help="how the figure counts edges")
    parser.add_argument("--y", choices=tuple(SHOWN), default="faithfulness", help="what the figure shows")
    parser.add_argument("--split", help="which split (default: test where all runs have it, else val)")
    parser.add_argument(
        "--pareto", action="store_true", help="instead: edges against distance, and the circuits that nothing betters"
    )
    options = parser.parse_args(args)

    found = find(options.runs, options.split)
    curves = label(found)
    notes = comparable(curves)
    shared = _shared_ablations(curves)
    curves = {
        name: replace(
            curve,
            rows=[row for row in curve.rows if row["ablation"] in shared],
            summary=[entry for entry in curve.summary if entry["ablation"] in shared],
        )
        for name, curve in curves.items()
    }
    options.output.mkdir(parents=True, exist_ok=True)
    console = Console()
    if not console.is_terminal:
        console = Console(width=100)
    if options.pareto:
        panels = {
            f"{ablation} ablation, {_setting(curves)}": pareto_points(curves, ablation, options.y)
            for ablation in shared
        }
        first = next(iter(curves.values()))
        figure = pareto_figure(panels, options.y, first.model, first.n_edges)
        rows = [point for points in panels.values() for point in points]
        console.print(pareto_table(panels, options.y))
    else:
        figure = curve_figure(curves, (options.y,), options.x)
        rows = [
            {"line": name, "method": line.curve.method, **row}
            for name, line in lines_of(curves).items()
            for ablation in line.curve.ablations
            for row in line.curve.points(ablation, line.ranking)
        ]
        console.print(curves_table(curves))
    for note in notes:
        console.print(Text(f"Note: {note}", style="yellow"))
    stem = options.output / ("pareto" if options.pareto else "compare")
    paths = save(figure, stem)
    paths.append(stem.with_name(f"{stem.name}.csv"))
    write_atomically(paths[-1], to_csv(rows).encode())
    print("Written:", *(f"  {path}" for path in paths), sep="\n")


class Parser(argparse.ArgumentParser):
    """Errors are one line, as everywhere on this command line."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"error: {message} (see {self.prog} --help)\n")


# ---- finding them --------------------------------------------------------------------------------------------------


def find(sources: Sequence[str], split: str | None = None) -> list[Found]:
    """The curves of the runs named, all of one split, each once.

    Args:
        sources: folders, files, or `entity/project/run_id`.
        split: which. Default: ``test`` if every source has a curve of it, else ``val`` or what else they have in
            common.

    Raises:
        FileNotFoundError: there is no such folder, or no curve in it (what was looked for is said).
        ValueError: a file that holds no curve; a W&B run that cannot be read; no split that every source has.
    """
    found: dict[str, Found] = {}
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


def _curves_of(source: str) -> list[Found]:
    path = Path(source).expanduser()
    if path.is_file():
        return [Found(source, str(path.resolve()), Curve.load(path))]
    if path.is_dir():
        files = {file.resolve(): file for file in sorted(path.rglob("curve*.json")) if IS_CURVE.fullmatch(file.name)}
        if not files:
            raise FileNotFoundError(
                f"no curve in {path}: looked for curve.json in it and all folders below. FaithfulnessCurve among a "
                "run's callbacks writes one, and so does 'lightning-circuits evaluate' for a saved circuit"
            )
        return [Found(source, str(place), Curve.load(file)) for place, file in files.items()]
    if RUN_ID.fullmatch(source):
        return _from_wandb(source)
    raise FileNotFoundError(f"there is no run at {source}: neither a folder, a file, nor entity/project/run_id of W&B")


def _from_wandb(run_id: str) -> list[Found]:
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
        return [Found(run_id, f"{run_id}/{file.name}", Curve.load(file)) for file in curves]


def label(found: Sequence[Found]) -> dict[str, Curve]:
    """Curves by the name of their method; where several are of one method, with what tells their places apart."""
    places = [Path(one.place).with_suffix("").parts for one in found]
    start = _alike(places)
    end = _alike([place[start:][::-1] for place in places])
    methods = [one.curve.method for one in found]
    named = {}
    for place, one in zip(places, found, strict=True):
        apart = "/".join(place[start : len(place) - end]) or place[-1]
        named[one.curve.method if methods.count(one.curve.method) == 1 else f"{one.curve.method} {apart}"] = one.curve
    return named


def _alike(places: Sequence[Sequence[str]]) -> int:
    """How many parts, from the first, are the same in all."""
    return sum(1 for _ in takewhile(lambda parts: len(set(parts)) == 1, zip(*places, strict=False)))


# ---- what may be compared ------------------------------------------------------------------------------------------


def comparable(curves: Mapping[str, Curve]) -> list[str]:
    """What a reader should know about a comparison, a sentence each.

    Raises:
        ValueError: different models, or counts of their edges; no ablation in common.
    """
    models = {name: (curve.metadata.get("model_hash", curve.model), curve.n_edges) for name, curve in curves.items()}
    if len(set(models.values())) > 1:
        told = "; ".join(f"{name}: {curve.model}, {curve.n_edges:,} edges" for name, curve in curves.items())
        raise ValueError(
            f"curves of different models, or of edges counted in different ways, do not compare: {told} "
            f"{see_page('own-model', 'Keys and values')}"
        )
    if not (shared := _shared_ablations(curves)):
        told = "; ".join(f"{name}: {', '.join(curve.ablations)}" for name, curve in curves.items())
        raise ValueError(f"the curves were measured under different ablations, none of them in common ({told})")

    notes = []
    for name, curve in curves.items():
        if left_out := [ablation for ablation in curve.ablations if ablation not in shared]:
            notes.append(f"{name} was measured under {', '.join(left_out)} ablation too, not all others were: left out")
    aspects: dict[str, dict[str, Any]] = {
        "different models by name": {name: curve.model for name, curve in curves.items()},
        "different numbers of prompts": {name: curve.prompts for name, curve in curves.items()},
        "different data": {name: _data(curve, curves) for name, curve in curves.items()},
        "different sizes, so that CPR, CMD and log-x area are over different ranges": {
            name: ", ".join(f"{100 * share:.3g}%" for share in _shares(curve)) for name, curve in curves.items()
        },
    }
    for aspect, values in aspects.items():
        if len(set(values.values())) > 1:
            notes.append(f"{aspect}: {'; '.join(f'{name}: {value}' for name, value in values.items())}")
    return notes


def _shared_ablations(curves: Mapping[str, Curve]) -> list[str]:
    first = next(iter(curves.values()))
    return [name for name in first.ablations if all(name in curve.ablations for curve in curves.values())]


def _data(curve: Curve, curves: Mapping[str, Curve]) -> str:
    """What this curve's data have that is not the same in all."""
    descriptions = [other.metadata.get("data") or {} for other in curves.values()]
    mine = curve.metadata.get("data") or {}
    keys = sorted({key for one in descriptions for key in one})
    differ = [key for key in keys if any(one.get(key) != descriptions[0].get(key) for one in descriptions)]
    return ", ".join(f"{key} {mine.get(key)}" for key in differ)


def _shares(curve: Curve) -> list[float]:
    return sorted({row["share"] for row in curve.rows if row["share"] is not None})


def _setting(curves: Mapping[str, Curve]) -> str:
    prompts = sorted({curve.prompts for curve in curves.values()})
    return f"{next(iter(curves.values())).split} split, {' or '.join(f'{n:,}' for n in prompts)} prompts"


# ---- Pareto --------------------------------------------------------------------------------------------------------


def pareto_points(curves: Mapping[str, Curve], ablation: str, y: Y) -> list[dict[str, Any]]:
    """Every circuit of every curve as a point: its edges before pruning and its distance from the full model.

    The distance is |1 - f|, KL, or 1 - accuracy. ``front`` is whether no circuit of as few edges or fewer is as near,
    the empty one included. Random circuits are left out.
    """
    points = [
        {"label": name, "method": line.curve.method, "distance": _distance(point, y), "front": False, **point}
        for name, line in lines_of(curves).items()
        if line.ranking != RANDOM
        for point in line.curve.points(ablation, line.ranking)
        if point[y] is not None
    ]
    empty = [curve.reference(ablation, "empty") for curve in curves.values()]
    nearest = min((_distance(row, y) for row in empty if row[y] is not None), default=math.inf)
    for point in sorted(points, key=lambda point: (point["edges"], point["distance"])):
        if point["distance"] < nearest:
            nearest, point["front"] = point["distance"], True
    return points


def _distance(point: Mapping[str, Any], y: Y) -> float:
    return float(point["kl"] if y == "kl" else abs(1 - point[y]))
