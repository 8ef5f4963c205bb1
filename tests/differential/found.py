"""Cases that once found something, in instar or in the fuzzer, as small as they got. Test side.

They are kept as cases, since a seed means another one as soon as the generator changes.
"""

from __future__ import annotations

from tests.differential.generate import Case
from tests.support.forge import Bitmap, Image, Snapshot
from tests.support.program import Program

NEWEST = "11.1.3"

FOUND = {
    "an encrypted disk of size 0 has a bitmap": Case(
        Program(
            "11.1.2",
            (
                (
                    "t.qcow2",
                    Image(cluster_bits=12, size=0, crypt_method=1, bitmaps=[Bitmap(name=b"b0")]),
                ),
            ),
        ),
        ("compat=1.1",),
        judge="10.0.13",
    ),
    "a header of 96 bytes hides the name of the data file": Case(
        Program(
            "11.1.2",
            steps=(
                "create -o cluster_size=4096,compat=1.1,data_file=d.raw,preallocation=metadata"
                " t.qcow2 4096",
                "poke set header_length 96",
                "poke grow 8 0",
            ),
        ),
        ("compat=1.1",),
        judge="11.1.3",
    ),
    "5.2 takes no bitmap of a disk of size 0": Case(
        Program(NEWEST, (("t.qcow2", Image(size=0, bitmaps=[Bitmap(name=b"b0")])),)),
        ("lazy_refcounts=on",),
        judge="5.2.0",
    ),
    "zero unknown fields hide the backing format from qemu's version 2": Case(
        Program(
            NEWEST,
            (
                (
                    "t.qcow2",
                    Image(
                        cluster_bits=10,
                        size=0,
                        header_length=120,
                        unknown_header_fields=bytes(8),
                        backing_file=b"b.raw",
                        backing_format=b"raw",
                    ),
                ),
            ),
            ("write b.raw r 512",),
        ),
        ("compat=0.10",),
        judge="7.2.18",
    ),
    "qemu reads the name of a data file that no image has": Case(
        Program(NEWEST, steps=("create t.qcow2 64k", "poke ext 44415441 ghost.raw")),
        ("compat=1.1", "lazy_refcounts=on"),
        judge="10.0.13",
    ),
    "5.2 can open an image of another compression type once it is downgraded": Case(
        Program(NEWEST, steps=("create -o compression_type=zstd t.qcow2 64k",)),
        ("compat=0.10",),
        judge="5.2.0",
    ),
    "qemu-img fails on a snapshot of a disk of size 0": Case(
        Program(NEWEST, (("t.qcow2", Image(size=0, snapshots=[Snapshot(name=b"s")])),)),
        ("compat=0.10",),
        judge="7.2.22",
    ),
    "no snapshot is edited where there is none": Case(
        Program(
            NEWEST,
            steps=("create t.qcow2 64k", "poke snapshot 0 large_vm_state_size 0x200000000"),
        ),
        ("compat=0.10", "compat=1.1"),
        judge="7.2.22",
    ),
}
