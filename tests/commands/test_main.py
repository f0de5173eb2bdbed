"""The command line: configs are found, options arrive, mistakes are one line, a saved circuit is what it was."""

from __future__ import annotations

import csv
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from transformers import AutoModelForCausalLM

from lightning_circuits.circuit import Circuit
from lightning_circuits.commands import entry
from lightning_circuits.commands.config_files import CONFIGS
from lightning_circuits.commands.main import main
from lightning_circuits.evaluation.curve import Curve
from lightning_circuits.models.loading import load_model
from lightning_circuits.namespace import pl

pytestmark = pytest.mark.usefixtures("elsewhere")

SMALL = [
    "--config=quickstart.yaml",
    "--trainer.accelerator=cpu",
    "--trainer.max_steps=4",
    "--data.n_train=32",
    "--data.n_val=16",
    "--data.n_test=16",
    "--data.batch_size=16",
]


class Explode(pl.Callback):
    """A callback with a bug."""

    def on_train_batch_end(self, *_: object) -> None:
        raise ValueError("the bug")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder in which a short search has been run."""
    folder = tmp_path_factory.mktemp("trained")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr("sys.argv", ["lightning-circuits"])
        main(["fit", *SMALL])
    return folder


def printed(capsys: pytest.CaptureFixture[str], *args: str) -> dict:
    """What --print_config prints, read back."""
    with pytest.raises(SystemExit) as exit:
        main(["fit", *args, "--print_config"])
    assert exit.value.code in (0, None)
    return yaml.safe_load(capsys.readouterr().out)


def measured(run: Path) -> dict[str, float]:
    """The last number of every column of a run's metrics.csv."""
    with (run / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    return {name: float(value) for row in rows for name, value in row.items() if value}


# ---- configs and options -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["quickstart.yaml", "quickstart"])
def test_a_packaged_config_is_found_by_name(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    config = printed(capsys, "--config", name)
    written = yaml.safe_load((CONFIGS / "quickstart.yaml").read_text())
    assert config["model"]["init_args"]["model"] == "tiny-ioi"
    assert config["trainer"]["max_epochs"] == written["trainer"]["max_epochs"]


def test_a_file_goes_before_a_packaged_config_and_a_later_one_before_an_earlier(
    elsewhere: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    changed = yaml.safe_load((CONFIGS / "quickstart.yaml").read_text())
    changed["trainer"]["max_steps"] = 77
    (elsewhere / "quickstart.yaml").write_text(yaml.safe_dump(changed))
    (elsewhere / "more.yaml").write_text("model: {init_args: {lr: 0.123}}")
    config = printed(capsys, "--config=quickstart.yaml", "-c", "more.yaml")
    assert config["trainer"]["max_steps"] == 77
    assert config["model"]["init_args"]["lr"] == 0.123


def test_every_option_can_be_given_on_the_command_line(capsys: pytest.CaptureFixture[str]) -> None:
    options = "--model.lr=0.7 --model.objective=CrossEntropy --model.gate=HardConcrete --data.corruption=abc".split()
    options += ["--trainer.max_steps=9", "--trainer.callbacks.save_last=false", "--tokenizer=somewhere"]
    config = printed(capsys, "--config=quickstart", *options, "--model.gate.sparsity=L0Penalty")
    model = config["model"]["init_args"]
    assert model["lr"] == 0.7 and model["objective"]["class_path"].endswith(".CrossEntropy")
    # The options of the config's own gate have gone with it.
    assert model["gate"]["class_path"].endswith(".HardConcrete") and set(model["gate"]["init_args"]) == {
        "sparsity",
        "start_at",
    }
    assert model["gate"]["init_args"]["sparsity"]["class_path"].endswith(".L0Penalty")
    assert config["data"]["init_args"]["corruption"] == "abc"
    assert config["trainer"]["max_steps"] == 9
    assert config["trainer"]["callbacks"][-1]["init_args"]["save_last"] is False
    assert config["tokenizer"] == "somewhere"


def test_the_config_printed_is_a_config(elsewhere: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = printed(capsys, "--config=quickstart", "--model.lr=0.7")
    (elsewhere / "own.yaml").write_text(yaml.safe_dump(config))
    assert printed(capsys, "--config=own.yaml") == config


# ---- mistakes ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ("--config=nothing.yaml", "no config nothing.yaml: neither such a file nor packaged (ioi_gpt2, "),
        ("--model.lrr=1", "'lrr' is not accepted"),
        ("--model.lr=fast", "lr: expected a number, got fast"),
        ("--model.seed=null", "seed takes a whole number, got None"),
        ("--model.seed=18446744073709551616", "seed takes a whole number below 2**63"),
        ("--model.lr=1e400", "lr must be positive and finite, got inf"),
        ("--model.ablation=[mean]", "ablation: expected Ablation: its name, or class_path and init_args, or"),
        ("--data=null", "data: say which prompts"),
        ("--trainer.max_steps=0", "the Trainer's max_steps is 0"),
        ("--trainer.accumulate_grad_batches=0", "trainer.accumulate_grad_batches is 0: it has to be at least 1"),
        ("--trainer.devices=99", "trainer.devices is 99: this machine has"),
        ("--trainer.accelerator=gpu", "there is no GPU here"),
        ("--seed_everything=-1", "seed_everything takes a whole number from 0 to 2**32 - 1"),
        (
            "--trainer.callbacks=EarlyStopping --trainer.callbacks.monitor=kl",
            "monitor='kl': nothing logs that while this run trains. FaithfulnessValidation among",
        ),
        ("--trainer.callbacks=ModelCheckpoint --trainer.callbacks.dirpath=file/x", "checkpoints cannot be written to"),
        ("--model=Nonsense", "no class is called Nonsense here"),
        ("--model.gate=Nonsense", "unknown gate 'Nonsense'; choose one of HardConcrete, TopK"),
        ("--trainer.max_stepss=1", "max_stepss"),
        ("--model=SavedCircuit", "required: path"),
        ("--data.tokenizer=gpt2", "or that of --tokenizer gpt2"),
        # Said by the classes themselves, when they are made...
        ("--model.gate.temperature=-1", "temperatures must be positive and finite, got -1.0"),
        (
            "--model.gate=HardConcrete --model.gate.sparsity=TargetSparsity --model.gate.sparsity.target=1.5",
            "target sparsity must be in [0, 1), got 1.5",
        ),
        ("--model.model=./nowhere", "there is no model at nowhere"),
        ("--model=SavedCircuit --model.path=nowhere.json", "no circuit file at nowhere.json"),
        ("--data.n_val=0", "the val split would be empty"),
        # ... and when the run is set up.
        ("--tokenizer=./nowhere", "there is no model at nowhere"),
        ("--data=PromptPairDataModule --data.train=pairs.jsonl", "pairs.jsonl, line 2: not JSON"),
        (
            "--trainer.callbacks=CircuitExport --trainer.callbacks.dirpath=file/folder",
            "cannot be written to file/folder",
        ),
        ("--trainer.callbacks=FaithfulnessValidation --trainer.callbacks.sizes=[0.0001]", "0.0001"),
        (
            "--trainer.callbacks=FaithfulnessValidation --trainer.callbacks.ablations=[mean-group] --data.n_train=4",
            "mean-group ablation: no prompt that the means were taken over is of the group '",
        ),
        ("--model=RelP --model.objective=KL", "the objective KL has no gradient at the full model"),
        # Lightning has a word of its own for what does not go together.
        ("--trainer.callbacks=RichProgressBar --trainer.enable_progress_bar=false", "enable_progress_bar=False"),
    ],
)
def test_a_mistake_is_one_line(
    options: str, said: str, elsewhere: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pair = '{"clean": "a b", "corrupt": "c b", "answers": [" d"], "distractors": [" e"]}'
    (elsewhere / "pairs.jsonl").write_text(f"{pair}\nnonsense\n")
    (elsewhere / "file").touch()
    monkeypatch.delenv("JSONARGPARSE_DEBUG", raising=False)
    with pytest.raises(SystemExit) as exit:
        main(["fit", *SMALL, *options.split()])
    assert exit.value.code == 2
    lines = capsys.readouterr().err.splitlines()
    [error] = [line for line in lines if line.startswith("error: ")]
    assert error == lines[-1]
    assert said in error and len(error) < 300
    assert not list(elsewhere.glob("runs/**/*.ckpt")) and not list(elsewhere.glob("runs/**/circuit-*"))


@pytest.mark.parametrize(
    ("config", "said"),
    [
        (b"", "is empty"),
        (b"null", "is empty"),
        (b"7", "holds 7 in place of sections by name"),
        (b"- 1\n- 2", "holds [1, 2] in place of sections by name"),
        (b"\x00\xff\xfe", "is no text in UTF-8"),
        (b"trainer:\n\tmax_steps: 1", "is no YAML, line 2, column 1: found character"),
        (b"trainer: *nothing", "is no YAML, line 1, column 10: found undefined alias"),
        (b"trainer: !!python/object/apply:os.mkdir [made]", "is no YAML, line 1"),
        (b"trainer: &a [*a]", "contains itself"),
        (b"[" * 3000, "contains itself, or is nested too deeply"),
        (b"modell: {}", "has a section 'modell' that there is not: there are ckpt_path, data, model"),
        (b"trainer: .nan", "has trainer: nan in place of options by name"),
        (b"trainer: [1]", "has trainer: [1] in place of options by name"),
        (b"trainer: {max_steps: .nan}", "trainer.max_steps: expected a whole number, got nan"),
        (b"trainer: {max_step: 1}", "does not accept option 'trainer.max_step'"),
        (b"trainer: {callbacks: 5}", "trainer.callbacks: expected a list, or expected Callback: its name"),
        (b"model: 5", "model: expected a search: its name, or class_path and init_args"),
        (b"model: {class_path: EdgePruning, init_args: 5}", "init_args holds options by name"),
        (None, "is a folder: name the file in it"),
    ],
)
def test_a_config_that_is_none_is_named(
    config: bytes | None, said: str, elsewhere: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (elsewhere / "own.yaml").mkdir() if config is None else (elsewhere / "own.yaml").write_bytes(config)
    with pytest.raises(SystemExit) as exit:
        main(["fit", *SMALL, "--config=own.yaml"])
    assert exit.value.code == 2
    [error] = capsys.readouterr().err.splitlines()
    assert error.startswith("error: ") and said in error
    assert not (elsewhere / "made").exists()


def test_a_subcommand_that_circuits_have_no_use_for_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit:
        entry.main(["predict", *SMALL])
    assert exit.value.code == 2
    assert "no command is called 'predict': there are check, fit, validate, test, evaluate" in capsys.readouterr().err
    with pytest.raises(SystemExit) as exit:
        main(["fit"])
    said = capsys.readouterr().err
    assert exit.value.code == 2 and said.startswith("error: nothing says what to run: give --config, such as ioi_gpt2")
    assert said.endswith("(see lightning-circuits fit --help)\n")


def test_a_mistake_keeps_its_traceback_when_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JSONARGPARSE_DEBUG", "true")
    with pytest.raises(ValueError, match="temperatures must be positive"):
        main(["fit", *SMALL, "--model.gate.temperature=-1"])


def test_an_error_in_training_keeps_its_traceback() -> None:
    with pytest.raises(ValueError, match="the bug"):
        main(["fit", *SMALL, f"--trainer.callbacks+={__name__}.Explode"])


# ---- runs ----------------------------------------------------------------------------------------------------------


def saved(trained: Path, suffix: str = "json") -> tuple[Path, str]:
    """The file of the circuit of 10 % of the edges, and the name of its row when it is judged: its size."""
    path = trained / "runs" / "quickstart" / "latest" / f"circuit-last-10pct.{suffix}"
    return path, f"{Circuit.load(path).n_edges}-edges"


@pytest.mark.parametrize("suffix", ["json", "pt"])
def test_a_saved_circuit_checks_out_as_it_did_in_training(trained: Path, suffix: str, elsewhere: Path) -> None:
    path, name = saved(trained, suffix)
    main(["validate", *SMALL, "--model=SavedCircuit", f"--model.path={path}"])
    before = measured(trained / "runs" / "quickstart" / "version_0")
    now = measured(elsewhere / "runs" / "quickstart" / "version_0")
    assert now[f"val/interchange/{name}/edges"] == before["val/interchange/10%/edges_pruned"]  # it is saved pruned
    for number in ("faithfulness", "faithfulness_median", "faithfulness_q1", "kl", "accuracy", "logit_difference"):
        for ablation, row in (("interchange", "10%"), ("mean", "10%-pruned")):
            want = before.get(f"val/{ablation}/{row}/{number}", before[f"val/{ablation}/10%/{number}"])
            assert now[f"val/{ablation}/{name}/{number}"] == pytest.approx(want, rel=1e-5, abs=1e-6)
            if suffix == "json":  # which has no scores of edges that were pruned
                continue
            # And by the scores of all edges, the circuit before it was pruned.
            want = before[f"val/{ablation}/10%/{number}"]
            assert now[f"val/{ablation}/10%/{number}"] == pytest.approx(want, rel=1e-5, abs=1e-6)


def test_a_saved_circuit_is_tested_on_prompts_nothing_has_seen(trained: Path, elsewhere: Path) -> None:
    path, name = saved(trained)
    main(["test", *SMALL, "--model", "SavedCircuit", "--model.path", str(path), "--data.n_test=24"])
    now = measured(elsewhere / "runs" / "quickstart" / "version_0")
    assert now[f"test/interchange/{name}/prompts"] == 24
    assert now["test/interchange/full/kl"] == 0


def test_a_saved_circuit_of_another_layout_is_refused(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = load_model("tiny-ioi").config
    config.n_layer = 2
    AutoModelForCausalLM.from_config(config).save_pretrained("two-layers")
    options = [
        "--model=SavedCircuit",
        f"--model.path={saved(trained)[0]}",
        "--model.model=./two-layers",
        "--tokenizer=tiny-ioi",
    ]
    with pytest.raises(SystemExit) as exit:
        main(["test", *SMALL, *options])
    assert exit.value.code == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("error: ") and "n_layers" in error


def test_the_curve_of_a_saved_ranking_and_of_a_checkpoint_are_one_and_compare(
    trained: Path, elsewhere: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    curve = ["--sizes=[0.05, 200, 1.0]", "--ablations=[interchange]"]
    path = saved(trained, "pt")[0]
    main(["evaluate", *SMALL, "--model=SavedCircuit", f"--model.path={path}", *curve, "--output=a"])
    checkpoint = trained / "runs" / "quickstart" / "version_0" / "checkpoints" / "last.ckpt"
    main(["evaluate", *SMALL, f"--ckpt_path={checkpoint}", *curve, "--output=b"])
    a, b = (Curve.load(elsewhere / name / "curve.json") for name in "ab")
    assert a.to_dict()["rows"] == b.to_dict()["rows"]
    assert a.method == b.method == "EdgePruning" and a.split == "test" and a.prompts == 16
    # 1.0 is all edges, as an integer would not be.
    assert [row.edges for row in a.points("interchange", "signed")] == [23, 200, 479]
    assert not list(elsewhere.glob("**/circuit-*"))  # nothing is exported again
    capsys.readouterr()
    main(["compare", "a", "b", "--output", "both"])
    assert "EdgePruning a" in capsys.readouterr().out
    assert {path.name for path in (elsewhere / "both").iterdir()} == {"compare.png", "compare.svg", "compare.csv"}


def test_a_config_says_what_faithfulness_is_of(
    trained: Path, elsewhere: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    judged = {
        "class_path": "FaithfulnessCurve",
        "init_args": {"sizes": [0.5, 1.0], "measure": "probability_difference"},
    }
    (elsewhere / "mine.yaml").write_text(yaml.safe_dump({"trainer": {"callbacks": [judged]}}))
    main(["fit", *SMALL, "--config=mine.yaml", "--trainer.max_steps=1", "--model.objective=ProbabilityDifference"])
    assert "f by probability_difference" in capsys.readouterr().out
    [path] = elsewhere.glob("runs/**/curve.json")
    assert Curve.load(path).measure == "probability_difference"
    evaluate = ["evaluate", *SMALL, "--sizes=[0.5, 1.0]", "--model=SavedCircuit"]
    evaluate += [f"--model.path={saved(trained, 'pt')[0]}"]
    main([*evaluate, "--output=a", "--measure=kl"])
    main([*evaluate, "--output=b"])
    full, empty = (Curve.load(elsewhere / "a/curve.json").reference("interchange", name) for name in ("full", "empty"))
    assert (full.measure, full.faithfulness, full.value, empty.value) == ("kl", 1, 0, pytest.approx(empty.kl))
    with pytest.raises(SystemExit):
        main(["compare", "a", "b"])
    error = capsys.readouterr().err
    assert "different measures" in error and "a: kl; " in error and "--measure kl" in error


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("evaluate --config=quickstart.yaml --measure=logits", "unknown measure 'logits'; choose one of"),
        ("compare nowhere", "no run at nowhere"),
        ("compare runs --y=loss", "invalid choice: 'loss'"),
        ("compare empty", "no curve in empty"),
        ("evaluate --config=quickstart.yaml --sizes=[0.1]", "at least two sizes"),
        ("evaluate --config=quickstart.yaml --sizes=[1.5,0.1]", "a share of the edges lies in (0, 1]"),
    ],
)
def test_a_mistake_in_judging_is_one_line(
    command: str, said: str, elsewhere: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (elsewhere / "empty").mkdir()
    with pytest.raises(SystemExit) as exit:
        main(command.split())
    assert exit.value.code == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("error: ") and said in error


def test_a_run_goes_on_from_its_checkpoint(trained: Path, elsewhere: Path) -> None:
    shutil.copytree(trained / "runs", elsewhere / "runs")
    checkpoint = elsewhere / "runs" / "quickstart" / "version_0" / "checkpoints" / "last.ckpt"
    # Gates and optimizer of 479 edges; the model alone is .9 MB.
    assert os.path.getsize(checkpoint) < 200_000
    main(["fit", *SMALL, "--trainer.max_steps=6", f"--ckpt_path={checkpoint}"])
    with (elsewhere / "runs" / "quickstart" / "version_1" / "metrics.csv").open() as file:
        steps = {int(row["step"]) for row in csv.DictReader(file)}
    assert min(steps) >= 4 and max(steps) == 6


def test_what_was_run_is_saved_beside_the_numbers(trained: Path) -> None:
    saved = yaml.safe_load((trained / "runs" / "quickstart" / "version_0" / "config.yaml").read_text())
    assert saved["data"]["init_args"]["n_train"] == 32
    assert saved["model"]["class_path"].endswith("EdgePruning")


def test_quiet_prints_the_paths_and_nothing_else(tmp_path: Path) -> None:
    """In a process of its own: loggers and warnings are set for good."""
    words = "fit --config quickstart.yaml --quiet --trainer.max_steps 2 --trainer.accelerator cpu"
    small = "--data.n_train 24 --data.n_val 8 --data.n_test 8".split()
    done = subprocess.run(
        [sys.executable, "-m", "lightning_circuits.commands.main", *words.split(), *small],
        cwd=tmp_path, capture_output=True, text=True, check=True,
    )  # fmt: skip
    said = dict(line.split(": ") for line in done.stdout.splitlines())
    assert list(said) == ["Circuits", "Config"]
    assert all((tmp_path / path.removesuffix(" and 11 more")).is_file() for path in said.values())
    assert not [word for word in ("Seed set", "Epoch", "Loading", "Warning") if word in done.stderr]
