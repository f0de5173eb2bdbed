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

import hashlib
import json
import warnings
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from torch import Tensor, nn

from lightning_circuits import selection
from lightning_circuits.ablation import ABLATIONS, Ablation, AblationName
from lightning_circuits.arguments import require_choice
from lightning_circuits.batch import Batch
from lightning_circuits.circuit import Circuit
from lightning_circuits.layout import KV, Layout
from lightning_circuits.models import CircuitModel, wrap
from lightning_circuits.models.loading import DType, load_model
from lightning_circuits.namespace import pl, refuse_mixture
from lightning_circuits.objectives import OBJECTIVES, AnyObjective
from lightning_circuits.registry import Registry
from lightning_circuits.search.checkpoints import PlainDataIO, read_plain_data
from lightning_circuits.search.splits import require_fit, whole_split

if TYPE_CHECKING:
    LanguageModel: TypeAlias = str | nn.Module
else:
    # All that a command line can say of a model is its name; for `nn.Module` its help would list every class of torch.
    LanguageModel = str


class CircuitSearch(pl.LightningModule):
    """A method for finding circuits; subclasses say `edge_scores`.

    Args:
        model: a Hugging Face id, a local folder (GGUF included), ``tiny-ioi``, or a model in memory.
        ablation: what a cut edge carries: an `Ablation` or its name.
        objective: what is asked of the circuit: an `Objective`, its name, or a function ``(logits, batch, full_logits)
            -> loss [B]``.
        kv: key and value readers per query ``head``, as in MIB, or per K/V ``group``.
        dtype: of a model that is loaded by name; gates and scores are always float32.

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
    ) -> None:
        refuse_mixture(self)
        super().__init__()
        self.ablation = ABLATIONS.make(ablation, "ablation")
        self.objective = OBJECTIVES.make(objective, "objective")
        require_choice("kv", kv, KV)
        require_choice("dtype", dtype, DType)
        self.read_model(model, kv, dtype)
        # A checkpoint holds what was learned. The frozen model is hundreds of times larger, and is where it was.
        self.strict_loading = False

    def read_model(self, model: LanguageModel, kv: KV, dtype: DType) -> None:
        """Load the language model if it is given by name, and read it as writers and readers."""
        if not isinstance(model, (str, nn.Module)):
            raise TypeError(f"model takes a name, a folder or a module in memory, got {model!r}")
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
        return Circuit(self.layout, members, scores, self.describe(), self.node_scores())

    def describe(self) -> dict[str, Any]:
        """How the scores came about, as plain JSON data; every exported circuit carries it."""
        return {
            "method": type(self).__name__,
            "model": self.model_name,
            "model_hash": fingerprint(self.model),
            "dtype": str(self.circuit_model.dtype).removeprefix("torch."),
            "ablation": self.ablation.name,
            "objective": getattr(self.objective, "__name__", type(self.objective).__name__),
            "kv": self.layout.kv,
            "n_edges": self.layout.n_edges,
            "ranking": "absolute" if self.absolute else "signed",
            "scores_are": self.scores_are,
            "step": self.global_step,
            "versions": _versions(),
        }

    # ---- Lightning ---------------------------------------------------------------------------------------------

    def setup(self, stage: str) -> None:
        # Lightning warns of every module in eval mode. Here it is the language model, and means to be.
        warnings.filterwarnings("ignore", message=r"Found \d+ module\(s\) in eval mode")
        read_plain_data(self.trainer)
        require_fit(getattr(self.trainer, "datamodule", None), self.circuit_model)

    def on_fit_start(self) -> None:
        if self.ablation.needs_data:
            self.ablation.fit(self.circuit_model, whole_split(self.trainer, "train"))

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

    @classmethod
    def load_from_checkpoint(cls, checkpoint_path: Any, *args: Any, **options: Any) -> Any:
        """As Lightning's, from files and addresses; plain data is all that is read (see `search.checkpoints`).

        Raises:
            ValueError: the file holds more than plain data, is damaged, or no checkpoint.
        """
        if isinstance(checkpoint_path, (str, Path)):  # the errors of reading are told from those of making the search
            PlainDataIO(pl.plugins.TorchCheckpointIO()).load_checkpoint(checkpoint_path)
        return super().load_from_checkpoint(checkpoint_path, *args, **options | {"weights_only": True})

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["lightning_circuits"] = self._identity()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        saved, here = checkpoint.get("lightning_circuits", {}), self._identity()
        different = [
            f"{key} {saved.get(key)!r} there, {here[key]!r} here" for key in here if saved.get(key) != here[key]
        ]
        if different:
            raise ValueError(f"the checkpoint is of another model or search: {'; '.join(different)}")

    def _identity(self) -> dict[str, Any]:
        return {"method": type(self).__name__, "model_hash": fingerprint(self.model), **self.layout.to_dict()}


METHODS = Registry("method", CircuitSearch)


def fingerprint(model: Any) -> str:
    """16 hex digits that depend on the shapes of a model's weights and on its config, not on the weights' values."""
    config = {"class": type(model).__qualname__}
    if hasattr(getattr(model, "config", None), "to_dict"):
        config = model.config.to_dict()
    # Where it was loaded from, in which dtype and by which version does not make it another model.
    for key in ("_name_or_path", "transformers_version", "dtype", "torch_dtype", "use_cache", "quantization_config"):
        config.pop(key, None)
    shapes = {name: list(parameter.shape) for name, parameter in model.named_parameters()}
    return hashlib.sha256(json.dumps([config, shapes], sort_keys=True, default=str).encode()).hexdigest()[:16]


def _versions() -> dict[str, str]:
    found = {}
    for package in ("lightning-circuits", "torch", "transformers", "pytorch-lightning", "lightning"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found
