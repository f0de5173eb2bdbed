"""The folder of an extracted model.

| file                  | what it holds                                                                      |
|-----------------------|------------------------------------------------------------------------------------|
| `weights.safetensors` | its tensors                                                                        |
| `circuit.safetensors` | its circuit, a circuit file                                                        |
| `extracted.json`      | what else there is to say, the version of this format, and the hashes of the other two |

They are written beside their places and then moved there, the last one last: where a process was killed in between,
hashes tell that files are of two models.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import safetensors.torch
from safetensors import SafetensorError
from torch import Tensor

from lightning_circuits.circuit import Circuit
from lightning_circuits.files.atomic import clear_leftovers, staging
from lightning_circuits.files.base import content_of, require_keys
from lightning_circuits.files.plain_json import plain_data, read_json
from lightning_circuits.printable import printable

FORMAT = 1
"""The version of what is written here."""

WEIGHTS, CIRCUIT, SAID = "weights.safetensors", "circuit.safetensors", "extracted.json"


def write(folder: Path, said: Mapping[str, Any], circuit: Circuit, tensors: Mapping[str, Tensor]) -> Path:
    """Write a folder; gives its path.

    Args:
        folder: made if it is not there; of its files, those that are called as these are are replaced.
        said: plain JSON data.
        circuit: of the model.
        tensors: ``[...]`` each, no two in the same memory.

    Raises:
        ValueError: other files are in the folder.
        NotADirectoryError: it is a file.
        OSError: it cannot be written.
    """
    if folder.exists() and not folder.is_dir():
        raise NotADirectoryError(f"cannot write an extracted model to {folder}: that is a file, and it is a folder")
    folder.mkdir(parents=True, exist_ok=True)
    clear_leftovers(folder)
    if others := sorted(each.name for each in folder.iterdir() if each.name not in (WEIGHTS, CIRCUIT, SAID)):
        raise ValueError(
            f"cannot write an extracted model to {folder}: {printable(others[0], 80)} is in it, which is none of its "
            "files. Give a folder of its own"
        )
    with staging(folder) as staged:
        own = {name: each.detach().cpu().contiguous() for name, each in tensors.items()}
        try:
            safetensors.torch.save_file(own, staged / WEIGHTS)
        except SafetensorError as error:  # its own word for what the disk has against it
            raise OSError(f"cannot write an extracted model to {folder}: {error}") from None
        circuit.save(staged / CIRCUIT)
        shutil.copymode(staged / CIRCUIT, staged / WEIGHTS)  # safetensors lets the owner alone read its files
        hashes = {name: _hash(staged / name) for name in (WEIGHTS, CIRCUIT)}
        content = json.dumps(plain_data({"format": FORMAT, **said, "sha256": hashes}), indent=1)
        (staged / SAID).write_text(content, encoding="utf-8")
        for name in (WEIGHTS, CIRCUIT, SAID):
            with (staged / name).open("rb") as file:
                os.fsync(file.fileno())
        for name in (WEIGHTS, CIRCUIT, SAID):
            os.replace(staged / name, folder / name)
    return folder


def read(folder: Path) -> tuple[dict[str, Any], Circuit, dict[str, Tensor]]:
    """What `write` has written: what is said, the circuit, and the tensors, ``[...]`` each, on the CPU.

    Raises:
        FileNotFoundError: no such folder, or a file is missing in it.
        ValueError: a file is damaged, or of another folder; a later version.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"no extracted model at {folder}: there is no such folder")
    if missing := [name for name in (SAID, WEIGHTS, CIRCUIT) if not (folder / name).is_file()]:
        raise FileNotFoundError(f"no extracted model at {folder}: there is no {missing[0]} in it")
    said = read_json(content_of(folder / SAID, "extracted model"))
    require_keys(said, "format")
    if said["format"] != FORMAT:
        raise ValueError(
            f"it is of the format {said['format']!r}, and format {FORMAT} is read here: by another version of "
            "lightning-circuits"
        )
    require_keys(said, "model", "ablation", "tied", "versions", "sha256")
    require_keys(said["ablation"], "name")
    for name in (WEIGHTS, CIRCUIT):
        require_keys(said["sha256"], name)
        if _hash(folder / name) != said["sha256"][name]:
            raise ValueError(
                f"its {name} is damaged, or of another model than its {SAID}: it was not written to the end"
            )
    return said, Circuit.load(folder / CIRCUIT), safetensors.torch.load_file(folder / WEIGHTS)


@contextmanager
def refused(folder: Path) -> Iterator[None]:
    """While open, whatever is wrong with the files is a ValueError that names the folder.

    Raises:
        ValueError: in the place of another error, but for one of a file that is not there.
    """
    try:
        yield
    except OSError:
        raise
    except Exception as error:  # of transformers, safetensors, json, torch: all have their own
        reason = printable(error, longest=600)
        raise ValueError(f"{folder} cannot be read as an extracted model: {reason}") from error


def _hash(path: Path) -> str:
    found = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(1 << 24):
            found.update(piece)
    return found.hexdigest()
