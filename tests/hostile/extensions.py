"""Hostile images: header extensions, the backing file's format and its name. Test side."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from tests.hostile.case import BACKED, BACKING_FILE, CLUSTER, TINY, V2, V3, Case, u32
from tests.support.forge import Extension, Image, layout

FORMAT = layout.EXTENSION_BACKING_FORMAT
NAMES = layout.EXTENSION_FEATURE_NAME_TABLE
UNKNOWN = 0x11111111
KINDS = {
    "unknown": UNKNOWN,
    "feature names": NAMES,
    "backing format": FORMAT,
    "data file": layout.EXTENSION_DATA_FILE,
    "end": layout.EXTENSION_END,
}
HUGE = replace(V3, cluster_bits=21)
BROKEN = "header_extension"


def cases() -> Iterator[Case]:
    yield from _lengths()
    yield from _lying_lengths()
    yield from _formats()
    yield from _ends()
    yield from _names()
    yield from _many()
    yield from _feature_names()


def _lengths() -> Iterator[Case]:
    """Extensions that fill a cluster of one sector to the last byte, or nearly."""
    for title, base, start in (("v3", TINY, 112), ("v2", replace(TINY, version=2), 72)):
        room = 512 - start - 8
        for length in (0, 1, 7, 8, room - 9, room - 8, room - 7, room - 1, room):
            fits = Extension(UNKNOWN, bytes(length))
            yield Case(
                f"{title}, tiny clusters: an extension of {length} of {room} bytes",
                replace(base, extensions=[fits], end_marker=length <= room - 8),
                reason="no_room",
                differs="" if length <= room - 8 else "feature_names_not_added",
            )
        for length in (room + 1, room + 8, 1 << 16, (1 << 32) - 9, (1 << 32) - 8, (1 << 32) - 1):
            yield Case(
                f"{title}, tiny clusters: an extension of {length} of {room} bytes",
                replace(base, extensions=[Extension(UNKNOWN, b"", length)]),
                reason=BROKEN,
            )


def _lying_lengths() -> Iterator[Case]:
    room = CLUSTER - 112 - 8
    for kind, number in KINDS.items():
        if kind == "unknown":
            yield Case(
                f"{kind} extension that claims {room} of {room} bytes",
                replace(V3, extensions=[Extension(number, b"", room)]),
                differs="feature_names_not_added",
            )
        for length in (room + 1, (1 << 32) - 8, (1 << 32) - 1):
            yield Case(
                f"{kind} extension that claims {length} of {room} bytes",
                replace(V3, extensions=[Extension(number, b"", length)]),
                reason=BROKEN,
            )


def _formats() -> Iterator[Case]:
    for length in (0, 1, 15):
        data = b"raw"[:length].ljust(length, b"\0") if length != 1 else b"r"
        yield Case(
            f"a backing format of {length} bytes",
            replace(BACKED, backing_format=data),
            differs="backing_file_not_opened" if length == 1 else "",
        )
    for length in (16, 17, 1023, 1024):
        yield Case(
            f"a backing format of {length} bytes",
            replace(BACKED, backing_format=b"raw".ljust(length, b"\0")),
            reason=BROKEN,
        )
    yield Case("a backing format without a backing file", replace(V3, backing_format=b"raw"))
    twice = [Extension(FORMAT, b"qcow2"), Extension(FORMAT, b"raw")]
    yield Case("two backing formats", replace(BACKED, backing_format=None, extensions=twice))
    yield Case(
        "a backing format that no program knows",
        replace(BACKED, backing_format=b"\xff\n\x1b[2J%s"),
        differs="backing_file_not_opened",
    )


def _ends() -> Iterator[Case]:
    for title, base, start in (("v3", V3, 112), ("v2", V2, 72)):
        yield Case(f"{title}: no end marker, and zeros instead", replace(base, end_marker=False))
        junk = replace(base, end_marker=False, patches=[(start, b"\xa5" * 64)])
        yield Case(f"{title}: no end marker, and other bytes instead", junk, reason=BROKEN)
        last = CLUSTER - start - 8
        full = replace(base, extensions=[Extension(UNKNOWN, bytes(last))], end_marker=False)
        yield Case(
            f"{title}: the extensions end with the cluster",
            full,
            reason="no_room",
            differs="feature_names_not_added",
        )
        for left in (1, 4, 7, 8):
            head = Extension(NAMES, b"", last - left - (-(last - left) % 8))
            gap = replace(base, first_extensions=[head], end_marker=False)
            tail = (CLUSTER - 8, u32(UNKNOWN, left))
            yield Case(
                f"{title}: the last extension begins 8 bytes before the end and claims {left}",
                replace(gap, patches=[(start + 4, u32(last - 8)), tail]),
                reason=BROKEN,
            )
    yield Case(
        "an end marker, then an extension that is broken",
        replace(V3, patches=[(120, u32(UNKNOWN, (1 << 32) - 1))]),
    )


def _names() -> Iterator[Case]:
    """The name, BACKED's or a longer one, and the extensions in each other's way."""
    plain = replace(BACKED, backing_format=None)
    for size in (1021, 1022, 1023):
        name = b"./" * ((size - 8) // 2) + b"/" * (size % 2) + BACKING_FILE
        at_end = CLUSTER - size
        yield Case(f"a backing file name of {size} bytes", replace(plain, backing_file=name))
        yield Case(
            f"a backing file name of {size} bytes at the end of the cluster",
            replace(plain, backing_file=name, backing_file_offset=at_end),
        )
    too_long = b"./" * 508 + BACKING_FILE
    yield Case(
        "a backing file name of 1024 bytes",
        replace(plain, backing_file=too_long),
        reason="backing_file",
    )
    for length in (0, 1, 7, 8, 9, 15, 16):
        yield Case(
            f"an extension of {length} bytes, 16 bytes before the backing file name",
            replace(
                plain,
                extensions=[Extension(UNKNOWN, b"", length)],
                end_marker=False,
                backing_file_offset=112 + 16,
            ),
            reason=BROKEN,
        )
    for apart in (1, 4, 7, 8, 12):
        yield Case(
            f"the backing file name begins {apart} bytes behind the header, without an end marker",
            replace(plain, end_marker=False, backing_file_offset=112 + apart),
            reason=BROKEN,
        )
    for name in (b"\0", b"base.raw\0\0"):
        yield Case(f"the backing file name is {name!r}", replace(plain, backing_file=name))
    for name in (b"json:{", b"nbd://[::1]:1/", b"/", b".", b"\xff\xfe"):
        yield Case(
            f"the backing file name is {name!r}",
            replace(plain, backing_file=name),
            differs="backing_file_not_opened",
        )


def _many() -> Iterator[Case]:
    def tiny(count: int, base: Image = V3) -> Image:
        start = 72 if base.version == 2 else 112
        return replace(base, patches=[(start, u32(UNKNOWN, 0) * count)])

    yield Case("8000 extensions of no bytes", tiny(8000), reason="no_room")
    yield Case(
        "as many extensions as the cluster holds",
        tiny((CLUSTER - 120) // 8),
        differs="feature_names_not_added",
    )
    yield Case(
        "v2: as many extensions as the cluster holds",
        tiny((CLUSTER - 80) // 8, V2),
        reason="no_room",
    )
    yield Case(
        "as many extensions as a huge cluster holds",
        tiny(((1 << 21) - 120) // 8, HUGE),
        reason="header_too_large",
    )
    for length in (CLUSTER - 128, CLUSTER - 127, CLUSTER, (1 << 21) - 128):
        differs = "header_limit" if length in (CLUSTER - 127, CLUSTER) else ""
        yield Case(
            f"huge clusters: an extension of {length} bytes",
            replace(HUGE, extensions=[Extension(UNKNOWN, b"\xaa" * length)]),
            reason="header_too_large",
            differs=differs,
            bytes_read=3 << 20,
        )
    yield Case(
        "huge clusters: an extension that claims more than the cluster holds",
        replace(HUGE, extensions=[Extension(UNKNOWN, b"", 1 << 21)]),
        reason=BROKEN,
    )


def _feature_names() -> Iterator[Case]:
    for length in (0, 1, 47, 48, 49, 96, 4096, CLUSTER - 128):
        table = Extension(NAMES, b"\0\5" + b"\xfe" * (length - 2) if length > 1 else bytes(length))
        yield Case(f"a feature name table of {length} bytes", replace(V3, extensions=[table]))
    yield Case("1000 feature name tables", replace(V3, extensions=[Extension(NAMES, b"x")] * 1000))
    named = replace(
        V3, incompatible_features=1 << 5, extensions=[Extension(NAMES, b"\0\5" + b"%n" * 23)]
    )
    yield Case(
        "the name of an unknown feature is hostile", named, reason="unknown_incompatible_features"
    )
