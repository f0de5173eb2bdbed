"""What every way of finding a circuit has in common.

A method is a `CircuitSearch`: a LightningModule that holds a frozen language model and answers one question, *what is
the score of every edge now?* The rest it inherits: which model and which ablation, the circuit of any size, validation
by exact ablation (callbacks.FaithfulnessValidation), checkpoints without the frozen weights, files that say how they
were made. A method of one's own:

    @METHODS.register
    class LowestFirst(CircuitSearch):
        def edge_scores(self):
            return -torch.arange(self.layout.n_edges, dtype=torch.float32)

Registered, it goes by its name in configs and as a warm start. One of this package is a file beside this one, and a
line in `search/__init__.py`.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from torch import Tensor, nn, tensor

from lightning_circuits import selection
from lightning_circuits.ablation import ABLATIONS, Ablation, AblationName
from lightning_circuits.arguments import called, full_name, options_of, require_choice, require_flags, shortened
from lightning_circuits.batch import Batch
from lightning_circuits.circuit import Circuit
from lightning_circuits.layout import KV, Layout
from lightning_circuits.models import CircuitModel, wrap
from lightning_circuits.models.loading import DType, load_model
from lightning_circuits.namespace import pl, refuse_mixture
from lightning_circuits.objectives import OBJECTIVES, AnyObjective
from lightning_circuits.registry import Registry
from lightning_circuits.search.checkpoints import read_checkpoint, read_plain_data
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
from lightning_circuits.search.splits import Training, describe_spans, fitted_on, live_spans, require_fit, whole_split

if TYPE_CHECKING:
    LanguageModel: TypeAlias = str | nn.Module
else:
    # All that a command line can say of a model is its name; for `nn.Module` its help would list every class of torch.
    LanguageModel = str


class CircuitSearch(pl.LightningModule):
    """A method for finding circuits; subclasses say `edge_scores`.

    Args:
        model: a Hugging Face id, a folder, a GGUF file, ``tiny-ioi``, or a model.
        ablation: what a cut edge carries: an `Ablation` or its name.
        objective: what is asked: an `Objective`, its name, or a function like it.
        kv: K/V readers per query ``head`` (MIB), or ``group``.
        dtype: of a model loaded by name.
        spans: tell edges apart by spans of the prompts.

    Raises:
        FileNotFoundError: no such model.
        ValueError: an unknown name or choice; a model of a family that is not supported.
        TypeError: an argument of a wrong type, or that there is not.
    """

    def __init__(
        self,
        model: LanguageModel,
        *,
        ablation: Ablation | AblationName | str = "interchange",
        objective: AnyObjective = "KL",
        kv: KV = "head",
        dtype: DType = "float32",
        spans: bool = False,
    ) -> None:
        refuse_mixture(self)
        super().__init__()
        require_flags(spans=spans)
        self.spans = spans
        self.ablation = ABLATIONS.make(ablation, "ablation")
        self.objective = OBJECTIVES.make(objective, "objective")
        require_choice("kv", kv, KV)
        require_choice("dtype", dtype, DType)
        self.read_model(model, kv, dtype)
        self._weights_hash = WeightsHash()
        self._trained_before, self._live_tokens, self._found = 0, dict[str, float](), dict[str, float]()
        self._forget_training()
        # A checkpoint holds what was learned. The frozen model is hundreds of times larger, and is where it was.
        self.strict_loading = False

    def read_model(self, model: LanguageModel, kv: KV, dtype: DType) -> None:
        """Load the language model if it is given by name, and read it as writers and readers."""
        if not isinstance(model, (str, nn.Module)):
            raise TypeError(f"model takes a name, a folder or a module in memory, got {shortened(model)}")
        language_model: Any = load_model(model, dtype) if isinstance(model, str) else model
        self.circuit_model: CircuitModel = wrap(language_model, kv)
        self.model = self.circuit_model.model
        name = getattr(getattr(self.model, "config", None), "name_or_path", None) or type(self.model).__name__
        self.model_name: str = model if isinstance(model, str) else name

    # ---- what a method says ------------------------------------------------------------------------------------

    absolute: bool = False
    """Whether an edge is kept for its |score|: attribution finds edges that work against the behaviour too."""
    scores_are: Literal["effects", "ranks"] = "ranks"
    """Of effects the sign means something, and figures show it: what works against the behaviour is below 0. Ranks only
    say which edge goes before which."""

    def edge_scores(self) -> Tensor:
        """float32 ``[n_edges]``: the higher (with `absolute`, the farther from 0), the sooner an edge is kept."""
        raise NotImplementedError(f"{type(self).__name__} does not say edge_scores()")

    def node_scores(self) -> Tensor | None:
        """float32 ``[n_writers]``: what each writer as a whole is worth, from methods that know."""
        return None

    def trained_size(self) -> float | int | None:
        """The share or number of edges that the method was made to keep, if it has one."""
        return None

    # ---- what it gets for it -----------------------------------------------------------------------------------

    @property
    def layout(self) -> Layout:
        return self.circuit_model.layout

    def circuit(self, size: float | int | None = None, threshold: float | None = None, greedy: bool = False) -> Circuit:
        """The circuit of the best edges, by score (with `absolute`, by |score|).

        Args:
            size: a share of the edges in (0, 1], or a number of edges from 1 up. Default: the size trained for.
            threshold: instead of a size, the score that an edge must reach.
            greedy: grow the circuit from the logits downwards, so that every edge of it leads there.

        Raises:
            ValueError: a size that rounds to no edge; no size given, and the method has none of its own; both a size
                and a threshold, or a threshold for a greedy circuit; scores that are NaN.
        """
        scores, absolute = self.edge_scores().detach().float().cpu(), self.absolute
        if threshold is not None:
            if size is not None or greedy:
                raise ValueError("a circuit has a size or a threshold, and only one of a size grows greedily")
            members = selection.threshold(scores, threshold, self.layout, absolute=absolute)
        else:
            size = self.trained_size() if size is None else size
            if size is None:
                raise ValueError(
                    f"{type(self).__name__} ranks edges for every size: say which, such as circuit(size=0.01)"
                )
            n = selection.size_to_count(size, self.layout)
            if greedy:
                members = selection.greedy(scores, n, self.layout, absolute=absolute)
            else:
                members = selection.top_n(scores, n, self.layout, absolute=absolute)
        circuit = Circuit(self.layout, members, scores, self.describe(), self.node_scores())
        if self._live_tokens:
            numbers = tensor([self._live_tokens.get(name, 0.0) for name in self.layout.spans])
            circuit.metadata["token_edges"] = float(circuit.token_edges(numbers))
        return circuit

    def describe(self) -> dict[str, Any]:
        """How the scores came about, as plain JSON data; every exported circuit carries it.

        Every option goes by its name: the number or text itself, or what an object is called, with its own options
        beside it (``gate``, ``gate_options``).
        """
        return {
            **self.describe_method(),
            "model": self.model_name,
            **self._describe_model(),
            "kv": self.layout.kv,
            **describe_spans(self.layout, self._live_tokens, self._trainer if self._fitting() else None),
            **({"ablation_fitted_over": prompts} if (prompts := self.ablation.fitted_over) else {}),
            "n_edges": self.layout.n_edges,
            "step": self.global_step if self._fitting() else self._trained_to,
            # In the run that it is trained in, its data say so themselves.
            **({} if self._fitting() or not self._trained_on else {"trained_on": self._trained_on}),
            **({"resumed": self._resumed} if self._resumed else {}),
            "versions": package_versions(),
        }

    def describe_method(self) -> dict[str, Any]:
        """As much of it as does not depend on the language model, which a warm start has not."""
        return {
            "method": type(self).__name__,
            **self._describe_options(),
            "ranking": "absolute" if self.absolute else "signed",
            "scores_are": self.scores_are,
        }

    def _describe_model(self) -> dict[str, Any]:
        return {
            "model_hash": fingerprint(self.model),
            "weights_hash": self._weights_hash(self.model),
            "dtype": str(self.circuit_model.dtype).removeprefix("torch."),
        }

    def _describe_options(self) -> dict[str, Any]:
        said: dict[str, Any] = {}
        for name, value in self._options().items():
            if isinstance(value, dict) and value.keys() & {"class", "function"}:
                said[name] = called(getattr(self, name))
                of_it = {key: each for key, each in value.items() if key not in ("class", "function")}
                said |= {f"{name}_options": of_it} if of_it else {}
            elif name not in ("absolute", "spans"):  # those are the ranking, and the spans that there are
                said[name] = value
        return said

    def _options(self) -> dict[str, Any]:
        """What the search was made with, beside its language model, in full."""
        return options_of(self, leave_out=("model", "kv", "dtype"))

    # ---- Lightning ---------------------------------------------------------------------------------------------

    def setup(self, stage: str) -> None:
        for name in ("max_steps", "max_epochs", "limit_train_batches"):
            if stage == "fit" and getattr(self.trainer, name) == 0:
                raise ValueError(f"nothing would be searched: the Trainer's {name} is 0")
        # Lightning warns of every module in eval mode. Here it is the language model, and means to be.
        warnings.filterwarnings("ignore", message=r"Found \d+ module\(s\) in eval mode")
        read_plain_data(self.trainer)
        if self.spans and (stage == "fit" or not self.layout.spans):
            self._live_tokens, self._found = self.live_spans(), {}
            if not self.layout.spans:
                self.tell_apart(list(self._live_tokens))
        if stage == "fit":
            self._trained_before = self._trained_to
            self._forget_training()
        else:
            require_fit(getattr(self.trainer, "datamodule", None), self.circuit_model)

    def live_spans(self) -> dict[str, float]:
        """`splits.live_spans` of the training prompts, found once a run: callbacks that judge ask first."""
        if not self._found:
            self._found = live_spans(whole_split(self.trainer, "train"), self.ablation)
        return self._found

    def configure_callbacks(self) -> Any:
        """None of its own; a run asks before anything else, and may have other prompts than one that broke off."""
        self._found = {}
        return super().configure_callbacks()

    def tell_apart(self, spans: Sequence[str]) -> None:
        """Have every edge once in each of the spans of these names, and begin to learn anew."""
        self.circuit_model = self.circuit_model.in_spans(spans)
        self.begin()

    def begin(self) -> None:
        """Make what is learned, for the edges that the layout has; a method that learns says how."""

    def on_train_end(self) -> None:
        self._trained_to = self.global_step

    def _forget_training(self) -> None:
        """For a run of its own, with other prompts perhaps."""
        self._trained_to = 0
        self._training: Training | None = None
        self._trained_on: dict[str, Any] = {}
        self._run: dict[str, Any] = {}
        self._resumed: list[dict[str, Any]] = []

    def on_fit_start(self) -> None:
        # Only now, after a checkpoint of another model has been refused.
        require_fit(getattr(self.trainer, "datamodule", None), self.circuit_model)
        self.ablation.fit(self.circuit_model, fitted_on(self.trainer, self.ablation))

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Nothing: circuits are judged by callbacks.FaithfulnessValidation, over the same batches."""

    test_step = validation_step

    def train(self, mode: bool = True) -> CircuitSearch:
        """As usual, but the language model stays in eval mode: with dropout, M = 1 would not be the model."""
        super().train(mode)
        self.model.eval()
        return self

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> CircuitSearch:
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
        if self.spans and not resuming and isinstance(spans := there["model"].get("spans"), list):
            self.tell_apart(spans)  # a circuit is judged in its own
            self._live_tokens = there["trained_on"].get("live_tokens", {})
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

    def _record(self) -> dict[str, Any]:
        """What a checkpoint says of the run."""
        if self._fitting():
            self._training = self._training or Training.of(self.trainer)
            self._trained_on = self._training.describe(self.trainer, self.layout, self._live_tokens)
            self._run = self._run_settings(self._training)
        return {
            "model": {**self._describe_model(), **self.layout.to_dict()},
            "search": {"method": full_name(type(self)), **self._options()},
            "trained_on": self._trained_on,
            "run": self._run,
            "resumed": self._resumed,
        }

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


METHODS = Registry("method", CircuitSearch)
