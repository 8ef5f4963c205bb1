"""Where instar is safer than qemu-img: what qemu-img's downgrade loses, instar keeps. Test side.

Each case is made and amended by every version of qemu-img at hand, which exits with 0 and says
nothing; the contents are read by qemu-img before and after. docs/amend.md lists them.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.divergences import diverges
from tests.support.qemu import Qemu, QemuError
from tests.support.recipe import make
from tests.support.verdicts import Request, ask_instar, ask_qemu, copy

pytestmark = pytest.mark.kvm

DOWN = Request(compat="0.10")


def reads(qemu: Qemu, image: Path, name: str) -> bytes:
    """What a snapshot reads as; QemuError if it cannot be read."""
    raw = image.with_name("snapshot.raw")
    qemu.convert(image, raw, "-l", f"snapshot.name={name}", to="raw")
    return raw.read_bytes()


def test_the_data_of_a_snapshot_outlives_a_zero_cluster_over_it(
    tmp_path: Path, each_qemu: Qemu
) -> None:
    recipe = "create t.qcow2 1M\nio -c 'write -P 5 0 256k' t.qcow2\nsnapshot -c s t.qcow2\n"
    image = make(each_qemu, tmp_path, recipe + "io -c 'write -z 0 128k' t.qcow2")
    before = reads(each_qemu, image, "s")
    assert before[:0x40000] == b"\5" * 0x40000
    theirs = copy(image, "theirs.qcow2")
    assert ask_instar(image, DOWN) == "amended"
    assert reads(each_qemu, image, "s") == before
    assert each_qemu.check(image).clean
    diverges("shared_zero_clusters")
    assert ask_qemu(each_qemu, theirs, DOWN) == "changed"
    assert reads(each_qemu, theirs, "s")[:0x20000] == bytes(0x20000)


def test_the_zstd_clusters_of_a_snapshot_stay_readable(tmp_path: Path, qemu: Qemu) -> None:
    recipe = (
        "write r.img a 65536\n"
        "convert -c -f raw -O qcow2 -o compression_type=zstd r.img t.qcow2\n"
        "snapshot -c s t.qcow2\nio -c 'write -P 9 0 64k' t.qcow2"
    )
    image = make(qemu, tmp_path, recipe)
    before = reads(qemu, image, "s")
    theirs = copy(image, "theirs.qcow2")
    assert ask_instar(image, DOWN) == "downgrade_compressed_clusters"
    assert reads(qemu, image, "s") == before
    diverges("zstd_in_snapshots_blocks")
    assert ask_qemu(qemu, theirs, DOWN) == "changed"
    with pytest.raises(QemuError):
        reads(qemu, theirs, "s")


@pytest.mark.parametrize(("byte", "lost"), [("0xff", "unopenable"), ("0", "backing format")])
def test_an_image_with_unknown_header_fields_stays_an_image(
    tmp_path: Path, each_qemu: Qemu, byte: str, lost: str
) -> None:
    recipe = f"create b.qcow2 1M\ncreate -b b.qcow2 -F qcow2 t.qcow2\npoke grow 8 {byte}"
    image = make(each_qemu, tmp_path, recipe)
    theirs = copy(image, "theirs.qcow2")
    assert ask_instar(image, DOWN) == "amended"
    assert each_qemu.info(image)["backing-filename-format"] == "qcow2"
    diverges("unknown_header_fields_dropped")
    assert ask_qemu(each_qemu, theirs, DOWN) == "changed"
    try:
        found = each_qemu.info(theirs).get("backing-filename-format", "no backing format")
    except QemuError:
        found = "unopenable"
    assert lost in found
