"""Test side: makes mutants: the code with one operator, number or condition changed."""

from __future__ import annotations

import ast
import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
EQUIVALENT = ROOT / "tests" / "mutants" / "equivalent.txt"

COMPARISONS = {
    ast.Lt: ("<", "<="),
    ast.LtE: ("<=", "<"),
    ast.Gt: (">", ">="),
    ast.GtE: (">=", ">"),
    ast.Eq: ("==", "!="),
    ast.NotEq: ("!=", "=="),
    ast.Is: ("is", "is not"),
    ast.IsNot: ("is not", "is"),
    ast.In: ("in", "not in"),
    ast.NotIn: ("not in", "in"),
}
OPERATORS = {
    ast.Add: ("+", "-"),
    ast.Sub: ("-", "+"),
    ast.Mult: ("*", "+"),
    ast.FloorDiv: ("//", "*"),
    ast.Mod: ("%", "//"),
    ast.BitAnd: ("&", "|"),
    ast.BitOr: ("|", "&"),
    ast.LShift: ("<<", ">>"),
    ast.RShift: (">>", "<<"),
}
C_TOKENS = {
    "<=": "<",
    ">=": ">",
    "==": "!=",
    "!=": "==",
    "&&": "||",
    "||": "&&",
    "<<": ">>",
    ">>": "<<",
    " < ": " <= ",
    " > ": " >= ",
    " + ": " - ",
    " - ": " + ",
    " & ": " | ",
    " | ": " & ",
    "true": "false",
    "false": "true",
}
C_TOKEN = re.compile("|".join(map(re.escape, C_TOKENS)) + r"|\b[1-9][0-9]*\b")
C_SKIPPED = re.compile(r'/\*.*?\*/|"(?:[^"\\]|\\.)*"|^\s*#.*?$', re.DOTALL | re.MULTILINE)


@dataclass(frozen=True)
class Mutant:
    """One change of one line."""

    path: str
    line: int
    """Counted from 1."""
    before: str
    """The line's text, without the space around it."""
    after: str

    def __str__(self) -> str:
        """As it is shown, and as tests/mutants/equivalent.txt names it but for the number."""
        return f"{self.path}:{self.line}\n  - {self.before}\n  + {self.after}"


def read_equivalent(text: str) -> set[tuple[str, str, str]]:
    """Mutants that no test can kill: of each, the path, the line before and the line after."""
    found = set()
    for block in text.split("\n\n"):
        lines = [line for line in block.splitlines() if line and not line.startswith("#")]
        if len(lines) == 3:
            found.add((lines[0], lines[1][2:].strip(), lines[2][2:].strip()))
    return found


def choose(only: str, count: int, seed: int, known: set[tuple[str, str, str]]) -> list[Mutant]:
    """Mutants at random, without those that are known to be equivalent."""
    found = [mutant for mutant in all_mutants() if mutant.path.startswith(only)]
    found = [mutant for mutant in found if (mutant.path, mutant.before, mutant.after) not in known]
    if not found:
        raise ValueError(f"nothing to change in {only}")
    # Each has a place of its own, so that the choice hardly changes with other parts of the code.
    return sorted(found, key=lambda mutant: (_lot(mutant, seed), mutant.line))[:count]


def lived(output: str, known: set[tuple[str, str, str]]) -> list[Mutant]:
    """Those of today's mutants that lived in a run of which this is the output."""
    found = re.findall(r": (\S+):\d+\n  - (.*)\n  \+ (.*)\n  LIVES$", output, re.MULTILINE)
    again = {*found} - known
    return [m for m in all_mutants() if (m.path, m.before, m.after) in again]


def _lot(mutant: Mutant, seed: int) -> bytes:
    text = "\0".join((str(seed), mutant.path, mutant.before, mutant.after))
    return hashlib.sha256(text.encode()).digest()


def all_mutants() -> Iterator[Mutant]:
    """Every mutant of the tree, in order."""
    for path in sorted((ROOT / "vmm").rglob("*.py")):
        yield from of_python(path)
    for folder in ("shared", "guest"):
        for path in sorted((ROOT / folder).rglob("*.c")):
            if path.parent.name != "host":  # what the tests themselves are built on
                yield from of_c(path)


def of_python(path: Path) -> Iterator[Mutant]:
    """Mutants of a Python file, but for what is annotation, text, or for type checkers alone."""
    lines = path.read_text("utf-8").splitlines()
    for node in python_nodes(ast.parse("\n".join(lines))):
        for line, start, end, text in python_changes(node, lines):
            raw = lines[line].encode()
            after = (raw[:start] + text.encode() + raw[end:]).decode()
            yield Mutant(str(path.relative_to(ROOT)), line + 1, lines[line].strip(), after.strip())


def python_nodes(tree: ast.AST) -> Iterator[ast.AST]:
    """The nodes that do something when the code runs."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            continue
        if isinstance(node, ast.Assign) and "TYPE_CHECKING" in ast.dump(node.targets[0]):
            continue
        if isinstance(node, ast.arg | ast.JoinedStr | ast.Assert | ast.Import | ast.ImportFrom):
            continue
        if isinstance(node, ast.AnnAssign):
            if node.value is not None:
                yield node.value
                yield from python_nodes(node.value)
            continue
        yield node
        if isinstance(node, ast.FunctionDef):
            defaults = (*node.args.defaults, *node.args.kw_defaults)
            values = [ast.Expr(value) for value in defaults if value is not None]
            yield from python_nodes(ast.Module([*node.body, *values], []))
        else:
            yield from python_nodes(node)


def python_changes(node: ast.AST, lines: list[str]) -> Iterator[tuple[int, int, int, str]]:
    """Changes of one node: line and columns from 0, in bytes, and what stands there instead."""
    if isinstance(node, ast.Compare) and len(node.ops) == 1:
        before, after = COMPARISONS[type(node.ops[0])]
        yield from between(node.left, node.comparators[0], before, after, lines)
    elif isinstance(node, ast.BinOp) and type(node.op) in OPERATORS:
        before, after = OPERATORS[type(node.op)]
        yield from between(node.left, node.right, before, after, lines)
    elif isinstance(node, ast.BoolOp) and len(node.values) == 2:
        before, after = ("and", "or") if isinstance(node.op, ast.And) else ("or", "and")
        yield from between(node.values[0], node.values[1], before, after, lines)
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
        yield node.lineno - 1, node.col_offset, node.col_offset + len("not "), ""
    elif isinstance(node, ast.Constant) and isinstance(node.value, int):
        text = str(not node.value) if node.value is True or node.value is False else ""
        end = node.end_col_offset or node.col_offset
        yield node.lineno - 1, node.col_offset, end, text or str(node.value + 1)


def between(
    left: ast.expr, right: ast.expr, before: str, after: str, lines: list[str]
) -> Iterator[tuple[int, int, int, str]]:
    """Change the operator between two operands that stand in one line, and not their brackets."""
    line, start, end = left.end_lineno, left.end_col_offset, right.col_offset
    if line == right.lineno and start is not None and start < end:
        gap = lines[line - 1].encode()[start:end].decode()
        yield line - 1, start, end, gap.replace(before, after)


def of_c(path: Path) -> Iterator[Mutant]:
    """Mutants of a C file, but for comments, texts and what the preprocessor reads."""
    text = path.read_text("utf-8")
    bare = C_SKIPPED.sub(lambda match: re.sub(r"[^\n]", "\0", match[0]), text)
    lines = text.splitlines()
    for number, line in enumerate(bare.splitlines()):
        for match in C_TOKEN.finditer(line):
            after = C_TOKENS.get(match[0]) or str(int(match[0]) + 1)
            whole = lines[number][: match.start()] + after + lines[number][match.end() :]
            yield Mutant(
                *(str(path.relative_to(ROOT)), number + 1),
                *(lines[number].strip(), whole.strip()),
            )
