"""Cases that once found something, in instar or in the fuzzer, as small as they got. Test side.

They are kept as cases, since a seed means another one as soon as the generator changes.
"""

from __future__ import annotations

from tests.differential.generate import Case
from tests.support.forge import Bitmap, Compressed, Data, Image, Snapshot
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
    "qemu finds a bitmaps' directory where there is none": Case(
        Program(
            NEWEST,
            steps=(
                "create -o cluster_size=16384,compat=1.1,lazy_refcounts=on t.qcow2 392704",
                "poke or autoclear_features 1",
            ),
        ),
        ("--shrink size=512", "refcount_bits=64", "resize --shrink 512"),
        judge="11.1.3",
    ),
    "what a compressed cluster hides behind the end of the disk stays": Case(
        Program(
            NEWEST,
            steps=(
                "noise n.raw 49152",
                "convert -c -f raw -O qcow2 -o cluster_size=2048,compat=1.1 n.raw t.qcow2",
                "poke set size 22016",
            ),
        ),
        ("--shrink size=2621440", "resize +512"),
        judge="7.2.22",
    ),
    "an encrypted cluster stays as it is behind the end of the disk": Case(
        Program(
            NEWEST,
            (
                (
                    "t.qcow2",
                    Image(cluster_bits=15, size=785920, crypt_method=1, clusters={23: Data(b"")}),
                ),
            ),
        ),
        ("compat=1.1,refcount_bits=16,size=268435968",),
        judge="10.0.13",
    ),
    "a backing file's name out of reach is refused for that alone": Case(
        Program(
            NEWEST,
            (
                (
                    "t.qcow2",
                    Image(
                        cluster_bits=17,
                        size=524288,
                        backing_file=b"b.raw",
                        backing_format=b"raw",
                        backing_file_offset=131067,
                    ),
                ),
            ),
            ("write b.raw r 786432",),
        ),
        ("lazy_refcounts=on,backing_file=b.raw,backing_fmt=raw",),
        judge="10.0.2",
    ),
    "qemu cuts the data file that an image names": Case(
        Program(NEWEST, (("t.qcow2", Image(size=819200, data_file=b"d.raw")),)),
        ("--shrink size=65536", "refcount_bits=4", "data_file=./d.raw,data_file_raw=off"),
        judge="11.1.3",
    ),
    "the last cluster is left to one snapshot": Case(
        Program(
            NEWEST,
            steps=(
                "create -o cluster_size=4096,compat=1.1 t.qcow2 98304",
                "io -c 'write -P 6 16384 81920' t.qcow2",
                "snapshot -c s1 t.qcow2",
                "resize --shrink t.qcow2 97792",
            ),
        ),
        ("size=258048", "size=98304,refcount_bits=32,lazy_refcounts=on"),
        judge="11.1.3",
    ),
    "qemu leaks what an earlier shrink left when it shrinks again": Case(
        Program(
            NEWEST,
            (("t.qcow2", Image(cluster_bits=9, size=204800, clusters={380: Data(b"5")})),),
            ("poke set size 120320",),
        ),
        ("--shrink size=512",),
        judge="11.1.3",
    ),
    "an image gets the name of its data file back": Case(
        Program(
            NEWEST,
            steps=("create -o data_file=d.raw t.qcow2 261632", "poke ext 44415441 ghost.raw"),
        ),
        ("data_file=d.raw",),
        judge="7.2.22",
    ),
    "a data file is named again where the backing file is missing": Case(
        Program(
            NEWEST,
            steps=(
                "create -o cluster_size=512,compat=1.1,data_file=d.raw t.qcow2 1536",
                "poke backing-at-end b.qcow2",
            ),
        ),
        ("data_file=./d.raw,data_file_raw=off",),
        judge="10.0.13",
    ),
    "a backing file is taken away that is missing": Case(
        Program(
            NEWEST,
            (("t.qcow2", Image(cluster_bits=12, size=0, backing_file=b"missing.raw")),),
        ),
        ("rebase -b ''",),
        judge="7.2.22",
    ),
    "the format of a backing file is confirmed where there is none": Case(
        Program(
            "5.2.0",
            steps=(
                "create -o cluster_size=8192,compat=0.10 t.qcow2 196608",
                "poke ext e2792aca raw",
            ),
        ),
        ("backing_fmt=raw",),
        judge="10.0.2",
    ),
    "a compressed cluster with subclusters is cut, and a snapshot's disk is larger": Case(
        Program(
            "7.2.22",
            (
                (
                    "t.qcow2",
                    Image(
                        size=65536,
                        backing_file=b"b.raw",
                        extended_l2=True,
                        clusters={0: Compressed(b"\x06")},
                        snapshots=[Snapshot(name=b"s", id=b"1", disk_size=(512 << 20) + 512)],
                    ),
                ),
            ),
            ("write b.raw r 98304",),
        ),
        ("--shrink --backing-size=98304 size=512",),
        judge="11.1.2",
    ),
    "qemu cannot zero the rest of a compressed cluster with subclusters": Case(
        Program(
            "11.1.2",
            (
                (
                    "t.qcow2",
                    Image(
                        size=1536,
                        backing_file=b"b.raw",
                        extended_l2=True,
                        clusters={0: Compressed(b"\x06")},
                    ),
                ),
            ),
            ("write b.raw r 261632",),
        ),
        ("--backing-size=261632 size=536871424",),
        judge="11.1.3",
    ),
    "the backing file is missing, and what is wrong shows when none is named any more": Case(
        Program(
            "7.2.18",
            (
                (
                    "t.qcow2",
                    Image(
                        cluster_bits=19,
                        size=524288,
                        backing_file=b"missing.raw",
                        snapshots=[
                            Snapshot(
                                name=b"snapshot 1", id=b"2", vm_state=b"state", extra_data_size=8
                            )
                        ],
                    ),
                ),
            ),
        ),
        ("rebase -b ''",),
        judge="10.0.2",
    ),
}
