"""Test side: the command imports what Python would, and array comes without collections."""

from __future__ import annotations

import importlib.util
import json
import marshal
import os
import pkgutil
import py_compile
import subprocess
import sys
from collections.abc import Sequence
from importlib.machinery import SourceFileLoader
from pathlib import Path
from typing import Any

import build_guest
import pytest

import instar.vmm

NAMES = [module.name for module in pkgutil.walk_packages(instar.vmm.__path__, "instar.vmm.")]


@pytest.mark.parametrize("name", NAMES)
def test_the_command_finds_what_python_does(name: str) -> None:
    parent = importlib.import_module(name.rpartition(".")[0])
    expected = importlib.machinery.PathFinder.find_spec(name, [str(p) for p in parent.__path__])
    assert expected is not None
    assert expected.origin is not None
    assert isinstance(expected.loader, SourceFileLoader)
    py_compile.compile(expected.origin, doraise=True)
    found = instar.vmm._find(name, parent)
    assert found is not None
    file, is_package, code = found
    assert file == expected.origin
    assert is_package == expected.loader.is_package(name)
    assert marshal.loads(code) == expected.loader.get_code(name)  # noqa: S302 - it is ours


ONCE = """
import collections, json, sys
import instar.vmm
instar.vmm.import_by_name()
ran = collections.Counter()
def count(event, arguments):
    if event == "exec":
        ran[arguments[0].co_filename] += 1
sys.addaudithook(count)
WRONG = []
for name in NAMES:
    folder, _, stem = name.rpartition(".")
    module = getattr(__import__(folder, fromlist=(stem,)), stem)
    same = module is sys.modules[name] and module.__name__ == name
    package = name if hasattr(module, "__path__") else folder
    if not (same and module.__package__ == package and ran[module.__file__] == 1):
        WRONG.append(name)
print(json.dumps(WRONG))
"""


@pytest.mark.parametrize("order", [1, -1])
def test_the_command_runs_each_module_once_whatever_comes_first(order: int) -> None:
    names = [name for name in NAMES if not name.endswith("__main__")][::order]
    assert run(ONCE.replace("NAMES", repr(names))) == []


def test_a_module_or_name_that_does_not_exist_is_said_not_to() -> None:
    for line in (
        *("from instar.vmm.base.nothing import x", "from instar.vmm.base import nothing"),
        *("from instar.vmm.base.errors import nothing", "import instar.vmm.nothing"),
    ):
        code = f"""
import json
from instar.vmm import import_by_name
import_by_name()
try:
    {line}
except ImportError as error:
    print(json.dumps(str(error)))
"""
        assert "nothing" in run(code)


FAILS = """
import instar.vmm, json, sys
instar.vmm.import_by_name()
instar.vmm.__path__ = [FOLDER]
found = []
for _ in range(2):
    try:
        from instar.vmm.made import VALUE
    except ZeroDivisionError:
        found.append("instar.vmm.made" in sys.modules)
print(json.dumps(found))
"""


def test_a_module_that_fails_is_not_there_afterwards(module: Path) -> None:
    module.write_text("VALUE = 1 // 0\n")
    py_compile.compile(str(module), doraise=True)
    assert run(FAILS.replace("FOLDER", repr(str(module.parent)))) == [False, False]


def test_what_is_not_of_this_package_is_left_to_python(monkeypatch: pytest.MonkeyPatch) -> None:
    left = []
    monkeypatch.setattr(instar.vmm, "_python_import", lambda name, *_: left.append(name))
    instar.vmm._import("json", {}, {}, ("dumps",))
    instar.vmm._import("instar.vmm")
    instar.vmm._import("decoder", {"__package__": "json"}, {}, ("JSONDecoder",), 1)
    assert left == ["json", "instar.vmm", "decoder"]


@pytest.fixture
def module(tmp_path: Path) -> Path:
    """A module with fresh bytecode, which the command finds where its package is this folder."""
    source = tmp_path / "made.py"
    source.write_text("VALUE = 1\n")
    py_compile.compile(str(source), doraise=True)
    return source


def value_of(module: Path) -> object:
    """What the command imports from a module; where its bytecode is not fresh, Python does."""
    name = "instar.vmm.made"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(instar.vmm, "__path__", [str(module.parent)])
        importlib.invalidate_caches()
        value: object = instar.vmm._import(name, fromlist=("VALUE",)).VALUE
        del sys.modules[name], instar.vmm.made  # type: ignore[attr-defined]
    return value


def bytecode_of(module: Path) -> Path:
    return Path(importlib.util.cache_from_source(str(module)))


def put(value: int, module: Path, mode: py_compile.PycInvalidationMode | None = None) -> None:
    """Have the bytecode say something else than the source, with the source's time and size."""
    status, text = module.stat(), module.read_text()
    module.write_text(f"VALUE = {value}\n")
    os.utime(module, ns=(status.st_atime_ns, status.st_mtime_ns))
    py_compile.compile(str(module), doraise=True, invalidation_mode=mode)
    module.write_text(text)
    os.utime(module, ns=(status.st_atime_ns, status.st_mtime_ns))


def test_fresh_bytecode_is_what_runs(module: Path) -> None:
    put(2, module)
    assert value_of(module) == 2


def test_bytecode_of_another_time_size_or_python_is_not_run(
    module: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    put(2, module)
    good, times = bytecode_of(module).read_bytes(), module.stat()
    os.utime(module, ns=(times.st_atime_ns, times.st_mtime_ns + 10**9))
    assert value_of(module) == 1
    os.utime(module, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert value_of(module) == 2
    for at in (0, 8, 12):  # Python's number, the time, the size
        bytecode_of(module).write_bytes(good[:at] + bytes([good[at] ^ 1]) + good[at + 1 :])
        assert value_of(module) == 1
    for cut in (b"", good[:15]):
        bytecode_of(module).write_bytes(cut)
        assert value_of(module) == 1
    bytecode_of(module).unlink()
    assert value_of(module) == 1


def test_bytecode_that_names_a_hash_is_left_to_python(module: Path) -> None:
    put(2, module, py_compile.PycInvalidationMode.CHECKED_HASH)
    assert value_of(module) == 1
    put(3, module, py_compile.PycInvalidationMode.UNCHECKED_HASH)
    assert value_of(module) == 3


def test_bytecode_larger_than_what_is_read_at_once_is_left_to_python(module: Path) -> None:
    module.write_text(f"VALUE = 1\nTEXT = {'x' * instar.vmm._BYTECODE_MAX!r}\n")
    py_compile.compile(str(module), doraise=True)
    assert value_of(module) == 1


# -B: Python would make the folder, and lay bytecode into it.
@pytest.mark.parametrize("flags", [["-O"], ["-B", "-X", "pycache_prefix=/nonexistent"]])
def test_where_bytecode_lies_elsewhere_all_is_left_to_python(flags: list[str]) -> None:
    code = """
import builtins, instar.vmm, json
instar.vmm.import_by_name()
print(json.dumps(builtins.__import__.__module__ == "instar.vmm"))
"""
    assert run(code, python_flags=flags) is False
    assert run(code) is True


HELD = """
import json, os, sys
import instar.vmm
FIND
import instar.abi, instar.vmm.base.errors, instar.vmm.base.escape
NAMES = "base.refusals", "base.reasons", "base.findings"
instar.vmm.hold(*NAMES)
ran = any(f"instar.vmm.{name}" in sys.modules for name in NAMES)
def refuse(*_arguments, **_keywords):
    raise OSError
os.open = os.stat = refuse
import importlib._bootstrap_external as external
external._os.open = external._os.stat = refuse
from instar.vmm.base.refusals import work_limit
print(json.dumps({"ran": ran, "name": work_limit(3).name}))
"""


@pytest.mark.parametrize(("find", "ran"), [("instar.vmm.import_by_name()", False), ("", True)])
def test_a_module_that_is_held_can_be_imported_where_no_file_can_be_opened(
    find: str, ran: bool
) -> None:
    for name in ("refusals", "reasons"):
        spec = importlib.util.find_spec(f"instar.vmm.base.{name}")
        assert spec is not None
        assert spec.origin is not None
        py_compile.compile(spec.origin, doraise=True)
    assert run(HELD.replace("FIND", find)) == {"ran": ran, "name": "work_limit"}


def run(code: str, python_flags: Sequence[str] = ()) -> Any:
    """What a Python of its own prints as JSON."""
    line = [sys.executable, "-I", *python_flags, "-c", code]
    done = subprocess.run(line, capture_output=True, text=True, check=True)
    return json.loads(done.stderr or done.stdout)


SCRIPT = """
import json, os, sys
def leave(status):
    folders = [folder for folder in sys.path_importer_cache if "/vmm" in folder]
    told = {"listed": bool(folders), "imported": "instar.vmm.cli" in sys.modules}
    os.write(2, json.dumps(told).encode())
    original(status)
original, os._exit = os._exit, leave
sys.argv = ["instar", "--version"]
exec(open(SCRIPT).read())
"""


def test_the_script_lists_no_folder_of_the_package() -> None:
    script = build_guest.ROOT / "bin" / "instar"
    found = run(SCRIPT.replace("SCRIPT", repr(str(script))))
    assert found == {"listed": False, "imported": True}


ARRAY = """
import json, sys
BEFORE
for name in ("collections", "collections.abc"):
    sys.modules.pop(name, None)
from instar.vmm.base.arrays import array
loaded = "collections" in sys.modules
import collections.abc
print(json.dumps({
    "loaded": loaded,
    "real": collections.__name__ == "collections" and hasattr(collections, "deque"),
    "registered": issubclass(array, collections.abc.MutableSequence),
}))
"""


@pytest.mark.parametrize(("before", "loaded"), [("", False), ("import threading", True)])
def test_array_is_imported_without_collections_where_no_thread_could_see_it(
    before: str, loaded: bool
) -> None:
    found = run(ARRAY.replace("BEFORE", before))
    assert found == {"loaded": loaded, "real": True, "registered": True}
