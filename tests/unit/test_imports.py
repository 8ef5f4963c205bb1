"""Test side: the command's finder finds what Python's does, and array comes without collections."""

from __future__ import annotations

import importlib.util
import json
import pkgutil
import subprocess
import sys
from pathlib import Path

import build_guest
import pytest

import instar.vmm

NAMES = [module.name for module in pkgutil.walk_packages(instar.vmm.__path__, "instar.vmm.")]


@pytest.fixture
def finder(monkeypatch: pytest.MonkeyPatch) -> instar.vmm._Finder:
    monkeypatch.setattr(sys, "meta_path", [*sys.meta_path])
    instar.vmm.find_by_name()
    found = sys.meta_path[0]
    assert isinstance(found, instar.vmm._Finder)
    return found


@pytest.mark.parametrize("name", NAMES)
def test_the_commands_finder_finds_what_pythons_does(finder: instar.vmm._Finder, name: str) -> None:
    folder = importlib.import_module(name.rpartition(".")[0]).__path__
    path = [str(part) for part in folder]
    found = finder.find_spec(name, path)
    expected = importlib.machinery.PathFinder.find_spec(name, path)
    assert found is not None
    assert expected is not None
    for what in (
        "name",
        "origin",
        "has_location",
        "cached",
        "parent",
        "submodule_search_locations",
    ):
        assert getattr(found, what) == getattr(expected, what)
    assert type(found.loader) is type(expected.loader)


def test_a_module_that_does_not_exist_is_said_not_to(finder: instar.vmm._Finder) -> None:
    assert finder.find_spec("instar.vmm.base.nothing", [str(Path(instar.vmm.__path__[0]))]) is None
    with pytest.raises(ModuleNotFoundError, match=r"instar\.vmm\.base\.nothing"):
        importlib.import_module("instar.vmm.base.nothing")


@pytest.mark.parametrize("name", ["json", "instar", "instar.abi", "instar_vmm.base"])
def test_what_is_not_of_this_package_is_left_to_python(
    finder: instar.vmm._Finder, name: str
) -> None:
    assert finder.find_spec(name, instar.vmm.__path__ if "." in name else None) is None


def run(code: str, *arguments: str) -> dict[str, bool]:
    line = [sys.executable, "-I", "-c", code, *arguments]
    done = subprocess.run(line, capture_output=True, text=True, check=True)
    found: dict[str, bool] = json.loads(done.stderr or done.stdout)
    return found


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
