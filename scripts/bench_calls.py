"""Test side: `make bench`, one image: library, command and qemu-img; cost against sizes."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from bench_common import (
    COMMAND,
    ROW,
    ROW_OF_CALLS,
    Contender,
    amend_with,
    measure,
    plain_image,
    print_table,
)

import instar
from tests.support.forge import Data, Image


def compare_calls(folder: Path, qemu_img: Path, rounds: int) -> dict[str, float]:
    """Toggle one small image in every way; returns the medians in seconds."""
    images = [plain_image(folder / f"call-{n}") for n in range(5)]
    with instar.Sandbox() as sandbox:

        def in_a_row(_: int) -> None:
            for number in range(ROW):
                sandbox.amend(images[4], lazy_refcounts=number % 2 == 0)

        medians = measure(
            {
                "Sandbox.amend(...), a kept machine": lambda n: sandbox.amend(
                    images[0], lazy_refcounts=n % 2 == 0
                ),
                ROW_OF_CALLS: in_a_row,
                "instar.amend(...), a fresh machine": lambda n: instar.amend(
                    images[1], lazy_refcounts=n % 2 == 0
                ),
                "qemu-img amend": amend_with(qemu_img, images[2]),
                "instar amend, confined": amend_with(COMMAND, images[3]),
                "python -I -c pass": lambda _: subprocess.run(
                    [sys.executable, "-I", "-c", "pass"], check=True
                ),
            },
            rounds,
        )
    medians[ROW_OF_CALLS] /= ROW
    qemu, python = medians["qemu-img amend"], medians["python -I -c pass"]
    rows = {
        name: f"{median * 1e3:7.2f} ms {median / qemu:6.3f} x qemu-img "
        f"{median / python:6.2f} x python"
        for name, median in medians.items()
    }
    print_table(f"One switch of lazy_refcounts, medians of {rounds} rounds", rows)
    return medians


def sized_images(folder: Path) -> dict[str, dict[str, Path]]:
    """By what is varied and its value: images in which a toggle has nothing else to do."""
    kinds: dict[str, dict[str, Path]] = {"virtual size": {}, "cluster size": {}, "chain": {}}
    for exponent in (26, 30, 34, 38, 42, 46):
        path = kinds["virtual size"][f"{1 << exponent - 20} MiB"] = folder / f"size-{exponent}"
        cluster_bits = 21 if exponent > 40 else 16
        Image(size=1 << exponent, cluster_bits=cluster_bits, clusters={0: Data(b"\x05")}).write(
            path
        )
    for bits in (9, 12, 16, 21):
        path = kinds["cluster size"][f"{1 << bits} B"] = folder / f"cluster-{bits}"
        Image(size=1 << 26, cluster_bits=bits, clusters={0: Data(b"\x05")}).write(path)
    for length in (1, 10, 50):
        for number in range(length):
            backing = f"chain-{length}-{number - 1}".encode() if number else None
            path = folder / f"chain-{length}-{number}"
            Image(
                size=1 << 26, backing_file=backing, backing_format=b"qcow2" if number else None
            ).write(path)
        kinds["chain"][f"{length}"] = path
    return kinds


def compare_sizes(folder: Path, qemu_img: Path, rounds: int) -> dict[str, dict[str, list[float]]]:
    """Cost against what is not looked at; returns [fresh, kept, qemu-img] medians in seconds."""
    found: dict[str, dict[str, list[float]]] = {}
    with instar.Sandbox() as sandbox:
        for kind, images in sized_images(folder).items():
            contenders: dict[str, Contender] = {}
            for value, path in images.items():
                contenders[f"{value} fresh"] = _toggle(instar.amend, path)
                contenders[f"{value} kept"] = _toggle(sandbox.amend, path)
                contenders[f"{value} qemu-img"] = amend_with(qemu_img, path)
            medians = measure(contenders, rounds)
            found[kind] = {
                value: [medians[f"{value} {name}"] for name in ("fresh", "kept", "qemu-img")]
                for value in images
            }
            rows = {
                value: "fresh {:6.2f} ms   kept {:6.2f} ms   qemu-img {:6.2f} ms".format(
                    *(each * 1e3 for each in three)
                )
                for value, three in found[kind].items()
            }
            for place, name in enumerate(("fresh", "kept", "qemu-img")):
                column = [three[place] for three in found[kind].values()]
                rows[f"largest / smallest, {name}"] = f"{max(column) / min(column):.2f}"
            print_table(f"A switch of lazy_refcounts against {kind}", rows)
    return found


def _toggle(call: Callable[..., object], path: Path) -> Contender:
    return lambda n: call(path, lazy_refcounts=n % 2 == 0)


def compare_scans(folder: Path, qemu_img: Path, rounds: int) -> None:
    """A downgrade, which has to look at every L2 table, here 128 MiB of them."""
    paths = [folder / f"scan-{n}" for n in range(2)]
    tables = 2048
    for path in paths:
        per_table = 1 << 13
        clusters = {number * per_table: Data(b"\x05") for number in range(tables)}
        Image(size=tables * per_table << 16, clusters=clusters).write(path)

    def level(number: int) -> str:
        return "1.1" if number % 2 else "0.10"

    with instar.Sandbox() as sandbox:
        result = sandbox.amend(paths[0], compat="0.10", dry_run=True)
        down: dict[str, list[float]] = {"instar": [], "qemu-img": []}
        for _ in range(rounds):
            for name, path in zip(down, paths, strict=True):
                start = time.perf_counter()
                if name == "instar":
                    sandbox.amend(path, compat="0.10")
                else:
                    subprocess.run([qemu_img, "amend", "-o", "compat=0.10", path], check=True)
                down[name].append(time.perf_counter() - start)
                sandbox.amend(path, compat="1.1")
    size = f"count={result.bytes_read}"
    dd = ["dd", f"if={paths[0]}", "of=/dev/null", "bs=1M", "iflag=count_bytes", size, "status=none"]
    start = time.perf_counter()
    subprocess.run(dd, check=True)
    copied = time.perf_counter() - start
    rows = {f"{name}, compat=0.10": _rate(result.bytes_read, min(t)) for name, t in down.items()}
    rows["dd of as many bytes"] = _rate(result.bytes_read, copied)
    rows["bytes read, exits"] = f"{result.bytes_read} {result.vm_exits}"
    print_table(f"The scan of {tables} L2 tables of 64 KiB, best of {len(down['instar'])}", rows)


def _rate(size: int, seconds: float) -> str:
    return f"{seconds * 1e3:8.1f} ms {size / seconds / 1e6:8.0f} MB/s"
