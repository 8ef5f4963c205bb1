"""Test side: what the library opens takes no standard stream's number, if one is closed."""

from __future__ import annotations

import itertools
import subprocess
import sys
from pathlib import Path

import pytest

from instar.vmm.base.streams import StreamsKept, raise_above_streams
from tests.support.forge import Data, Image

STREAMS = (0, 1, 2)
CLOSED = [some for count in (1, 2, 3) for some in itertools.combinations(STREAMS, count)]

# A program that has closed standard streams, and prints to their numbers at each moment at which
# the library calls it; it tells which descriptors there were in a file.
PROGRAM = """
import os, sys
path, told, how, *closed = sys.argv[1:]
closed = [int(number) for number in closed]
import instar
for number in closed:
    os.close(number)
seen = set()
def look():
    for number in (0, 1, 2):
        if number in closed:
            try:
                target = os.readlink(f"/proc/self/fd/{number}")
                # libffi keeps its own file open, for reading only, from its first use on.
                if "/libffi.so" not in target:
                    seen.add((number, target))
            except OSError:
                pass
            try:
                os.write(number, b"printed")
            except OSError:
                pass
def debug(text):
    look()
if how == "fresh":
    instar.amend(path, compat="0.10", debug=debug)
elif how == "kept":
    with instar.Sandbox() as sandbox:
        sandbox.amend(path, compat="0.10", debug=debug)
        look()
        sandbox.amend(path, compat="1.1", debug=debug)
        sandbox.amend(path, compat="0.10", debug=debug)
elif how == "many":
    for outcome in instar.amend_many([path, path], compat="0.10"):
        look()
        assert outcome.result, outcome.error
else:
    instar.amend(path, compat="0.10", isolation="process")
look()
with open(told, "w") as file:
    file.write(repr(sorted(seen)))
"""


@pytest.mark.kvm
@pytest.mark.parametrize("how", ["fresh", "kept", "many", "child"])
@pytest.mark.parametrize("closed", CLOSED, ids=str)
def test_a_print_to_a_closed_stream_meets_nothing_of_the_librarys(
    path: Path, tmp_path: Path, closed: tuple[int, ...], how: str
) -> None:
    Image(clusters={0: Data(b"\x05")}).write(path)
    whole = tmp_path / "whole"
    Image(clusters={0: Data(b"\x05")}).write(whole)
    told = tmp_path / "told"
    line = [sys.executable, "-c", PROGRAM, str(path), str(told), how, *map(str, closed)]
    subprocess.run(line, check=True, capture_output=True)
    assert told.read_text() == "[]"
    import instar

    instar.amend(whole, compat="0.10")
    assert path.read_bytes() == whole.read_bytes()


def test_all_that_is_opened_in_the_block_is_above_the_streams(tmp_path: Path) -> None:
    # In a process of its own, which can do without its streams.
    code = (
        "import os, mmap\n"
        "from instar.vmm.base.streams import StreamsKept\n"
        "out = os.dup(1)\n"
        "os.closerange(0, 3)\n"
        "with StreamsKept():\n"
        "    kept = [os.open('/', os.O_RDONLY), *os.pipe(), os.dup(out)]\n"
        "low = [n for n in (0, 1, 2) if os.path.lexists(f'/proc/self/fd/{n}')]\n"
        "os.write(out, repr((min(kept) > 2, low)).encode())\n"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout == "(True, [])"


def test_a_low_number_is_exchanged_for_a_higher_one() -> None:
    code = (
        "import os\n"
        "from instar.vmm.base.streams import raise_above_streams\n"
        "out = os.dup(1)\n"
        "os.close(0)\n"
        "low = os.open('/', os.O_RDONLY)\n"
        "high = raise_above_streams(low)\n"
        "gone = not os.path.lexists('/proc/self/fd/0')\n"
        "os.write(out, repr((low, high > 2, os.get_inheritable(high), gone)).encode())\n"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout == "(0, True, False, True)"


def test_where_no_stream_is_closed_nothing_happens() -> None:
    with StreamsKept():
        assert raise_above_streams(7) == 7
