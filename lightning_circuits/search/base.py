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

from collections.abc import Sequence
from typing import Any, Literal

from torch import Tensor, tensor

from lightning_circuits import selection
from lightning_circuits.ablation import ABLATIONS, Ablation
from lightning_circuits.arguments import called, require_flags
from lightning_circuits.circuit import Circuit
from lightning_circuits.layout import KV, Layout
from lightning_circuits.models import CircuitModel
from lightning_circuits.models.loading import DType
from lightning_circuits.objectives import OBJECTIVES, AnyObjective
from lightning_circuits.registry import Registry
from lightning_circuits.search.frozen_model import FrozenModelModule, LanguageModel
from lightning_circuits.search.splits import Training, describe_spans, fitted_on, live_spans, whole_split


class CircuitSearch(FrozenModelModule):
    """A method for finding circuits; subclasses say `edge_scores`.

    Args:
        model: a Hugging Face id, a folder, a GGUF file, ``tiny-ioi``, or a model.
        ablation: what a cut edge carries, such as mean.
        objective: what is asked.
        kv: K/V readers per query ``head`` (MIB), or ``group``.
        dtype: of a model loaded by name.
        attention: such as ``eager``.
        spans: edges by spans of tokens.

    Raises:
        FileNotFoundError: no such model.
        ValueError: an unknown name or choice; a model of a family that is not supported.
        TypeError: an argument of a wrong type, or that there is not.
    """

    def __init__(
        self,
        model: LanguageModel | None,
        *,
        ablation: Ablation | str = "interchange",
        objective: AnyObjective = "KL",
        kv: KV = "head",
        dtype: DType = "float32",
        attention: str | None = None,
        spans: bool = False,
    ) -> None:
        require_flags(spans=spans)
        made_ablation, made_objective = ABLATIONS.make(ablation, "ablation"), OBJECTIVES.make(objective, "objective")
        self.require_takes(made_ablation)
        super().__init__(model, kv, dtype, attention)
        self.ablation, self.objective, self.spans = made_ablation, made_objective, spans
        self._live_tokens, self._found = dict[str, float](), dict[str, float]()

    # ---- which model -------------------------------------------------------------------------------------------

    def borrow_model(self, circuit_model: CircuitModel, name: str) -> None:
        """Use a language model of somebody else's, as it is read there: another search's, or one that is trained.

        Raises:
            ValueError: this one has a model of its own, another one or read in another way.
        """
        mine = getattr(self, "circuit_model", None)
        read = circuit_model.layout.plain
        if mine is not None and (mine.model is not circuit_model.model or mine.layout.plain != read):
            raise ValueError(
                f"{type(self).__name__} has a language model of its own, or other K/V readers, and would score the "
                f"edges of {name}: leave its model out"
            )
        self.circuit_model, self.model, self.model_name = circuit_model, circuit_model.model, name
        self.begin()

    # ---- what a method says ------------------------------------------------------------------------------------

    takes_constants_of_circuits: bool = False
    """Whether it goes by an ablation that has references for every circuit (`Ablation.of_each_circuit`)."""

    @classmethod
    def require_takes(cls, ablation: Ablation) -> None:
        """Refuse an ablation that the method cannot go by.

        Raises:
            ValueError: it is fitted to a circuit, and the method asks what edges are worth before there is one.
        """
        if ablation.of_each_circuit and not cls.takes_constants_of_circuits:
            raise ValueError(
                f"{ablation.name} ablation is fitted to a circuit, and {cls.__name__} asks what edges are worth before "
                "there is one: search under another, such as 'mean', and judge under it "
                f"(FaithfulnessValidation(ablations=['{ablation.name}'])), or search with EdgePruning, which learns "
                "constants beside its gates"
            )

    plays_no_part: tuple[str, ...] = ()
    """Options of every search that this one does not go by: files do not name them."""
    absolute: bool = False
    """Whether an edge is kept for its |score|: attribution finds edges that work against the behaviour too."""
    scores_are: Literal["effects", "ranks"] = "ranks"
    """Of effects the sign means something, and figures show it: what works against the behaviour is below 0. Ranks only
    say which edge goes before which."""

    def edge_scores(self) -> Tensor:
        """float32 ``[n_edges]``: the higher (with `absolute`, the farther from 0), the sooner an edge is kept."""
        raise NotImplementedError(f"{type(self).__name__} does not say edge_scores()")

    def ranked_edges(self) -> int:
        """How many edges, from the best on, its scores put in order: circuits of more cannot be taken by them."""
        return self.layout.n_edges

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
            **self._describe_run(),
        }

    def describe_method(self) -> dict[str, Any]:
        """As much of it as does not depend on the language model, which a warm start has not."""
        return {
            "method": type(self).__name__,
            **self._describe_options(),
            "ranking": "absolute" if self.absolute else "signed",
            "scores_are": self.scores_are,
        }

    def _describe_options(self) -> dict[str, Any]:
        said: dict[str, Any] = {}
        for name, value in self._options().items():
            if name in ("absolute", "spans", *self.plays_no_part):  # two are the ranking, and the spans that there are
                continue
            if isinstance(value, dict) and value.keys() & {"class", "function"}:
                said[name] = called(getattr(self, name))
                of_it = {key: each for key, each in value.items() if key not in ("class", "function")}
                said |= {f"{name}_options": of_it} if of_it else {}
            else:
                said[name] = value
        return said

    # ---- Lightning ---------------------------------------------------------------------------------------------

    def setup(self, stage: str) -> None:
        if not hasattr(self, "circuit_model"):
            raise ValueError(
                f"{type(self).__name__} has no language model: it may be left out only where another is lent, as to a "
                "warm start or in a CircuitProbe"
            )
        super().setup(stage)
        if self.spans and (stage == "fit" or not self.layout.spans):
            self.take_spans(self.live_spans())

    def take_spans(self, live: dict[str, float]) -> None:
        """Tell edges apart in the spans of some prompts, as `splits.live_spans` counts them, if they are not yet."""
        self._live_tokens, self._found = live, {}
        if not self.layout.spans:
            self.tell_apart(list(live))

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

    def on_fit_start(self) -> None:
        super().on_fit_start()
        self.ablation.fit(self.circuit_model, fitted_on(self.trainer, self.ablation))

    def take_over(self, record: dict[str, Any]) -> None:
        if self.spans and isinstance(spans := record["model"].get("spans"), list):
            self.tell_apart(spans)  # a circuit is judged in its own
            self._live_tokens = record["trained_on"].get("live_tokens", {})

    def _describe_searched(self) -> dict[str, Any]:
        return self.layout.to_dict()

    def _describe_training(self, training: Training) -> dict[str, Any]:
        of_spans = describe_spans(self.layout, self._live_tokens, self.trainer)
        return {**super()._describe_training(training), **of_spans}


METHODS = Registry("method", CircuitSearch)
