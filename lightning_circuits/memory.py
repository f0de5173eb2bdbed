"""What a training step holds at once, counted before it is made, and what to lower where that is too much.

A step keeps two stacks, the differences of all writers and their gradients. On a large model they are most of what it
needs, and they grow with the tokens of a batch. The rest is some streams at a time, and what the `tape` keeps.

    >>> llama = Layout(n_layers=32, n_heads=32, d_model=4096)  # Llama-3.1-8B, in bfloat16
    >>> plan = MemoryPlan(llama, 32, 64, itemsize=2, vocabulary=128_256, mlp_width=14_336, weights=16_060_522_496)
    >>> print(plan.describe(free=60 * 10**9))
    A step on 32 prompts of 64 tokens needs at most 48.9 GB beside the model's 16.1 GB:
         35.5 GB  what 1,057 writers put out, and the gradients of it
          1.2 GB  73 residual streams
          3.3 GB  queries, keys and values of all layers, and what heads mix of them
          7.0 GB  what the readers of a block see: of 4 layers at once
          1.8 GB  one layer at work
          0.2 GB  gates and logits
    60.0 GB are free: at most 37 such prompts fit.

Counted are the tensors of a step of `EdgePruning` in the worst case: no edge is closed for good, and no token left out.
Under interchange ablation the tokens before the first that differs are, so that such a step needs less. The stock
model's run on both prompts, which comes first, does too. The graphs of MLPs are counted where they are kept however
little is free, with a small stack. `MemoryPlan.of` reads the numbers off a model.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.func import functional_call

from lightning_circuits import blocks, tape
from lightning_circuits.layout import Layout
from lightning_circuits.models import CircuitModel
from lightning_circuits.models.mixtures import is_mixture, numbers_of_a_token
from lightning_circuits.pages import see_page

OF_A_GATE = 40
"""Bytes: the logit, its gradient, two moments and a mean, the value, where it stands in memory, and that memory."""
USABLE = 0.95
"""The share of free memory that is counted on. Some is in pieces too small for a stream, some goes to libraries."""
MOST = 2**40
"""More prompts or tokens than fit anywhere."""


@dataclass(frozen=True)
class MemoryPlan:
    """Bytes that a training step needs beside the model's weights.

    Args:
        layout: of the model.
        batch: prompts of a step.
        length: tokens of each, padding included.
        itemsize: bytes of a number in the model's dtype.
        vocabulary: how many tokens the model knows.
        mlp_width: how wide an MLP is inside.
        weights: bytes of the model, which are taken already.
        block: layers at once. Default: as many as `blocks` takes.
        multiple: readers of a layer are filled up to a multiple of it, 8 on a GPU. On a CPU it is 1, and attention
            keeps its probabilities.
        d_head: how wide a head is. Default: ``d_model // n_heads``.
        mlp_graph: numbers that an MLP with a graph keeps of a token. Default: those of a gated one.
        fused: whether attention is one operation. If not, as where scores are capped, what it makes of scores is kept.
    """

    layout: Layout
    batch: int
    length: int
    itemsize: int
    vocabulary: int
    mlp_width: int
    weights: int = 0
    # None stands for what is said above, and is replaced below.
    block: int = None  # type: ignore[assignment]
    multiple: int = 8
    d_head: int = None  # type: ignore[assignment]
    mlp_graph: int = None  # type: ignore[assignment]
    fused: bool = True

    def __post_init__(self) -> None:
        layout = self.layout
        default = {
            "block": blocks.block_size(layout),
            "d_head": layout.d_model // layout.n_heads,
            # What it sees, and once more if the norm makes it float32; the gate, its activation, what that multiplies.
            "mlp_graph": self._wide * layout.d_model + layout.d_model * (self._wide > 1) + 3 * self.mlp_width,
        }
        for name, value in default.items():
            if getattr(self, name) is None:
                object.__setattr__(self, name, value)

    @classmethod
    def of(cls, model: CircuitModel, batch: int, length: int) -> MemoryPlan:
        """Of a model, in its dtype and on its device, and ``batch`` prompts of ``length`` tokens."""
        layout, output = model.layout, model.output_module(0).parameters()
        width = sum(weight.numel() for weight in output if weight.ndim > 1) // layout.d_model
        return cls(
            layout,
            batch,
            length,
            itemsize=model.dtype.itemsize,
            vocabulary=model.vocabulary,
            mlp_width=max(size for weight in model.mlp_module(0).parameters() for size in weight.shape),
            weights=sum(weight.nbytes for weight in model.model.parameters()),
            multiple=8 if model.device.type == "cuda" else 1,
            d_head=(width or layout.d_model) // layout.n_heads,
            mlp_graph=_kept_of_a_token(model),
            fused=model.fused,
        )

    # ---- what needs how much -----------------------------------------------------------------------------------

    @property
    def stream(self) -> int:
        """One number for every token and dimension; all that follows is streams, but for gates and logits."""
        return self.batch * self.length * self.layout.d_model * self.itemsize

    @property
    def stacks(self) -> int:
        """The differences of all writers, and their gradients."""
        return 2 * self.layout.n_writers * self.stream

    @property
    def streams(self) -> int:
        """The residual streams that the references alone make, and those of a block once more, beside the stack."""
        return (self.layout.n_streams + self._block_streams) * self.stream

    @property
    def readers(self) -> int:
        """What the readers of a block see, where their gradient then comes to stand."""
        of_a_layer = -(-(self.layout.n_attention_readers + 1) // self.multiple) * self.multiple
        return min(self.block, self.layout.n_layers) * of_a_layer * self.stream

    @property
    def attentions(self) -> int:
        """What is kept of the attention of all layers: queries, keys, values, what heads mix of them, and the norm."""
        layout = self.layout
        heads, grouped = layout.n_heads * self.d_head, layout.n_kv_readers < layout.n_heads
        kept = layout.n_attention_readers * (self.d_head + 2)
        if not self.fused:  # beside these: scores, capped; their softmax, in float32 at least, and in the model's dtype
            kept += (3 + grouped) * heads + layout.n_heads * self.length * (1 + self._wide + (self._wide > 1))
        elif self.multiple > 1:  # queries and keys turned, what is mixed, the mask; values of groups for every head
            kept += (3 + grouped) * heads + self.length
        else:  # queries and keys scaled, and probabilities, in float32 at least
            kept += self._wide * (2 * heads + layout.n_heads * self.length)
            kept += self._wide * heads if grouped or self._wide > 1 else 0
        return layout.n_layers * kept * self._numbers

    @property
    def keeps_mlps(self) -> bool:
        """Whether the graphs of MLPs are kept however little is free, as `Tape.of` does with a small stack."""
        return (self.layout.n_writers + self._block_streams) * self.stream <= tape.SMALL

    @property
    def mlps(self) -> int:
        """The graphs of MLPs of all layers, to be counted where they are kept."""
        return self.layout.n_layers * self.mlp_graph * self._numbers

    @property
    def layer(self) -> int:
        """A layer that is differentiated, of attention and MLP the larger."""
        layout = self.layout
        heads = layout.n_heads * self.d_head
        # The gradient at its readers. The gradients at queries, keys and values, twice, and at what heads mix. Weights
        # of the projections with the norm in them.
        attention = layout.n_attention_readers * (layout.d_model + 2 * self.d_head) + heads
        weights = 3 * heads * layout.d_model * self.itemsize
        mlp = 2 * self.mlp_graph
        return max(attention * self._numbers + weights, mlp * self._numbers)

    @property
    def logits(self) -> int:
        """The stock model's on both prompts, and the circuit's; of two, logarithms of probabilities and gradients."""
        return self.batch * self.vocabulary * (3 * self.itemsize + 4 * 4)

    @property
    def gates(self) -> int:
        """What does not depend on the batch."""
        return OF_A_GATE * self.layout.n_edges

    @property
    def step(self) -> int:
        """All of it: what is allocated at once, at most."""
        return self._step(self.keeps_mlps)

    def _step(self, mlps: bool) -> int:
        streams = self.stacks + self.streams + self.readers + self.attentions + self.layer
        return streams + (self.mlps if mlps else 0) + self.logits + self.gates

    @property
    def _numbers(self) -> int:
        """Bytes of a number for every token."""
        return self.batch * self.length * self.itemsize

    @property
    def _wide(self) -> int:
        """How many times the bytes of the model's dtype what is computed in float32 takes, at least 1."""
        return max(1, 4 // self.itemsize)

    @property
    def _block_streams(self) -> int:
        return min(self.block, self.layout.n_layers) * (self.layout.n_streams // self.layout.n_layers)

    # ---- what fits ---------------------------------------------------------------------------------------------

    def largest_batch(self, free: int) -> int:
        """How many prompts of this length fit, given how many bytes are free beside the model; 0 for none."""
        return self._most(free, lambda batch: replace(self, batch=batch))

    def largest_length(self, free: int) -> int:
        """How many tokens a batch of one prompt may have; 0 for none."""
        return self._most(free, lambda length: replace(self, batch=1, length=length))

    @staticmethod
    def _most(free: int, of: Callable[[int], MemoryPlan]) -> int:
        def fit(mlps: bool) -> int:
            return bisect_right(range(1, MOST), USABLE * free, key=lambda n: of(n)._step(mlps))

        # Without the graphs of MLPs more fit, if there are so many tokens that they are not kept.
        without = fit(False)
        return without if without and not of(without).keeps_mlps else fit(True)

    # ---- in words ----------------------------------------------------------------------------------------------

    def describe(self, free: int | None = None) -> str:
        """The plan in a few lines.

        Args:
            free: bytes that are free beside the model, if that is known.
        """
        layout, layers = self.layout, min(self.block, self.layout.n_layers)
        needed = {
            f"what {layout.n_writers:,} writers put out, and the gradients of it": self.stacks,
            f"{layout.n_streams + self._block_streams} residual streams": self.streams,
            "queries, keys and values of all layers, and what heads mix of them": self.attentions,
            "the graphs of all MLPs": self.mlps if self.keeps_mlps else 0,
            f"what the readers of a block see: of {_number(layers, 'layer')} at once": self.readers,
            "one layer at work": self.layer,
            "gates and logits": self.gates + self.logits,
        }
        prompts = f"{_number(self.batch, 'prompt')} of {_number(self.length, 'token')}"
        lines = [f"A step on {prompts} needs at most {_size(self.step)} beside the model's {_size(self.weights)}:"]
        lines += (f"    {_size(size):>8}  {what}" for what, size in needed.items() if size)
        if free is not None:
            fit = self.largest_batch(free)
            lines.append(f"{_size(free)} are free: {f'at most {fit:,}' if fit else 'no'} such prompts fit.")
        return "\n".join(lines)

    def advice(self, free: int | None = None) -> str:
        """What to lower where a step has run out of memory: the batch, then the block, then the prompts.

        Args:
            free: bytes that were free before the step, if that is known.
        """
        page = see_page("large-models", "Out of memory")
        less = "lower the batch size{} and accumulate gradients over more batches, for the same steps"
        if free is None:
            return f"{less.format('')}; then the block (layers at once), then the length of prompts {page}"
        fits = self.step <= USABLE * free
        why = "by this count it fits, so memory is in pieces, or taken by others: " if fits else ""
        if self.batch > 1 and (batch := min(self.largest_batch(free), self.batch * 3 // 4)):
            return f"{why}{less.format(f' from {self.batch} to {batch}')} {page}"
        layers = min(self.block, self.layout.n_layers)
        for block in range(layers - 1, 0, -1):
            if replace(self, block=block).largest_batch(free):
                batch_too = "the batch size to 1 and " if self.batch > 1 else ""
                return f"{why}lower {batch_too}the block from {layers} layers to {block} {page}"
        if length := min(replace(self, block=1).largest_length(free), self.length * 3 // 4):
            tokens = f"at most {_number(length, 'token')}, not {self.length:,}"
            return f"{why}give prompts of {tokens}, in batches of 1 and blocks of 1 layer {page}"
        return f"not even one token fits: take a narrower dtype, a smaller model or a larger device {page}"


def _kept_of_a_token(model: CircuitModel) -> int:
    """Numbers, in the model's dtype, that the first MLP keeps of a token for its backward, with what it sees.
    No weight is read: they may be shared out among processes."""
    if is_mixture(model.mlp_module(0)):
        return numbers_of_a_token(model.mlp_module(0)) + model.layout.d_model

    def shapes(module: nn.Module) -> dict[str, Tensor]:
        named = [*module.named_parameters(), *module.named_buffers()]
        return {name: torch.empty(value.shape, dtype=value.dtype, device="meta") for name, value in named}

    parts = model.mlp_norm(0), model.mlp_module(0), model.norm_after_mlp(0)
    of_parts = [shapes(part) for part in parts]

    def kept(tokens: int) -> int:
        """Bytes, with what is made of weights alone."""
        found: dict[int, int] = {}

        def pack(saved: Tensor) -> Tensor:
            storage = saved.untyped_storage()
            found.setdefault(storage._cdata, storage.nbytes())
            return saved

        seen = written = torch.empty(
            1, tokens, model.layout.d_model, dtype=model.dtype, device="meta", requires_grad=True
        )
        with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(pack, lambda saved: saved):
            for part, of_part in zip(parts, of_parts, strict=True):
                written = functional_call(part, of_part, written)
        for tensor in (seen, written):
            found.pop(tensor.untyped_storage()._cdata, None)
        return sum(found.values())

    return (kept(2) - kept(1)) // model.dtype.itemsize + model.layout.d_model


@contextmanager
def out_of_memory_explained(plan: Callable[[], MemoryPlan], free: int | None) -> Iterator[None]:
    """While open, an error of a device's memory says what a step needs, and what to lower.

    Args:
        plan: makes the plan of the step that is being made.
        free: bytes that were free before the first step, if that is known.

    Raises:
        torch.OutOfMemoryError: in place of another; it begins like that one.
    """
    try:
        yield
    except torch.OutOfMemoryError as error:
        planned = plan()
        first = ". ".join(str(error).split(". ")[:2]).rstrip(".")
        raise torch.OutOfMemoryError(f"{first}. {planned.describe(free)}\nTo do: {planned.advice(free)}") from error


def _size(bytes_: float) -> str:
    return f"{bytes_ / 1e9:.1f} GB" if bytes_ >= 1e8 else f"{bytes_ / 1e6:.1f} MB"


def _number(n: int, what: str) -> str:
    return f"{n:,} {what}{'' if n == 1 else 's'}"
