"""What there is to do, said at once."""

from __future__ import annotations

import subprocess
import sys

import pytest

from lightning_circuits.commands.config_files import CONFIGS
from lightning_circuits.commands.main import WITHOUT_TRAINER, CircuitCLI, main
from lightning_circuits.commands.overview import COMMANDS, overview

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
def test_the_loaded_command_line_says_the_same(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
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
