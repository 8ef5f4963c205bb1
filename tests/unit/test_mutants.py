"""Test side: the script that breaks the code one line at a time changes what it says it does."""

from __future__ import annotations

import importlib.machinery
import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent


@pytest.fixture(scope="module")
def mutants() -> ModuleType:
    loader = importlib.machinery.SourceFileLoader("mutants", str(ROOT / "scripts" / "mutants"))
    spec = importlib.util.spec_from_loader("mutants", loader)
    assert spec
    module = importlib.util.module_from_spec(spec)
    sys.modules["mutants"] = module
    loader.exec_module(module)
    return module


def changed(text: str, name: str, mutants: Any, tmp_path: Path) -> list[str]:
    path = tmp_path / name
    path.write_text(text, "utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mutants, "ROOT", tmp_path)
        found = mutants.of_python(path) if name.endswith(".py") else mutants.of_c(path)
        return [mutant.after for mutant in found]


def test_operators_numbers_and_conditions_of_python_are_changed(
    mutants: ModuleType, tmp_path: Path
) -> None:
    text = "def f(a: int = 1) -> bool:\n    return not (a + 2) < 3 and True\n"
    found = changed(text, "a.py", mutants, tmp_path)
    assert sorted(found) == sorted(
        (
            "def f(a: int = 2) -> bool:",
            "return (a + 2) < 3 and True",
            "return not (a - 2) < 3 and True",
            "return not (a + 3) < 3 and True",
            "return not (a + 2) <= 3 and True",
            "return not (a + 2) < 4 and True",
            "return not (a + 2) < 3 or True",
            "return not (a + 2) < 3 and False",
        )
    )


def test_text_annotations_and_imports_for_type_checkers_stay(
    mutants: ModuleType, tmp_path: Path
) -> None:
    text = 'if TYPE_CHECKING:\n    A = 1\nx: Literal[1]\ny = f"{1}"\nassert 1\n"1 < 2"\n'
    assert not changed(text, "a.py", mutants, tmp_path)


def test_comments_text_and_directives_of_c_stay(mutants: ModuleType, tmp_path: Path) -> None:
    text = '#define A 1\n/* 1 <\n 2 */\nint f(int a) { return a < 2 ? g("1 < 2") : 0; }\n'
    assert changed(text, "a.c", mutants, tmp_path) == [
        'int f(int a) { return a <= 2 ? g("1 < 2") : 0; }',
        'int f(int a) { return a < 3 ? g("1 < 2") : 0; }',
    ]


def test_every_mutant_of_the_hosts_code_is_python(mutants: ModuleType) -> None:
    found = [mutant for mutant in mutants.all_mutants() if mutant.path.endswith(".py")]
    assert len(found) > 1000
    for mutant in found[::40]:
        lines = (ROOT / mutant.path).read_text("utf-8").splitlines()
        old = lines[mutant.line - 1]
        assert old.strip() == mutant.before != mutant.after
        lines[mutant.line - 1] = old[: len(old) - len(old.lstrip())] + mutant.after
        compile("\n".join(lines), mutant.path, "exec")


def test_mutants_listed_as_equivalent_are_mutants_of_todays_code(mutants: ModuleType) -> None:
    known = mutants.read_equivalent(mutants.EQUIVALENT.read_text("utf-8"))
    there = {(mutant.path, mutant.before, mutant.after) for mutant in mutants.all_mutants()}
    assert known <= there


def test_the_choice_depends_on_the_seed_alone(mutants: ModuleType) -> None:
    first = mutants.choose("vmm/contract", 20, 5, set())
    assert first == mutants.choose("vmm/contract", 20, 5, set())
    assert first != mutants.choose("vmm/contract", 20, 6, set())
    assert first[0] not in mutants.choose(
        "vmm/contract", 1 << 20, 5, {(first[0].path, first[0].before, first[0].after)}
    )
