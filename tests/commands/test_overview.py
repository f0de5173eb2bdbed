"""What there is to do, said at once."""

from __future__ import annotations

import subprocess
import sys

import pytest

from lightning_circuits import datamodules, search
from lightning_circuits.commands.config_files import CONFIGS
from lightning_circuits.commands.entry import main
from lightning_circuits.commands.help import BASES, OF_WEIGHTS, TASKS
from lightning_circuits.commands.main import WITHOUT_TRAINER, CircuitCLI
from lightning_circuits.commands.overview import COMMANDS, overview
from lightning_circuits.datamodules import PairDataModule
from lightning_circuits.search import METHODS

LOADED = """
import sys
sys.argv = ["lightning-circuits", {word!r}]
from lightning_circuits.commands.entry import main
try:
    main()
except SystemExit as end:
    print(end.code)
print(sorted({{"torch", "lightning", "pytorch_lightning", "transformers"}} & set(sys.modules)))
"""


def test_it_names_every_command_and_every_config_and_fits_80_columns() -> None:
    assert COMMANDS.keys() == CircuitCLI.subcommands().keys() | WITHOUT_TRAINER.keys()
    text = overview()
    named = {line.strip() for line in text.splitlines()}
    configs = {file.relative_to(CONFIGS).as_posix() for file in (*CONFIGS.glob("*.yaml"), *CONFIGS.glob("with/*.yaml"))}
    assert configs <= named and len(configs) > 8
    assert max(map(len, text.splitlines())) <= 80


@pytest.mark.parametrize("word", ["--help", "compar"])
def test_help_and_a_slip_load_nothing(word: str) -> None:
    done = subprocess.run([sys.executable, "-c", LOADED.format(word=word)], capture_output=True, text=True, check=True)
    assert done.stdout.endswith("[]\n")
    assert ("usage: " in done.stdout) == (word == "--help")
    assert ("did you mean compare?" in done.stderr and "2\n" in done.stdout) == (word == "compar")


@pytest.mark.parametrize("words", [[], ["--help"], ["-h"]])
def test_whoever_asks_for_help_is_given_it(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    main(words)
    assert capsys.readouterr().out == f"{overview()}\n"


@pytest.mark.parametrize(
    ("options", "meant"),
    [
        (["--model.lrr=0.1"], "did you mean lr?"),
        (["--trainer.max_stepss=3"], "did you mean --trainer.max_steps?"),
        (["--data.n_trian=3"], "did you mean n_train?"),
        (["--xyzzy=3"], "unrecognized arguments: --xyzzy=3 (see"),
    ],
)
def test_a_mistyped_option_is_answered_by_the_one_that_was_meant(
    options: list[str], meant: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end:
        main(["fit", "--config=quickstart.yaml", *options])
    assert end.value.code == 2 and meant in capsys.readouterr().err


def test_a_mistyped_command_is_answered_by_those_there_are(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(["xyzzy"])
    assert end.value.code == 2 and "there are check, fit, validate" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["fit", "validate", "test", "check", "evaluate"])
def test_help_of_a_command_is_a_page_with_ours_first(
    command: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setattr("sys.argv", ["lightning-circuits"])
    with pytest.raises(SystemExit) as exit:
        main([command, "--help"])
    assert exit.value.code in (0, None)
    said = capsys.readouterr().out
    lines = said.splitlines()
    assert len(lines) < 80 and max(map(len, lines)) <= 80
    assert said.index("--model ") < said.index("--data ") < said.index("--trainer.max_steps")
    assert "--trainer.barebones" not in said and ("--sizes" in said) == (command == "evaluate")
    for name in [*METHODS, "WeightPruning", "IOIDataModule", "CountryCapitalDataModule"]:
        assert name in said


def test_all_options_are_there_when_asked_for(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["lightning-circuits"])
    with pytest.raises(SystemExit) as exit:
        main(["fit", "--trainer.help"])
    said = capsys.readouterr().out
    assert exit.value.code in (0, None) and "--trainer.gradient_clip_val" in said and "--trainer.barebones" in said


def test_what_help_names_there_is() -> None:
    assert all(hasattr(search, name) for name in [*METHODS, *OF_WEIGHTS])
    classes = {name: each for name, each in vars(datamodules).items() if isinstance(each, type)}
    assert {name for name, each in classes.items() if issubclass(each, PairDataModule)} - BASES == set(TASKS)
