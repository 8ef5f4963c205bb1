"""Test side: images whose refcounts get another width, as qemu-img of each version reads them."""

from __future__ import annotations

from pathlib import Path

import pytest

import instar
from tests.support.forge import Reader
from tests.support.forge.audit import faults
from tests.support.qemu import Qemu
from tests.support.recipe import make

pytestmark = pytest.mark.kvm

KINDS = {
    "empty": "create -o cluster_size={c} t.qcow2 64M",
    "data": "create -o cluster_size={c} t.qcow2 64M; io -c 'write -P 1 0 1M' t.qcow2",
    "snapshots": (
        "create -o cluster_size={c} t.qcow2 8M; io -c 'write -P 1 0 300k' t.qcow2;"
        "snapshot -c one t.qcow2; io -c 'write -P 2 64k 600k' t.qcow2"
    ),
    "compressed": (
        "write r.img a 300000; convert -c -f raw -O qcow2 -o cluster_size={c} r.img t.qcow2"
    ),
    "bitmaps": (
        "create -o cluster_size={c} t.qcow2 8M; bitmap --add t.qcow2 b0;"
        "io -c 'write -P 1 0 1M' t.qcow2"
    ),
    "data file": "create -o cluster_size={c},data_file={folder}/d.raw t.qcow2 8M",
    "leaked": (
        "create -o cluster_size={c} t.qcow2 64M; io -c 'write -P 1 0 1M' t.qcow2;"
        "snapshot -c one t.qcow2; snapshot -d one t.qcow2"
    ),
    "lazy": "create -o cluster_size={c},lazy_refcounts=on t.qcow2 64M",
}
SIZES = {"512": 8, "4k": 32, "64k": 64, "2M": 16}
"""Sizes of clusters, and a width for each: all widths are tried in tests/planner."""


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("kind", KINDS)
def test_every_version_reads_what_it_read(
    kind: str, size: str, tmp_path: Path, qemu_versions: tuple[Qemu, ...]
) -> None:
    recipe = KINDS[kind].format(c=size, folder=tmp_path).replace(";", "\n")
    image = make(qemu_versions[0], tmp_path, recipe)
    original = image.with_name("original.qcow2")
    original.write_bytes(image.read_bytes())
    # Compressed clusters of one host cluster are counted up to 16 bits; 1 bit is for the others.
    for bits in dict.fromkeys((SIZES[size], 64, 16, 32 if kind == "compressed" else 2)):
        before = instar.amend(image, dry_run=True, lazy_refcounts=kind == "lazy")
        result = instar.amend(image, refcount_bits=bits)
        assert result.atomic
        assert result.options["refcount_bits"] == bits
        assert result.action == ("noop" if before.options["refcount_bits"] == bits else "amended")
        assert instar.amend(image, refcount_bits=bits).action == "noop"
        if size != "2M":
            assert faults(Reader(image.read_bytes())) == []
    for qemu in qemu_versions:
        check = qemu.check(image)
        assert (check.errors, check.corruptions, check.leaks) == (0, 0, 0)
        assert qemu.info(image)["format-specific"]["data"]["refcount-bits"] == bits
        assert qemu.compare(image, original)
        if kind == "snapshots":
            assert qemu.compare_snapshot(image, original, "one")


def test_a_chain_gives_the_width_that_version_2_has(
    tmp_path: Path, qemu_versions: tuple[Qemu, ...]
) -> None:
    recipe = "create -o refcount_bits=8 t.qcow2 8M\nio -c 'write -P 1 0 1M' t.qcow2"
    image = make(qemu_versions[0], tmp_path, recipe)
    with pytest.raises(instar.ImageRejected, match="requires refcount_bits=16"):
        instar.amend(image, compat="0.10")
    result = instar.amend(image, compat="0.10", refcount_bits=16)
    assert (result.compat, result.options["refcount_bits"]) == ("0.10", 16)
    result = instar.amend(image, compat="1.1", refcount_bits=4, lazy_refcounts=True)
    assert result.atomic
    for qemu in qemu_versions:
        check = qemu.check(image)
        assert (check.errors, check.corruptions, check.leaks) == (0, 0, 0)


def test_what_version_2_cannot_have_leaves_nothing_done(
    tmp_path: Path, qemu_versions: tuple[Qemu, ...]
) -> None:
    image = make(qemu_versions[0], tmp_path, "create t.qcow2 8M")
    before = image.read_bytes()
    with pytest.raises(instar.ImageRejected):
        instar.amend(image, compat="0.10", refcount_bits=32)
    assert image.read_bytes() == before
