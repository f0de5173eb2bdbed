"""A function of tensors that runs as a CUDA graph; on a CPU, its road through tensors that stay where they are."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch import Tensor

from lightning_circuits import captured
from lightning_circuits.captured import Captured

on_a_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU that CUDA graphs run on")


class Recorded:
    """A function of two tensors, and where the arguments of every call stood in memory."""

    def __init__(self) -> None:
        self.calls: list[tuple[int, ...]] = []

    def __call__(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        self.calls.append((x.data_ptr(), y.data_ptr()))
        return x @ y, x.sum(0)


def pair(seed: int, rows: int = 3, dtype: torch.dtype = torch.float32, device: str = "cpu") -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    drawn = (torch.randn(shape, generator=generator) for shape in ((rows, 4), (4, 2)))
    x, y = (each.to(device, dtype) for each in drawn)
    return x, y


def places(arguments: tuple[Tensor, ...]) -> tuple[int, ...]:
    return tuple(each.data_ptr() for each in arguments)


def test_every_call_gives_what_its_own_arguments_make() -> None:
    function = Captured(Recorded())
    for seed in range(5):
        x, y = pair(seed)
        product, total = function(x, y)
        torch.testing.assert_close(product, x @ y)
        torch.testing.assert_close(total, x.sum(0))


def test_the_first_call_of_a_shape_is_a_plain_one_and_later_ones_fill_tensors_that_stay() -> None:
    recorded = Recorded()
    function = Captured(recorded)
    kept = [pair(seed) for seed in range(4)]
    for given in kept:
        function(*given)
    assert recorded.calls[0] == places(kept[0])
    assert len(set(recorded.calls[1:])) == 1 and recorded.calls[1] not in map(places, kept)


def test_each_shape_and_dtype_has_tensors_of_its_own() -> None:
    recorded = Recorded()
    function = Captured(recorded)
    kinds = [dict(rows=3), dict(rows=5), dict(rows=3, dtype=torch.float64)]
    for seed in range(3):
        for kind in kinds:
            given = pair(seed, **kind)  # type: ignore[arg-type]
            before = len(recorded.calls)
            results = function(*given)
            assert len(recorded.calls) == before + 1
            assert (recorded.calls[-1] == places(given)) == (seed == 0), "the first call alone is a plain one"
            torch.testing.assert_close(results[0], given[0] @ given[1])
    assert len(set(recorded.calls[3:])) == len(kinds)


def test_results_are_the_callers_own() -> None:
    function = Captured(lambda x: (x, 2 * x))
    results = [function(torch.full((2,), float(i))) for i in range(4)]
    assert [[each.tolist() for each in pair] for pair in results] == [[[i, i], [2 * i, 2 * i]] for i in range(4)]
    results[3][0].zero_()
    assert function(torch.ones(2))[1].tolist() == [2, 2]


def test_arguments_are_left_as_they_are() -> None:
    def in_place(x: Tensor) -> tuple[Tensor]:
        return (x.mul_(2),)

    function = Captured(in_place)
    function(torch.ones(2))
    for value in (1.0, 3.0):
        given = torch.full((2,), value)
        assert function(given)[0].tolist() == [2 * value] * 2
        assert given.tolist() == [value] * 2


def test_what_cannot_be_recorded_is_called_as_it_is_and_says_why_once(monkeypatch: pytest.MonkeyPatch) -> None:
    tried = []

    class Refusing:
        def __init__(self, function: object, arguments: tuple[Tensor, ...]) -> None:
            tried.append(arguments)
            raise RuntimeError("operation not permitted when stream is capturing\nCUDA kernel errors might be ...")

    monkeypatch.setattr(captured, "_Recording", Refusing)
    recorded = Recorded()
    function = Captured(recorded)
    function(*pair(0))
    with pytest.warns(UserWarning, match="not captured as CUDA graphs: 'operation not permitted") as said:
        product, _ = function(*pair(1))
    assert len(said) == 1 and "\n" not in str(said[0].message)
    torch.testing.assert_close(product, pair(1)[0] @ pair(1)[1])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for seed in range(2, 5):
            for rows in (3, 5):
                given = pair(seed, rows)
                product, _ = function(*given)
                torch.testing.assert_close(product, given[0] @ given[1])
                assert recorded.calls[-1] == places(given)
    assert len(tried) == 1


def test_what_fails_in_a_call_fails_for_the_caller() -> None:
    def picky(x: Tensor) -> tuple[Tensor]:
        if x[0] < 0:
            raise RuntimeError("below zero")
        return (x,)

    function = Captured(picky)
    for value in (1.0, 2.0, 3.0):
        function(torch.tensor([value]))
    with pytest.raises(RuntimeError, match="below zero"):
        function(torch.tensor([-1.0]))


# ---- on a GPU ------------------------------------------------------------------------------------------------------


@on_a_gpu
def test_a_graph_gives_what_its_own_arguments_make() -> None:
    recorded = Recorded()
    function = Captured(recorded)
    for seed in range(6):
        for rows in (3, 5):
            x, y = pair(seed, rows, device="cuda")
            product, total = function(x, y)
            torch.testing.assert_close(product, x @ y)
            torch.testing.assert_close(total, x.sum(0))
    plain, warm_up, capture = 1, captured._Recording.WARM_UP, 1
    assert len(recorded.calls) == 2 * (plain + warm_up + capture), "a replay calls no Python"


@on_a_gpu
def test_a_function_that_looks_at_a_value_goes_on_without_a_graph() -> None:
    function = Captured(lambda x: (x * x.sum().item(),))
    function(torch.ones(2, device="cuda"))
    with pytest.warns(UserWarning, match="steps are not captured as CUDA graphs"):
        assert function(torch.full((2,), 2.0, device="cuda"))[0].tolist() == [8, 8]
    assert function(torch.full((2,), 3.0, device="cuda"))[0].tolist() == [18, 18]
    torch.rand(2, device="cuda")  # the generator believes in no capture any more
