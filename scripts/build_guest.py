"""Build time: compiles the payload, guest/ and shared/, into freestanding x86-64 ELF images.

There is core.elf, the executor, and one for each operation, such as amend.elf. Their bytes depend
on the sources and the compiler only, not on the folder or the time. The compiler is
$INSTAR_GUEST_CC, else gcc, else the ziglang package; INSTAR_GUEST_CC=ziglang asks for the last one
by name.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
EDITABLE_GUEST = ROOT / ".editable" / "instar" / "guest"
ZIGLANG = "ziglang==0.17.1"

# zig takes the processor's features from -mcpu, and heeds no -mgeneral-regs-only.
ZIG_GUEST = "-target x86_64-freestanding-none -mcpu=x86_64-mmx-sse-sse2-x87+soft_float".split()
ZIG_HOST = "-target x86_64-linux-gnu".split()

# The folders of shared/ that every operation on a qcow2 image is compiled with.
READERS = ("shared", "shared/image", "shared/qcow2")
OPERATION = ("guest/operation", "guest/common", *READERS)
AMEND = (
    *("shared/plan", "shared/amend", "shared/amend/options", "shared/inspect", "shared/repair"),
)
# Image: the folders it is compiled from.
IMAGES = {
    "core": ("guest/core", "guest/common"),
    "amend": ("guest/amend", *OPERATION, *AMEND),
    "check": ("guest/check", *OPERATION, "shared/inspect"),
    "info": ("guest/info", *OPERATION, "shared/inspect"),
}
INCLUDES = ("abi", "shared", "guest/common", "guest/operation")

WARNINGS = "-Wall -Wextra -Wconversion -Wshadow -Werror".split()
CFLAGS = (
    "-std=c11 -ffreestanding -fno-pic -fno-pie"
    " -fno-stack-protector -fno-asynchronous-unwind-tables -fno-sanitize=all"
    " -fcf-protection=none -mno-red-zone -mgeneral-regs-only"
    " -ffunction-sections -fdata-sections"
).split()
# A check spends its time in loops over millions of entries, and the others in exits; but a repair
# has those that count references too.
OPTIMISE = {"check": "-O2"}
LOOPS = ROOT / "shared/inspect/tables.c"
# Symbols are kept, for reports of faults: zig drops them unless -g is said here. There is no debug
# information to link, as the sources are compiled without.
LDFLAGS = (
    "-nostdlib -static -no-pie -g -Wl,--gc-sections -Wl,--build-id=none"
    " -Wl,-z,noexecstack -Wl,-z,max-page-size=4096"
).split()


class BuildError(Exception):
    """There is no C compiler, or it failed and has said why."""


def _chosen_compiler() -> str:
    """The command of the compiler that is to be used, or "ziglang" for the package."""
    found = "gcc -m64" if shutil.which("gcc") else "ziglang"
    return os.environ.get("INSTAR_GUEST_CC") or found


def needs_ziglang() -> bool:
    """Whether the build needs the ziglang package, for want of another compiler or by choice."""
    return _chosen_compiler() == "ziglang"


def compiler(zig_options: Sequence[str] = ZIG_GUEST) -> list[str]:
    """The C compiler and the options without which it is not the one for the target.

    Args:
        zig_options: what to say to zig, which compiles for any target.

    Raises:
        BuildError: if there is none.
    """
    if not needs_ziglang():
        return shlex.split(_chosen_compiler())
    if importlib.util.find_spec("ziglang") is None:
        raise BuildError(f"no C compiler: install gcc, or {ZIGLANG} by pip")
    return [sys.executable, "-m", "ziglang", "cc", *zig_options]


def link_image(
    sources: Sequence[Path],
    script: Path,
    image: Path,
    optimise: str = "-Os",
    objects: Sequence[Path] = (),
) -> Path:
    """Compile `sources` and link them by the linker script into the ELF file `image`.

    Args:
        sources: C and assembler files, in the order in which they are linked.
        script: the linker script.
        image: what to write, or to replace in one step; its folder must exist.
        optimise: the compiler's option for that.
        objects: what has been compiled already, by compile_sources().

    Returns:
        `image`.

    Raises:
        BuildError: if there is no compiler, or it failed.
    """
    with tempfile.TemporaryDirectory(prefix="instar-guest-") as temporary:
        made = [*compile_sources(sources, Path(temporary), optimise), *objects]
        layout = [f"-Wl,-T,{_in_root(script)}", f"-Wl,-e,{_entry(script)}"]
        command = [*compiler(), *CFLAGS, optimise]
        run_compiler([*command, *map(str, made), *LDFLAGS, *layout], image)
    return image


def compile_sources(sources: Sequence[Path], folder: Path, optimise: str = "-Os") -> list[Path]:
    """Compile C and assembler files into objects in `folder`, in their order. BuildError."""
    includes = [f"-I{include}" for include in INCLUDES]
    # Names that say nothing of this machine: some of them end up in the image's symbols.
    mapping = [f"-ffile-prefix-map={ROOT}=.", f"-ffile-prefix-map={folder}=."]
    command = [*compiler(), *CFLAGS, *WARNINGS, *mapping, *includes]
    made = [folder / f"{number}-{source.stem}.o" for number, source in enumerate(sources)]

    def compile_one(source: Path, to: Path) -> None:
        level = "-O2" if source == LOOPS else optimise
        run_compiler([*command, level, "-c", _in_root(source)], to)

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(compile_one, sources, made))
    return made


def _in_root(path: Path) -> str:
    """The path as the compiler, which runs in the project's root, is best told of it."""
    return str(path.relative_to(ROOT) if path.is_relative_to(ROOT) else path)


def _entry(script: Path) -> str:
    """The linker script's entry point, which zig would overrule by a default of its own."""
    found = re.search(r"\bENTRY\((\w+)\)", script.read_text(encoding="utf-8"))
    if found is None:
        raise BuildError(f"{script} has no ENTRY")
    return found[1]


def run_compiler(command: Sequence[str], output: Path) -> None:
    """Run `command`, in the project's root, so that it makes or in one step replaces `output`.

    Raises:
        BuildError: if it failed.
    """
    new = output.absolute().with_name(f".{output.name}.new")
    try:
        status = subprocess.run([*command, "-o", str(new)], check=False, cwd=ROOT).returncode
    except OSError as error:
        raise BuildError(f"could not run the C compiler {command[0]!r}: {error.strerror}") from None
    if status != 0:
        raise BuildError(f"{command[0]} could not make {output.name}")
    new.replace(output)


def image_sources(name: str) -> list[Path]:
    """The source files of the image `name`, in a fixed order."""
    return [path for folder in IMAGES[name] for path in sorted((ROOT / folder).glob("*.[cS]"))]


def linker_script(name: str) -> Path:
    """Where the image `name` lies in memory; operations all lie in one place."""
    return ROOT / "guest" / ("core/core.ld" if name == "core" else "operation/operation.ld")


def build_guest(directory: Path) -> list[Path]:
    """Build all images into `directory`, and return their paths."""
    directory.mkdir(parents=True, exist_ok=True)
    levels = {name: OPTIMISE.get(name, "-Os") for name in IMAGES}
    with tempfile.TemporaryDirectory(prefix="instar-guest-") as temporary:
        objects: dict[tuple[str, Path], Path] = {}  # what several images have in common is one
        for level in set(levels.values()):
            folder = Path(temporary, level)
            folder.mkdir()
            images = [name for name in IMAGES if levels[name] == level]
            sources = list(dict.fromkeys(path for name in images for path in image_sources(name)))
            made = compile_sources(sources, folder, level)
            objects |= {(level, source): path for source, path in zip(sources, made, strict=True)}
        return [
            link_image(
                [],
                linker_script(name),
                directory.resolve() / f"{name}.elf",
                level,
                [objects[level, source] for source in image_sources(name)],
            )
            for name, level in levels.items()
        ]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Compile the payload.")
    parser.add_argument("directory", nargs="?", type=Path, default=EDITABLE_GUEST)
    try:
        built = build_guest(parser.parse_args().directory)
    except BuildError as error:
        raise SystemExit(f"build_guest: {error}") from None
    print(*built, sep="\n")
