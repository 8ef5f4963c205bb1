"""Images of writers that were killed, by seeds: their lazy refcounts are wrong. Test side."""

from __future__ import annotations

import random
import subprocess
from pathlib import Path

from tests.support.qemu import Qemu

KIB = 1024
_CLUSTERS = (512, 4 * KIB, 64 * KIB, 64 * KIB, 2048 * KIB)


def crash_a_writer(seed: int, folder: Path, qemu: Qemu) -> Path:
    """Make an image, write to it with qemu-io, and kill that with SIGKILL in the middle."""
    chance = random.Random(seed)  # noqa: S311 - the same image for the same seed
    image = folder / "crashed.qcow2"
    cluster_size = chance.choice(_CLUSTERS)
    size = chance.choice((64 * KIB, 1024 * KIB, 64 * 1024 * KIB))
    options = {"lazy_refcounts": "on", "cluster_size": str(cluster_size)}
    if cluster_size >= 16 * KIB and chance.random() < 0.3:
        options["extended_l2"] = "on"
    if chance.random() < 0.3:
        options["refcount_bits"] = chance.choice(("4", "8", "32", "64"))
    qemu.create(image, size, **options)
    if chance.random() < 0.5:
        _write(qemu, image, _writes(chance, size, cluster_size, 4))
    for number in range(chance.choice((0, 0, 1, 2))):
        _ask(qemu, "snapshot", "-c", f"s{number}", image)
        _write(qemu, image, _writes(chance, size, cluster_size, 3))
    if chance.random() < 0.25:
        _ask(qemu, "bitmap", "--add", image, "b0")
        _ask(qemu, "bitmap", "--add", "--disable", image, "b1")
        _write(qemu, image, _writes(chance, size, cluster_size, 2))
    _kill_a_writer(chance, image, size, cluster_size, qemu)
    return image


def _ask(qemu: Qemu, *arguments: object) -> None:
    """Run qemu-img, which refuses an image that a write of its own has marked corrupt."""
    qemu.img(*map(str, arguments), accept=(0, 1))


def _write(qemu: Qemu, image: Path, writes: list[str]) -> None:
    """Carry the commands out; not every cluster can be compressed."""
    asked = [part for write in writes for part in ("-c", write)]
    qemu.run("qemu-io", "-f", "qcow2", *asked, str(image), accept=(0, 1))


def _writes(chance: random.Random, size: int, cluster_size: int, count: int) -> list[str]:
    """Commands of qemu-io: data, compressed data, zeros, discards and flushes."""
    kinds = (
        *("write -q -P {} {} {}", "write -q -P {} {} {}", "write -q -c -P {} {} {}"),
        *("write -q -z {1} {2}", "discard -q {1} {2}", "flush"),
    )
    found = []
    for _ in range(count):
        kind = chance.choice(kinds)
        length = chance.choice((512, 4096, 64 * KIB, 300 * KIB))
        start = chance.randrange(0, size, 512)
        if " -c " in kind:
            if cluster_size > size:
                continue
            start, length = start // cluster_size * cluster_size, cluster_size
        length = min(length, size - start)
        found.append(kind.format(chance.randrange(1, 256), start, length))
    return found


def _kill_a_writer(
    chance: random.Random, image: Path, size: int, cluster_size: int, qemu: Qemu
) -> None:
    """Half of the seeds kill it after a write, half of them at some time."""
    writes = _writes(chance, size, cluster_size, chance.randrange(1, 60))
    caches = "l2-cache-size=4096,cache-size=1M" if chance.random() < 0.5 else "cache-size=1M"
    command = [str(qemu.directory / "qemu-io"), "--image-opts"]
    command += [f"driver=qcow2,file.driver=file,file.filename={image},{caches}"]
    if chance.random() < 0.5:
        writes.insert(chance.randrange(len(writes) + 1), "sigraise 9")
    lines = "".join(f"{write}\n" for write in writes)
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as writer:
        try:
            writer.communicate(lines.encode() + b"sleep 60000\n", timeout=chance.random() / 4)
        except subprocess.TimeoutExpired:
            writer.kill()
