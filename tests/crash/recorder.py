"""Records what a command does to an image, at its system calls, by strace. Test side."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

TIMEOUT = 120.0
LONGEST_WRITE = 4 << 20

_BARRIERS = ("fdatasync", "fsync")
_WRITES = ("pwrite64", "pwritev", "pwritev2")
# What else could change a file: none of the commands does it, and none goes unnoticed.
_OTHERS = ("write", "writev", "sync_file_range", "copy_file_range", "sendfile")
CHANGING = (*_WRITES, "fallocate", "ftruncate", *_BARRIERS, *_OTHERS)

_CALL = re.compile(r"\d+ +(?P<name>\w+)\((?P<arguments>.*)\) += (?P<result>-?\w+|\?).*")
_STRING = re.compile(r'"((?:\\x[0-9a-f]{2})*)"(\.\.\.)?')
_FALLOC_ZEROING = ("FALLOC_FL_ZERO_RANGE", "FALLOC_FL_PUNCH_HOLE")


class RecordError(Exception):
    """The trace holds something that this harness does not understand, or shows no run at all."""


@dataclass(frozen=True)
class Write:
    """Bytes that the command handed to the kernel."""

    offset: int
    data: bytes


@dataclass(frozen=True)
class Barrier:
    """A flush: whatever was written before it is on the disk."""


@dataclass(frozen=True)
class Cut:
    """The file ends here. Nothing is written after it, but that holes are made."""

    size: int


Operation = Write | Barrier | Cut


@dataclass(frozen=True)
class Run:
    """How a command ended."""

    status: int
    stdout: str
    stderr: str


@dataclass(frozen=True)
class Call:
    """A system call on the image."""

    name: str
    number: int
    """How many calls of that name the command had made by then, this one included."""
    arguments: str
    result: int


@dataclass(frozen=True)
class Recording:
    """What a command did to an image, in order, and how it ended."""

    operations: tuple[Operation, ...]
    run: Run


def instar(*arguments: str) -> list[str]:
    """The command line of `instar amend`, as installed beside this interpreter."""
    return [str(Path(sys.executable).with_name("instar")), "amend", *arguments]


def environment() -> dict[str, str]:
    """In which a command says the same in every run, and makes the same calls."""
    return {**os.environ, "LC_ALL": "C", "PYTHONHASHSEED": "0"}


def run(command: Sequence[str]) -> Run:
    """Run a command to its end, whatever that is."""
    done = subprocess.run(
        command,
        check=False,
        capture_output=True,
        encoding="utf-8",
        errors="backslashreplace",
        env=environment(),
        stdin=subprocess.DEVNULL,
        timeout=TIMEOUT,
    )
    return Run(done.returncode, done.stdout, done.stderr)


def record(command: Sequence[str], image: Path) -> Recording:
    """Run `command` with `image`, an absolute path, as its last argument, and record it.

    Raises RecordError for a trace that cannot be understood to the last line.
    """
    flags = ("--seccomp-bpf", "-s", str(LONGEST_WRITE))
    before = image.stat().st_size
    calls, run = trace([*command, str(image)], image, CHANGING, *flags)
    after = image.read_bytes()
    return Recording(tuple(_operations(calls, before, after)), run)


def strace(command: Sequence[str], names: Sequence[str], *flags: str) -> tuple[list[str], Run]:
    """Run a command and return its calls of these `names` as strace prints them."""
    with tempfile.TemporaryDirectory(prefix="instar-strace-") as folder:
        output = Path(folder, "trace")
        options = ("-f", "-xx", "-o", str(output), *flags, "-e", ",".join(names))
        done = run(["strace", *options, *command])
        if not output.exists():
            raise RecordError(f"strace recorded nothing: {done.stderr}")
        return output.read_text("ascii").splitlines(), done


def trace(
    command: Sequence[str], image: Path, names: Sequence[str], *flags: str
) -> tuple[list[Call], Run]:
    """Run a command and return those of its calls of these `names` that concern the image.

    A descriptor is the image's if open() gave it for the image's path; /proc says nothing of the
    descriptors of a process that has confined itself.
    """
    lines, done = strace(command, ("openat", *names), *flags)
    return list(_calls(lines, image)), done


def _calls(lines: list[str], image: Path) -> Iterator[Call]:
    path = '"' + "".join(f"\\x{byte:02x}" for byte in os.fsencode(image)) + '"'
    numbers: dict[str, int] = {}
    descriptors: set[int] = set()
    last_end = -1
    for begin, end, line in _whole_lines(lines):
        found = _CALL.fullmatch(line)
        if found is None:
            continue
        name, arguments, result = found["name"], found["arguments"], _number(found["result"])
        numbers[name] = numbers.get(name, 0) + 1
        first = arguments.partition(",")[0]
        if name == "openat" and path in arguments:
            descriptors.add(result)
        elif name == "openat":
            descriptors.discard(result)
            continue
        elif not first.isdecimal() or int(first) not in descriptors:
            continue
        if begin < last_end:
            raise RecordError(f"two calls at once, in no order: {line[:80]}")
        last_end = end
        yield Call(name, numbers[name], arguments, result)


def _number(result: str) -> int:
    """A call's result; -1 where strace prints "?", for it did not return."""
    return -1 if result == "?" else int(result, 0)


def _whole_lines(lines: list[str]) -> Iterator[tuple[int, int, str]]:
    """Join calls that other threads' lines interrupt; with the lines where they begin and end."""
    begun: dict[str, tuple[int, str]] = {}
    for number, line in enumerate(lines):
        thread, rest = line.split(maxsplit=1)
        if line.endswith(" <unfinished ...>"):
            begun[thread] = number, line.removesuffix(" <unfinished ...>")
        elif rest.startswith("<...") and thread in begun:
            start, half = begun.pop(thread)
            yield start, number, half + rest.partition(" resumed>")[2]
        else:
            yield number, number, line


def _operations(calls: list[Call], size: int, after: bytes) -> Iterator[Operation]:
    for call in calls:
        if call.name == "openat" or call.result < 0:
            continue
        if call.name in _WRITES:
            write = _write(call, after)
            size = max(size, write.offset + len(write.data))
            yield write
        elif call.name == "fallocate":
            yield _zeroing(call)
        elif call.name == "ftruncate":
            before, size = size, int(call.arguments.rpartition(", ")[2], 0)
            # No sector is written: the file may be as long as before after a crash.
            yield Cut(size) if size < before else Write(size, b"")
        elif call.name in _BARRIERS:
            yield Barrier()
        else:
            raise RecordError(str(call))


def _write(call: Call, after: bytes) -> Write:
    numbers = re.findall(r", (\d+)(?=,|$)", call.arguments)
    offset = int(numbers[-1])
    strings = _STRING.findall(call.arguments)
    if any(cut for _, cut in strings):
        raise RecordError(f"a write longer than {LONGEST_WRITE} bytes")
    if not strings:
        # strace may not look into the memory of a process that has confined itself, unless it has
        # the privilege to. No sector is written twice, so the file itself tells what was written.
        return Write(offset, after[offset : offset + call.result])
    data = b"".join(bytes.fromhex(text.replace("\\x", "")) for text, _ in strings)
    return Write(offset, data[: call.result])


def _zeroing(call: Call) -> Write:
    _, mode, offset, length = call.arguments.split(", ")
    if not mode.startswith(_FALLOC_ZEROING) and not mode.endswith(_FALLOC_ZEROING):
        raise RecordError(str(call))
    return Write(int(offset), bytes(int(length)))


def replay(original: bytes, operations: Sequence[Operation]) -> bytes:
    """The file after all `operations`."""
    image = bytearray(original)
    for operation in operations:
        if isinstance(operation, Write):
            end = operation.offset + len(operation.data)
            image.extend(bytes(max(end - len(image), 0)))
            image[operation.offset : end] = operation.data
        elif isinstance(operation, Cut):
            del image[operation.size :]
    return bytes(image)
