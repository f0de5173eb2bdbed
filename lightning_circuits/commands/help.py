"""The help of commands that run a search: ours first, and of Lightning's what a search needs.

The Trainer has some forty options, and jsonargparse says of each which Python types it takes. `--trainer.help` shows
them all.
"""

from __future__ import annotations

import argparse
import re
from typing import Any

from jsonargparse import DefaultHelpFormatter

from lightning_circuits import datamodules
from lightning_circuits.commands.errors import LightningParser
from lightning_circuits.search import METHODS

BASES = {"PairDataModule", "TaskDataModule"}
TASKS = [name for name in datamodules.__all__ if name.endswith("DataModule") and name not in BASES]
OF_WEIGHTS = ["WeightPruning", "SavedWeightCircuit"]
NAMES = ", ".join([*METHODS, *OF_WEIGHTS])

SECTIONS = {
    "What is run": {
        "config": "A config file, or the name of a packaged one; several, and the last holds.",
        "model": f"How edges are searched: {NAMES}. Options of a method are --model.lr and so on.",
        "model.help": "Show the options of a method: --model.help EdgePruning",
        "data": f"What is asked: {', '.join(TASKS)}. Options of a task are --data.n_train and so on.",
        "data.help": "Show the options of a task: --data.help IOIDataModule",
        "tokenizer": "Default: that of the model.",
        "ckpt_path": "A checkpoint to go on from; where nothing is trained, the one whose search is judged.",
    },
    "Of this command": {},
    "How it is run, by Lightning's Trainer": {
        "trainer.max_steps": "How many steps are trained.",
        "trainer.max_epochs": "How often each prompt is trained on, if that is to end it.",
        "trainer.accelerator": "cpu, gpu or auto.",
        "trainer.devices": "How many, or which as a list, or auto.",
        "trainer.strategy": "How several share the work: ddp; for what does not fit one of them, see with/fsdp.yaml.",
        "trainer.precision": "Of what is trained. That of the frozen model is --model.dtype.",
        "trainer.logger": "CSVLogger, TensorBoardLogger, WandbLogger (see with/wandb.yaml), or false.",
        "trainer.callbacks": "What judges, draws and writes: FaithfulnessValidation, FaithfulnessCurve, CircuitExport, "
        "CircuitReport, ModelCheckpoint. --trainer.callbacks+=NAME adds one to those of the config; "
        "--trainer.callbacks.OPTION is an option of the last one, and those of others are changed in the config.",
        "trainer.help": "Show all options, and all that there is to say of them.",
    },
    "And": {
        "seed_everything": "Of random numbers that are neither the search's nor the data's own.",
        "print_config": "Print the config with all options, to begin one's own with, and exit.",
        "quiet": "Print errors and the paths of files, nothing else.",
        "help": "Show this, and exit.",
    },
}
"""Options by section, and what is said of them; what is a command's own stands in its section as it says itself."""


class _Everything(DefaultHelpFormatter):
    """Help that calls our classes by the bare names by which configs know them and leaves out base classes."""

    def _expand_help(self, action: argparse.Action) -> str:
        bare = re.sub(r"\blightning_circuits\.[\w.]*\b([A-Z]\w*)", r"\1", super()._expand_help(action))
        return re.sub(r"(?<=, known subclasses: )\w+, |\b(Circuit|Weight)Search, ", "", bare)


class _Few(DefaultHelpFormatter):
    """Help that says of options what `SECTIONS` do, and does not spell out how each can be written."""

    def _expand_help(self, action: argparse.Action) -> str:
        said = [options[action.dest] for options in SECTIONS.values() if action.dest in options]
        return said[0] if said else super()._expand_help(action)

    def _format_action_invocation(self, action: argparse.Action) -> str:
        return ", ".join(option for option in action.option_strings if not option.endswith("+"))


class CommandParser(LightningParser):
    """Of `LightningCLI`, with a help that begins with what one would look for."""

    def __init__(self, *args: Any, formatter_class: type[argparse.HelpFormatter] = _Everything, **kwargs: Any) -> None:
        super().__init__(*args, formatter_class=formatter_class, **kwargs)

    def format_help(self, formatter: Any = None, everything: bool = False) -> str:
        """As usual; of a command that has a Trainer, the options of `SECTIONS`.

        Args:
            formatter: see jsonargparse's.
            everything: whether all options are shown.
        """
        actions = {action.dest: action for action in self._actions}
        if everything or "trainer.max_steps" not in actions:
            return str(super().format_help(formatter))
        named = {name for options in SECTIONS.values() for name in options}
        own = [name for name in actions if name not in named and not re.match("trainer|model|data|weights_only", name)]
        few = _Few(self.prog.replace(" [options]", ""))
        few.add_usage("%(prog)s [--config CONFIG] [--model METHOD] [options]", [], [])
        for title, options in SECTIONS.items():
            few.start_section(title)
            few.add_arguments([actions[name] for name in options or own if name in actions])
            few.end_section()
        return few.format_help()


class ShowEverything(argparse.Action):
    """`--trainer.help`: the help of a command with all options there are."""

    def __init__(self, option_strings: list[str], dest: str, **_: Any) -> None:
        super().__init__(option_strings, dest=dest, default=argparse.SUPPRESS, nargs=0, help="Show all options.")

    def __call__(self, parser: Any, *_: Any) -> None:
        print(parser.format_help(everything=True))
        parser.exit()
