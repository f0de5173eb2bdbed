"""The command line, `lightning-circuits`: a search, its data and its callbacks named in a config, each option in reach.

    lightning-circuits fit --config quickstart.yaml                          # a packaged config, found by its name
    lightning-circuits fit --config ioi_gpt2.yaml --model.model ./my-gpt2    # the same on another language model
    lightning-circuits fit --config ioi_gpt2.yaml --model.lr 0.1 --trainer.max_steps 600 --model.gate HardConcrete
    lightning-circuits fit --config my.yaml --ckpt_path runs/.../last.ckpt   # a killed run goes on
    lightning-circuits fit --config ioi_gpt2.yaml --print_config > my.yaml   # a config of one's own to begin with

A saved circuit is checked again by naming it in the place of the search: `validate` on the prompts that the search was
validated on, `test` on prompts that nothing has seen.

    lightning-circuits test --config ioi_gpt2.yaml --model SavedCircuit --model.path circuit.json

A circuit of weights, and the same of its file:

    lightning-circuits fit --config weights.yaml
    lightning-circuits test --config weights.yaml --model SavedWeightCircuit --model.path circuit.safetensors

Whether the model does the task at all, which `fit` says first, too:

    lightning-circuits check --config pairs.yaml --data.train pairs.jsonl --model.model gpt2

The whole faithfulness curve of a saved ranking (or, with `--ckpt_path`, of a search), and several in one figure:

    lightning-circuits evaluate --config ioi_gpt2.yaml --model SavedCircuit --model.path scores.json --output runs/eap
    lightning-circuits evaluate --config ioi_gpt2.yaml --ckpt_path runs/.../last.ckpt --sizes "[0.01, 0.1, 1.0]"
    lightning-circuits compare runs/eap runs/ioi_gpt2

Circuits on each other's tasks, each called as its prompts are:

    lightning-circuits transfer ioi.json capital.json --data ioi.yaml capital.yaml --output runs/transfer

A circuit as an interactive page, or as a figure:

    lightning-circuits view circuit.json --output page.html

Classes go by their bare names if they are ours or Lightning's, else by their path (`my_package.MySearch`).
Prompts and text are tokenised by the model's own tokenizer; `--tokenizer NAME` takes another one.

A mistake in the options, the model, the data or a file ends with one line, `error: ...`, and exit code 2, before
anything is trained; with JSONARGPARSE_DEBUG=true in the environment, with its traceback. What goes wrong once
training has begun is always shown in full. Ctrl-C ends with code 130, SIGTERM with 143, after the step under way.
"""

from __future__ import annotations

import inspect
import os
import sys
from collections.abc import Sequence
from typing import Any

from jsonargparse import ActionConfigFile

# Imported for their classes: a bare name in a config can mean only what has been imported.
from lightning_circuits import ablation, callbacks, datamodules, gates, objectives, search  # noqa: F401
from lightning_circuits.callbacks import FaithfulnessCurve, StepProgressBar, TaskCheck, WeightValidation
from lightning_circuits.commands import compare, transfer, view
from lightning_circuits.commands.config_files import find_config, read_sections, tokenizer_of, tokenizer_of_text
from lightning_circuits.commands.ending import Ending
from lightning_circuits.commands.errors import debugging, in_one_line
from lightning_circuits.commands.help import CommandParser, ShowEverything
from lightning_circuits.commands.others_output import leave_out_what_is_not_ours, say_nothing
from lightning_circuits.commands.run_folder import RunFolder
from lightning_circuits.measures import AnyMeasure
from lightning_circuits.namespace import LightningArgumentParser, LightningCLI, pl
from lightning_circuits.printable import printable
from lightning_circuits.progress import shown
from lightning_circuits.search import WeightSearch
from lightning_circuits.search.checkpoints import read_checkpoint
from lightning_circuits.search.frozen_model import FrozenModelModule

SECTIONS = {"seed_everything", "trainer", "model", "data", "ckpt_path", "tokenizer", "quiet"}
"""What a config may say; what else the parser knows are options of single commands."""

LEAST = {
    "accumulate_grad_batches": 1,
    "check_val_every_n_epoch": 1,
    "log_every_n_steps": 0,
    "gradient_clip_val": 0,
    "val_check_interval": 0,
}
"""Of numbers that the Trainer takes as they come, and stumbles over later."""


WITHOUT_TRAINER = {"compare": compare, "transfer": transfer, "view": view}
"""Commands that are a module of their own; the others are methods of the Trainer."""


def main(args: Sequence[str] | None = None) -> None:
    """Run a command that there is (`commands.entry` sees to it).

    Args:
        args: the words after `lightning-circuits`. Default: those of this process.

    Raises:
        SystemExit: with code 2 for a mistake in what was asked for, 0 after `--help` and `--print_config`, 130 and 143
            after Ctrl-C and SIGTERM.
    """
    leave_out_what_is_not_ours()
    words = sys.argv[1:] if args is None else list(args)
    ending = Ending(words)
    quiet = "--quiet" in words  # also of what is said before there is a Trainer
    if quiet:
        say_nothing()
    with ending.heeded(), shown(not quiet):
        try:
            _run(words, ending, None if args is None else words)
        except Exception as error:
            said = in_one_line(error)
            if said is None or ending.begun or debugging():
                raise
            sys.stderr.write(f"error: {said}\n")
            raise SystemExit(2) from None


def _run(words: list[str], ending: Ending, args: list[str] | None) -> None:
    """The command that the words name."""
    if words and words[0] in WITHOUT_TRAINER:
        WITHOUT_TRAINER[words[0]].main(words[1:])
        return
    CircuitCLI(
        FrozenModelModule,
        datamodules.PairDataModule,
        subclass_mode_model=True,
        subclass_mode_data=True,
        trainer_class=CircuitTrainer,
        parser_class=CommandParser,
        seed_everything_default=0,
        # Each method has its own optimizer, which --optimizer would replace.
        auto_configure_optimizers=False,
        save_config_callback=RunFolder,
        save_config_kwargs={"save_to_log_dir": False},
        trainer_defaults={"callbacks": [ending]},
        args=args,
    )


class CircuitTrainer(pl.Trainer):
    """Lightning's Trainer, which can also measure the faithfulness curve of a search as it stands, and be quiet."""

    quiet = False  # whether callbacks keep their tables to themselves
    ending: Ending | None = None

    @property
    def received_sigterm(self) -> bool:
        """Whether to end after this step, as all processes know: Lightning's is of the process that was told."""
        return super().received_sigterm if self.ending is None else bool(self.ending.agreed)

    def check(self, model: FrozenModelModule, datamodule: pl.LightningDataModule) -> None:
        """Print what the full model makes of the task, with warnings. Nothing is trained, and nothing written.

        Args:
            model: the search.
            datamodule: its prompts.
        """
        model.circuit_model.model.to(self.strategy.root_device)
        TaskCheck().look(self, datamodule, model.circuit_model)

    def evaluate(
        self,
        model: FrozenModelModule,
        datamodule: pl.LightningDataModule,
        sizes: list[int | float] | None = None,
        ablations: list[str] | None = None,
        rankings: list[str] | None = None,
        output: str | None = None,
        measure: AnyMeasure | None = None,
        ckpt_path: str | None = None,
    ) -> None:
        """Measure the faithfulness curve of a saved ranking, or of a search and its checkpoint, on the test split.

        Nothing is trained. What is not given is as the config's own FaithfulnessCurve has it, if there is one. A
        circuit of weights has no curve: it is judged as its WeightValidation says.

        Args:
            model: the search.
            datamodule: its prompts.
            sizes: of the circuits: shares of the edges (1.0 is all of them), or numbers of edges (1 is a single one).
            ablations: what cut edges carry: interchange, zero, mean, mean-positional, mean-group, mean-span,
                optimal.
            rankings: by what edges are taken: signed, absolute.
            output: the folder for curve.json, .csv, .png and .svg, or weights-test.json and .csv. Default: where the
                logger writes.
            measure: what faithfulness is of: logit_difference, probability_difference, kl, or a function by its path.
            ckpt_path: the checkpoint of a search that was trained.
        """
        given = {"sizes": sizes, "ablations": ablations, "rankings": rankings, "dirpath": output, "measure": measure}
        given = {name: value for name, value in given.items() if value is not None}
        kind: type[FaithfulnessCurve | WeightValidation] = FaithfulnessCurve
        if isinstance(model, WeightSearch):
            kind = WeightValidation
            if of_edges := [name for name in given if name != "dirpath"]:
                name = type(model).__name__
                raise ValueError(
                    f"--{of_edges[0]} is for circuits of edges, and {name} has one of weights: leave it out"
                )
        callbacks_of = self.callbacks  # type: ignore[has-type]  # Lightning sets it elsewhere
        judge = next((one for one in callbacks_of if isinstance(one, kind)), kind())
        judge = kind(**{name: getattr(judge, name) for name in inspect.signature(kind).parameters} | given)
        # The other callbacks judge and export what is not asked for.
        ours = callbacks.CircuitExport, callbacks.FaithfulnessValidation, FaithfulnessCurve, WeightValidation
        self.callbacks = [*(one for one in callbacks_of if not isinstance(one, ours)), judge]
        self.test(model, datamodule=datamodule, ckpt_path=ckpt_path, verbose=False)


class CircuitCLI(LightningCLI):
    """Lightning's command line with packaged configs, a tokenizer that follows the model, and what we can do."""

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        every = LightningCLI.subcommands()
        mine = {name: every[name] for name in ("fit", "validate", "test")}
        return {**mine, "check": {"model", "datamodule"}, "evaluate": {"model", "datamodule"}}

    def _parse_ckpt_path(self) -> None:
        """Read a checkpoint before anything is made. Lightning would let what it holds stand for what was asked."""
        path = self.config[self.config.subcommand].get("ckpt_path") if self.config.get("subcommand") else None
        if path and path not in ("last", "best", "hpc"):  # of the Trainer, which is not there yet
            read_checkpoint(path)

    def init_parser(self, **kwargs: Any) -> LightningArgumentParser:
        parser = self.parser_class(**kwargs)
        parser.add_argument("-c", "--config", action=FindConfig, help="A config file, or the name of a packaged one.")
        return parser

    def _prepare_subcommand_parser(self, klass: type, subcommand: str, **kwargs: Any) -> LightningArgumentParser:
        parser: LightningArgumentParser = super()._prepare_subcommand_parser(klass, subcommand, **kwargs)
        if "verbose" in self._subcommand_method_arguments[subcommand]:
            # Lightning would print every number that callbacks return, a thousand lines before their own tables.
            parser.set_defaults({"verbose": False})
        return parser

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        parser.add_argument("--trainer.help", action=ShowEverything)
        parser.add_argument("--quiet", action="store_true", help="Print errors and the paths of files, nothing else.")
        # A link takes its target out of the user's hands, hence an option beside it.
        parser.add_argument("--tokenizer", type=str | None, default=None, help="Default: that of the model.")
        parser.link_arguments(
            ("tokenizer", "model.init_args.model", "data"), "data.init_args.tokenizer", compute_fn=tokenizer_of
        )
        parser.link_arguments(  # of a search that has a text
            ("tokenizer", "model"), "model.init_args.text.init_args.tokenizer", compute_fn=tokenizer_of_text
        )

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        super().parse_arguments(parser, args)
        seed = self.config[f"{self.config.subcommand}.seed_everything"]
        if not isinstance(seed, bool) and not 0 <= seed < 2**32:
            raise ValueError(f"seed_everything takes a whole number from 0 to 2**32 - 1, or true, got {seed}")

    def instantiate_trainer(self, **options: Any) -> pl.Trainer:
        for name, least in LEAST.items():
            if (given := self._get(self.config_init, f"trainer.{name}")) is not None and not given >= least:
                raise ValueError(f"trainer.{name} is {given}: it has to be at least {least}")
        quiet = self._get(self.config, "quiet", default=False)
        trainer_config = self._get(self.config_init, "trainer")
        given = trainer_config["callbacks"] or []
        several = given if isinstance(given, list) else [given]
        bars = [one for one in several if isinstance(one, pl.callbacks.ProgressBar)]
        if quiet:
            trainer_config["callbacks"] = [one for one in several if one not in bars]
            options |= {"enable_progress_bar": False, "enable_model_summary": False}
        elif not bars and trainer_config["enable_progress_bar"] is not False and not trainer_config["barebones"]:
            trainer_config["callbacks"] = [StepProgressBar(), *several]
        trainer: Any = super().instantiate_trainer(**options)
        trainer.quiet = quiet
        cores = max(os.cpu_count() or 1, 8)  # as tests of several processes take for granted
        if isinstance(trainer.accelerator, pl.accelerators.CPUAccelerator) and trainer.num_devices > cores:
            raise ValueError(f"trainer.devices is {trainer.num_devices}: this machine has {os.cpu_count()} cores")
        [trainer.ending] = self.trainer_defaults["callbacks"]
        if self.config["subcommand"] == "fit" and not any(isinstance(one, TaskCheck) for one in trainer.callbacks):
            trainer.callbacks.insert(0, TaskCheck())
        trainer.ending.trainer = trainer
        trainer.callbacks.sort(key=lambda callback: callback is not trainer.ending)
        return trainer


class FindConfig(ActionConfigFile):
    """`--config`: a file, or one of the packaged configs by name, with or without its suffix."""

    def __call__(self, parser: Any, namespace: Any, value: Any, option_string: str | None = None) -> None:
        sections = {action.dest.partition(".")[0] for action in parser._actions}
        try:
            file = find_config(value)
            config = read_sections(file)
        except ValueError as error:
            parser.error(str(error))
        if unknown := [name for name in config if name not in sections | set(CircuitCLI.subcommands())]:
            there = ", ".join(sorted(sections & SECTIONS))
            parser.error(f"the config {file} has a section {unknown[0]!r} that there is not: there are {there}")
        if not isinstance(trainer := config.get("trainer", {}), dict):
            shown = printable(repr(trainer))[:40]
            parser.error(f"the config {file} has trainer: {shown} in place of options by name")
        super().__call__(parser, namespace, str(file), option_string)


if __name__ == "__main__":
    main()
