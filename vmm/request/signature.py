"""Host side: the keywords of a request, spelled out in the signatures of the public functions.

inspect.signature(), help() and editors read them. The command calls none of these functions, and
does not import this.
"""

from __future__ import annotations

from . import options
from .keywords import CONDUCT, DEFAULTS
from .options import OPTIONS, PERMISSIONS, Keywords

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, TypeVar

    F = TypeVar("F", bound=Callable[..., Any])

if TYPE_CHECKING:

    def takes_keywords(function: F) -> F:
        """See below; type checkers read what it is given."""
        return function

else:

    def takes_keywords(function):  # noqa: ANN001, ANN201 - typed above
        """Spell out the keywords of a request in a function that takes them as `**keywords`.

        A Signature would have to be made with the module inspect, which costs milliseconds. What is
        made here is a function with these parameters, as namedtuple and dataclasses do it.
        """
        code, own = function.__code__, function.__kwdefaults__ or {}
        positional = code.co_varnames[: code.co_argcount]
        values = {**DEFAULTS, **own}
        head = ", ".join((*positional, "*", *(f"{name}=values[{name!r}]" for name in values)))
        passed = ", ".join((*positional, *(f"{name}={name}" for name in values)))
        made = (
            f"def make(function, values):\n"
            f"    def {function.__name__}({head}): return function({passed})\n"
            f"    return {function.__name__}\n"
        )
        scope = {}
        # In the function's own module, where typing.get_type_hints() looks its names up.
        exec(made, function.__globals__, scope)  # noqa: S102 - from the table of options
        spelled = scope["make"](function, values)
        spelled.__module__, spelled.__qualname__ = function.__module__, function.__qualname__
        if function.__doc__:
            before = function.__doc__.partition("{keywords}")[0]
            # As far in as the first one: a method's are further in, those of Python 3.13 are not.
            indent = before[before.rfind("\n") :]
            spelled.__doc__ = function.__doc__.replace("{keywords}", indent.join(_describe()))
        hints = function.__annotations__.items()
        names = vars(options)
        spelled.__annotations__ = {
            **{name: hint for name, hint in hints if name in positional},
            **{name: eval(Keywords.__annotations__[name], names) for name in DEFAULTS},  # noqa: S307
            **{name: hint for name, hint in hints if name in own or name == "return"},
        }
        return spelled


def _describe() -> list[str]:
    """The keywords as a docstring has them below "Args:", each in a line."""
    texts = {
        **{option.key: f"{option.keyword}; None leaves it" for option in OPTIONS},
        "keys": "an AddKey or EraseKey: what is to become of the keyslots of an encrypted image; "
        "None leaves them. Needs the package cryptography, which the extra luks brings",
        **{name: text for name, (_, text) in CONDUCT.items()},
        **{permission.key: permission.keyword for permission in PERMISSIONS},
    }
    return [f"{name}: {text}." for name, text in texts.items()]
