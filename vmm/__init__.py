"""Host side: the virtual machine monitor. Trusted; every byte from the guest is hostile to it.

docs/architecture.md walks through the modules in the order in which an amend passes them.
"""

from __future__ import annotations

import os
import sys
from _frozen_importlib_external import MAGIC_NUMBER, SourceFileLoader
from marshal import loads

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from importlib.machinery import ModuleSpec
    from types import CodeType

_BYTECODE_MAX = 1 << 16
"""Bytes of bytecode that are read at once; a module that has more is left to Python."""
_PREFIX = __name__.partition(".")[0] + "."


def find_by_name() -> None:
    """Find the modules of this package by their names from here on: for the command, which exits.

    Python's own finder serves any folder: it lists each, and asks for its time before each module.
    Here a.b is b.py, or b/__init__.py, in the folder of a. Where bytecode may be elsewhere than in
    __pycache__, or the package is in an archive, all stays as it is
    (docs/decisions/0040-modules-by-their-names.md).
    """
    elsewhere = sys.pycache_prefix is not None or sys.flags.optimize
    if type(__spec__.loader) is SourceFileLoader and not elsewhere:
        sys.meta_path.insert(0, _Finder(type(__spec__)))
        # All that struct does is to pass on what this has.
        import _struct

        sys.modules.setdefault("struct", _struct)


def hold(*names: str) -> None:
    """Read modules now that are imported, if at all, when the process may open no file any more.

    Names are those within this package. What a module costs besides waits until it is imported
    (docs/decisions/0061-a-refusals-words-are-held.md). What cannot be held is imported now.
    """
    finder = sys.meta_path[0]
    for name in [f"{__name__}.{name}" for name in names]:
        if name not in sys.modules and not (isinstance(finder, _Finder) and finder.hold(name)):
            __import__(name)


class _Finder:
    def __init__(self, spec: type[ModuleSpec]) -> None:
        """Take this type from a module that has it: the module importlib would cost more."""
        self._spec = spec
        self._held: dict[str, ModuleSpec] = {}
        self._ending = f".{sys.implementation.cache_tag}.pyc"

    def find_spec(
        self, name: str, path: Sequence[str] | None, _target: object = None
    ) -> ModuleSpec | None:
        """What Python calls with a module's full name and the folder of the package it is in."""
        if path is None or not name.startswith(_PREFIX):
            return None
        if held := self._held.pop(name, None):
            return held
        folder, stem = path[0], name.rpartition(".")[2]
        place = f"{folder}/{stem}"
        status = _status(f"{place}.py")
        is_package = status is None
        if is_package:
            folder, stem = place, "__init__"
            status = _status(f"{place}/__init__.py")
        if status is None:
            return None  # Python says so
        file, cached = f"{folder}/{stem}.py", f"{folder}/__pycache__/{stem}{self._ending}"
        loader = _Loader(name, file, cached, status)
        spec = self._spec(name, loader, origin=file, is_package=is_package)
        spec.has_location, spec.cached = True, cached
        if spec.submodule_search_locations is not None:
            spec.submodule_search_locations.append(place)
        return spec

    def hold(self, name: str) -> bool:
        """Read a module's bytecode, for find_spec(); whether it is fresh."""
        package = sys.modules.get(name.rpartition(".")[0])
        spec = self.find_spec(name, package.__path__) if package else None
        if spec is None or not isinstance(spec.loader, _Loader) or not spec.loader.hold():
            return False
        self._held[name] = spec
        return True


def _status(file: str) -> os.stat_result | None:
    try:
        return os.stat(file)
    except OSError:
        return None


class _Loader(SourceFileLoader):
    """Python's loader, which reads bytecode that is fresh in three system calls instead of ten."""

    def __init__(self, name: str, path: str, cached: str, status: os.stat_result) -> None:
        super().__init__(name, path)
        self._cached, self._status = cached, status
        self._held: bytes | None = None

    def hold(self) -> bool:
        """Read the bytecode, for get_code(); whether it is fresh."""
        fresh = self._read_fresh()
        self._held = None if fresh is None else bytes(fresh)
        return fresh is not None

    def get_code(self, fullname: str) -> CodeType | None:
        """Return what Python would; it looks itself at all that is not as it usually is."""
        fresh = self._held or self._read_fresh()
        if fresh is None:
            return super().get_code(fullname)
        # Python's loader does the same with these bytes of this file.
        code: CodeType = loads(fresh)  # noqa: S302
        return code

    def _read_fresh(self) -> memoryview | None:
        """The bytecode, if it is there and begins with the words that make it fresh (PEP 552).

        They are Python's number, no flags, and the source's time and size.
        """
        try:
            file = os.open(self._cached, os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            return None
        try:
            size = os.readv(file, (_buffer,))
        finally:
            os.close(file)
        words = (0, int(self._status.st_mtime), self._status.st_size)
        head = b"".join([(word & 0xFFFFFFFF).to_bytes(4, "little") for word in words])
        data = memoryview(_buffer)[:size]
        if data[:16] != MAGIC_NUMBER + head or size == _BYTECODE_MAX:
            return None
        return data[16:]


_buffer = bytearray(_BYTECODE_MAX)  # one for all: to allocate it each time moves the heap's end
