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
    from collections.abc import Mapping, Sequence
    from types import ModuleType
    from typing import Any
else:
    ModuleType = type(sys)  # the module types would be one more

_BYTECODE_MAX = 1 << 16
"""Bytes of bytecode that are read at once; a module that has more is left to Python."""
_PREFIX = __name__.partition(".")[0] + "."
_ENDING = f".{sys.implementation.cache_tag}.pyc"

_held: dict[str, tuple[str, bool, bytes]] = {}
"""Of modules that hold() has read, what _find() says."""


def import_by_name() -> None:
    """Import the modules of this package by their names from here on: for the command, which exits.

    Python's own machinery serves any folder, any kind of file and any number of threads. Here a.b
    is b.py, or b/__init__.py, in the folder of a, and there is one thread. Where bytecode may be
    elsewhere than in __pycache__, or the package is in an archive, all stays as it is
    (docs/decisions/0040-modules-by-their-names.md).
    """
    elsewhere = sys.pycache_prefix is not None or sys.flags.optimize
    if type(__spec__.loader) is SourceFileLoader and not elsewhere:
        _builtins["__import__"] = _import
        # All that struct does is to pass on what this has.
        import _struct

        sys.modules.setdefault("struct", _struct)


def hold(*names: str) -> None:
    """Read modules now that are imported, if at all, when the process may open no file any more.

    Names are those within this package. What a module costs besides waits until it is imported
    (docs/decisions/0061-a-refusals-words-are-held.md). What cannot be held is imported now.
    """
    for name in [f"{__name__}.{name}" for name in names]:
        if name in sys.modules or name in _held:
            continue
        above = sys.modules.get(name.rpartition(".")[0])
        found = _find(name, above) if above and _builtins["__import__"] is _import else None
        if found is None:
            __import__(name)
        else:
            file, is_package, code = found
            _held[name] = file, is_package, bytes(code)


def _import(
    name: str,
    globals: Mapping[str, Any] | None = None,  # noqa: A002 - as Python calls it
    locals: Mapping[str, Any] | None = None,  # noqa: A002 - as Python calls it
    fromlist: Sequence[str] | None = (),
    level: int = 0,
) -> ModuleType:
    """What an import statement calls (the function __import__); most are left to Python."""
    full = name
    if level:
        package = (globals or {}).get("__package__") or ""
        base = package.rsplit(".", level - 1)[0] if level > 1 else package
        full = f"{base}.{name}" if name else base
    if fromlist and full.startswith(_PREFIX):
        module = sys.modules.get(full) or _load(full)
        if module is not None:
            known = module.__dict__
            # A part is a name of the module, or a module in it; of one that is neither Python says
            # so.
            if known.keys() >= {*fromlist} or all(
                part in known or _load(f"{full}.{part}") for part in fromlist
            ):
                return module
    left: ModuleType = _python_import(name, globals, locals, fromlist, level)
    return left


def _load(name: str) -> ModuleType | None:
    """Import a module, and those that it is in; None if it is left to Python."""
    above, _, stem = name.rpartition(".")
    parent = sys.modules.get(above) or _load(above)
    if parent is None or name in sys.modules:  # what it is in may have imported it
        return sys.modules.get(name)
    found = _held.pop(name, None) or _find(name, parent)
    if found is None:
        return None
    file, is_package, code = found
    module = ModuleType(name)
    scope = module.__dict__
    scope["__file__"], scope["__package__"] = file, name if is_package else above
    if is_package:
        scope["__path__"] = [file.rpartition("/")[0]]
    sys.modules[name] = module
    try:
        # Python's loader does the same with these bytes of this file.
        exec(loads(code), scope)  # noqa: S102, S302
    except BaseException:
        del sys.modules[name]
        raise
    setattr(parent, stem, module)
    return module


def _find(name: str, parent: ModuleType) -> tuple[str, bool, bytes | memoryview] | None:
    """A module's file, whether it is a package, and its bytecode until the next call.

    None if one is not as it usually is: Python looks itself.
    """
    folders = parent.__dict__.get("__path__")
    if folders is None or not name.startswith(_PREFIX):
        return None
    folder, stem = folders[0], name.rpartition(".")[2]
    status = _status(f"{folder}/{stem}.py")
    is_package = status is None
    if is_package:
        folder, stem = f"{folder}/{stem}", "__init__"
        status = _status(f"{folder}/__init__.py")
    if status is None:
        return None
    code = _read_fresh(f"{folder}/__pycache__/{stem}{_ENDING}", status)
    return None if code is None else (f"{folder}/{stem}.py", is_package, code)


def _status(file: str) -> os.stat_result | None:
    try:
        return os.stat(file)
    except OSError:
        return None


def _read_fresh(cached: str, status: os.stat_result) -> memoryview | None:
    """The bytecode, if it is there and begins with the words that make it fresh (PEP 552).

    They are Python's number, no flags, and the source's time and size.
    """
    try:
        file = os.open(cached, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        size = os.readv(file, (_buffer,))
    finally:
        os.close(file)
    words = (0, int(status.st_mtime), status.st_size)
    head = b"".join([(word & 0xFFFFFFFF).to_bytes(4, "little") for word in words])
    data = memoryview(_buffer)[:size]
    if data[:16] != MAGIC_NUMBER + head or size == _BYTECODE_MAX:
        return None
    return data[16:]


_buffer = bytearray(_BYTECODE_MAX)  # one for all: to allocate it each time moves the heap's end
# What modules other than the first one have as __builtins__ is a dict in CPython.
_builtins: dict[str, Any] = __builtins__  # type: ignore[assignment]
_python_import = _builtins["__import__"]
