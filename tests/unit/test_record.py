"""Test side: @record makes frozen value classes, as dataclasses would."""

from __future__ import annotations

import copy
import dataclasses
import inspect
import pickle
import subprocess
import sys
import typing
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import instar
from instar.vmm.base.record import record, to_dict


@record
class Point:
    """Two fields that must be given, and one with a default."""

    x: int
    y: int
    label: str = "none"

    @property
    def sum(self) -> int:
        return self.x + self.y


@record
class Other:
    """The same fields as Point."""

    x: int
    y: int
    label: str = "none"


@dataclasses.dataclass(frozen=True)
class Model:
    """What Point is to behave like."""

    x: int
    y: int
    label: str = "none"


@record
class Empty:
    """No fields."""


VALUES = st.integers() | st.text("ab", max_size=2) | st.none() | st.tuples(st.integers())


def test_fields_are_given_by_position_or_by_name() -> None:
    assert Point(1, 2, "a") == Point(1, y=2, label="a") == Point(label="a", y=2, x=1)


def test_a_default_stands_in_for_what_is_not_given() -> None:
    assert Point(1, 2).label == "none"


def test_fields_keep_their_order_whatever_they_are_given_by() -> None:
    for point in (Point(1, 2, "a"), Point(1, 2), Point(y=2, x=1), Point(label="a", y=2, x=1)):
        assert list(vars(point)) == ["x", "y", "label"]


def test_a_class_of_many_records_takes_its_fields_as_one_of_few() -> None:
    @record
    class Many:
        x: int
        values: int
        label: str = "none"
        more: tuple[int, ...] = ()

    first = Many.__init__
    wrong: list[tuple[tuple[Any, ...], dict[str, Any]]] = [
        ((), {}),
        ((1,), {"label": "a"}),
        ((1, 2, "a", (), 5), {}),
        ((1, 2), {"values": 2}),
        ((1, 2), {"z": 3}),
    ]
    for n in range(200):
        for made in (
            Many(n, 2),
            Many(n, 2, "none", ()),
            Many(values=2, x=n),
            Many(n, more=(), values=2),
            Many(more=(), label="none", values=2, x=n),
        ):
            assert vars(made) == {"x": n, "values": 2, "label": "none", "more": ()}
            assert list(vars(made)) == ["x", "values", "label", "more"]
        assert Many(n, 2, more=(1,)).more == (1,)
        for args, kwargs in wrong:
            with pytest.raises(TypeError, match=r"Many(\.__init__)?\(\) "):
                Many(*args, **kwargs)
    assert Many.__init__ is not first


def test_properties_work() -> None:
    assert Point(1, 2).sum == 3


@pytest.mark.parametrize(
    ("args", "kwargs"),
    [
        ((), {}),
        ((1,), {}),
        ((), {"x": 1}),
        ((1, 2, "a", 3), {}),
        ((1, 2), {"x": 1}),
        ((1, 2), {"z": 1}),
        ((), {"x": 1, "y": 2, "Label": ""}),
    ],
)
def test_missing_double_and_unknown_fields_are_refused(
    args: tuple[Any, ...], kwargs: dict[str, Any]
) -> None:
    few: Any = record(
        type("Point", (), {"__annotations__": Point.__annotations__, "label": "none"})
    )
    with pytest.raises(TypeError, match=r"^Point\(\) takes"):
        few(*args, **kwargs)
    with pytest.raises(TypeError):
        Model(*args, **kwargs)


@pytest.mark.parametrize("name", ["x", "label", "sum", "z", "__class__"])
def test_nothing_can_be_set_or_deleted(name: str) -> None:
    point = Point(1, 2)
    message = f"^Point is immutable: cannot change '{name}'$"
    with pytest.raises(AttributeError, match=message):
        setattr(point, name, 5)
    with pytest.raises(AttributeError, match=message):
        delattr(point, name)
    assert point == Point(1, 2)


def test_records_of_another_class_are_never_equal() -> None:
    others: list[object] = [Other(1, 2), Model(1, 2), (1, 2, "none")]
    assert all(Point(1, 2) != other for other in others)


def test_a_class_without_fields_works() -> None:
    assert Empty() == Empty()
    assert repr(Empty()) == "Empty()"
    with pytest.raises(TypeError):
        Empty(1)  # type: ignore[call-arg]


def test_fields_can_be_matched() -> None:
    match Point(1, 2, "a"):
        case Point(x, 2, label):
            assert (x, label) == (1, "a")
        case _:
            pytest.fail("no match")


def test_repr_names_the_fields_in_order() -> None:
    assert repr(Point(1, 2, "a")) == "Point(x=1, y=2, label='a')"


def test_a_field_that_cannot_be_hashed_makes_a_record_that_cannot() -> None:
    with pytest.raises(TypeError, match="unhashable"):
        hash(Point([], 2))  # type: ignore[arg-type]


@given(st.tuples(VALUES, VALUES, VALUES), st.tuples(VALUES, VALUES, VALUES))
def test_equality_hash_and_repr_are_those_of_a_dataclass(left: Any, right: Any) -> None:
    one, two = Point(*left), Point(*right)
    assert (one == two) == (Model(*left) == Model(*right))
    assert hash(one) == hash(Point(*left)) == hash(Model(*left))
    assert repr(one) == repr(Model(*left)).replace("Model", "Point")


@given(st.tuples(VALUES, VALUES, VALUES))
def test_records_survive_pickle_and_copy(values: Any) -> None:
    point = Point(*values)
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        assert pickle.loads(pickle.dumps(point, protocol)) == point  # noqa: S301 - our own bytes
    assert copy.copy(point) == copy.deepcopy(point) == point


def test_a_copy_is_as_frozen_as_the_original() -> None:
    restored = pickle.loads(pickle.dumps(Point(1, 2)))  # noqa: S301 - our own bytes
    with pytest.raises(AttributeError, match="immutable"):
        restored.x = 3


def test_it_costs_none_of_the_modules_that_it_is_there_to_avoid() -> None:
    code = "import sys, instar.vmm.base.record; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True, env={}
    )
    assert not {"dataclasses", "inspect", "typing"} & set(done.stdout.split())


RECORDS: list[Any] = [
    *(instar.AmendResult, instar.AmendOutcome, instar.ByteRange, instar.Change, instar.Refusal),
    *(Point, Empty),
]


@pytest.mark.parametrize("kind", RECORDS)
def test_dataclasses_and_inspect_take_a_record_for_a_dataclass(kind: Any) -> None:
    names, make = list(kind.__annotations__), kind
    assert dataclasses.is_dataclass(kind)
    assert [field.name for field in dataclasses.fields(kind)] == names
    parameters = inspect.signature(make).parameters
    assert list(parameters) == names
    values = {name: f"{name}'s" for name in names}
    value: Any = make(**values)
    assert dataclasses.asdict(value) == to_dict(value) == values
    assert dataclasses.replace(value) == value
    if names:
        assert getattr(dataclasses.replace(value, **{names[0]: 5}), names[0]) == 5
    assert inspect.signature(make).bind(**values).arguments == values


@pytest.mark.parametrize("kind", RECORDS)
def test_hints_can_be_evaluated(kind: Any) -> None:
    assert typing.get_type_hints(kind).keys() == kind.__annotations__.keys()


@pytest.mark.parametrize("function", [instar.amend, instar.Sandbox.amend])
def test_hints_of_functions_can_be_evaluated(function: Any) -> None:
    assert typing.get_type_hints(function)["return"] is instar.AmendResult


def test_fields_have_the_defaults_and_types_of_a_dataclass() -> None:
    for mine, model in zip(dataclasses.fields(Point), dataclasses.fields(Model), strict=True):
        assert (mine.name, mine.type, mine.default) == (model.name, model.type, model.default)
    ours, theirs = inspect.signature(Point), inspect.signature(Model)
    assert str(ours) == str(theirs)
    assert ours == theirs


def test_nested_records_become_nested_dicts() -> None:
    value: Any = Point((Point(1, 2), {"a": [Point(3, 4)]}), None)  # type: ignore[arg-type]
    inner = [{"x": n, "y": n + 1, "label": "none"} for n in (1, 3)]
    assert to_dict(value) == {"x": [inner[0], {"a": [inner[1]]}], "y": None, "label": "none"}


@pytest.mark.skipif(sys.version_info < (3, 13), reason="copy.replace is new in Python 3.13")
def test_copy_replace_works() -> None:
    replace: Any = vars(copy)["replace"]
    assert replace(Point(1, 2), x=5) == Point(5, 2)
