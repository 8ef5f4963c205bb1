"""Build time: builds the planner as a host library that tests call as `_planner`.

The library is shared/, as linked into the guest, and shared/host/, which only tests need. It knows
nothing of the sandbox, so a test or a fuzzer can call it ten thousand times a second. Tests reach
it with `from _planner import ffi, lib`: ffi knows the structs and constants of abi/instar_abi.h
and what shared/host/library.h declares between these two lines:

    /* cffi: begin */
    /* cffi: end */

What stands there must be functions of the library, types and integer constants, not macros or
inline functions: cffi opens the library by its symbols, for which a C compiler is enough, whereas
an extension module would need Python's headers, which Debian ships separately.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path

from build_abi import HEADER, ROOT, cdef_source
from build_guest import WARNINGS, ZIG_HOST, BuildError, compiler, run_compiler
from cffi import FFI

OUTPUT = ROOT / "build" / "planner"
LIBRARY = "libplanner.so"
SHARED = ROOT / "shared"
DECLARATIONS = SHARED / "host" / "library.h"
BEGIN = "/* cffi: begin */"
END = "/* cffi: end */"

CFLAGS = "-std=c11 -O2 -g -fPIC -shared".split()
SANITIZE = "-fsanitize=undefined -fno-sanitize-recover=all".split()
LOADER = f"""
from os.path import dirname as _dirname

lib = ffi.dlopen(_dirname(__file__) + "/{LIBRARY}")
"""


class DeclarationsError(Exception):
    """library.h does not say what the library offers."""


def host_declarations() -> str:
    """What stands between the two marks of library.h.

    Raises:
        DeclarationsError: if there is no such file, or not one pair of marks in it.
    """
    if not DECLARATIONS.is_file():
        raise DeclarationsError(f"no {DECLARATIONS}: it declares what the planner offers to tests")
    text = DECLARATIONS.read_text(encoding="ascii")
    if text.count(BEGIN) != 1 or text.count(END) != 1 or text.index(END) < text.index(BEGIN):
        raise DeclarationsError(
            f"{DECLARATIONS} needs one line {BEGIN} and, below it, one line {END}"
        )
    return text.partition(BEGIN)[2].partition(END)[0]


def build_planner(directory: Path = OUTPUT, *, sanitize: bool = False) -> Path:
    """Build the library and the module `_planner` into `directory`, and return the latter's path.

    Args:
        directory: made if need be.
        sanitize: whether undefined behaviour ends the process with a message.

    Raises:
        DeclarationsError: if library.h is not as it should be.
        BuildError: if there is no compiler, or it failed.
    """
    ffi = FFI()
    ffi.cdef(cdef_source(HEADER.read_text(encoding="ascii")))
    ffi.cdef(cdef_source(host_declarations()))
    ffi.set_source("_planner", None)
    directory.mkdir(parents=True, exist_ok=True)
    compile_library(directory / LIBRARY, sanitize=sanitize)
    module = directory / "_planner.py"
    ffi.emit_python_code(str(module))
    with module.open("a", encoding="ascii") as file:
        file.write(LOADER)
    return module


def compile_library(
    library: Path, *, sanitize: bool = False, replaced: Mapping[Path, Path] | None = None
) -> None:
    """Build the library alone; `replaced` has other files in place of some of shared/.

    Raises:
        BuildError: if there is no compiler, or it failed.
    """
    others = replaced or {}
    sources = [str(others.get(path, path)) for path in sorted(SHARED.rglob("*.c"))]
    includes = [f"-I{ROOT / 'abi'}", f"-I{SHARED}"]
    flags = SANITIZE if sanitize else ["-fno-sanitize=all"]
    host = compiler(ZIG_HOST)
    run_compiler([*host, *CFLAGS, *WARNINGS, *flags, *includes, *sources], library)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Build the planner as a host library for tests.")
    parser.add_argument("--sanitize", action="store_true", help="trap undefined behaviour")
    try:
        print(build_planner(sanitize=parser.parse_args().sanitize))
    except (BuildError, DeclarationsError) as error:
        raise SystemExit(f"build_planner: {error}") from None
