"""Test side: the script that breaks the code one line at a time changes what it says it does."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest

from tests.mutants import making
from tests.mutants.making import Mutant
from tests.mutants.record import GUEST_RUNS, Record
from tests.support.project import ROOT


def changed(text: str, name: str, tmp_path: Path) -> list[str]:
    path = tmp_path / name
    path.write_text(text, "utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(making, "ROOT", tmp_path)
        found = making.of_python(path) if name.endswith(".py") else making.of_c(path)
        return [mutant.after for mutant in found]


def test_operators_numbers_and_conditions_of_python_are_changed(tmp_path: Path) -> None:
    text = "def f(a: int = 1) -> bool:\n    return not (a + 2) < 3 and True\n"
    found = changed(text, "a.py", tmp_path)
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


def test_text_annotations_and_imports_for_type_checkers_stay(tmp_path: Path) -> None:
    text = 'if TYPE_CHECKING:\n    A = 1\nx: Literal[1]\ny = f"{1}"\nassert 1\n"1 < 2"\n'
    assert not changed(text, "a.py", tmp_path)
    inside = "def f() -> int | None:\n    x: int | None = None\n    assert 1\n    import a\n"
    assert not changed(inside, "a.py", tmp_path)


def test_comments_text_and_directives_of_c_stay(tmp_path: Path) -> None:
    text = '#define A 1\n/* 1 <\n 2 */\nint f(int a) { return a < 2 ? g("1 < 2") : 0; }\n'
    assert changed(text, "a.c", tmp_path) == [
        'int f(int a) { return a <= 2 ? g("1 < 2") : 0; }',
        'int f(int a) { return a < 3 ? g("1 < 2") : 0; }',
    ]


def test_every_mutant_of_the_hosts_code_is_python() -> None:
    found = [mutant for mutant in making.all_mutants() if mutant.path.endswith(".py")]
    assert len(found) > 1000
    for mutant in found[::40]:
        lines = (ROOT / mutant.path).read_text("utf-8").splitlines()
        old = lines[mutant.line - 1]
        assert old.strip() == mutant.before != mutant.after
        lines[mutant.line - 1] = old[: len(old) - len(old.lstrip())] + mutant.after
        compile("\n".join(lines), mutant.path, "exec")


def test_mutants_listed_as_equivalent_are_mutants_of_todays_code() -> None:
    known = making.read_equivalent(making.EQUIVALENT.read_text("utf-8"))
    there = {(mutant.path, mutant.before, mutant.after) for mutant in making.all_mutants()}
    assert known <= there


def test_the_choice_depends_on_the_seed_alone() -> None:
    first = making.choose("vmm/contract", 20, 5, set())
    assert first == making.choose("vmm/contract", 20, 5, set())
    assert first != making.choose("vmm/contract", 20, 6, set())
    assert first[0] not in making.choose(
        "vmm/contract", 1 << 20, 5, {(first[0].path, first[0].before, first[0].after)}
    )


def test_the_choice_hardly_changes_with_other_code(monkeypatch: pytest.MonkeyPatch) -> None:
    first = making.choose("vmm/contract", 20, 5, set())
    others = [mutant for mutant in making.all_mutants() if mutant.path != first[0].path]
    monkeypatch.setattr(making, "all_mutants", lambda: others)
    kept = [mutant for mutant in first if mutant.path != first[0].path]
    assert making.choose("vmm/contract", 20, 5, set())[: len(kept)] == kept


def test_those_that_lived_in_a_run_are_tried_again_wherever_their_lines_are_now() -> None:
    one, two, three = making.choose("vmm/contract", 3, 5, set())
    moved = Mutant(one.path, one.line + 7, one.before, one.after)
    gone = Mutant(one.path, 1, "no such line", "nor this one")
    output = "".join(
        f"{number} of 9, 3 s: {mutant}\n  {word}\n"
        for number, (mutant, word) in enumerate(
            ((two, "killed by x"), (moved, "LIVES"), (gone, "LIVES"), (three, "LIVES"))
        )
    )
    assert {*making.lived(output, set())} == {one, three}
    assert making.lived(output, {(one.path, one.before, one.after)}) == [three]


CODE = "LIMIT = 3\n\n\ndef f(a):\n    return a + 1\n\n\ndef g(a):\n    return a < LIMIT\n"
QUICK, SLOW, ODD = "checks/unit/test_a.py::quick", "checks/unit/test_a.py::slow", "checks/b.py::c"


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A small one, with a record of what its tests run."""
    for name, text in (("code/a.py", CODE), (GUEST_RUNS, "x\n"), ("c/a.c", "f();\n" * 9)):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text, "utf-8")
    (tmp_path / "checks" / "unit").mkdir(parents=True)
    (tmp_path / "checks" / "unit" / "test_a.py").write_text("quick, slow", "utf-8")
    (tmp_path / "checks" / "b.py").write_text("import LIMIT", "utf-8")
    record = {
        "seconds": {QUICK: 0.1, SLOW: 2.0, ODD: 1.0, "checks/gone.py::d": 0.0},
        "spawning": {ODD},
        "lines": {
            "code/a.py": {5: {QUICK, SLOW}, 9: {SLOW, "checks/gone.py::d"}},
            "c/a.c": {2: {SLOW}, 6: {QUICK}},
            GUEST_RUNS: {1: {ODD}},
        },
        "texts": {"code/a.py": CODE, "c/a.c": "f();\n" * 9, GUEST_RUNS: "x\n"},
        "tests": {"checks/unit/test_a.py": "quick, slow", "checks/b.py": "", "checks/gone.py": ""},
    }
    (tmp_path / "record").write_bytes(pickle.dumps(record))
    return tmp_path


def read(tree: Path) -> Record:
    return Record(tree, [tree / "record"])


def test_a_mutant_is_tried_by_what_runs_its_line_the_fastest_first(tree: Path) -> None:
    record = read(tree)
    assert record.tests(Mutant("code/a.py", 5, "", "")) == [QUICK, SLOW]
    assert record.tests(Mutant("code/a.py", 9, "", "")) == [SLOW]
    assert record.within([QUICK, SLOW], 1.0) == [QUICK]
    assert record.nearest("code/z.py", [QUICK, SLOW, ODD], 1) == [QUICK, SLOW]


def test_tests_that_name_the_module_come_before_others(tree: Path) -> None:
    assert read(tree).nearest("code/slow.py", [SLOW, ODD], 1) == [SLOW]
    assert read(tree).nearest("code/z.py", [SLOW, ODD], 1) == [ODD]


def test_tests_that_are_named_after_the_module_come_before_all_others(tree: Path) -> None:
    assert read(tree).nearest("code/a.py", [ODD, QUICK], 1) == [QUICK]
    assert read(tree).nearest("code/a.py", [ODD, QUICK], 2) == [QUICK, ODD]
    assert read(tree).nearest("code/b.py", [ODD, QUICK], 1) == [ODD]


def test_what_runs_elsewhere_is_tried_by_its_own_folder_and_by_who_names_it_first(
    tree: Path,
) -> None:
    record = read(tree)
    record.spawning = {QUICK, SLOW, ODD}
    for path in ("code/slow.py", "code/unit/z.py"):
        assert record.others(Mutant(path, 1, "", ""), []) == [QUICK, SLOW, ODD]
    assert record.others(Mutant("code/z.py", 1, "", ""), []) == [QUICK, ODD, SLOW]


def test_lines_that_have_moved_since_the_record_are_found(tree: Path) -> None:
    (tree / "code" / "a.py").write_text("# new\n\n" + CODE, "utf-8")
    assert read(tree).tests(Mutant("code/a.py", 7, "", "")) == [QUICK, SLOW]
    assert read(tree).tests(Mutant("code/a.py", 11, "", "")) == [SLOW]


def test_a_constant_is_tried_by_what_uses_its_name(tree: Path) -> None:
    assert read(tree).tests(Mutant("code/a.py", 1, "LIMIT = 3", "LIMIT = 4")) == [ODD, SLOW]


def test_a_constant_is_tried_by_what_runs_a_function_that_has_it_as_a_default(tree: Path) -> None:
    code = CODE.replace("def f(a):", "def f(a, most=LIMIT):")
    record = pickle.loads((tree / "record").read_bytes())  # noqa: S301 - our own
    record["texts"]["code/a.py"] = code
    record["lines"]["code/a.py"][4] = {ODD}
    (tree / "code" / "a.py").write_text(code, "utf-8")
    (tree / "record").write_bytes(pickle.dumps(record))
    found = read(tree).tests(Mutant("code/a.py", 1, "LIMIT = 3", "LIMIT = 4"))
    assert found == [QUICK, ODD, SLOW]


def test_what_runs_at_an_import_is_tried_by_more_than_the_test_that_imports_first(
    tree: Path,
) -> None:
    record = pickle.loads((tree / "record").read_bytes())  # noqa: S301 - our own
    lines = record["lines"]["code/a.py"]
    lines[1], lines[4], lines[8] = {ODD}, {ODD}, {ODD}
    (tree / "record").write_bytes(pickle.dumps(record))
    found = read(tree)
    assert found.tests(Mutant("code/a.py", 1, "LIMIT = 3", "LIMIT = 4")) == [ODD, SLOW]
    assert found.tests(Mutant("code/a.py", 4, "", "")) == [QUICK, ODD, SLOW]
    assert found.tests(Mutant("code/a.py", 8, "", "")) == [ODD, SLOW]
    assert found.tests(Mutant("code/a.py", 5, "", "")) == [QUICK, SLOW]


def test_a_line_of_c_is_in_the_block_that_begins_before_it(tree: Path) -> None:
    record = read(tree)
    assert record.tests(Mutant("c/a.c", 4, "", "")) == [SLOW]
    assert record.tests(Mutant("c/a.c", 6, "", "")) == [QUICK]
    assert record.tests(Mutant("c/a.c", 1, "", "")) == [QUICK, SLOW]
    assert record.others(Mutant("c/a.c", 1, "", ""), []) == [ODD]
    assert record.of_file(Mutant("c/a.c", 6, "", "")) == [QUICK, SLOW]


def test_tests_that_are_new_or_have_changed_are_recorded_again(tree: Path) -> None:
    assert read(tree).unrecorded(("checks/unit",), ()) == []
    (tree / "checks" / "unit" / "test_a.py").write_text("quick, slow, new", "utf-8")
    (tree / "checks" / "unit" / "test_new.py").write_text("", "utf-8")
    found = read(tree).unrecorded(("checks/unit",), ("checks/unit/test_new.py",))
    assert found == ["checks/unit/test_a.py"]
