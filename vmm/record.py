"""Host side: frozen records, for a command that cannot afford to import dataclasses.

`@record` gives a class what `@dataclass(frozen=True)` would. The standard module imports inspect
and re, which costs the command more than its whole amend does (docs/decisions/).
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, TypeVar

    from typing_extensions import dataclass_transform

    T = TypeVar("T")

    @dataclass_transform(frozen_default=True)
    def record(cls: type[T]) -> type[T]:
        """See below; this is the form that type checkers understand."""
        return cls

else:

    def record(cls):  # noqa: ANN001, ANN201 - typed above
        """Make `cls`, annotated fields with or without defaults, an immutable value class.

        Fields are set by position or by name and take part in ==, hash and repr, in order.
        """
        fields = tuple(cls.__annotations__)
        required = frozenset(field for field in fields if not hasattr(cls, field))
        cls.__init__ = _make_init(cls.__name__, fields, required)
        cls.__setattr__ = cls.__delattr__ = _refuse_change
        cls.__eq__ = _equal
        cls.__hash__ = _hash
        cls.__repr__ = _represent
        cls.__match_args__ = fields
        return cls


def fields(value: object) -> dict[str, object]:
    """Return the fields of a record, in their order."""
    return {field: getattr(value, field) for field in type(value).__annotations__}


def load_dump(indent: int | None) -> Callable[[object], str]:
    """Return a function that makes JSON of records and of what JSON knows itself."""
    import json

    return json.JSONEncoder(indent=indent, default=fields).encode


def _make_init(name: str, fields: tuple[str, ...], required: frozenset[str]) -> Any:
    count, every = len(fields), frozenset(fields)

    def __init__(self: Any, *args: Any, **kwargs: Any) -> None:
        if len(args) == count and not kwargs:  # the usual case, which a batch meets all the time
            self.__dict__.update(zip(fields, args, strict=True))
            return
        if not args and kwargs.keys() == every:
            self.__dict__.update(kwargs)
            return
        values = dict(zip(fields, args, strict=False))
        if len(args) > len(fields) or not values.keys().isdisjoint(kwargs):
            raise TypeError(f"{name}() takes each of {fields} once")
        values.update(kwargs)
        if not required <= values.keys() or not values.keys() <= set(fields):
            raise TypeError(f"{name}() takes {fields}, not {tuple(values)}")
        self.__dict__.update(values)

    return __init__


def _values(self: Any) -> tuple[Any, ...]:
    return tuple(getattr(self, field) for field in self.__match_args__)


def _refuse_change(self: Any, name: str, *_value: Any) -> None:
    raise AttributeError(f"{type(self).__name__} is immutable: cannot change {name!r}")


def _equal(self: Any, other: Any) -> Any:
    return _values(self) == _values(other) if type(self) is type(other) else NotImplemented


def _hash(self: Any) -> int:
    return hash(_values(self))


def _represent(self: Any) -> str:
    parts = (f"{field}={getattr(self, field)!r}" for field in self.__match_args__)
    return f"{type(self).__name__}({', '.join(parts)})"
