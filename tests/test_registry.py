"""Things by name: an object, a class or a name give the same, and anything else is said."""

from __future__ import annotations

import math

import pytest

from lightning_circuits.registry import Registry


class Shape:
    pass


def shapes() -> Registry[Shape]:
    registry = Registry("shape", Shape, accepts=callable)

    @registry.register
    class Circle(Shape):
        pass

    @registry.register
    class NGon(Shape):
        name = "n-gon"

        def __init__(self, n: int) -> None:
            self.n = n

    return registry


def test_object_class_and_name_are_one_way() -> None:
    registry = shapes()
    circle = registry["Circle"]
    one = circle()
    assert registry.make(one) is one
    assert [type(registry.make(given)) for given in ("Circle", "circle", circle)] == [circle] * 3
    assert registry.make(print) is print  # what `accepts` takes
    assert registry.make("math.sqrt") is math.sqrt  # by where it stands
    assert registry.names() == list(registry) == ["Circle", "n-gon"]
    assert "NGON" in registry and "N_gon" in registry and "square" not in registry


def test_a_later_class_of_the_same_name_takes_its_place() -> None:
    registry = shapes()

    @registry.register
    class Circle(Shape):
        pass

    assert registry["circle"] is Circle and registry.names() == ["Circle", "n-gon"]


def test_a_function_is_registered_where_functions_will_do() -> None:
    registry = shapes()

    @registry.register
    def half_moon() -> None:
        pass

    assert registry.make("half-moon") is half_moon and "half_moon" in registry.names()


def test_what_is_wrong_is_said() -> None:
    registry = shapes()
    with pytest.raises(TypeError, match="a registered shape is a subclass of Shape, got <function"):
        Registry("shape", Shape).register(shapes)
    with pytest.raises(ValueError, match=r"unknown shape 'square'; choose one of Circle, n-gon"):
        registry.make("square")
    with pytest.raises(TypeError, match=r"outline takes a Shape or a name \(Circle, n-gon\), got 3"):
        registry.make(3, "outline")
    with pytest.raises(TypeError, match=r"NGon needs n: give an object, NGon\(\.\.\.\)"):
        registry.make("n-gon")
    with pytest.raises(TypeError, match=r"a registered shape is a subclass of Shape or a function, got <class 'int'>"):
        registry.register(int)


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("no_such_module.margin", "unknown shape 'no_such_module.margin': No module named 'no_such_module'; give the"),
        ("math.margin", "module 'math' has no attribute 'margin'"),
        (".margin", "unknown shape '.margin': "),
    ],
)
def test_a_place_where_nothing_stands_is_said(path: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        shapes().make(path)
    with pytest.raises(TypeError, match="shape takes a Shape or a name"):
        shapes().make("math.pi")
