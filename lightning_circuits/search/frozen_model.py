"""A LightningModule around a frozen language model, of which only something small beside it is learned.

What every search needs of it, whether of edges or of single weights: the model stays in eval mode and in its dtype,
checkpoints leave its weights out and say of which model and which search they are, and one of another is refused before
anything is taken from it.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from torch import Tensor, nn

from lightning_circuits.arguments import full_name, options_of, require_choice, shortened
from lightning_circuits.batch import Batch
from lightning_circuits.layout import KV
from lightning_circuits.models import CircuitModel, wrap
from lightning_circuits.models.loading import DType, load_model
from lightning_circuits.models.sharding import shard
from lightning_circuits.namespace import pl, refuse_mixture
from lightning_circuits.search.checkpoints import read_checkpoint, read_plain_data
from lightning_circuits.search.fsdp import shards
from lightning_circuits.search.identity import WeightsHash, fingerprint, package_versions
from lightning_circuits.search.record import (
    RECORD,
    differences,
    loop_faults,
    plain_options,
    progress_faults,
    read_record,
    refuse_another,
    run_settings,
    state_faults,
)
from lightning_circuits.search.splits import Training, require_fit, require_training_prompts

if TYPE_CHECKING:
    LanguageModel: TypeAlias = str | nn.Module
else:
    # All that a command line can say of a model is its name; for `nn.Module` its help would list every class of torch.
    LanguageModel = str


class FrozenModelModule(pl.LightningModule):
    """A LightningModule that holds a frozen language model; subclasses say what is learned beside it.

    Args:
        model: a Hugging Face id, a folder, a GGUF file, ``tiny-ioi``, or a model; None for a class that `may_borrow`.
        kv: K/V readers per query ``head`` (MIB), or ``group``.
        dtype: of a model loaded by name.
        attention: such as ``eager``.

    Raises:
        FileNotFoundError: no such model.
        ValueError: an unknown choice; a model of a family that is not supported.
        TypeError: an argument of a wrong type.
    """

    may_borrow: bool = False
    """Whether it may be made without a language model, to be lent another one (`CircuitSearch.borrow_model`)."""

    def __init__(
        self, model: LanguageModel | None, kv: KV = "head", dtype: DType = "float32", attention: str | None = None
    ) -> None:
        refuse_mixture(self)
        super().__init__()
        require_choice("kv", kv, KV)
        require_choice("dtype", dtype, DType)
        if not isinstance(attention, (str, type(None))):
            raise TypeError(f"attention takes a name of transformers, such as eager, got {shortened(attention)}")
        if model is not None or not self.may_borrow:
            self.read_model(model, kv, dtype, attention)
        self._weights_hash = WeightsHash()
        self._sharded = False
        self._trained_before = 0
        self._forget_training()
        # A checkpoint holds what was learned. The frozen model is hundreds of times larger, and is where it was.
        self.strict_loading = False

    def read_model(self, model: LanguageModel | None, kv: KV, dtype: DType, attention: str | None) -> None:
        """Load the language model if it is given by name, and read it as writers and readers."""
        if not isinstance(model, (str, nn.Module)):
            raise TypeError(f"model takes a name, a folder or a module in memory, got {shortened(model)}")
        language_model: Any = load_model(model, dtype, attention) if isinstance(model, str) else model
        self.circuit_model: CircuitModel = wrap(language_model, kv)
        self.model = self.circuit_model.model
        name = getattr(getattr(self.model, "config", None), "name_or_path", None) or type(self.model).__name__
        self.model_name: str = model if isinstance(model, str) else name

    def _describe_model(self) -> dict[str, Any]:
        return {
            "model_hash": fingerprint(self.model),
            "weights_hash": self._weights_hash(self.model),
            "dtype": str(self.circuit_model.dtype).removeprefix("torch."),
        }

    def _describe_run(self) -> dict[str, Any]:
        """How far it is trained, on what, and by what."""
        record = self._record() if self._fitting() else {"trained_on": self._trained_on, "run": self._run}
        return {
            "step": self.global_step if self._fitting() else self._trained_to,
            **{name: record[name] for name in ("trained_on", "run") if record[name]},
            **({"resumed": self._resumed} if self._resumed else {}),
            "versions": package_versions(),
        }

    def _describe_searched(self) -> dict[str, Any]:
        """What of the model is searched, in plain JSON values; what was learned of something else is refused."""
        raise NotImplementedError(f"{type(self).__name__} does not say _describe_searched()")

    def _options(self) -> dict[str, Any]:
        """What the search was made with, beside its language model, in full."""
        return options_of(self, leave_out=("model", "kv", "dtype", "attention", "capture"))

    # ---- Lightning ---------------------------------------------------------------------------------------------

    def setup(self, stage: str) -> None:
        for name in ("max_steps", "max_epochs", "limit_train_batches"):
            if stage == "fit" and getattr(self.trainer, name) == 0:
                raise ValueError(f"nothing would be searched: the Trainer's {name} is 0")
        # Lightning warns of every module in eval mode. Here it is the language model, and means to be.
        warnings.filterwarnings("ignore", message=r"Found \d+ module\(s\) in eval mode")
        self._sharded = shards(self.trainer)
        read_plain_data(self.trainer)
        if stage == "fit":
            self._trained_before = self._trained_to
            self._forget_training()
        else:
            require_fit(getattr(self.trainer, "datamodule", None), self.circuit_model)

    def configure_model(self) -> None:
        """Under `FSDP2Strategy` the language model is shared out among the processes; what is learned, none of it."""
        if self._sharded:
            self.trainer.precision_plugin.convert_module(self)  # first: the hash is of the weights as they are used
            self._weights_hash.fix(self.model)
            strategy: Any = self.trainer.strategy
            shard(self.circuit_model, strategy.device_mesh["data_parallel"])
            # As DDP does, should they have begun differently.
            self.load_state_dict(strategy.broadcast(self.state_dict()), strict=False)

    def on_after_backward(self) -> None:
        if self._sharded:  # DDP adds gradients up by itself, FSDP2 those of what is sharded alone
            for parameter in self.parameters():
                if parameter.grad is not None:
                    parameter.grad = self.trainer.strategy.reduce(parameter.grad, reduce_op="mean")

    def on_fit_start(self) -> None:
        # Only now, after a checkpoint of another model has been refused.
        require_fit(getattr(self.trainer, "datamodule", None), self.circuit_model)
        require_training_prompts(self.trainer)

    def on_train_end(self) -> None:
        self._trained_to = self.global_step

    def _forget_training(self) -> None:
        """For a run of its own, with other prompts perhaps."""
        self._trained_to = 0
        self._training: Training | None = None
        self._trained_on: dict[str, Any] = {}
        self._run: dict[str, Any] = {}
        self._resumed: list[dict[str, Any]] = []

    def planned_steps(self) -> int:
        """How many steps of an optimizer the Trainer will make.

        Raises:
            ValueError: there is no end to them.
        """
        total = self.trainer.estimated_stepping_batches
        # To count batches Lightning has made the loader, before it reads a checkpoint. One that is made after that is
        # told where in the epoch a resumed run stands.
        self.trainer.fit_loop._combined_loader = None
        if total == float("inf"):
            raise ValueError("the training has no end to plan for: give the Trainer max_steps or max_epochs")
        return int(total)

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Nothing: callbacks judge what was found, over the same batches."""

    test_step = validation_step

    def train(self, mode: bool = True) -> FrozenModelModule:
        """As usual, but the language model stays in eval mode: with dropout, M = 1 would not be the model."""
        super().train(mode)
        self.model.eval()
        return self

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> FrozenModelModule:
        """As usual, but a change of dtype, as by ``Trainer(precision="bf16-true")``, is the language model's alone."""
        exact = {name: values.data for name, values in self._exact().items()}
        super()._apply(fn, recurse)
        for name, values in self._exact().items():
            values.data = exact[name].to(values.device)
        return self

    def _exact(self) -> dict[str, Tensor]:
        """What no change of dtype touches: all but the language model's weights.

        Its rotary frequencies, which are not saved with it, are none: loading it in a narrow dtype leaves them wide.
        """
        weights = {f"model.{name}" for name in self.model.state_dict()} if "model" in self._modules else set()
        everything = (*self.named_parameters(), *self.named_buffers())
        return {name: values for name, values in everything if name not in weights}

    def state_dict(self, *args: Any, **kwargs: Any) -> dict[str, Any]:  # type: ignore[override]
        """What was learned, without the frozen model."""
        state = super().state_dict(*args, **kwargs)
        return {name: value for name, value in state.items() if not name.startswith("model.")}

    def load_state_dict(self, *args: Any, **options: Any) -> Any:
        """As usual, but the language model is not missing, of which Lightning would warn weight by weight."""
        found = super().load_state_dict(*args, **options)
        found.missing_keys[:] = [name for name in found.missing_keys if not name.startswith("model.")]
        return found

    @classmethod
    def load_from_checkpoint(cls, checkpoint_path: Any, *args: Any, **options: Any) -> Any:
        """As Lightning's, from files and addresses; plain data is all that is read (see `search.checkpoints`).

        Args:
            checkpoint_path: the file, its address, or an open file.
            args: see Lightning's.
            options: what the search was made with. Numbers and texts that are not given are those of the checkpoint.

        Raises:
            ValueError: the file holds more than plain data, is damaged, or no checkpoint; or it is of another search.
        """
        if isinstance(checkpoint_path, (str, Path)):
            # The errors of reading are told from those of making the search.
            made_with = read_record(read_checkpoint(checkpoint_path), f"the checkpoint {checkpoint_path}")["search"]
            if made_with.get("method") == full_name(cls):
                options = {**plain_options(made_with), **options}
        return super().load_from_checkpoint(checkpoint_path, *args, **options | {"weights_only": True})

    # ---- checkpoints -------------------------------------------------------------------------------------------

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint[RECORD] = self._record()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """See that a checkpoint is one of this search, and whole, before anything is taken from it (`search.record`).

        Raises:
            ValueError: it is of another model, another search or, to go on from, of other prompts; or it lacks
                something. All that is wrong stands in it.
        """
        resuming = self._fitting()
        where = f"the checkpoint {self.trainer.ckpt_path}" if self._trainer is not None else "the checkpoint"
        there = read_record(checkpoint, where)
        if not resuming:
            self.take_over(there)
        here = self._record()
        unknown = refuse_another(there, here, where, prompts=resuming)
        if faults := self._faults(checkpoint):
            raise ValueError(f"{where} is damaged, or was written for something else: {'; '.join(faults)}")
        self._trained_to, self._trained_on = checkpoint["global_step"], there["trained_on"]
        self._resumed = there["resumed"]
        if unknown:
            pl.utilities.rank_zero_warn(f"{where} does not tell whether this is as it was: {', '.join(unknown)}")
        if resuming and (changed := list(differences(there["run"], here["run"]))):
            self._resumed += [{"step": self._trained_to, "changed": {each.name: list(each[1:]) for each in changed}}]
            pl.utilities.rank_zero_warn(
                f"{where} goes on otherwise than it was made, from step {self._trained_to}: "
                f"{'; '.join(map(str, changed))}. What is here holds, and the files of this run say so"
            )

    def take_over(self, record: dict[str, Any]) -> None:
        """Become what a checkpoint that is not gone on from says of its search, where that leaves a choice."""

    def _record(self) -> dict[str, Any]:
        """What a checkpoint says of the run."""
        if self._fitting():
            self._training = self._training or Training.of(self.trainer)
            self._trained_on = self._describe_training(self._training)
            self._run = self._run_settings(self._training)
        return {
            "model": {**self._describe_model(), **self._describe_searched()},
            "search": {"method": full_name(type(self)), **self._options()},
            "trained_on": self._trained_on,
            "run": self._run,
            "resumed": self._resumed,
        }

    def _describe_training(self, training: Training) -> dict[str, Any]:
        """What a search says, after the run too, of what it was trained on."""
        return training.describe(self.trainer)

    def _run_settings(self, training: Training) -> dict[str, Any]:
        """What the Trainer and the loader decide, and a run that goes on takes from them."""
        return run_settings(self.trainer, training)

    def _faults(self, checkpoint: dict[str, Any]) -> list[str]:
        """What is wrong with what a checkpoint of this search holds."""
        faults = state_faults(self.state_dict(), checkpoint.get("state_dict"))
        if self._trainer is not None:
            loop = f"{self.trainer.state.fn.value}_loop"  # type: ignore[union-attr]  # while it does nothing, it asks nothing
            faults += loop_faults(checkpoint, loop, getattr(self.trainer, loop).state_dict())
        if self._fitting() and self._training is not None and not faults:
            faults += progress_faults(checkpoint, self._training.goes_on)
        return faults

    def _fitting(self) -> bool:
        return self._trainer is not None and self.trainer.state.fn == "fit"
