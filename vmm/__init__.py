"""Host side: the virtual machine monitor. Trusted; every byte from the guest is hostile to it.

docs/architecture.md walks through the modules in the order in which an amend passes them.
"""

from __future__ import annotations

import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from importlib.machinery import ModuleSpec


def find_by_name() -> None:
    """Find the modules of this package by their names from here on: for the command, which exits.

    Python's own finder serves any folder: it lists each, and asks for its time before each module.
    Here a.b is b.py, or b/__init__.py, in the folder of a. How a module is then loaded, from its
    bytecode while that is fresh, stays as it is (docs/decisions/0040-modules-by-their-names.md).
    """
    loader = type(__spec__.loader)
    if loader.__name__ == "SourceFileLoader":  # else the package lies in an archive, or is frozen
        sys.meta_path.insert(0, _Finder(type(__spec__), loader))


class _Finder:
    def __init__(self, spec: type[ModuleSpec], loader: type) -> None:
        """Take these types from a module that has them: the module importlib would cost more."""
        self._spec, self._loader = spec, loader

    def find_spec(
        self, name: str, path: Sequence[str] | None, _target: object = None
    ) -> ModuleSpec | None:
        """What Python calls with a module's full name and the folder of the package it is in."""
        if path is None or not name.startswith(f"{__name__}."):
            return None
        place = f"{path[0]}/{name.rpartition('.')[2]}"
        for file in (f"{place}.py", f"{place}/__init__.py"):
            if _exists(file):
                break
        else:
            return None  # Python says so
        is_package = file != f"{place}.py"
        spec = self._spec(name, self._loader(name, file), origin=file, is_package=is_package)
        spec.has_location = True
        if spec.submodule_search_locations is not None:
            spec.submodule_search_locations.append(place)
        return spec


def _exists(file: str) -> bool:
    try:
        os.stat(file)
    except OSError:
        return False
    return True
