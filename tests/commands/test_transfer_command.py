"""`lightning-circuits transfer`: from files to numbers and pictures, and one clear line where there is a mistake."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from lightning_circuits.ablation import ABLATIONS
from lightning_circuits.circuit import Circuit
from lightning_circuits.commands.main import main
from lightning_circuits.datamodules import IOIDataModule
from lightning_circuits.evaluation.rows import evaluate
from lightning_circuits.layout import Layout
from lightning_circuits.models import wrap
from lightning_circuits.models.loading import load_model
from lightning_circuits.search.identity import WeightsHash, fingerprint
from tests.support.ioi_circuit import ioi_circuit

TASKS = {"third": "third-name", "flip": "s2-io-flip"}
SIZES = {"n_train": 12, "n_val": 6, "n_test": 10, "batch_size": 5}
MODEL = load_model("tiny-ioi")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Circuits of two tasks, as two runs leave them, and the configs of their data."""
    folder, model = tmp_path_factory.mktemp("made"), wrap(MODEL)
    for size, (name, corruption) in zip((40, 60), TASKS.items(), strict=True):
        data = IOIDataModule("tiny-ioi", corruption=corruption, **SIZES)
        circuit = ioi_circuit(model, data.train_dataloader(), size)
        circuit.metadata.update(
            model="tiny-ioi", model_hash=fingerprint(MODEL), weights_hash=WeightsHash()(MODEL), dtype="float32"
        )
        circuit.save(folder / f"{name}.json")
        section = {"class_path": "IOIDataModule", "init_args": {**SIZES, "corruption": corruption}}
        (folder / f"{name}.yaml").write_text(yaml.safe_dump({"data": section}))
    return folder


@pytest.fixture
def files(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder of one's own to stand in, with these files."""
    for file in made.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    monkeypatch.chdir(tmp_path)
    yield tmp_path


def cells(folder: Path) -> dict[tuple[str, str, str], dict[str, str]]:
    with (folder / "transfer.csv").open() as file:
        return {(row["data"], row["circuit"], row["ablation"]): row for row in csv.DictReader(file)}


def test_from_files_to_numbers_and_pictures(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = "third.json flip.json --data third.yaml flip.yaml --ablation interchange mean --output out/new --seed 5"
    main(["transfer", *words.split()])
    printed = capsys.readouterr().out
    names = {"results.json", "transfer.csv", "transfer.md", "matrix.png", "matrix.svg", "scatter.png", "scatter.svg"}
    assert {path.name for path in Path("out/new").iterdir()} == names
    assert all(f"out/new/{name}" in printed for name in names) and "Note" not in printed
    assert "Spearman" not in printed  # of two circuits, which have one overlap, there is no correlation

    # The numbers are those of evaluate on the test prompts, means those of the training prompts of each data.
    model = wrap(MODEL)
    circuits = {name: Circuit.load(f"{name}.json") for name in TASKS}
    written = cells(Path("out/new"))
    for name, corruption in TASKS.items():
        data = IOIDataModule("tiny-ioi", corruption=corruption, **SIZES)
        ablations = [ABLATIONS.make("interchange"), ABLATIONS.make("mean")]
        for ablation in ablations:
            ablation.fit(model, data.train_dataloader())
        rows = evaluate(model, data.test_dataloader(), circuits, ablations, "test", controls=False)
        for row in rows:
            cell = written[name, row.circuit, row.ablation]
            assert float(cell["faithfulness"]) == pytest.approx(row.faithfulness, rel=1e-5, abs=1e-6)
            assert float(cell["accuracy"]) == pytest.approx(row.accuracy) and cell["split"] == "test"
            assert (int(cell["edges"]), int(cell["prompts"])) == (row.edges, 10)

    said = json.loads(Path("out/new/results.json").read_text())
    assert (said["model"], said["split"], said["measure"], said["seed"]) == ("tiny-ioi", "test", "logit_difference", 5)
    assert said["ablations"] == ["interchange", "mean"] and said["circuits"] == said["data"] == list(TASKS)
    assert said["circuit_files"]["flip"]["edges_pruned"] == circuits["flip"].prune().n_edges
    assert said["data_files"]["flip"]["data"]["corruption"] == "s2-io-flip"
    assert [said["data_files"][name]["prompts"] for name in TASKS] == [10, 10]
    assert said["weights_hash"] == WeightsHash()(MODEL) and len(said["rows"]) == len(written)


def test_other_splits_measures_and_names(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for run, name in (("one", "third"), ("two", "flip")):  # as runs leave them, and Lightning's whole config
        Path(f"runs/{run}/version_0").mkdir(parents=True)
        Path(f"{name}.json").rename(f"runs/{run}/circuit-last-10pct.json")
        config = yaml.safe_load(Path(f"{name}.yaml").read_text())
        config |= {"seed_everything": 0, "trainer": {"max_steps": 3}, "tokenizer": None, "model": {"class_path": "EAP"}}
        Path(f"runs/{run}/version_0/config.yaml").write_text(yaml.safe_dump(config))
    Path("with=sign.yaml").write_text(Path("flip.yaml").read_text())
    circuits = [f"runs/{run}/circuit-last-10pct.json" for run in ("one", "two")]
    data = ["runs/one/version_0/config.yaml", "runs/two/version_0/config.yaml", "with=sign.yaml"]
    main(["transfer", *circuits, "--data", *data, "two more=flip.yaml", "--split", "val", "--measure", "kl"])
    said = json.loads(Path("results.json").read_text())
    assert said["circuits"] == ["one", "two"] and said["split"] == "val" and said["measure"] == "kl"
    assert said["data"][-1] == "two more" and len(said["data"]) == 4
    assert {row["measure"] for row in said["rows"]} == {"kl"} and {row["prompts"] for row in said["rows"]} == {6}
    assert "Note: no circuit is called" in capsys.readouterr().out


def test_runs_are_told_apart_by_their_folders(files: Path) -> None:
    for run, name in (("one", "third"), ("two", "flip")):
        Path(f"runs/{run}/version_0").mkdir(parents=True)
        Path(f"{name}.json").replace(f"runs/{run}/circuit.json")
        Path(f"{name}.yaml").replace(f"runs/{run}/version_0/config.yaml")
    runs = [f"runs/{run}/circuit.json" for run in ("one", "two")]
    configs = [f"runs/{run}/version_0/config.yaml" for run in ("one", "two")]
    main(["transfer", *runs, "--data", *configs])
    said = json.loads(Path("results.json").read_text())
    assert said["circuits"] == said["data"] == ["one", "two"]


def copy_with(name: str, **metadata: str) -> None:
    circuit = Circuit.load("third.json")
    circuit.metadata.update(metadata)
    circuit.save(f"{name}.json")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("", "CIRCUIT"),
        ("third.json", "--data"),
        ("nowhere.json --data third.yaml", "nowhere.json"),
        ("third.yaml --data third.yaml", "the suffix must be one of"),
        ("third.json --data nowhere.yaml", "there is no config nowhere.yaml"),
        ("third.json --data third=third.json", "the config third.json has no section 'data'"),
        ("third.json --data third=empty.yaml", "the config empty.yaml is empty"),
        ("third.json --data third=without.yaml", "the config without.yaml has no section 'data'"),
        ("third.json --data third=typo.yaml", "the config typo.yaml: "),
        ("third.json --data third=tokens.yaml", "the config tokens.yaml: --data.tokenizer elsewhere"),
        ("third.json --data flip.yaml", "Say which are whose: --data third=flip.yaml"),
        ("third.json third=flip.json --data third.yaml", "both called 'third'"),
        ("third.json flip=small.json --data third.yaml", "the circuit in small.json, beside that in third.json"),
        ("third=small.json --data third.yaml --model tiny-ioi", "the circuit in small.json"),
        ("third=small.json --data third.yaml", "do not say in which model they were found: say it, --model"),
        ("third.json flip=other.json --data third.yaml", "found in different models, tiny-ioi (third) and gpt3 (flip)"),
        ("third=other.json --data third.yaml --model tiny-ioi", "found in another model than tiny-ioi (model_hash abc"),
        ("third=tuned.json --data third.yaml", "found in another model than tiny-ioi (weights_hash abc"),
        ("third.json --data third.yaml --ablation nonsense", "unknown ablation 'nonsense'"),
        ("third.json --data third.yaml --measure nonsense", "unknown measure 'nonsense'"),
        ("third.json --data third.yaml --seed -1", "seed"),
    ],
)
def test_a_mistake_is_one_line(words: str, said: str, files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Circuit.full(Layout(1, 2, 8)).save("small.json")
    copy_with("other", model="gpt3", model_hash="abc")
    copy_with("tuned", weights_hash="abc")
    data = yaml.safe_load(Path("third.yaml").read_text())["data"]
    Path("empty.yaml").write_text("")
    Path("without.yaml").write_text("model: {class_path: EAP}")
    Path("typo.yaml").write_text(yaml.safe_dump({"data": {**data, "init_args": {"n_trian": 3}}}))
    Path("tokens.yaml").write_text(yaml.safe_dump({"data": {**data, "init_args": {"tokenizer": "elsewhere"}}}))
    before = {path.name for path in files.iterdir()}
    with pytest.raises(SystemExit) as end:
        main(["transfer", *words.split()])
    error = [line for line in capsys.readouterr().err.splitlines() if not line.startswith("Loading")]
    assert end.value.code == 2 and said in error[-1] and error[-1].startswith("error: ")
    assert {path.name for path in files.iterdir()} == before
