"""Test side: `import instar` offers the public names, and costs nothing until one is used."""

from __future__ import annotations

import ast
import importlib.metadata
import subprocess
import sys
from pathlib import Path

import pytest

import instar


def run(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    return done.stdout.strip()


@pytest.mark.parametrize("name", instar.__all__)
def test_every_public_name_is_there(name: str) -> None:
    value = getattr(instar, name)
    assert value.__name__ == name
    assert value.__module__.startswith("instar.vmm.")


def test_what_type_checkers_read_are_the_same_names_of_the_same_modules() -> None:
    tree = ast.parse(Path(instar.__file__).read_text(encoding="utf-8"))
    (block,) = (node for node in tree.body if isinstance(node, ast.If))
    imports = [node for node in block.body if isinstance(node, ast.ImportFrom)]
    imported = {alias.name: node.module for node in imports for alias in node.names}
    assert imported == {name: f"instar.vmm.{own}" for name, own in instar._MODULES.items()}
    assert sorted(imported) == instar.__all__


def test_the_names_are_what_dir_lists() -> None:
    assert sorted(dir(instar)) == sorted(instar.__all__)


def test_all_errors_are_public() -> None:
    from instar.vmm.base import errors

    defined = {
        name
        for name, value in vars(errors).items()
        if isinstance(value, type) and value.__module__ == errors.__name__
    }
    assert defined <= set(instar.__all__)


def test_all_that_a_result_holds_is_public() -> None:
    from instar.vmm.amend import result

    defined = {
        name
        for name, value in vars(result).items()
        if isinstance(value, type) and value.__module__.startswith("instar")
    }
    assert defined <= set(instar.__all__)


@pytest.mark.parametrize("name", ["nothing", "Amend", "vmm_", "_private"])
def test_another_name_is_an_attribute_error(name: str) -> None:
    with pytest.raises(AttributeError, match=f"^module 'instar' has no attribute '{name}'$"):
        getattr(instar, name)


def test_a_star_import_gives_all_of_them() -> None:
    assert run("from instar import *; print(amend.__name__, InstarError.__name__)") == (
        "amend InstarError"
    )


def test_importing_the_package_imports_no_more_of_it() -> None:
    code = "import sys, instar; print(*(name for name in sys.modules if 'instar' in name))"
    assert [name for name in run(code).split() if name.startswith("instar")] == ["instar"]


def test_an_error_is_had_without_the_sandbox() -> None:
    code = "import sys, instar; instar.GuestFault; print('instar.vmm.machine' in sys.modules)"
    assert run(code) == "False"


def test_a_name_is_the_same_object_each_time() -> None:
    from instar.vmm.base.errors import InstarError

    assert instar.InstarError is instar.InstarError is InstarError


def test_the_version_is_that_of_the_installed_package() -> None:
    assert instar.__version__ == importlib.metadata.version("instar")


def test_python_m_is_the_command() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "instar", "-V"], check=True, capture_output=True, text=True
    )
    assert done.stdout == f"instar {instar.__version__}\n"


def test_the_page_of_the_interface_has_every_public_name() -> None:
    page = (Path(__file__).parents[2] / "docs" / "api.md").read_text(encoding="utf-8")
    shown = {line.removeprefix("::: instar.") for line in page.splitlines() if ":::" in line}
    assert shown == {name for name in instar.__all__ if not name.startswith("_")}
