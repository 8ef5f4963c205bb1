"""Test side: the largest change that is held back until it is judged, as qemu-img reads it."""

from __future__ import annotations

import json
import struct
from array import array
from pathlib import Path

import pytest

import instar
from instar.abi import INSTAR_STAGED_MAX
from tests.support.dense import put_words
from tests.support.qemu import Qemu

pytestmark = pytest.mark.kvm

BITS, CLUSTER = 16, 1 << 16
DISK = 2 << 40
COUNT = DISK // CLUSTER // (CLUSTER // 8)
"""L2 tables, of a cluster each."""


def write_zero_clusters(path: Path) -> None:
    """A disk of which each L2 entry says that its cluster is zero, and has no place."""
    table, block = 2, 3  # after the header and the L1 table, which has a cluster
    first = block + 1
    header = (b"QFI\xfb", 3, 0, 0, BITS, DISK, 0, COUNT, CLUSTER, table * CLUSTER, 1)
    tables = range(first, first + COUNT)
    with path.open("wb", buffering=0) as file:
        file.write(struct.pack(">4sIQIIQIIQQI", *header).ljust(96, b"\0"))
        file.write(struct.pack(">II", 4, 104))
        put_words(file.fileno(), CLUSTER, array("Q", [n * CLUSTER | 1 << 63 for n in tables]))
        put_words(file.fileno(), table * CLUSTER, array("Q", [block * CLUSTER]))
        put_words(file.fileno(), block * CLUSTER, array("H", [1] * (first + COUNT)))
        for number in tables:
            put_words(file.fileno(), number * CLUSTER, array("Q", [1]) * (CLUSTER // 8))


def test_a_disk_of_two_tib_that_is_all_zero_clusters_is_downgraded(
    tmp_path: Path, qemu_versions: tuple[Qemu, ...]
) -> None:
    image = tmp_path / "t.qcow2"
    write_zero_clusters(image)
    result = instar.amend(image, compat="0.10")
    assert result.atomic
    assert COUNT * CLUSTER < result.bytes_written <= INSTAR_STAGED_MAX
    for qemu in (qemu_versions[0], qemu_versions[-1]):
        assert qemu.check(image).clean
        assert qemu.info(image)["format-specific"]["data"]["compat"] == "0.10"
        mapped = json.loads(qemu.img("map", "--output=json", "-f", "qcow2", str(image)).stdout)
        assert [(m["start"], m["length"], m["zero"], m["data"]) for m in mapped] == [
            (0, DISK, True, False)
        ]
