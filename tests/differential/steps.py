"""Random steps with which qemu makes an image, and edits of it afterwards. Test side."""

from __future__ import annotations

import random
from dataclasses import dataclass

from tests.differential.forged import cluster_bits, disk_size

_EDITS = (
    *("or incompatible_features 1", "or incompatible_features 2", "or incompatible_features 0x20"),
    *("or compatible_features 0xf0", "or autoclear_features 0xf0", "or autoclear_features 1"),
    *("ext 11111111 one", "ext 22222222 two", "ext 11111111 again", "extfill 33333333 300"),
    *("delext 6803f857", "names 0 9 mine", "hdr104", "grow 16 0xab", "grow 8 0", "bytes 105 0102"),
    *("backing-at-end b.qcow2", "ext e2792aca raw", "ext 44415441 ghost.raw"),
    *("set cluster_bits 8", "set header_length 96", "set version 4", "bytes 104 01"),
    *("set refcount_order 7", "set crypt_method 3"),
)
_SNAPSHOT_EDITS = (
    *("snapshot-extra 0", "snapshot-extra 8", "snapshot-extra 16", "snapshot-extra 40"),
    *("snapshot 0 large_vm_state_size 0x200000000", "snapshot 0 disk_size 512"),
)
"""Of tests/support/poke.py; what makes no sense for an image is passed over."""


@dataclass
class _Disk:
    """What the steps so far have made."""

    bits: int
    size: int
    version: int
    compressed: bool
    """Whether clusters can be compressed."""


def made(rng: random.Random) -> tuple[str, ...]:
    """Steps that make an image, from its creation to edits of its header."""
    disk, steps = _create(rng)
    steps += _writes(rng, disk)
    if rng.random() < 0.5:
        steps += _snapshots(rng, disk)
    if disk.version == 3 and rng.random() < 0.12:
        steps += ["bitmap --add t.qcow2 b0", *_writes(rng, disk)]
        steps += rng.choice(([], ["bitmap --add --disable t.qcow2 b1"]))
    if rng.random() < 0.1:
        size = disk_size(rng, disk.bits)
        steps += [f"resize --shrink t.qcow2 {size}"]
    if rng.random() < 0.15:
        tool = rng.choice(("amend", "instar", "instar"))
        steps += [f"{tool} {rng.choice(('compat=0.10', 'compat=1.1', 'lazy_refcounts=on'))}"]
        steps += _writes(rng, disk)
    if rng.random() < 0.4:
        steps += [f"poke {edit}" for edit in rng.sample(_EDITS, rng.choice((1, 1, 2)))]
    if rng.random() < 0.3 and "snapshot -c s1 t.qcow2" in steps:
        steps += [f"poke {rng.choice(_SNAPSHOT_EDITS)}"]
    return tuple(steps)


def encrypted(rng: random.Random) -> tuple[str, ...]:
    """Steps that make an encrypted image."""
    disk = _Disk(12, 1 << 16, 3, compressed=False)
    steps = ["luks"] if rng.random() < 0.6 else [_legacy_encryption(rng)]
    steps += _writes(rng, disk)
    if rng.random() < 0.4:
        steps += _snapshots(rng, disk)
    if rng.random() < 0.4:
        steps += ["instar compat=0.10"]
    return tuple(steps)


def _legacy_encryption(rng: random.Random) -> str:
    compat = rng.choice(("0.10", "1.1"))
    options = f"compat={compat},cluster_size=4k,encrypt.format=aes,encrypt.key-secret=s0"
    return f"create --object secret,id=s0,data=hunter2 -o {options} t.qcow2 64k"


def _create(rng: random.Random) -> tuple[_Disk, list[str]]:
    bits = cluster_bits(rng)
    disk = _Disk(bits, disk_size(rng, bits), rng.choice((2, 3, 3)), compressed=True)
    options = [f"cluster_size={1 << bits}", f"compat={'1.1' if disk.version == 3 else '0.10'}"]
    steps, backing = _backing(rng, disk) if rng.random() < 0.4 else ([], "")
    chance = rng.random()
    if disk.version == 3:
        options += _features(rng, disk)
    if chance < 0.1 and not backing:
        options.append("preallocation=metadata")
    if disk.compressed and disk.size and not backing and chance > 0.85:
        convert = f"convert -c -f raw -O qcow2 -o {','.join(options)} n.raw t.qcow2"
        return disk, [f"noise n.raw {disk.size}", convert]
    size = "" if backing and rng.random() < 0.3 else f" {disk.size}"
    return disk, [*steps, f"create -o {','.join(options)}{backing} t.qcow2{size}"]


def _features(rng: random.Random, disk: _Disk) -> list[str]:
    chance = rng.random()
    if chance < 0.2:
        return ["lazy_refcounts=on"]
    if chance < 0.27:
        return [f"refcount_bits={1 << rng.randrange(7)}"]
    if chance < 0.37:
        return ["compression_type=zstd"]
    if chance < 0.45 and disk.bits >= 14:
        return ["extended_l2=on"]
    if chance < 0.50:
        disk.compressed = False
        return ["data_file=d.raw"]
    return []


def _backing(rng: random.Random, disk: _Disk) -> tuple[list[str], str]:
    """Steps that make backing files, and how the image names the nearest."""
    size = max(disk.size + rng.choice((0, 0, -1, 1)) * (disk.size // 2 // 512 * 512), 512)
    if rng.random() < 0.4:
        return [f"write b.raw r {size}"], " -b b.raw -F raw"
    steps = [f"create b.qcow2 {size}", f"io -c 'write -P 9 0 {size // 1024 * 512}' b.qcow2"]
    if rng.random() < 0.2:
        steps.append(f"create -b b.qcow2 -F qcow2 c.qcow2 {size}")
        steps.append(f"io -c 'write -z 0 {size // 2048 * 512}' c.qcow2")
        return steps, " -b c.qcow2 -F qcow2"
    return steps, " -b b.qcow2 -F qcow2"


def _snapshots(rng: random.Random, disk: _Disk) -> list[str]:
    steps = ["snapshot -c s1 t.qcow2", *_writes(rng, disk)]
    if rng.random() < 0.15:  # of another size than the disk
        size = disk_size(rng, disk.bits) or 512
        steps += [f"resize --shrink t.qcow2 {size}"]
        disk.size = size // 512 * 512
        steps += _writes(rng, disk)
    if rng.random() < 0.4:
        steps += ["snapshot -c s2 t.qcow2", *_writes(rng, disk)]
        if rng.random() < 0.3:
            steps += [f"snapshot {rng.choice(('-d', '-a'))} s1 t.qcow2"]
    return steps


def _writes(rng: random.Random, disk: _Disk) -> list[str]:
    return [_write(rng, disk) for _ in range(rng.choice((0, 1, 2, 4))) if disk.size >= 512]


def _write(rng: random.Random, disk: _Disk) -> str:
    """One write to a few clusters, or a part of one."""
    cluster = 1 << disk.bits
    start = rng.randrange(-(-disk.size // cluster)) * cluster
    length = cluster * rng.choice((1, 1, 1, 2, 3, 40))
    verbs = ["write -P 5", "write -P 6", "write -P 0", "discard"]
    verbs += ["write -z", "write -z", "write -z -u"]
    if disk.compressed:
        verbs += ["write -c -P 7"]
    verb = rng.choice(verbs)
    if verb == "write -c -P 7":
        length = cluster
    elif rng.random() < 0.2:
        start, length = start + 512 * rng.randrange(cluster // 512), 512
    length = min(length, disk.size - start, 1 << 20)
    return f"io -c '{verb} {start} {max(length, 512)}' t.qcow2"
