"""Which of Lightning's two names is chosen.

`namespace.py` is run by path, in processes of their own that see no site-packages (`python -I -S`): what is installed
there is only what a test puts into a folder, packages of a line or two.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from lightning_circuits import namespace
from lightning_circuits.pages import see_page

PACKAGES = {
    "pytorch_lightning": {
        "pytorch_lightning/__init__.py": "",
        "pytorch_lightning/cli.py": "print('cli imported')\nLightningCLI = 'the CLI of pytorch_lightning'",
    },
    "lightning": {
        "lightning/__init__.py": "",
        "lightning/pytorch/__init__.py": "",
        "lightning/pytorch/cli.py": "LightningCLI = 'the CLI of lightning.pytorch'",
    },
    "broken": {"pytorch_lightning/__init__.py": "import torchmetrics"},
}


def run(
    site: Path,
    installed: list[str],
    before: str = "",
    after: str = "",
    variable: str | None = None,
    warned: bool = False,
) -> str:
    """What a process prints that has `installed`, runs `before`, imports `namespace.py` and shows which it chose.

    With `warned`, what it says on the side too.
    """
    for package in installed:
        for name, text in PACKAGES[package].items():
            (site / name).parent.mkdir(parents=True, exist_ok=True)
            (site / name).write_text(text)
    program = f"""
import sys, types
sys.path.insert(0, {str(site)!r})
{before}
package = types.ModuleType("lightning_circuits")
package.__path__ = [{str(Path(namespace.__file__).parent)!r}]
sys.modules["lightning_circuits"] = package
import lightning_circuits.namespace as chosen
print(chosen.pl.__name__)
{after}
"""
    environment = {name: value for name, value in os.environ.items() if name != "LIGHTNING_CIRCUITS_NAMESPACE"}
    if variable is not None:
        environment["LIGHTNING_CIRCUITS_NAMESPACE"] = variable
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", program], env=environment, cwd=site, capture_output=True, text=True
    )
    return (done.stdout + done.stderr if warned else done.stdout).strip() or done.stderr.strip().splitlines()[-1]


@pytest.mark.parametrize("installed", [["pytorch_lightning"], ["lightning"], ["pytorch_lightning", "lightning"]])
def test_the_installed_namespace_is_taken_pytorch_lightning_first(tmp_path: Path, installed: list[str]) -> None:
    expected = "lightning.pytorch" if installed == ["lightning"] else "pytorch_lightning"
    assert run(tmp_path, installed) == expected


@pytest.mark.parametrize(
    ("before", "expected"),
    [
        ("import lightning.pytorch", "lightning.pytorch"),
        ("import pytorch_lightning", "pytorch_lightning"),
        ("import lightning.pytorch, pytorch_lightning", "pytorch_lightning"),
        ("import lightning", "pytorch_lightning"),  # the bare package is not yet the namespace
    ],
)
def test_the_namespace_already_imported_wins(tmp_path: Path, before: str, expected: str) -> None:
    assert run(tmp_path, ["pytorch_lightning", "lightning"], before=before) == expected


@pytest.mark.parametrize(
    ("before", "variable", "told"),
    [
        ("import lightning.pytorch, pytorch_lightning", None, True),
        ("import lightning.pytorch, pytorch_lightning", "lightning.pytorch", False),
        ("import lightning.pytorch", None, False),
        ("", None, False),
    ],
)
def test_where_both_are_imported_a_warning_says_which_is_taken(
    tmp_path: Path, before: str, variable: str | None, told: bool
) -> None:
    said = run(tmp_path, ["pytorch_lightning", "lightning"], before=before, variable=variable, warned=True)
    assert ("lightning_circuits takes pytorch_lightning" in said) == told
    assert ("Set the environment variable LIGHTNING_CIRCUITS_NAMESPACE" in said) == told


@pytest.mark.parametrize("asked", ["pytorch_lightning", "lightning.pytorch"])
@pytest.mark.parametrize("before", ["", "import lightning.pytorch", "import pytorch_lightning"])
def test_the_environment_variable_decides(tmp_path: Path, asked: str, before: str) -> None:
    assert run(tmp_path, ["pytorch_lightning", "lightning"], before=before, variable=asked) == asked


def test_an_empty_variable_is_no_choice(tmp_path: Path) -> None:
    assert run(tmp_path, ["lightning"], variable="") == "lightning.pytorch"


@pytest.mark.parametrize(
    ("installed", "variable", "error"),
    [
        (
            ["pytorch_lightning"],
            "torch_lightning",
            "ValueError: LIGHTNING_CIRCUITS_NAMESPACE is 'torch_lightning': "
            "set it to one of pytorch_lightning, lightning.pytorch, or unset it",
        ),
        (
            ["pytorch_lightning"],
            "lightning.pytorch",
            "ImportError: LIGHTNING_CIRCUITS_NAMESPACE is 'lightning.pytorch', which is not installed: "
            "install it, or unset the variable",
        ),
        (
            [],
            None,
            "ImportError: PyTorch Lightning is not installed (looked for pytorch_lightning and lightning.pytorch): "
            "pip install 'pytorch-lightning>=2.6.6,<2.7'",
        ),
        # The one installed lacks something of its own: that is said, and the other name is not tried behind its back.
        (["lightning", "broken"], None, "ModuleNotFoundError: No module named 'torchmetrics'"),
    ],
)
def test_what_cannot_be_chosen_is_said(tmp_path: Path, installed: list[str], variable: str | None, error: str) -> None:
    assert run(tmp_path, installed, variable=variable) == error


def test_the_command_line_is_imported_when_it_is_asked_for(tmp_path: Path) -> None:
    shown = run(tmp_path, ["pytorch_lightning"], after="print(chosen.LightningCLI)").splitlines()
    assert shown == ["pytorch_lightning", "cli imported", "the CLI of pytorch_lightning"]


def test_the_command_line_comes_from_the_chosen_namespace(tmp_path: Path) -> None:
    shown = run(
        tmp_path,
        ["pytorch_lightning", "lightning"],
        after="print(chosen.LightningCLI)",
        variable="lightning.pytorch",
    ).splitlines()
    assert shown == ["lightning.pytorch", "the CLI of lightning.pytorch"]


def test_the_real_lightning_has_what_is_exported() -> None:
    for name in namespace.__all__:
        assert getattr(namespace, name) is not None
    assert namespace.LightningCLI.__module__ == f"{namespace.pl.__name__}.cli"


def test_another_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'Lightning'"):
        namespace.Lightning  # noqa: B018


# ---- the whole package under either name -----------------------------------------------------------------------------

RUN = """
import sys
{first}
import torch
from lightning_circuits import EdgePruning, from_lightning_module
from lightning_circuits.callbacks import (
    CircuitExport, CircuitProbe, CircuitReport, FaithfulnessCurve, FaithfulnessValidation)
from lightning_circuits.commands.main import main
from lightning_circuits.datamodules import IOIDataModule
from lightning_circuits.namespace import pl

torch.set_num_threads(1)
assert pl.__name__ == sys.argv[1]
assert issubclass(EdgePruning, pl.LightningModule) and issubclass(IOIDataModule, pl.LightningDataModule)
data = dict(n_train=16, n_val=8, n_test=4, batch_size=8)
callbacks = [FaithfulnessValidation(every_n_steps=1, sizes=[0.1]), CircuitExport("circuits"),
             FaithfulnessCurve(sizes=[0.1, 0.5], dirpath="curve"), pl.callbacks.ModelCheckpoint("ckpt", save_last=True)]
quiet = dict(accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False)
search = EdgePruning("tiny-ioi")
# A checkpoint of the other name's run goes on here.
trainer = pl.Trainer(max_steps=int(sys.argv[2]), callbacks=callbacks, **quiet)
trainer.fit(search, IOIDataModule("tiny-ioi", **data), ckpt_path=sys.argv[3] if len(sys.argv) > 3 else None)
assert trainer.global_step == int(sys.argv[2])
trainer.test(search, IOIDataModule("tiny-ioi", **data))

# A module of the other name holds a model that is searched here.
other = __import__({{"pytorch_lightning": "lightning.pytorch"}}.get(sys.argv[1], "pytorch_lightning"), fromlist=["x"])
class Theirs(other.LightningModule):
    def __init__(self):
        super().__init__()
        self.inside = search.model
    def training_step(self, batch, index):
        raise AssertionError("a step was taken")
    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.0)
assert from_lightning_module(Theirs()).model is search.model
for callback in (CircuitProbe(IOIDataModule("tiny-ioi", **data)), *callbacks[:3], CircuitReport()):
    try:
        other.Trainer(callbacks=[callback], enable_checkpointing=False, **quiet).fit(Theirs(), [0])
    except TypeError as error:
        print(error)

main(["fit", "--config=quickstart.yaml", "--trainer.accelerator=cpu", "--trainer.max_steps=2", "--data.n_train=16",
      "--data.n_val=8", "--data.n_test=8", "--data.batch_size=8"])
print("done")
"""


@pytest.mark.slow
def test_everything_works_under_either_name_and_checkpoints_go_from_one_to_the_other(tmp_path: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "LIGHTNING_CIRCUITS_NAMESPACE"}
    for number, name in enumerate(("lightning.pytorch", "pytorch_lightning")):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "run.py").write_text(RUN.format(first=f"import {name}"))
        resumed = [str(tmp_path / "lightning.pytorch" / "ckpt" / "last.ckpt")] if number else []
        done = subprocess.run(
            [sys.executable, "run.py", name, str(2 + number), *resumed],
            cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=300,
        )  # fmt: skip
        assert done.returncode == 0 and done.stdout.endswith("done\n"), done.stdout[-3000:]
        other = {"lightning.pytorch": "pytorch_lightning"}.get(name, "lightning.pytorch")
        for callback in (
            "CircuitProbe", "CircuitExport", "CircuitReport", "FaithfulnessCurve", "FaithfulnessValidation",
        ):  # fmt: skip
            assert f"the Trainer is one of {other}, but {callback} was built on {name}" in done.stdout
        assert list((folder / "circuits").glob("*.json")) and (folder / "curve" / "curve.json").is_file()
        assert list(folder.glob("runs/quickstart/version_0/circuit-*.json"))


MIXED = """
from lightning_circuits import EdgePruning
import lightning.pytorch as pl
try:
    EdgePruning("tiny-ioi")
except TypeError as error:
    print(error)
"""


@pytest.mark.slow
def test_a_lightning_imported_too_late_is_said_when_a_search_is_made(tmp_path: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "LIGHTNING_CIRCUITS_NAMESPACE"}
    page = see_page("existing-project", "Two names of Lightning")
    for asked, said in (
        ({}, "your program imports lightning.pytorch, but EAP was built on pytorch_lightning, and classes of "
             "the two do not mix: import lightning.pytorch before lightning_circuits, or set the environment variable "
             f"LIGHTNING_CIRCUITS_NAMESPACE=lightning.pytorch {page}\n"),
        ({"LIGHTNING_CIRCUITS_NAMESPACE": "lightning.pytorch"}, ""),
    ):  # fmt: skip
        done = subprocess.run(
            [sys.executable, "-c", MIXED], cwd=tmp_path, env=environment | asked, stdout=subprocess.PIPE, text=True
        )
        assert done.stdout == said and done.returncode == 0
