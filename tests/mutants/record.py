"""Test side: which tests may kill a mutant, by the record of what they run, fastest first."""

from __future__ import annotations

import ast
import pickle
import re
import subprocess
from bisect import bisect_right
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Set
from difflib import SequenceMatcher
from itertools import pairwise
from pathlib import Path
from typing import Any

from tests.mutants.making import Mutant

GUEST_RUNS = "vmm/kvm/vcpu.py"
"""What runs in no test but those that run a guest."""
NAMED = 8
"""How much more a file of tests counts that names the module."""


def resolve(raw: Path, root: Path, library: Path) -> None:
    """Make of what the recorder wrote of the tree at `root` what Record reads, in its place.

    Blocks of the planner, of which `library` is the traced one, become lines.
    """
    found = pickle.loads(raw.read_bytes())  # noqa: S301 - our own
    good = found["seconds"].keys() - found["failed"]
    lines: dict[str, dict[int, set[str]]] = defaultdict(lambda: defaultdict(set))
    for path, by_line in found["lines"].items():
        for line, names in by_line.items():
            lines[path][line].update(good.intersection(names))
    blocks: dict[int, set[str]] = defaultdict(set)
    for name in good:
        for place in found["blocks"].get(name, ()):
            blocks[place].add(name)
    for path, line, place in _places(library):
        lines[path.removeprefix(f"{root}/")][line] |= blocks.get(place, set())
    texts = {path: (root / path).read_text("utf-8") for path in lines if (root / path).is_file()}
    files = {name.partition("::")[0] for name in found["seconds"]}
    record = {
        "seconds": {name: found["seconds"][name] for name in good},
        "spawning": found["spawning"] & good,
        "lines": {path: {n: {*names} for n, names in lines[path].items()} for path in texts},
        "texts": texts,
        "tests": {file: (root / file).read_text("utf-8") for file in files},
    }
    raw.write_bytes(pickle.dumps(record))


def _places(library: Path) -> Iterator[tuple[str, int, int]]:
    """File, line and place of each block of the planner, also of those that nothing runs."""
    code = _output("objdump", "-d", "--no-show-raw-insn", str(library)).splitlines()
    starts = [
        int(after.split(":")[0], 16)
        for line, after in pairwise(code)
        if "__sanitizer_cov_trace_pc" in line and "call" in line
    ]
    named = _output("addr2line", "-a", "-i", "-e", str(library), *map(hex, starts))
    place = 0
    for line in named.splitlines():
        if line.startswith("0x"):
            place = int(line, 16)
        elif found := re.match(r"(.*):(\d+)", line):
            yield found[1], int(found[2]), place


class Record:
    """Which tests run which lines of the tree as it is now."""

    def __init__(self, root: Path, files: Iterable[Path]) -> None:
        """Read records; later ones replace earlier ones, and lines may have moved since."""
        self._root = root
        self.seconds: dict[str, float] = {}
        self.spawning: set[str] = set()
        self.recorded: dict[str, str] = {}
        """The text of each file of tests that was recorded."""
        self._lines: dict[str, dict[int, set[str]]] = defaultdict(lambda: defaultdict(set))
        for file in files:
            self._add(pickle.loads(file.read_bytes()))  # noqa: S301 - our own
        named = {name.partition("::")[0] for name in self.seconds}
        gone = {file for file in named if not (root / file).is_file()}
        self._forget({name for name in self.seconds if name.partition("::")[0] in gone})
        self.guests: set[str] = set().union(*self._lines[GUEST_RUNS].values())

    def _add(self, record: dict[str, Any]) -> None:
        old = {name for name in self.seconds if name.partition("::")[0] in record["tests"]}
        self._forget(old)
        self.seconds.update(record["seconds"])
        self.spawning |= record["spawning"]
        self.recorded.update(record["tests"])
        for path, by_line in record["lines"].items():
            if (self._root / path).is_file():
                now = self._moved(path, record["texts"][path])
                for line, names in by_line.items():
                    if line in now:
                        self._lines[path][now[line]] |= names

    def _forget(self, old: set[str]) -> None:
        for name in old:
            del self.seconds[name]
        self.spawning -= old
        for by_line in self._lines.values():
            for names in by_line.values():
                names.difference_update(old)

    def _moved(self, path: str, text: str) -> dict[int, int]:
        """Where lines of a file are now."""
        before, after = text.splitlines(), (self._root / path).read_text("utf-8").splitlines()
        if before == after:
            return {n: n for n in range(1, len(after) + 1)}
        same = SequenceMatcher(None, before, after, autojunk=False).get_matching_blocks()
        return {a + n + 1: b + n + 1 for a, b, size in same for n in range(size)}

    def unrecorded(self, folders: Iterable[str], without: Iterable[str]) -> list[str]:
        """Files of tests that are new, or not as they were recorded."""
        there = [file for folder in folders for file in (self._root / folder).glob("test_*.py")]
        named = {str(file.relative_to(self._root)): file.read_text("utf-8") for file in there}
        return sorted(
            name
            for name, text in named.items()
            if name not in without and self.recorded.get(name) != text
        )

    def tests(self, mutant: Mutant) -> list[str]:
        """What may kill a mutant by what runs in the test's own process."""
        lines = self._lines.get(mutant.path, {})
        if mutant.path.endswith(".c"):
            known = sorted(lines)
            at = bisect_right(known, mutant.line) - 1
            # A function before the first block is part of those that call it.
            return self.ordered(lines[known[at]] if at >= 0 else set().union(*lines.values()))
        found = lines.get(mutant.line, set())
        tree = ast.parse((self._root / mutant.path).read_text("utf-8"))
        # What runs at an import has run in the test that happened to be the first one with it.
        if not found or _runs_at_import(tree, mutant.line):
            found = found | self._users(mutant, tree)
        return self.ordered(found)

    def of_file(self, mutant: Mutant) -> list[str]:
        """What runs any line of its file: where a block of C begins, the compiler says."""
        return self.ordered(set().union(*self._lines.get(mutant.path, {}).values()))

    def others(self, mutant: Mutant, tried: Iterable[str]) -> list[str]:
        """What else may: runs of the guest for C, and other processes; its kin first.

        Kin are the tests in a folder of the same name, and those in files that name the module.
        """
        more: Set[str] = self.spawning
        if mutant.path.endswith(".c"):
            more = self.guests
        word, parts = _word(mutant.path), {*Path(mutant.path).parts[:-1]}
        files = {name.partition("::")[0] for name in more}
        kin = {file for file in files if parts & {*Path(file).parts} or word(self.recorded[file])}
        names = self.ordered({*more} - {*tried})
        return sorted(names, key=lambda name: name.partition("::")[0] not in kin)

    def ordered(self, names: Iterable[str]) -> list[str]:
        """Tests, the fastest first, but each function's parameters one after the other."""
        turns: dict[str, int] = defaultdict(int)
        keyed = []
        for name in sorted(names, key=lambda name: (self.seconds[name], name)):
            function = name.partition("[")[0]
            keyed.append((turns[function] // 2, self.seconds[name], name))
            turns[function] += 1
        return [name for _, _, name in sorted(keyed)]

    def _users(self, mutant: Mutant, tree: ast.Module) -> set[str]:
        """What runs lines with a name that is bound where the mutant is, at import."""
        found: set[str] = set()
        for node in ast.walk(tree):
            end = getattr(node, "end_lineno", None)
            if isinstance(node, ast.stmt) and node.lineno <= mutant.line <= (end or 0):
                if isinstance(node, ast.Assign | ast.AnnAssign):
                    for name in ast.walk(node):
                        if isinstance(name, ast.Name) and isinstance(name.ctx, ast.Store):
                            found |= self._naming(name.id)
                elif isinstance(node, ast.FunctionDef | ast.ClassDef):
                    for line in range(node.lineno, (end or 0) + 1):
                        found |= self._lines[mutant.path].get(line, set())
        return found or set().union(*self._lines[mutant.path].values())

    def _naming(self, name: str) -> set[str]:
        """What runs a line with this word, or has it in its own file."""
        word = re.compile(rf"\b{name}\b")
        found: set[str] = set()
        for path, lines in self._lines.items():
            if not path.endswith(".py"):
                continue
            text = (self._root / path).read_text("utf-8").splitlines()
            named = [number for number, line in enumerate(text, 1) if word.search(line)]
            for number in (*named, *_bodies("\n".join(text), named)):
                found |= lines.get(number, set())
        files = {name.partition("::")[0] for name in self.seconds}
        using = {file for file in files if word.search((self._root / file).read_text("utf-8"))}
        return found | {name for name in self.seconds if name.partition("::")[0] in using}

    def nearest(self, path: str, names: list[str], files: int) -> list[str]:
        """Tests of the few files that have most to do with a file of the code.

        Few, as each takes time to import. A file of tests has much to do with it if many of its
        tests run the line and others do not, and more if it names the module. One that is named
        after it comes first.
        """
        own = f"test_{_stem(path)}.py"
        word = _word(path)
        all_of = Counter(name.partition("::")[0] for name in self.seconds)
        some = Counter(name.partition("::")[0] for name in names)

        def nearness(file: str) -> tuple[bool, float]:
            named = word(self.recorded[file]) is not None
            share = some[file] ** 2 / all_of[file] * (NAMED if named else 1)
            return file.endswith(f"/{own}"), share

        best = sorted(some, key=nearness, reverse=True)[:files]
        near = [name for name in names if name.partition("::")[0] in best]
        return sorted(near, key=lambda name: f"/{own}::" not in name)

    def within(self, names: Iterable[str], seconds: float) -> list[str]:
        """As many tests, from the first on, as take so long; never none."""
        chosen: list[str] = []
        total = 0.0
        for name in dict.fromkeys(names):
            total += self.seconds[name]
            if chosen and total > seconds:
                break
            chosen.append(name)
        return chosen


def _runs_at_import(tree: ast.Module, line: int) -> bool:
    """Whether a line is in the body of no function."""
    return not any(
        isinstance(node, ast.FunctionDef) and node.body[0].lineno <= line <= (node.end_lineno or 0)
        for node in ast.walk(tree)
    )


def _bodies(text: str, named: list[int]) -> list[int]:
    """The lines of the functions of which a header is among these lines: defaults are there."""
    if not named:
        return []
    functions = [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.FunctionDef)]
    return [
        line
        for node in functions
        if any(node.lineno <= number < node.body[0].lineno for number in named)
        for line in range(node.body[0].lineno, (node.end_lineno or 0) + 1)
    ]


def _word(path: str) -> Callable[[str], re.Match[str] | None]:
    """What finds the name of a module in a text."""
    return re.compile(rf"\b{_stem(path)}\b").search


def _stem(path: str) -> str:
    """The name of a module, which is its folder's for a package."""
    stem = Path(path).stem
    return Path(path).parent.name if stem == "__init__" else stem


def _output(*command: str) -> Any:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout
