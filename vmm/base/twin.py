"""Host side: what dataclasses and inspect look for in a record, made of a dataclass like it.

Imported when they look, by record.py: the command never does.
"""

from __future__ import annotations

from dataclasses import field, make_dataclass
from inspect import Parameter, Signature

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any


def _make_fields(cls: Any) -> object:
    """What dataclasses.fields(), asdict() and replace() go by: that of a dataclass of its kind."""
    twin = _make_twin(cls)
    return {name: twin.__dataclass_fields__[name] for name in cls.__match_args__}


def _make_params(cls: Any) -> object:
    """What dask tokenizes a dataclass by, besides its fields."""
    return _make_twin(cls).__dataclass_params__


def _make_twin(cls: Any) -> Any:
    """The dataclass of the same fields."""
    fields = cls.__match_args__
    types = ((name, cls.__annotations__[name]) for name in fields if not hasattr(cls, name))

    def default(value: object) -> Any:
        if isinstance(value, dict):  # which Python 3.10 takes for one that may be changed
            return field(default_factory=lambda: value)
        return field(default=value)

    more = (
        (name, cls.__annotations__[name], default(getattr(cls, name)))
        for name in fields
        if hasattr(cls, name)
    )
    return make_dataclass(cls.__name__, [*types, *more], frozen=True)


def _make_signature(cls: Any) -> object:
    """What inspect.signature() and help() show: the fields, by position or by name."""
    parameters = (
        Parameter(
            name,
            Parameter.POSITIONAL_OR_KEYWORD,
            default=getattr(cls, name, Parameter.empty),
            annotation=cls.__annotations__[name],
        )
        for name in cls.__match_args__
    )
    return Signature([*parameters], return_annotation=None)


MAKERS: dict[str, Callable[[Any], object]] = {
    "__dataclass_fields__": _make_fields,
    "__dataclass_params__": _make_params,
    "__signature__": _make_signature,
}
