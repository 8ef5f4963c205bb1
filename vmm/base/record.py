"""Host side: frozen records, for a command that cannot afford to import dataclasses.

`@record` gives a class what `@dataclass(frozen=True)` would. The standard module imports inspect
and re, which costs the command more than its whole amend does. What dataclasses and inspect look
for in a class is made when they do (docs/decisions/).
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
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
        defaults = {name: getattr(cls, name, _NONE) for name in cls.__annotations__}
        cls.__init__ = _make_init(cls, defaults)
        cls.__setattr__ = cls.__delattr__ = _refuse_change
        cls.__eq__ = _equal
        cls.__hash__ = _hash
        cls.__repr__ = _represent
        cls.__replace__ = _replace
        cls.__match_args__ = tuple(defaults)
        cls.__dataclass_fields__, cls.__dataclass_params__, cls.__signature__ = _LAZY
        return cls


_NONE = object()  # the default of a field that has none
_MANY = 64  # records of a class, after which its __init__ is compiled


if TYPE_CHECKING:
    K = TypeVar("K")
    V = TypeVar("V")

    class FrozenDict(dict[K, V]):
        """See below."""

else:

    class FrozenDict(dict):
        """A dict that does not change, so that a record can hold it and be hashed."""

        def __hash__(self):  # noqa: ANN204 - that of object
            return hash(frozenset(self.items()))

        def __reduce__(self):  # noqa: ANN204 - that of object
            return FrozenDict, (dict(self),)

        def _refuse(self, *_args, **_kwargs):  # noqa: ANN002, ANN003, ANN202
            raise TypeError("a FrozenDict does not change")

        __setitem__ = __delitem__ = __ior__ = _refuse
        clear = pop = popitem = setdefault = update = _refuse


def to_dict(value: Any) -> Any:
    """Return a record as JSON has it: dicts, lists and plain values, fields in their order."""
    if isinstance(value, tuple | list):
        return [to_dict(part) for part in value]
    if isinstance(value, dict):
        return {key: to_dict(part) for key, part in value.items()}
    return to_dict(vars(value)) if hasattr(type(value), "__match_args__") else value


def _make_init(cls: Any, defaults: dict[str, Any]) -> Any:
    """What makes a record: its dict has all fields, in their order, whatever they are given by."""
    fields, count, every = tuple(defaults), len(defaults), frozenset(defaults)
    required = frozenset(field for field in fields if defaults[field] is _NONE)
    made = 0

    def __init__(self: Any, *args: Any, **kwargs: Any) -> None:
        nonlocal made
        made += 1
        if made == _MANY:
            cls.__init__ = _compile_init(cls, defaults)
        values = self.__dict__
        if len(args) == count and not kwargs:
            values.update(zip(fields, args))  # noqa: B905 - as many as there are
            return
        values.update(defaults)
        if not args and kwargs.keys() == every:
            values.update(kwargs)
            return
        given = dict(zip(fields, args, strict=False))
        if len(args) > count or not given.keys().isdisjoint(kwargs):
            raise TypeError(f"{cls.__name__}() takes each of {fields} once")
        given.update(kwargs)
        if not required <= given.keys() or not given.keys() <= every:
            raise TypeError(f"{cls.__name__}() takes {fields}, not {tuple(given)}")
        values.update(given)

    return __init__


def _compile_init(cls: Any, defaults: dict[str, Any]) -> Any:
    """The same for a class of many records: twice as fast, and worth 100 of them to compile."""
    # Its own two names begin with an underscore, as those of no field do.
    lines = [f"def __init__(_self, {', '.join(defaults)}):", " _own = _self.__dict__"]
    lines += [f" _own[{field!r}] = {field}" for field in defaults]
    scope: dict[str, Any] = {}
    exec("\n".join(lines), scope)  # noqa: S102 - of names of this package, as dataclasses does it
    init = scope["__init__"]
    init.__qualname__ = f"{cls.__qualname__}.__init__"  # which errors name
    init.__defaults__ = tuple(value for value in defaults.values() if value is not _NONE)
    return init


class _Lazy:
    """An attribute of a class that twin.py makes when it is asked for, and then stays."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __get__(self, _instance: object, owner: type) -> object:
        from . import twin

        value = twin.MAKERS[self._name](owner)
        setattr(owner, self._name, value)
        return value


def _values(self: Any) -> tuple[Any, ...]:
    return tuple(vars(self).values())


def _refuse_change(self: Any, name: str, *_value: Any) -> None:
    raise AttributeError(f"{type(self).__name__} is immutable: cannot change {name!r}")


def _equal(self: Any, other: Any) -> Any:
    return _values(self) == _values(other) if type(self) is type(other) else NotImplemented


def _hash(self: Any) -> int:
    return hash(_values(self))


def _replace(self: Any, /, **changes: Any) -> Any:
    """What copy.replace() calls."""
    return type(self)(**{**self.__dict__, **changes})


def _represent(self: Any) -> str:
    parts = (f"{field}={getattr(self, field)!r}" for field in self.__match_args__)
    return f"{type(self).__name__}({', '.join(parts)})"


_LAZY = tuple(
    [_Lazy(name) for name in ("__dataclass_fields__", "__dataclass_params__", "__signature__")]
)
