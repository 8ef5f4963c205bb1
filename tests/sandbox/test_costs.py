"""Test side: what an amend takes besides time is known, and nothing is added to it unnoticed."""

from __future__ import annotations

import os
import subprocess
import sys
from array import array
from pathlib import Path
from typing import Any

import bench_profile
import pytest

import instar
from instar.vmm.machine import Machine
from tests.support.forge import Data, Image, Zero

pytestmark = pytest.mark.kvm

# Every module that `instar amend` has when it ends, besides those of an interpreter that does
# nothing; why each of them is there is in docs/performance.md.
STANDARD = {
    *("__future__", "_struct", "errno", "gc", "fcntl", "mmap", "struct", "zlib"),
    "_ctypes",
}
OWN = {
    *(
        "abi",
        "vmm",
        "vmm.amend",
        "vmm.cli.amend",
        "vmm.cli.arguments",
        "vmm.devices.block",
        "vmm.machine.boot",
        "vmm.cli",
    ),
    "vmm.cli.flags",
    *(
        "vmm.image.commit",
        "vmm.confine",
        "vmm.contract",
        "vmm.contract.amended",
        "vmm.contract.differences",
        "vmm.contract.header",
        "vmm.contract.judge",
        "vmm.contract.rules",
        "vmm.contract.rules.lazy_refcounts",
        "vmm.contract.terms",
        "vmm.machine.deadline",
        "vmm.base.errors",
        "vmm.base.escape",
    ),
    *(
        "vmm.qcow2.header_view",
        "vmm.image.budgets",
        "vmm.image.image_file",
        "vmm.kvm",
        "vmm.base.c",
        "vmm.kvm.exits",
        "vmm.kvm.ioctls",
    ),
    *("vmm.kvm.structs", "vmm.kvm.system", "vmm.kvm.vcpu", "vmm.kvm.vm", "vmm.image.locks"),
    *(
        "vmm.machine",
        "vmm.devices.memory",
        "vmm.amend.messages",
        "vmm.request.keywords",
        "vmm.request.kinds",
        "vmm.request.lists",
        "vmm.request.options",
        "vmm.machine.payload",
    ),
    *(
        "vmm.qcow2.probe",
        "vmm.base.record",
        "vmm.cli.report",
        "vmm.request",
        "vmm.amend.result",
        "vmm.confine.rules",
    ),
    *(
        "vmm.devices.serial",
        "vmm.image.staging",
        "vmm.base.streams",
        "vmm.base.supported",
    ),
    "vmm.devices.virtqueue",
}

COMMAND = """
import sys
before = set(sys.modules)
import os
def leave(status, original=os._exit):
    os.write(2, " ".join(set(sys.modules) - before).encode())
    original(status)
os._exit = leave
from instar.vmm import import_by_name
import_by_name()
from instar.vmm.cli import main
main()
"""


def plain(path: Path, **fields: Any) -> Path:
    Image(**{"clusters": {0: Data(b"\x05")}, **fields}).write(path)
    return path


def imported(*arguments: str) -> set[str]:
    """The modules that the command has when it ends, without those it began with."""
    line = [sys.executable, "-I", "-c", COMMAND, *arguments]
    # It exits through a function that writes to stderr, which the filter allows.
    done = subprocess.run(line, capture_output=True, text=True, check=True)
    return set(done.stderr.split())


def test_the_command_imports_these_modules_and_no_other(path: Path) -> None:
    found = imported("amend", "-o", "lazy_refcounts=on", str(plain(path)))
    own = {"instar"} | {
        f"instar.{name.rsplit('.', up)[0]}" for name in OWN for up in range(name.count(".") + 1)
    }
    assert found - own <= STANDARD
    assert found >= own


# Each of them takes 1 to 10 ms, with what it imports itself.
SLOW = {
    *("argparse", "collections", "contextlib", "dataclasses", "enum", "functools", "hashlib"),
    *("inspect", "json", "logging", "pathlib", "re", "signal", "socket", "subprocess"),
    *("tempfile", "threading", "typing", "weakref"),
}
COMMANDS = [
    "amend -o lazy_refcounts=on",
    "amend -o size=1G,refcount_bits=64,compat=1.1",
    "rebase -u -b base -F raw",
    "info",
    "check",
    "check -r all",
]


@pytest.mark.parametrize("jobs", ["", "--jobs=2"], ids=["one", "many"])
@pytest.mark.parametrize("line", COMMANDS)
def test_no_command_imports_a_module_that_is_slow_to_import(
    tmp_path: Path, line: str, jobs: str
) -> None:
    images = [str(plain(tmp_path / name)) for name in ("ab" if jobs else "a")]
    assert imported(*line.split(), *jobs.split(), *images).isdisjoint(SLOW)


@pytest.mark.parametrize("compat", ["1.1", "0.10"])
def test_a_change_of_compat_imports_little_more_of_the_standard_library(
    path: Path, compat: str
) -> None:
    found = imported(
        "amend", "-o", f"compat={compat}", str(plain(path, version=3 - int(compat[0])))
    )
    others = {name for name in found if name.partition(".")[0] != "instar"}
    assert others - STANDARD <= {"array", "_bisect", "bisect", "itertools"}
    assert "instar.vmm.contract.tables" in found


BIG = {"size": 1 << 46, "cluster_bits": 21}


@pytest.mark.parametrize("fields", [{}, {"cluster_bits": 9}, BIG], ids=["plain", "512 B", "64 TiB"])
def test_a_switch_of_a_header_bit_reads_and_writes_the_same_whatever_the_image(
    path: Path, fields: dict[str, Any]
) -> None:
    plain(path, **fields)
    with instar.Sandbox() as sandbox:
        for call in (instar.amend, sandbox.amend):
            for lazy in (True, False):
                result = call(path, lazy_refcounts=lazy)
                assert (result.vm_exits, result.bytes_written) == (EXITS, 512)
                assert result.bytes_read <= 9216


EXITS = 1
CALLS = {"fresh": 53, "kept": 43}


@pytest.mark.parametrize("kind", CALLS)
def test_a_call_makes_so_many_system_calls(tmp_path: Path, kind: str) -> None:
    calls = bench_profile.count_calls(tmp_path, kind, plain(tmp_path / "image"))
    assert sum(calls.values()) <= CALLS[kind] + 0.5, calls


def test_a_kept_machine_holds_no_more_memory_after_many_images(path: Path) -> None:
    plain(path)
    with instar.Sandbox() as sandbox:
        sizes = []
        for number in range(400):
            sandbox.amend(path, lazy_refcounts=number % 2 == 0)
            if number in (100, 399):
                sizes.append(int(Path("/proc/self/statm").read_text().split()[1]))
    assert sizes[1] <= sizes[0] + (1 << 20) // os.sysconf("SC_PAGE_SIZE")


PER_TABLE, TABLES = 8192, 40


def test_a_downgrade_stages_what_changes_in_many_tables_at_once(path: Path) -> None:
    zeros = {n * PER_TABLE + sector * 64: Zero() for n in range(TABLES) for sector in (1, 6, 11)}
    Image(size=TABLES * PER_TABLE << 16, clusters=zeros).write(path)
    result = instar.amend(path, compat="0.10")
    assert result.bytes_written == 512 * (len(zeros) + 1)
    assert result.vm_exits <= 16


@pytest.mark.parametrize(("entries", "filled"), [(TABLES, True), (2057, False)])
def test_sectors_between_two_that_change_go_along_where_all_tables_might(
    path: Path, entries: int, *, filled: bool
) -> None:
    zeros = {n * PER_TABLE + sector * 64: Zero() for n in range(TABLES) for sector in (1, 5, 9, 99)}
    Image(size=entries * PER_TABLE << 16, clusters=zeros).write(path)
    result = instar.amend(path, compat="0.10")
    of_table = 1 + 3 + 1 + 3 + 1 + 1 if filled else 4
    assert result.bytes_written == 512 * (TABLES * of_table + 1)


def test_a_downgrade_reads_tables_without_zero_clusters_once_on_each_side(path: Path) -> None:
    clusters = {n * PER_TABLE: Data(b"\5") for n in range(TABLES)}
    Image(size=TABLES * PER_TABLE << 16, clusters={**clusters, 1: Zero()}).write(path)
    result = instar.amend(path, compat="0.10")
    assert result.bytes_read <= (2 * TABLES + 4) << 16


@pytest.mark.parametrize("size", [1 << 34, 40 << 20, (40 << 20) + 512, (64 << 20) + 512, 512 << 20])
@pytest.mark.parametrize("extended", [False, True])
def test_a_size_that_fits_the_tables_takes_one_exit_and_one_sector(
    path: Path, size: int, extended: bool
) -> None:
    clusters = {n: Data(b"\5") for n in range(9)}
    Image(size=64 << 20, clusters=clusters, extended_l2=extended).write(path)
    result = instar.resize(path, size, shrink=True)
    assert result.vm_exits == 1
    assert [(part.offset, part.length) for part in result.ranges] == [(0, 512)]
    # The L2 table at the end of the smaller disk, once on each side, and the L1 entries.
    assert result.bytes_read <= (2 << 16) + (3 << 12)
    assert instar.resize(path, size).action == "noop"


def resident(machine: Machine) -> int:
    """The bytes of a guest's memory that anything has used, as the kernel tells."""
    memory, page = machine._memory, os.sysconf("SC_PAGE_SIZE")
    words = array("Q")
    with Path("/proc/self/pagemap").open("rb") as pages:
        pages.seek(memory.host_address // page * words.itemsize)
        words.frombytes(pages.read(memory.size // page * words.itemsize))
    return page * sum(word >> 63 for word in words)


TURNS: dict[str, list[dict[str, Any]]] = {
    "switches": [{"lazy_refcounts": True}, {"lazy_refcounts": False}],
    "sizes": [{"size": 10 << 30}, {"size": 64 << 20, "shrink": True}],
}


@pytest.mark.parametrize("turns", TURNS)
def test_amends_with_a_kept_machine_have_all_memory_at_hand(
    path: Path, turns: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A page that a reset gives back to the kernel takes 20 us to be there again."""
    plain(path)
    found: list[int] = []
    resetting = Machine.reset

    def reset(machine: Machine) -> None:
        found.append(resident(machine))
        resetting(machine)
        found.append(resident(machine))

    monkeypatch.setattr(Machine, "reset", reset)
    with instar.Sandbox() as sandbox:
        for number in range(3):
            sandbox.amend(path, **TURNS[turns][number % 2])
    assert len(found) == 6
    assert len(set(found[1:])) == 1


def test_the_largest_disk_takes_a_table_of_a_mebibyte_of_which_two_sectors_are_written(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain(path, size=1 << 30)
    touched: list[int] = []
    closing = Machine.close

    def close(machine: Machine) -> None:
        touched.append(resident(machine))
        closing(machine)

    monkeypatch.setattr(Machine, "close", close)
    result = instar.resize(path, 1 << 46)
    assert result.vm_exits == 5
    # The new refcounts and the first and last sector of the table; the header; the old refcounts.
    assert result.bytes_written == 5 * 512
    # The table of refcounts once on each side, the guest's block of them before the switch and
    # after, the judge's L2 table; the header twice, L1 entries and the block's first sector.
    assert result.bytes_read <= (5 << 16) + (4 << 12)
    assert touched[0] <= 420 << 10  # not the mebibyte of zeros
