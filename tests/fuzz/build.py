"""Test side: compiles the fuzz targets in C, for libFuzzer by clang, or to replay files.

What they call is compiled from a copy of shared/ in which redzones lie between the parts of
workspaces, so that AddressSanitizer sees one part run into the next.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterable
from pathlib import Path

from build_guest import ROOT, ZIG_HOST, BuildError, compiler, run_compiler

FUZZ = ROOT / "tests" / "fuzz"
BUILD = ROOT / "build" / "fuzz"
# Structs of shared/ whose parts must not run into each other, and where they are declared.
MEMORIES = {
    "qcow2_memory": Path("qcow2", "image.h"),
    "books_memory": Path("amend", "books.h"),
    "planner_workspace": Path("amend", "workspace.h"),
}
TARGETS = {
    "planner": ("planner_fuzzer.c", "sparse.c", "walker.c"),
    "inspect": ("inspect_fuzzer.c", "sparse.c"),
    "repair": ("repair_fuzzer.c", "sparse.c"),
}

CFLAGS = "-std=c11 -g -Wall -Wextra -Werror -Wno-unknown-pragmas".split()
UNDEFINED = "-fsanitize=undefined -fno-sanitize-recover=all".split()
WRAPPING = (
    f"-fsanitize=unsigned-integer-overflow -fsanitize-ignorelist={FUZZ}/ignorelist.txt".split()
)
# Comparisons are not traced: it costs two thirds of the speed, and the mutator knows the numbers.
FUZZER = "-fsanitize=fuzzer -fno-sanitize-coverage=trace-cmp".split()
SANITIZERS = {
    "address": [
        "-O3",
        "-mllvm",
        "-inline-threshold=2000",
        "-fsanitize=address",
        *UNDEFINED,
        *WRAPPING,
    ],
    "memory": ["-O2", "-fsanitize=memory"],
    "coverage": ["-O1", "-fprofile-instr-generate", "-fcoverage-mapping"],
}
CLANGS = ("clang", *(f"clang-{version}" for version in range(22, 12, -1)))


def find_clang() -> str:
    """The newest clang at hand. BuildError, with what to install, if there is none."""
    found = next(filter(None, map(shutil.which, CLANGS)), None)
    if found is None:
        raise BuildError("no clang with libFuzzer: apt-get install clang libclang-rt-dev")
    return found


def copy_shared(directory: Path) -> list[Path]:
    """Copy shared/ with redzones in workspaces to `directory`; returns the sources."""
    shared = ROOT / "shared"
    names = {path.relative_to(shared) for path in shared.rglob("*.[ch]")}
    names = {name for name in names if name.parts[0] != "host"}
    for stale in {path.relative_to(directory) for path in directory.rglob("*.[ch]")} - names:
        (directory / stale).unlink()
    for name in names:
        text = (shared / name).read_text(encoding="ascii")
        for struct in (struct for struct, header in MEMORIES.items() if header == name):
            text = _add_redzones(text, struct)
        copy = directory / name
        copy.parent.mkdir(parents=True, exist_ok=True)
        if not copy.exists() or copy.read_text(encoding="ascii") != text:
            copy.write_text(text, encoding="ascii")
    return sorted(directory.rglob("*.c"))


def _add_redzones(text: str, struct: str) -> str:
    found = re.search(rf"struct {struct} \{{\n(.*?)^\}};", text, re.DOTALL | re.MULTILINE)
    if found is None:
        raise BuildError(f"shared/{MEMORIES[struct]} has no struct {struct}")
    zones, depth, number = "", 0, 0
    for line in found[1].splitlines(keepends=True):
        depth += line.count("{") - line.count("}")
        zones += line
        if line.strip() and depth == 0:  # the end of a member, which may be a union
            zones += f"    uint8_t redzone{number}[64];\n"
            number += 1
    return text[: found.start(1)] + zones + text[found.end(1) :]


def build_fuzzer(sanitizer: str, target: str = "planner") -> Path:
    """Compile the libFuzzer program of one of TARGETS with one of SANITIZERS; returns its path."""
    program = BUILD / f"{target}-{sanitizer}"
    options = [*SANITIZERS[sanitizer], *FUZZER]
    own = (FUZZ / name for name in (*TARGETS[target], "planner_mutator.c"))
    _run([find_clang(), *options], [*copy_shared(BUILD / "shared"), *own], program)
    return program


def build_replays() -> dict[str, Path]:
    """Compile a program for each target that replays files; returns their paths.

    By the project's own compiler. What they have in common is compiled once.
    """
    host = compiler(ZIG_HOST)
    address = [] if "ziglang" in host else ["-fsanitize=address"]
    command = [*host, "-O1", *address, *UNDEFINED]
    common = BUILD / "common-replay.o"
    _run([*command, "-r", "-nostdlib"], copy_shared(BUILD / "shared"), common)
    programs = {target: BUILD / f"{target}-replay" for target in TARGETS}
    for target, program in programs.items():
        own = (FUZZ / name for name in (*TARGETS[target], "replay_main.c"))
        _run(command, [common, *own], program)
    return programs


def _run(command: list[str], files: Iterable[Path], made: Path) -> None:
    includes = [f"-I{folder}" for folder in (BUILD / "shared", ROOT / "abi", FUZZ)]
    run_compiler([*command, *CFLAGS, *includes, *map(str, files)], made)
