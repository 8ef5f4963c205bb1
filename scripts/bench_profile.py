"""Test side: `make bench`, where the time of a call goes, and the floor that C has."""

from __future__ import annotations

import fcntl
import re
import statistics
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bench_common import COMMAND, PEAK, plain_image, print_table
from build_guest import compiler

import instar
from instar.vmm.kvm import ioctls, state, system, vcpu, vm
from instar.vmm.kvm.structs import KVM_REGS, KVM_SREGS
from instar.vmm.machine import Machine
from instar.vmm.machine.payload import Image, Payload, Segment, load_payload

FLOOR = Path(__file__).with_name("bench_floor.c")

# An OUT that ends it: as many exits as a switch of lazy_refcounts.
ONE_EXIT = bytes.fromhex("31c0" + "e6f4")

TRACED = """
import sys, instar
kind, count, path = sys.argv[1], int(sys.argv[2]), sys.argv[3]
with instar.Sandbox() as sandbox:
    call = sandbox.amend if kind == "kept" else instar.amend
    for n in range(2 + count):
        result = call(path, lazy_refcounts=n % 2 == 0)
"""
_MEMORY_CALLS = ("brk", "mmap", "munmap", "mremap", "madvise")


def profile_calls(folder: Path, rounds: int) -> None:
    """Print what a call with a fresh and with a kept machine spends in the kernel, and in all."""
    path = plain_image(folder / "profiled")
    with instar.Sandbox() as sandbox:
        for name, call in (("fresh", instar.amend), ("kept", sandbox.amend)):
            steps, whole = _time_steps(call, path, rounds)
            rest = whole - sum(steps.values())
            rows = {step: f"{us:7.0f} us" for step, us in steps.items()}
            rows["Python, and system calls on the image"] = f"{rest:7.0f} us"
            rows["in all"] = f"{whole:7.0f} us"
            print_table(f"Where a call with a {name} machine spends its time", rows)


def _time_steps(
    call: Callable[..., Any], path: Path, rounds: int
) -> tuple[dict[str, float], float]:
    """The medians in microseconds of each kind of step, and of the call."""
    spent: dict[str, float] = defaultdict(float)

    def timed(step: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def run(*arguments: Any) -> Any:
            start = time.perf_counter()
            try:
                return function(*arguments)
            finally:
                spent[step] += (time.perf_counter() - start) * 1e6

        return run

    names = {ioctls.KVM_CREATE_VM: "KVM_CREATE_VM"}
    names |= {ioctls.KVM_CREATE_VCPU: "KVM_CREATE_VCPU"}
    original = fcntl.ioctl

    def ioctl(fd: int, request: int, *rest: Any) -> Any:
        return timed(names.get(request, "other ioctls"), original)(fd, request, *rest)

    modules: tuple[Any, ...] = (system, vcpu, vm, state)
    entering = vcpu.Vcpu._enter
    closing = Machine.close
    steps, whole = [], []
    for module in modules:
        module.ioctl = ioctl
    vcpu.Vcpu._enter = timed("KVM_RUN", entering)  # type: ignore[method-assign]
    Machine.close = timed("closing the machine", closing)  # type: ignore[method-assign]
    try:
        for number in range(rounds):
            spent.clear()
            start = time.perf_counter()
            call(path, lazy_refcounts=number % 2 == 0)
            whole.append((time.perf_counter() - start) * 1e6)
            steps.append(dict(spent))
    finally:
        vcpu.Vcpu._enter = entering  # type: ignore[method-assign]
        Machine.close = closing  # type: ignore[method-assign]
        for module in modules:
            module.ioctl = original
    kinds = dict.fromkeys(step for each in steps for step in each)
    return {k: statistics.median(each.get(k, 0.0) for each in steps) for k in kinds}, (
        statistics.median(whole)
    )


class _Dumped(Machine):
    """A machine that can be written to a file."""

    def dump(self) -> bytes:
        sregs, regs = self._vcpu.get_sregs(), self._vcpu.get_regs()
        return KVM_SREGS.pack(sregs) + KVM_REGS.pack(regs) + self._memory.read(0, self._memory.size)


def show_floor(folder: Path, rounds: int) -> None:
    """Print what the same machine, with as many exits and no work, costs a program in C."""
    program, contents = folder / "floor", folder / "floor.bin"
    subprocess.run([*compiler(()), "-O2", "-o", program, FLOOR], check=True)
    machine = _Dumped(_with_code(load_payload(), ONE_EXIT))
    with machine:
        contents.write_bytes(machine.dump())
    done = subprocess.run(
        [program, contents, str(rounds)], check=True, capture_output=True, text=True
    )
    life, run, exits = done.stdout.split()
    rows = {
        "life of the machine": f"{life:>7} us",
        f"of which {exits} exit": f"{run:>7} us",
    }
    print_table("A program in C: the same machine and exits, no image and no checks", rows)


def _with_code(payload: Payload, code: bytes) -> Payload:
    """The payload with other instructions at the executor's entry."""
    core, operation = payload.images

    def put(segment: Segment) -> Segment:
        at = core.entry - segment.address
        if not 0 <= at < segment.size:
            return segment
        data = segment.data[:at] + code + segment.data[at + len(code) :]
        return Segment(segment.address, segment.size, segment.flags, data)

    segments = tuple(map(put, core.segments))
    changed = Image(core.name, core.elf, core.entry, segments, core.abi_version)
    return Payload((changed, operation), payload.sha256)


def count_calls(folder: Path, kind: str, path: Path, calls: int = 8) -> dict[str, float]:
    """The system calls of one library call, by name, without those that get or give memory."""
    counts = []
    for count in (0, calls):
        log = folder / "trace"
        line = [sys.executable, "-c", TRACED, kind, str(count), str(path)]
        subprocess.run(["strace", "-f", "-o", log, *line], check=True)
        found: dict[str, int] = defaultdict(int)
        for name in re.findall(r"^\d+ +(\w+)\(", log.read_text(errors="replace"), re.MULTILINE):
            found[name] += name not in _MEMORY_CALLS
        counts.append(found)
    none, some = counts
    return {n: (some[n] - none[n]) / calls for n in some if some[n] != none[n]}


def show_costs(folder: Path) -> None:
    """Print what one amend takes besides time."""
    path = plain_image(folder / "counted")
    result = instar.amend(path, lazy_refcounts=True)
    rows = {
        "exits": f"{result.vm_exits}",
        "bytes read, written": f"{result.bytes_read}, {result.bytes_written}",
    }
    for kind in ("fresh", "kept"):
        calls = count_calls(folder, kind, path)
        most = sorted(calls.items(), key=lambda item: -item[1])[:6]
        text = ", ".join(f"{count:.0f} {name}" for name, count in most)
        rows[f"system calls, {kind} machine"] = f"{sum(calls.values()):.0f}: {text}, ..."
    for name, line in (
        ("instar amend", [COMMAND, "amend", "-o", "lazy_refcounts=off", path]),
        ("python -I -c pass", [sys.executable, "-I", "-c", "pass"]),
    ):
        rows[f"peak memory, {name}"] = f"{_peak(line) / 1024:.1f} MiB at most"
    print_table("One switch of lazy_refcounts takes", rows)


def _peak(line: list[Any]) -> int:
    """The peak memory of a process in KiB."""
    whole = [sys.executable, "-I", "-c", PEAK, *map(str, line)]
    return int(subprocess.run(whole, check=True, capture_output=True, text=True).stdout)
