"""A function of tensors that runs as a CUDA graph: on a small model a step is mostly launches, and a graph is one.

A graph repeats what was recorded, kernel by kernel, on tensors that stay where they are. So there is one for every
shape of the arguments; they are copied into its own tensors, the graph is replayed, and the results are copied out.
What a function makes of Python numbers is recorded with it: whatever changes from call to call has to be a tensor.

A shape that comes once is not worth a graph, so the first call of each is an ordinary one. A function that cannot be
recorded (it looks at a value, say, to decide what to do) is called as it is from then on, and a warning says why.

    >>> twice = Captured(lambda x: (2 * x,))            # on a CPU an ordinary call, into the same tensors
    >>> [twice(torch.tensor([float(i)]))[0].item() for i in range(3)]
    [0.0, 2.0, 4.0]
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any, TypeAlias, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from lightning_circuits.arguments import shortened
from lightning_circuits.batch import Batch
from lightning_circuits.models import CircuitModel
from lightning_circuits.models.sharding import is_shared_out

Function: TypeAlias = Callable[..., tuple[Tensor, ...]]

SMALL = 2 << 30
"""Bytes of a stack of writers above which launches are no matter, and a graph would only hold memory."""

LENGTHS = 8
"""Prompts are filled up to a multiple of so many tokens."""


def worth_capturing(model: CircuitModel, batch: Batch) -> bool:
    """Whether runs on a batch are ones for a graph: on a GPU, of a small model that is whole on it, without anything
    that depends on values, as how many tokens a span has."""
    ids, layout = batch["clean_ids"], model.layout
    stack = layout.n_writers * ids.numel() * layout.d_model * model.dtype.itemsize
    plain = not layout.spans and "continues" not in batch
    return ids.is_cuda and stack <= SMALL and plain and not is_shared_out(model)


class Captured:
    """A function of tensors, of the device that they are on.

    Args:
        function: of tensors alone, to a tuple of tensors; nothing that it does may depend on their values.
    """

    def __init__(self, function: Function) -> None:
        self.function = function
        self.seen: dict[Any, _Recording | None] = {}
        self.refused = ""  # why the function cannot be recorded

    def __call__(self, *arguments: Tensor) -> tuple[Tensor, ...]:
        """What the function gives for these arguments, in tensors of the caller's own."""
        key = tuple((argument.shape, argument.dtype, argument.device) for argument in arguments)
        if self.refused or key not in self.seen:
            self.seen[key] = None
            return self.function(*arguments)
        if self.seen[key] is None:
            try:
                self.seen[key] = _Recording(self.function, arguments)
            except RuntimeError as error:
                self.refused = shortened(str(error).splitlines()[0])
                self.seen.clear()
                warnings.warn(f"steps are not captured as CUDA graphs: {self.refused}", stacklevel=2)
                return self.function(*arguments)
        return self.seen[key](*arguments)  # type: ignore[misc]


class CapturedOnBatches:
    """A function of a batch of prompts, and of other tensors, as CUDA graphs.

    Prompts are filled up to a multiple of `LENGTHS` tokens, so that a few graphs serve all lengths.

    Args:
        function: of a batch and tensors, to tensors; what is said of `Captured` holds for it.
    """

    def __init__(self, function: Callable[..., tuple[Tensor, ...]]) -> None:
        self.function = function
        self.captured: dict[Any, Captured] = {}

    def __call__(self, batch: Batch, *tensors: Tensor) -> tuple[Tensor, ...]:
        """What the function gives; of ``batch`` the tensors may be others in every call."""
        batch = filled_up(batch, LENGTHS)
        names = [name for name, value in batch.items() if isinstance(value, Tensor)]
        rest = {name: value for name, value in batch.items() if name not in names}

        def run(*given: Tensor) -> tuple[Tensor, ...]:
            of_batch = dict(zip(names, given, strict=False))
            return self.function(cast(Batch, rest | of_batch), *given[len(names) :])

        captured = self.captured.setdefault((*names, repr(rest)), Captured(run))
        return captured(*(batch[name] for name in names), *tensors)  # type: ignore[literal-required]


def filled_up(batch: Batch, multiple: int) -> Batch:
    """A batch with padding on the right, up to a multiple of so many tokens; it changes no result."""
    shape = batch["clean_ids"].shape
    of_tokens = {"clean_ids": 0, "corrupt_ids": 0, "attention_mask": 0, "spans": -1}
    filled = {
        name: F.pad(batch[name], (0, -shape[1] % multiple), value=fill)  # type: ignore[literal-required]
        for name, fill in of_tokens.items()
        if name in batch
    }
    return cast(Batch, {**batch, **filled})


class _Recording:
    """A function recorded for arguments of these shapes."""

    WARM_UP = 2  # libraries choose their kernels and take their memory in the first calls

    def __init__(self, function: Function, arguments: tuple[Tensor, ...]) -> None:
        self.function, self.graph = function, None
        self.arguments = [argument.clone() for argument in arguments]
        if not arguments[0].is_cuda:
            return
        beside = torch.cuda.Stream()
        beside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(beside):
            for _ in range(self.WARM_UP):
                function(*self.arguments)
        torch.cuda.current_stream().wait_stream(beside)
        graph, numbers = torch.cuda.CUDAGraph(), torch.cuda.default_generators[arguments[0].device.index]
        before = numbers.clone_state()
        try:
            # Other threads, such as one that copies the next batch, may go on with what a capture forbids.
            with torch.cuda.graph(graph, capture_error_mode="thread_local"):
                self.results = function(*self.arguments)
        except RuntimeError:
            numbers.graphsafe_set_state(before)  # it would go on believing that a capture is under way
            raise
        self.graph = graph

    def __call__(self, *arguments: Tensor) -> tuple[Tensor, ...]:
        for mine, given in zip(self.arguments, arguments, strict=True):
            mine.copy_(given)
        if self.graph is None:
            self.results = self.function(*self.arguments)
        else:
            self.graph.replay()
        return tuple(result.clone() for result in self.results)
