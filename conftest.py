"""Every code block of README and docs is run, as far as this machine can: `pytest README.md docs`.

The blocks of a page share one namespace and one working folder. In that folder stands `gpt2`, which is the embedded
model: so what the page says for GPT-2 runs offline, in seconds. A Trainer does two steps, whatever the page asks for.

- ```python```: run.
- ```bash```: lines that begin with `lightning-circuits` are run, in this process; `make X` needs a target X; other
  programs (pip, sbatch, wandb) are left alone.
- ```json```, ```yaml```: have to parse, ```json``` with prompts as prompts.
- `<!-- skip: next -->` leaves a block out; it stands only where a machine of a certain kind is needed.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import sys
from functools import wraps
from pathlib import Path
from typing import Any

import pytest
import yaml
from sybil import Example, Sybil
from sybil.parsers.markdown import CodeBlockParser, PythonCodeBlockParser, SkipParser

ROOT = Path(__file__).parent
SMALL = {  # for a command line that trains or judges on a packaged config
    "fit": ["--trainer.max_steps=2", "--trainer.accelerator=cpu", "--trainer.devices=1"],
    "validate": ["--trainer.accelerator=cpu", "--trainer.devices=1"],
    "test": ["--trainer.accelerator=cpu", "--trainer.devices=1"],
    "evaluate": ["--trainer.accelerator=cpu", "--trainer.devices=1"],
}


def bash(example: Example) -> None:
    """The commands of a block; a backslash at the end of a line joins it with the next."""
    for line in example.parsed.replace("\\\n", " ").splitlines():
        words = shlex.split(line, comments=True)
        if words[:1] == ["make"] and len(words) > 1:
            assert re.search(rf"^{re.escape(words[1])}:", (ROOT / "Makefile").read_text(), re.MULTILINE), line
        if words[:1] == ["lightning-circuits"]:
            run(words[1:])


def run(words: list[str]) -> None:
    """The command line, on the embedded model and for two steps."""
    from lightning_circuits.commands.entry import main

    words, _, target = (part.split() for part in " ".join(words).partition(">"))
    small = [option for option in SMALL.get(words[0], []) if option.split("=")[0] not in words]
    try:
        main([*words, *small] if "--print_config" not in words else words)
    except SystemExit as end:
        assert not end.code, f"{' '.join(words)} ended with code {end.code}"
    if target:
        Path(target[0]).touch()


def data(example: Example) -> None:
    """JSON has to parse; lines that are prompts are read as such. Of the page's `pairs.jsonl` there are more."""
    from lightning_circuits.datamodules import IOIDataModule
    from lightning_circuits.datamodules.reading import FIELDS, read_pairs

    if not example.parsed.startswith('{"clean"'):
        json.loads(example.parsed)
        return
    file = Path("pairs.jsonl")
    file.write_text(example.parsed)
    assert len(read_pairs(file)) == len(example.parsed.strip().splitlines())
    pairs = IOIDataModule("gpt2", n_train=30, n_val=1, n_test=1).make_splits()["train"]
    file.write_text("\n".join(json.dumps({field: getattr(pair, field) for field in FIELDS}) for pair in pairs))


def config(example: Example) -> None:
    assert yaml.safe_load(example.parsed) is not None


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A folder with a model called gpt2, and Trainers that stop after two steps.

    What a page registers goes with it, and so does its run of W&B.
    """
    import lightning_circuits
    from lightning_circuits.ablation import ABLATIONS
    from lightning_circuits.files import FORMATS
    from lightning_circuits.gates import GATES
    from lightning_circuits.models.registry import FAMILIES
    from lightning_circuits.namespace import pl
    from lightning_circuits.objectives import OBJECTIVES
    from lightning_circuits.search.base import METHODS

    folder = tmp_path_factory.mktemp("page")
    for name in ("gpt2", "my-model"):
        (folder / name).symlink_to(Path(lightning_circuits.__file__).parent / "models" / "assets" / "tiny-ioi")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr("sys.argv", ["lightning-circuits"])
        patch.setattr(pl.Trainer, "__init__", two_steps(pl.Trainer.__init__))
        for registry in (ABLATIONS, FAMILIES, FORMATS, GATES, METHODS, OBJECTIVES):
            patch.setattr(registry, "_classes", dict(registry._classes))
        yield folder
        if "wandb" in sys.modules:
            sys.modules["wandb"].finish()


def two_steps(init: Any) -> Any:
    @wraps(init)  # the command line reads its options from the signature
    def small(trainer: Any, **options: Any) -> None:
        few = {"max_steps": 2, "limit_val_batches": 2, "limit_test_batches": 2}
        init(trainer, **options | few | {"accelerator": "cpu", "devices": 1})

    return small


os.environ.update(HF_HUB_OFFLINE="1", WANDB_MODE="offline", TOKENIZERS_PARALLELISM="false")

pytest_collect_file = Sybil(
    parsers=[
        SkipParser(),
        PythonCodeBlockParser(),
        CodeBlockParser(language="bash", evaluator=bash),
        CodeBlockParser(language="json", evaluator=data),
        CodeBlockParser(language="yaml", evaluator=config),
    ],
    patterns=["README.md", "docs/*.md", "docs/**/*.md"],
    fixtures=["page"],
).pytest()
