"""What a run tells its loggers, Weights & Biases (offline) above all; and that a logger or a disk that fails takes no
file of the run with it."""

from __future__ import annotations

import hashlib
import json
import resource
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import Tensor

from lightning_circuits.callbacks import CircuitExport, CircuitReport, FaithfulnessValidation
from lightning_circuits.circuit import Circuit
from lightning_circuits.commands.main import main
from lightning_circuits.datamodules import IOIDataModule
from lightning_circuits.models.loading import load_model
from lightning_circuits.namespace import pl
from lightning_circuits.search.base import CircuitSearch
from tests.support.offline_run import OfflineRun

MODEL = load_model("tiny-ioi")


class Drift(CircuitSearch):
    """Scores that walk at random: cheap to train, and another circuit at each step."""

    def __init__(self) -> None:
        super().__init__(MODEL)
        self.scores = torch.nn.Parameter(torch.zeros(self.layout.n_edges))

    def edge_scores(self) -> Tensor:
        return self.scores.detach()

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        loss = (self.scores * torch.randn(len(self.scores))).sum()
        self.log("train/loss", loss)
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD([self.scores], lr=0.1)


def data() -> IOIDataModule:
    return IOIDataModule("tiny-ioi", n_train=24, n_val=8, n_test=4, batch_size=4)


def fit(logger: Any, *callbacks: pl.Callback, steps: int = 4) -> pl.Trainer:
    trainer = pl.Trainer(
        max_steps=steps, accelerator="cpu", logger=logger, callbacks=[*callbacks], log_every_n_steps=1,
        enable_progress_bar=False, enable_model_summary=False, enable_checkpointing=False,
    )  # fmt: skip
    trainer.fit(Drift(), data())
    return trainer


def trio(folder: Path | None, **options: Any) -> list[pl.Callback]:
    # The reverse of the order in the documentation: none of them depends on it.
    validation = FaithfulnessValidation(every_n_steps=2, sizes=[0.1, 30])
    return [CircuitReport(), CircuitExport(folder, **{"formats": ["json", "pt"], **options}), validation]


# ---- Weights & Biases ----------------------------------------------------------------------------------------------


@dataclass
class Told:
    run: OfflineRun
    staged: set[str]  # hashes of the files that wait for their upload
    folder: Path
    export: CircuitExport
    table: list[dict[str, Any]]


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Told]:
    """A run of four steps that exported at steps 2 and 4, its logger offline."""
    import wandb

    home = tmp_path_factory.mktemp("wandb")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WANDB_DATA_DIR", str(home))
        patch.chdir(home)
        callbacks = trio(None)
        fit(pl.loggers.WandbLogger(offline=True, save_dir=home, project="tests", version="run1"), *callbacks)
        wandb.finish()
    staged = {hashlib.md5(path.read_bytes()).hexdigest() for path in (home / "artifacts" / "staging").iterdir()}
    _, export, validation = callbacks
    assert isinstance(export, CircuitExport) and isinstance(validation, FaithfulnessValidation)
    yield Told(OfflineRun.read(home), staged, home, export, [row.to_dict() for row in validation.rows])


def test_settings_of_search_and_data_are_the_runs_config(told: Told) -> None:
    expected = json.loads(json.dumps(Drift().describe()))
    del expected["step"]
    assert {key: told.run.config.get(key) for key in expected} == expected
    assert told.run.config["data"] == json.loads(json.dumps(data().describe()))


def test_curves_and_the_table_are_there(told: Told) -> None:
    key = "val/interchange/10%/kl"
    assert [step["trainer/global_step"] for step in told.run.history if key in step] == [2, 4]
    expected = next(row["kl"] for row in told.table if row["circuit"] == "10%")
    assert told.run.logged(key)[-1] == pytest.approx(expected)
    assert len(told.run.logged("train/loss")) == 4
    [entry] = told.run.logged("val/circuits")
    table = json.loads(told.run.media(entry))
    of_last = [row for row in table["data"] if row[0] == 4]
    assert table["columns"][:2] == ["step", "circuit"] and {row[0] for row in table["data"]} == {2, 4}
    assert [row[1] for row in of_last] == [row["circuit"] for row in told.table]
    watched = {key for step in told.run.history for key in step if key.startswith("val/")} - {"val/circuits"}
    sizes, numbers = ("10%", "30-edges"), ("faithfulness", "kl", "accuracy")
    assert watched == {f"val/interchange/{size}/{number}" for size in sizes for number in numbers}


def test_scores_are_a_histogram_at_each_export(told: Told) -> None:
    histograms = told.run.logged("scores")
    assert [step["trainer/global_step"] for step in told.run.history if "scores" in step] == [2, 4]
    for histogram in histograms:
        assert histogram["_type"] == "histogram" and sum(histogram["values"]) == Drift().layout.n_edges
    assert histograms[0] != histograms[1]


def test_each_export_is_a_version_of_one_artifact_that_says_how_it_was_made(told: Told) -> None:
    versions = [artifact for artifact in told.run.artifacts if artifact.type == "circuit"]
    assert {artifact.name for artifact in versions} == {"circuits-run1"}
    assert [set(artifact.aliases) for artifact in versions] == [{"step-2", "latest"}, {"step-4", "latest"}]
    for step, artifact in zip((2, 4), versions, strict=True):
        metadata = json.loads(artifact.metadata)
        assert metadata["step"] == step and set(metadata["circuits"]) == {"10%", "30 edges"}
        circuit = metadata["circuits"]["10%"]
        assert circuit["model"] == Drift().model_name and circuit["model_hash"] == Drift().describe()["model_hash"]
        assert circuit["data"]["corruption"] == "third-name" and circuit["measured"][0]["circuit"] == "10%"
    assert {entry.path for entry in versions[-1].manifest.contents} == {path.name for path in told.export.paths}


def test_what_waits_for_its_upload_is_what_is_on_disk(told: Told) -> None:
    assert told.export.paths and told.export.paths[0].parent == told.folder / "tests" / "run1"
    for path in told.export.paths:
        assert hashlib.md5(path.read_bytes()).hexdigest() in told.staged
        Circuit.load(path)


def test_pictures_and_pages_are_there_at_the_end(told: Told) -> None:
    for name in ("10%", "30-edges"):
        [picture] = told.run.logged(f"circuit/{name}")
        [file] = picture["filenames"]
        assert told.run.media({"path": file}).startswith(b"\x89PNG")
        [page] = told.run.logged(f"circuit/{name}/page")
        assert page["_type"] == "html-file" and b"<script" in told.run.media(page)


def test_wandb_is_not_imported_without_its_logger(tmp_path: Path) -> None:
    program = f"""
import sys
sys.modules["wandb"] = None  # whoever imports it gets an ImportError
sys.path.insert(0, {str(Path(__file__).parents[2])!r})
sys.modules["tests.support.offline_run"] = type(sys)("offline_run")
sys.modules["tests.support.offline_run"].OfflineRun = None
import warnings
warnings.filterwarnings("error", ".*training goes on.*")
from pathlib import Path
from tests.callbacks.test_wandb import fit, pl, trio
fit(pl.loggers.CSVLogger({str(tmp_path)!r}), *trio(Path({str(tmp_path)!r})), steps=2)
"""
    subprocess.run([sys.executable, "-c", program], check=True, cwd=tmp_path)
    assert (tmp_path / "circuit-last-10pct.json").exists()


@pytest.mark.parametrize(
    "trouble",
    ["No API key configured. Use `wandb login` to log in.", "Timed out: no such host\nConsider increasing\n  this"],
)
def test_not_logged_in_or_without_a_network_is_one_line_before_training(
    trouble: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from wandb.errors import UsageError

    def refuse(*_: Any, **__: Any) -> None:
        raise UsageError(trouble)

    monkeypatch.setattr("wandb.init", refuse)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["lightning-circuits"])
    small = ["--trainer.accelerator=cpu", "--data.n_train=8", "--data.n_val=4", "--data.n_test=4"]
    with pytest.raises(SystemExit) as exit:
        main(["fit", "--config=quickstart.yaml", "--config=with/wandb.yaml", *small])
    assert exit.value.code == 2
    said = capsys.readouterr().err.splitlines()[-1]
    first = trouble.partition("\n")[0].rstrip(".")
    assert said.startswith(f"error: {first}. WANDB_MODE=offline keeps a run on this machine")


# ---- other loggers -------------------------------------------------------------------------------------------------


def test_csv_gets_the_settings(tmp_path: Path) -> None:
    export = CircuitExport(formats=["json"], sizes=[0.1])
    fit(pl.loggers.CSVLogger(tmp_path, "name"), CircuitReport(), export, steps=1)
    settings = yaml.safe_load((tmp_path / "name" / "version_0" / "hparams.yaml").read_text())
    assert settings["method"] == "Drift" and settings["data"]["corruption"] == "third-name"
    assert [path.parent for path in export.paths] == [tmp_path / "name" / "version_0"]  # the folder of the run


def test_a_report_needs_an_export_and_a_search(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="CircuitReport sends what CircuitExport writes"):
        fit(False, CircuitReport())


# ---- what fails ----------------------------------------------------------------------------------------------------


class Broken(pl.loggers.logger.DummyLogger):
    """A logger that loses its connection before everything that is not a plain number."""

    def log_hyperparams(self, params: dict[str, Any]) -> None:  # type: ignore[override]
        if params:
            raise ConnectionError("the network is gone")

    @property
    def experiment(self) -> None:  # type: ignore[override]
        raise ConnectionError("the network is gone")

    def __getattribute__(self, name: str) -> Any:
        # Lightning asks for it before anything else and would end the run there, rightly.
        if name == "experiment" and "callbacks" not in sys._getframe(1).f_code.co_filename:
            return None
        return super().__getattribute__(name)


def test_a_logger_that_fails_costs_no_file_and_is_told_once(tmp_path: Path) -> None:
    torch.manual_seed(0)
    fit(False, *trio(tmp_path / "alone"))
    torch.manual_seed(0)
    with pytest.warns(UserWarning) as warned:
        trainer = fit(Broken(), *trio(tmp_path / "broken"))
    said = [str(warning.message) for warning in warned if "training goes on" in str(warning.message)]
    assert len(said) == 1 and "Broken failed (ConnectionError: the network is gone)" in said[0]
    assert trainer.global_step == 4
    alone, broken = ({p.name: Circuit.load(p) for p in (tmp_path / f).iterdir()} for f in ("alone", "broken"))
    assert alone == broken
    assert all(alone[name].metadata == broken[name].metadata for name in alone)


class FullDisk(pl.Callback):
    """No file can grow beyond 2 kB between two steps: a real error of the operating system. Notes what is on disk."""

    def __init__(self, folder: Path, first: int, last: int) -> None:
        self.folder, self.first, self.last = folder, first, last
        self.seen: list[dict[str, bytes]] = []
        self.limits = resource.getrlimit(resource.RLIMIT_FSIZE)

    def on_train_batch_start(self, trainer: pl.Trainer, *_: Any) -> None:
        self.seen.append({path.name: path.read_bytes() for path in self.folder.iterdir()})
        full = self.first <= trainer.global_step + 1 <= self.last
        resource.setrlimit(resource.RLIMIT_FSIZE, (2000 if full else self.limits[0], self.limits[1]))


@pytest.fixture
def limits() -> Iterator[None]:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.usefixtures("limits")
def test_a_full_disk_in_the_middle_is_warned_of_once_and_training_goes_on(tmp_path: Path) -> None:
    validation = FaithfulnessValidation(every_n_steps=1, sizes=[0.1])
    # graphml is short enough for the limit, json is not: a part of an export can be written, and must not be.
    export = CircuitExport(tmp_path, formats=["graphml", "json"], save_top_k=0)
    disk = FullDisk(tmp_path, first=2, last=3)
    with pytest.warns(UserWarning) as warned:
        trainer = fit(False, disk, validation, export, steps=5)
    said = [str(warning.message) for warning in warned if "could not all be written" in str(warning.message)]
    assert len(said) == 1 and "circuits of step 2" in said[0] and "Training goes on" in said[0]
    assert trainer.global_step == 5
    _, after_1, after_2, after_3, after_4 = disk.seen
    assert set(after_1) == {"circuit-last-10pct.graphml", "circuit-last-10pct.json"}
    assert after_1 == after_2 == after_3  # both files of the first export, and no half-written one
    assert after_4["circuit-last-10pct.json"] != after_1["circuit-last-10pct.json"]
    assert Circuit.load(tmp_path / "circuit-last-10pct.json").metadata["step"] == 5


@pytest.mark.usefixtures("limits")
def test_a_disk_that_stays_full_ends_the_run_with_an_error_and_the_last_complete_files(tmp_path: Path) -> None:
    validation = FaithfulnessValidation(every_n_steps=2, sizes=[0.1])
    export = CircuitExport(tmp_path, formats=["graphml", "json"], save_top_k=0)
    disk = FullDisk(tmp_path, first=3, last=99)
    with pytest.warns(UserWarning, match="circuits of step 4"), pytest.raises(OSError, match="saved from memory"):
        fit(False, disk, validation, export, steps=4)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == disk.seen[2]
    assert Circuit.load(tmp_path / "circuit-last-10pct.json").metadata["step"] == 2


def test_what_is_drawn_and_written_is_the_same_circuit(tmp_path: Path) -> None:
    """Pictures and the page are formats of the export like any other."""
    export = CircuitExport(tmp_path, formats=["json", "svg", "png", "pdf", "html"], sizes=[0.1])
    fit(False, export, steps=1)
    assert {path.suffix for path in tmp_path.iterdir()} == {".json", ".svg", ".png", ".pdf", ".html"}
    circuit = Circuit.load(tmp_path / "circuit-last-10pct.json")
    drawn = (tmp_path / "circuit-last-10pct.svg").read_text()
    for name in circuit.edge_names():
        escaped = name.replace("<", "&lt;").replace(">", "&gt;")
        assert f'id="{escaped}"' in drawn
    assert (tmp_path / "circuit-last-10pct.html").read_text().lower().startswith("<!doctype html>")
