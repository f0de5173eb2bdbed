"""Circuits on each other's tasks: a heat map, tables, and what the circuits share beside it.

    lightning-circuits transfer ioi.json capital.json --data ioi.yaml capital.yaml --output runs/transfer
    lightning-circuits transfer runs/*/circuit-last-2pct.json --data runs/*/version_0/config.yaml
    lightning-circuits transfer a=eap.json b=gates.pt --data a=ioi_gpt2.yaml b=pairs.yaml --model gpt2

A circuit is judged on the data of all; data and a circuit of the same name belong together. A file is called by its
name without the suffix or, where files share that, by the folders that tell them apart; `NAME=FILE` says another name.

Data are the section `data` of a config, such as the one that a run has saved; the rest of it does not matter. What is
measured, with which controls: `evaluation.transfer`.
"""

from __future__ import annotations

import json
import math
from argparse import ArgumentError, Namespace
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

import torch
from rich.text import Text

from lightning_circuits.ablation import ABLATIONS
from lightning_circuits.circuit import Circuit
from lightning_circuits.commands.config_files import find_config, read_sections, tokenizer_of
from lightning_circuits.commands.errors import Parser, plain
from lightning_circuits.commands.runs import told_apart
from lightning_circuits.datamodules import PairDataModule
from lightning_circuits.drawing.style import save
from lightning_circuits.drawing.tables import transfer_table
from lightning_circuits.drawing.text_tables import console, note
from lightning_circuits.drawing.transfer import matrix_figure, scatter_figure, transfer_markdown
from lightning_circuits.evaluation.transfer import Transfer, transfer
from lightning_circuits.files.atomic import write_atomically
from lightning_circuits.files.numbers import to_csv
from lightning_circuits.measures import DEFAULT, MEASURES
from lightning_circuits.models import CircuitModel, wrap
from lightning_circuits.models.loading import DType, load_model
from lightning_circuits.namespace import LightningArgumentParser
from lightning_circuits.printable import printable
from lightning_circuits.search.identity import WeightsHash, fingerprint, hash_of_prompts, package_versions


def main(args: Sequence[str]) -> None:
    """`lightning-circuits transfer`.

    Args:
        args: the words after it.

    Raises:
        ValueError, TypeError, OSError: a file that is no circuit or says no data, circuits of different layouts or of
            another model, names that bring none together, data that do not fit the model.
        SystemExit: with code 2 for options that are none, 0 after `--help`.
    """
    options = _options(args)
    files = _named(options.circuits)
    circuits = {name: Circuit.load(file) for name, file in files.items()}
    configs = {name: find_config(str(file)) for name, file in _named(options.data).items()}
    _require_own_data(circuits, configs)
    model_name = options.model or _recorded_model(circuits)
    data = {name: _data_of(file, model_name) for name, file in configs.items()}
    model, identity = _load(model_name, circuits, files)
    for module in data.values():
        module.require_fit(model)
    loaders: dict[str, Any] = {name: getattr(module, f"{options.split}_dataloader")() for name, module in data.items()}
    options.output.mkdir(parents=True, exist_ok=True)

    found = transfer(
        model,
        circuits,
        loaders,
        options.ablation,
        options.split,
        options.seed,
        references={name: module.train_dataloader() for name, module in data.items()},
        measure=options.measure,
    )
    prompts = {name: hash_of_prompts(loader) for name, loader in loaders.items()}
    said = {
        "model": model_name,
        **identity,
        **model.layout.to_dict(),
        "measure": found.measure,
        "split": options.split,
        "seed": options.seed,
        "versions": package_versions(),
        "circuit_files": {
            name: {"file": str(files[name]), "edges": circuit.n_edges, "edges_pruned": circuit.prune().n_edges}
            | {"metadata": circuit.metadata}
            for name, circuit in circuits.items()
        },
        "data_files": {
            name: {"file": str(configs[name]), "prompts": prompts[name][0], "hash": prompts[name][1]}
            | {"data": module.describe()}
            for name, module in data.items()
        },
    }
    _report(found)
    paths = _write(found, said, options.output)
    print("Written:", *(f"  {printable(path)}" for path in paths), sep="\n")


def _options(args: Sequence[str]) -> Namespace:
    """What the words ask for; an ablation or a measure that is unknown is said before a model is loaded."""
    parser = Parser(
        prog="lightning-circuits transfer",
        description="Circuits on each other's tasks, by exact ablation: heat map, tables, and what the circuits share.",
    )
    parser.add_argument(
        "circuits", nargs="+", metavar="CIRCUIT", help="a .json, .pt or .safetensors file, or NAME=FILE"
    )
    parser.add_argument("--data", nargs="+", required=True, metavar="CONFIG", help="configs with data, or NAME=CONFIG")
    parser.add_argument("--model", help="the language model (default: what the circuits' files say)")
    parser.add_argument("--ablation", nargs="+", default=["interchange"], help=f"of {', '.join(ABLATIONS.names())}")
    parser.add_argument("--measure", default=DEFAULT, help=f"what f is of: {', '.join(MEASURES.names())}")
    parser.add_argument("--split", choices=("test", "val"), default="test", help="whose prompts (default: test)")
    parser.add_argument("--seed", type=int, default=0, help="of the random circuits (default: 0)")
    parser.add_argument("--output", type=Path, default=Path("."), help="the folder to write to (default: here)")
    options = parser.parse_args(args)
    for ablation in options.ablation:
        ABLATIONS[ablation]
    MEASURES[options.measure]
    return options


def _report(found: Transfer) -> None:
    terminal = console()
    terminal.print(transfer_table(found))
    for each in found.correlations:
        if each.null == "layer" and not math.isnan(each.iou):  # as of two circuits, which have one overlap
            terminal.print(
                Text(
                    f"{each.ablation}: Spearman's rho of f over {each.pairs} pairs with what they share of {each.of}: "
                    f"{each.iou:.2f} with IoU, {each.z:.2f} with z (null: {each.null})"
                )
            )
    if alone := [name for name in found.data if name not in found.circuits]:
        terminal.print(note(f"no circuit is called {', '.join(alone)}, so these data are no circuit's own"))


def _write(found: Transfer, said: Mapping[str, Any], folder: Path) -> list[Path]:
    """Numbers, tables and figures; gives their paths."""
    content = {
        "results.json": json.dumps({**said, **found.to_dict()}, indent=1, allow_nan=False) + "\n",
        "transfer.csv": to_csv([row.to_dict() for row in found.rows]),
        "transfer.md": transfer_markdown(found),
    }
    for name, text in content.items():
        write_atomically(folder / name, text.encode())
    paths = [*(folder / name for name in content), *save(matrix_figure(found), folder / "matrix")]
    if found.pairs(found.ablations[0], "nodes", "layer"):
        paths += save(scatter_figure(found), folder / "scatter")
    return paths


# ---- files by name ---------------------------------------------------------------------------------------------------


def _named(words: Sequence[str]) -> dict[str, Path]:
    """Files by the names that they are given, or have.

    Raises:
        ValueError: two of one name.
    """
    given = [("", word) if Path(word).exists() or "=" not in word else word.split("=", 1) for word in words]
    of_stem: dict[str, list[Path]] = {}
    for name, file in given:
        if not name:
            of_stem.setdefault(Path(file).stem, []).append(Path(file))
    own = {stem: iter([stem] if len(alike) == 1 else told_apart(alike)) for stem, alike in of_stem.items()}
    named: dict[str, Path] = {}
    for said, file in given:
        name = said or next(own[Path(file).stem])
        if name in named:
            raise ValueError(f"{named[name]} and {file} are both called {name!r}: say another name, NAME={file}")
        named[name] = Path(file)
    return named


def _require_own_data(circuits: Mapping[str, Circuit], configs: Mapping[str, Path]) -> None:
    """See that some data are a circuit's own: else nobody has said whose they are."""
    if not circuits.keys() & configs.keys():
        example = f"{next(iter(circuits))}={next(iter(configs.values()))}"
        raise ValueError(
            f"data belong to the circuit of the same name, and none does: circuits are called {', '.join(circuits)}, "
            f"data {', '.join(configs)}. Say which are whose: --data {example}"
        )


# ---- model and data --------------------------------------------------------------------------------------------------


def _recorded_model(circuits: Mapping[str, Circuit]) -> str:
    """The name of the model that the circuits say they were found in."""
    said = {name: circuit.metadata.get("model") for name, circuit in circuits.items()}
    models = {model: name for name, model in said.items() if isinstance(model, str)}
    if len(models) > 1:
        where = " and ".join(f"{model} ({name})" for model, name in models.items())
        raise ValueError(f"the circuits were found in different models, {where}: say which to run, --model")
    if not models:
        raise ValueError("the files of the circuits do not say in which model they were found: say it, --model")
    return next(iter(models))


def _load(name: str, circuits: Mapping[str, Circuit], files: Mapping[str, Path]) -> tuple[CircuitModel, dict[str, str]]:
    """The language model in the dtype that the circuits were found in, on the GPU if there is one; and its
    ``model_hash``, ``weights_hash`` and ``dtype``.

    Raises:
        ValueError: circuits of different layouts, or of another model.
    """
    first, *others = circuits
    layout = circuits[first].layout
    for other in others:
        layout.require(circuits[other].layout, f"the circuit in {files[other]}, beside that in {files[first]},")
    dtypes = {str(circuit.metadata.get("dtype")) for circuit in circuits.values()} & set(get_args(DType))
    language_model = load_model(name, dtypes.pop() if len(dtypes) == 1 else "float32")
    model = wrap(language_model.to("cuda" if torch.cuda.is_available() else "cpu"), layout.kv).in_spans(layout.spans)
    here = {
        "model_hash": fingerprint(model.model),
        "weights_hash": WeightsHash()(model.model),
        "dtype": str(model.dtype).removeprefix("torch."),
    }
    for circuit_name, circuit in circuits.items():
        model.layout.require(circuit.layout, f"the circuit in {files[circuit_name]}")
        same_dtype = circuit.metadata.get("dtype") == here["dtype"]
        for kind in ("model_hash", "weights_hash") if same_dtype else ("model_hash",):
            if circuit.metadata.get(kind, here[kind]) != here[kind]:
                raise ValueError(
                    f"the circuit in {files[circuit_name]} was found in another model than {name} "
                    f"({kind} {circuit.metadata[kind]}, here {here[kind]}): say --model, or search again"
                )
    return model, here


def _data_of(file: Path, model: str) -> PairDataModule:
    """The data module that a config says, its tokenizer the model's.

    Raises:
        ValueError: it says none, or something that does not make one.
    """
    sections = read_sections(file)
    if not sections.get("data"):
        raise ValueError(f"the config {file} has no section 'data', which says the prompts (class_path, init_args)")
    parser = LightningArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(PairDataModule, "data")
    for name in ("model", "tokenizer"):
        parser.add_argument(f"--{name}", type=str | None)
    parser.link_arguments(("tokenizer", "model", "data"), "data.init_args.tokenizer", compute_fn=tokenizer_of)
    said = {"data": sections["data"], "tokenizer": sections.get("tokenizer"), "model": model}
    try:
        config = parser.parse_object(said)
        module: PairDataModule = parser.instantiate_classes(config).data
    except (ArgumentError, ValueError, TypeError) as error:
        raise ValueError(f"the config {file}: {plain(str(error))}") from error
    return module
