"""A circuit: a choice of a model's edges. The only thing that is ever reported as a result.

The choice is one flat bool vector in the order of the `Layout`, beside it, where a search made it, the scores behind
the choice. Circuits are compared, combined, pruned and saved here; nothing in this module needs the model.

    >>> layout = Layout(n_layers=2, n_heads=2, d_model=8)
    >>> members = torch.zeros(layout.n_edges, dtype=torch.bool)
    >>> for name in ("input->a0.h0<v>", "a0.h0->m1", "m1->logits", "a0.h1->a1.h0<q>"):
    ...     members[layout.edge_index(name)] = True
    >>> circuit = Circuit(layout, members)
    >>> circuit
    Circuit(4 of 46 edges, 4 of 8 nodes, Layout(2 layers, 2 heads, d_model 8, K/V per head))
    >>> circuit.prune().edge_names()                    # a0.h1 is never written to, a1.h0 leads nowhere
    ['input->a0.h0<v>', 'a0.h0->m1', 'm1->logits']
    >>> circuit.prune() <= circuit, circuit.prune().iou(circuit)
    (True, 0.75)
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import networkx as nx
import torch
from torch import Tensor

from lightning_circuits import files
from lightning_circuits.arguments import require_choice, require_instance
from lightning_circuits.files.graph import to_networkx
from lightning_circuits.layout import Layout
from lightning_circuits.listing import Listing, all_edges, best_edges
from lightning_circuits.nodes import node_members, on_ways

if TYPE_CHECKING:
    import pandas

ComparedBy = Literal["edges", "edges-in-any-span", "nodes"]
"""What two circuits are compared by: their edges, in spans each in its span; edges whatever their spans; nodes."""


@dataclass(frozen=True, eq=False, repr=False)
class Circuit:
    """A binary choice of edges, with optional scores.

    Two circuits are equal if they choose the same edges of the same layout; how the edges were scored and where the
    circuit comes from does not count.

    Args:
        layout: the edges there are.
        members: bool ``[n_edges]``, the edges chosen. Copied to the CPU.
        scores: ``[n_edges]``, what each edge was worth to the search, higher is better. Copied to the CPU as float32.
        metadata: plain JSON data on where the circuit comes from; saved with it.
        node_scores: ``[n_writers]``, what each writer as a whole was worth to the search; NaN where it gave none.
            Copied to the CPU as float32.

    Raises:
        TypeError: members that are not bool (a soft mask is no circuit); something else than a tensor, complex scores.
        ValueError: a vector of another length than the layout's edges or writers.
    """

    layout: Layout
    members: Tensor
    scores: Tensor | None = None
    metadata: dict[str, Any] = field(default_factory=dict)
    node_scores: Tensor | None = None

    def __post_init__(self) -> None:
        for name, vector in (("members", self.members), ("scores", self.scores), ("node_scores", self.node_scores)):
            if vector is not None and require_instance(name, vector, Tensor).is_complex():
                raise TypeError(f"the {name} of a circuit are real numbers, got {vector.dtype}")
        if self.members.dtype != torch.bool:
            raise TypeError(f"the members of a circuit are a bool tensor, got {self.members.dtype}; choose edges first")
        # Copies: a circuit stays as it is when the gates that it came from are trained further.
        members = self.layout.check(self.members).detach().to("cpu", copy=True)
        object.__setattr__(self, "members", members)
        if self.scores is not None:
            scores = self.layout.check(self.scores).detach().to("cpu", torch.float32, copy=True)
            object.__setattr__(self, "scores", scores)
        if self.node_scores is not None:
            if self.node_scores.shape != (self.layout.n_writers,):
                raise ValueError(
                    f"expected one score for each of the {self.layout.n_writers:,} writers of {self.layout}, "
                    f"got a tensor of shape {tuple(self.node_scores.shape)}"
                )
            node_scores = self.node_scores.detach().to("cpu", torch.float32, copy=True)
            object.__setattr__(self, "node_scores", node_scores)
        object.__setattr__(self, "metadata", dict(require_instance("metadata", self.metadata, dict)))

    # ---- making one --------------------------------------------------------------------------------------------

    @classmethod
    def full(cls, layout: Layout) -> Circuit:
        """Every edge: the model itself."""
        return cls(layout, torch.ones(layout.n_edges, dtype=torch.bool))

    @classmethod
    def empty(cls, layout: Layout) -> Circuit:
        """No edge: the ablated model."""
        return cls(layout, torch.zeros(layout.n_edges, dtype=torch.bool))

    @classmethod
    def random(cls, layout: Layout, n: int, seed: int) -> Circuit:
        """n different edges drawn evenly, the same for a seed on every machine. A smaller n gives a subset."""
        if not 0 <= n <= layout.n_edges:
            raise ValueError(f"cannot draw {n:,} of the {layout.n_edges:,} edges of {layout}")
        order = torch.randperm(layout.n_edges, generator=torch.Generator().manual_seed(seed))
        members = torch.zeros(layout.n_edges, dtype=torch.bool)
        members[order[:n]] = True
        return cls(layout, members)

    def rival(self, seed: int) -> Circuit:
        """As many edges drawn at random, in every span as many as here. For a seed, a smaller circuit has a subset."""
        plain = self.layout.plain
        drawn = [Circuit.random(plain, int(each.sum()), seed).members for each in self.layout.each_span(self.members)]
        return Circuit(self.layout, torch.cat(drawn))

    # ---- what is in it -----------------------------------------------------------------------------------------

    @property
    def n_edges(self) -> int:
        """How many edges are chosen."""
        return int(self.members.sum())

    @property
    def size(self) -> float:
        """The share of the layout's edges that is chosen."""
        return self.n_edges / self.layout.n_edges

    def token_edges(self, live_tokens: Tensor) -> Tensor:
        """How much of a prompt the circuit is: each of its edges, once for every token at which it is open.

        So circuits of edges at all tokens and of edges in spans are counted alike.

        Args:
            live_tokens: ``[n_spans, ...]``, the tokens of each span that count (see `Ablation.live_tokens`).

        Returns:
            ``[...]`` of the same dtype.
        """
        edges = self.members.view(self.layout.n_spans, -1).sum(1).to(live_tokens)
        return torch.tensordot(edges, live_tokens, 1)

    @property
    def absolute(self) -> bool:
        """Whether its search took edges by |score|, as the metadata say it. Files of other tools do not: by score."""
        return self.metadata.get("ranking") == "absolute"

    @property
    def nodes(self) -> Tensor:
        """bool ``[n_nodes]``: the writers and, last, the logits. A node is in the circuit, by EAP-IG's rule, if an edge
        comes in and an edge goes out (the input needs only one out, the logits one in)."""
        return node_members(self.layout, self.members)

    @property
    def n_nodes(self) -> int:
        """How many nodes are in the circuit (see `nodes`)."""
        return int(self.nodes.sum())

    def node_names(self) -> list[str]:
        """Names of the nodes in the circuit, in the order of the model."""
        names = [*self.layout.writer_names, "logits"]
        return [names[i] for i in self.nodes.nonzero()[:, 0].tolist()]

    def edge_names(self) -> list[str]:
        """Names of the edges chosen, by flat index."""
        return self.layout.edge_names(self.members.nonzero()[:, 0])

    def top(self, n: int = 20) -> Listing:
        """The best edges of the circuit with their scores, best first, as a notebook shows them; ValueError without."""
        return best_edges(self.layout, self.members, self.scores, self.absolute, n)

    def to_frame(self) -> pandas.DataFrame:
        """Every edge of the layout as a pandas DataFrame: its names, layers, span, score, and whether it is a member.

        Raises:
            ImportError: pandas is not installed.
        """
        return all_edges(self.layout, self.members, self.scores).to_frame()

    def __repr__(self) -> str:
        total = self.layout
        return f"Circuit({self.n_edges:,} of {total.n_edges:,} edges, {self.n_nodes} of {total.n_nodes} nodes, {total})"

    # ---- spans -------------------------------------------------------------------------------------------------

    def in_spans(self, names: Iterable[str]) -> Circuit:
        """The same edges in every one of these spans of tokens; the scores of an edge are repeated.

        Raises:
            ValueError: the circuit is in spans already; names that are none (see `Layout`).
        """
        if self.layout.spans:
            raise ValueError(f"it is in the spans {', '.join(self.layout.spans)} already: without_spans() comes first")
        layout = self.layout.in_spans(names)
        scores = None if self.scores is None else self.scores.repeat(layout.n_spans)
        metadata = _without_counts(self.metadata)
        return Circuit(layout, self.members.repeat(layout.n_spans), scores, metadata, self.node_scores)

    def without_spans(
        self, how: Literal["any", "all"] = "any", scores: Literal["sum", "sum-of-absolutes"] | None = None
    ) -> Circuit:
        """The edges that are in the circuit in any span, or in all.

        Args:
            how: whether an edge counts that is there in ``any`` span, or only one that is there in ``all``.
            scores: what an edge is worth, of its effects in all spans. Their ``sum`` is its score in a search without
                spans, where effects of different places cancel; the ``sum-of-absolutes`` is how much it does at all
                places together (PEAP, Haklay et al. 2025). Default: no scores, as no search has given any.

        Raises:
            ValueError: another word for how or scores; scores of a circuit that has none, or whose scores are ranks,
                which do not add up.
        """
        if how not in ("any", "all"):
            raise ValueError(f"an edge without spans is one of 'any' span or of 'all', not of {how!r}")
        if scores not in ("sum", "sum-of-absolutes", None):
            raise ValueError(f"scores without spans are the 'sum' or the 'sum-of-absolutes' over them, not {scores!r}")
        members = self.layout.each_span(self.members)
        members = members.any(0) if how == "any" else members.all(0)
        over = {"spans": list(self.layout.spans), "edges": how, "scores": scores}
        metadata = _without_counts(self.metadata) | {"without_spans": over}
        if scores is None:
            return Circuit(self.layout.plain, members, None, metadata)
        if self.scores is None or scores_are(self.metadata) == "ranks":
            has = "has no scores" if self.scores is None else "has scores that are ranks"
            raise ValueError(f"only effects add up over spans, as attribution gives them, and the circuit {has}")
        effects = self.layout.each_span(self.scores)
        if scores == "sum":
            return Circuit(self.layout.plain, members, effects.sum(0), metadata, self.node_scores)
        # Of a sum of absolute values the sign says nothing: the scores are no effects any more.
        return Circuit(self.layout.plain, members, effects.abs().sum(0), metadata | {"scores_are": "ranks"})

    def of_model(self, layout: Layout, what: str = "the circuit") -> Circuit:
        """This circuit, of the layout of a model, which knows what files of other tools do not say: whether heads are
        coupled.

        Raises:
            ValueError: what it is, and that it is of another layout.
        """
        layout.require(self.layout, what)
        return self if layout.coupled == self.layout.coupled else replace(self, layout=layout)

    # ---- pruning -----------------------------------------------------------------------------------------------

    def prune(self) -> Circuit:
        """Without the edges that lie on no way from the input to the logits; scores and metadata stay.

        In spans, any span may attend to the keys and values of any other (see `nodes.on_ways`). Only under interchange
        ablation does pruning keep the model's output.
        """
        kept = on_ways(self.layout, self.members) & self.members
        return Circuit(self.layout, kept, self.scores, self.metadata, self.node_scores)

    # ---- set operations: the results are bare, no search has scored them ---------------------------------------

    def complement(self) -> Circuit:
        """Every edge but those chosen."""
        return Circuit(self.layout, ~self.members)

    def union(self, other: Circuit) -> Circuit:
        """The edges of either; also ``self | other``."""
        return Circuit(self.layout, self.members | self._same_layout(other).members)

    def intersection(self, other: Circuit) -> Circuit:
        """The edges of both; also ``self & other``."""
        return Circuit(self.layout, self.members & self._same_layout(other).members)

    def issubset(self, other: Circuit) -> bool:
        """Whether ``other`` has every edge of this circuit; also ``self <= other``."""
        return not bool((self.members & ~self._same_layout(other).members).any())

    __or__, __and__, __le__ = union, intersection, issubset

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Circuit):
            return NotImplemented
        return self.layout == other.layout and bool(torch.equal(self.members, other.members))

    # ---- overlap -----------------------------------------------------------------------------------------------

    def iou(self, other: Circuit, of: ComparedBy = "edges") -> float:
        """Edges (or nodes) in both over those in either; 1 if both are empty.

        In spans, ``edges`` are told apart by their spans, so that both circuits have to be in the same ones. By
        ``edges-in-any-span`` (see `without_spans`) and by ``nodes`` circuits compare whatever their spans, also with
        one that has none.

        Raises:
            ValueError: circuits of different layouts, here and in all comparisons; another word for ``of``.
        """
        mine, theirs = self._both(other, of)
        return _fraction(mine & theirs, mine | theirs)

    def precision(self, other: Circuit, of: ComparedBy = "edges") -> float:
        """The share of this circuit's edges (or nodes, see `iou`) that ``other``, the true one, has too.

        1 for an empty circuit: it claims nothing that is wrong.
        """
        mine, theirs = self._both(other, of)
        return _fraction(mine & theirs, mine)

    def recall(self, other: Circuit, of: ComparedBy = "edges") -> float:
        """The share of the edges (or nodes, see `iou`) of ``other``, the true one, that this circuit has; 1 if other is
        empty."""
        mine, theirs = self._both(other, of)
        return _fraction(mine & theirs, theirs)

    def parts(self, of: ComparedBy = "edges") -> Tensor:
        """What the circuit is compared by, bool: ``[n_edges]``, ``[plain.n_edges]`` or ``[n_nodes]`` (see `iou`).

        Raises:
            ValueError: another word for ``of``.
        """
        require_choice("what circuits are compared by", of, ComparedBy)
        if of == "edges":
            return self.members
        return self.nodes if of == "nodes" else self.without_spans("any").members

    def _both(self, other: Circuit, of: ComparedBy) -> tuple[Tensor, Tensor]:
        """What of each of the two circuits is compared, two bool vectors of one length."""
        if of == "edges":
            self._same_layout(other)
        self.layout.plain.require(other.layout.plain, "the other circuit")
        return self.parts(of), other.parts(of)

    def _same_layout(self, other: Circuit) -> Circuit:
        if self.layout != other.layout and self.layout.plain == other.layout.plain:
            mine, theirs = (", ".join(one.layout.spans) or "no spans" for one in (self, other))
            raise ValueError(
                f"the other circuit tells edges apart in {theirs}, this one in {mine}: compare them by "
                "of='edges-in-any-span' or of='nodes', or take both without_spans(how='any')"
            )
        self.layout.require(other.layout, "the other circuit")
        return other

    # ---- out and in --------------------------------------------------------------------------------------------

    def to_networkx(self) -> nx.MultiDiGraph:
        """The chosen edges as a graph of nodes; `files.graph.to_networkx` lists the attributes.

        A multigraph, for a head's query, key and value may all read the same writer. Under K/V per head it has exactly
        `n_edges` edges. Gephi opens it through `.graphml`; to see parallel edges apart, choose there not to merge them.
        """
        return to_networkx(self)

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the circuit, atomically; the suffix says how: `.json` and `.pt` (EAP-IG, MIB), `.safetensors`, and, out
        only, `.graphml` and `.dot`. Gives the path.

        Raises:
            ValueError: unknown suffix, a score that is NaN or infinite, an infinite score of a node, metadata that JSON
                cannot hold.
            FileNotFoundError: the folder is not there.
        """
        return files.save(self, path)

    @classmethod
    def load(cls, path: str | os.PathLike[str], layout: Layout | None = None) -> Circuit:
        """Read a circuit from `.json`, `.pt` (also those of EAP-IG and MIB) or `.safetensors`.

        Args:
            path: the file.
            layout: the layout of the model that the circuit is for. Without it, any is accepted.

        Raises:
            ValueError: a circuit of another layout (what differs is said), or no circuit.
            FileNotFoundError: no such file.
        """
        circuit = cls(*files.load(path))
        return circuit if layout is None else circuit.of_model(layout, f"the circuit in {path}")


def _fraction(part: Tensor, whole: Tensor) -> float:
    total = int(whole.sum())
    return int(part.sum()) / total if total else 1.0


def _without_counts(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """What a search and an export say of a circuit, but for its spans and what counts edges: others in other spans."""
    of_spans = {"spans", "live_tokens", "example", "swapped"}
    counts = {"n_edges", "size", "edges", "edges_pruned", "token_edges", "measured"}
    return {name: value for name, value in metadata.items() if name not in of_spans | counts}


def scores_are(metadata: Mapping[str, Any]) -> Literal["effects", "ranks"]:
    """Whether the sign of a circuit's scores means something (effects) or not (ranks), as its search said it."""
    # Of files from before searches said it, only those of learned gates hold ranks.
    return metadata.get("scores_are", "ranks" if "gate" in metadata else "effects")
