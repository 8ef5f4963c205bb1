"""Build time: an extension of griffe: functions that spell out their keywords as they are made.

griffe reads the sources, where such a function has `**keywords`; what a program gets, and help()
shows, is taken from the function itself (vmm/request/keywords.py).
"""

from __future__ import annotations

import importlib
import inspect
import sys
from pathlib import Path
from typing import Any

from griffe import Docstring, Extension, Function, Parameter, ParameterKind, Parameters

sys.path.append(str(Path(__file__).resolve().parent.parent / ".editable"))


class Keywords(Extension):  # type: ignore[misc]  # untyped here
    """Put the parameters and the docstring that a function has in the place of those it shows."""

    def on_function(self, *, func: Function, **_others: Any) -> None:
        """Look at one function."""
        if not any(str(decorator.value) == "takes_keywords" for decorator in func.decorators):
            return
        owner: Any = importlib.import_module(func.module.path)
        for name in func.path.removeprefix(f"{func.module.path}.").split("."):
            owner = getattr(owner, name)
        kinds = {kind.value: kind for kind in ParameterKind}
        written = {parameter.name: parameter for parameter in func.parameters}
        func.parameters = Parameters(
            *(
                written.get(name)
                or Parameter(
                    name,
                    annotation=inspect.formatannotation(parameter.annotation),
                    kind=kinds[parameter.kind.description],
                    default=repr(parameter.default),
                )
                for name, parameter in inspect.signature(owner).parameters.items()
            )
        )
        func.docstring = Docstring(inspect.getdoc(owner) or "", parent=func, parser="google")
