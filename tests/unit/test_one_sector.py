"""Test side: whether one sector would do for a switch is told to the byte."""

from __future__ import annotations

import pytest

from instar.vmm.contract.one_sector import could_be_one
from instar.vmm.qcow2.header_view import HeaderView

# A header of version 3 takes 112 bytes, one of version 2 takes 72, and an extension 8 besides its
# data, whose length is rounded up to a multiple of 8, as is the end marker.


def view(
    *sizes: int, version: int = 3, bits: int = 16, name: bytes | None = None, at: int = 0, end: int
) -> HeaderView:
    """A header with extensions of these sizes, which ends at `end` but for its name."""
    fields = {"version": version, "cluster_bits": bits, "backing_file_offset": at}
    fields |= {"header_length": 112} if version == 3 else {}
    extensions = tuple((number, bytes(size)) for number, size in enumerate(sizes))
    return HeaderView(fields, bytes(end), b"", extensions, name)


SMALL = view(bits=9, end=120)
"""The first sector is all that there is."""
LARGE = view(end=120)
FULL = view(65408, end=1 << 16, name=b"base", at=200)
NAMED = view(end=120, name=b"other", at=60_000)
"""There is room for 59488 bytes from the second sector to the name, and for 5528 behind it."""
EARLY = view(end=120, name=b"other", at=600)
"""There is room for 88 bytes in front of the name, and for 64928 behind it."""

# The old header, extensions of the new one, its name, and whether one sector would do.
CASES: dict[str, tuple[HeaderView, tuple[int, ...], bytes | None, bool]] = {
    "an extension up to the sector's end": (SMALL, (384,), None, True),
    "an extension that is padded": (SMALL, (377,), None, True),
    "an extension that is too long": (SMALL, (385,), None, False),
    "extensions up to the sector's end": (SMALL, (1, 8, 9, 328), None, True),
    "extensions that are too long": (SMALL, (1, 8, 9, 329), None, False),
    "a name up to the sector's end": (SMALL, (), b"n" * 392, True),
    "a name that is too long": (SMALL, (), b"n" * 393, False),
    "both up to the sector's end": (SMALL, (8,), b"n" * 376, True),
    "both together too long": (SMALL, (8,), b"n" * 377, False),
    "a name in the rest of the cluster": (view(end=65_000), (), b"n" * 536, True),
    "a name too long for that": (view(end=65_000), (), b"n" * 537, False),
    "a name behind an end that is no multiple of 8": (view(end=64_993), (), b"n" * 536, True),
    "all in the rest of the cluster": (LARGE, (65_008,), None, True),
    "more than the rest": (LARGE, (65_009,), None, False),
    "all and a name in the rest": (LARGE, (65_000,), b"n" * 8, True),
    "all and a name that is too long": (LARGE, (65_000,), b"n" * 9, False),
    "a first extension in the sector": (LARGE, (384, 65_008), None, True),
    "a first extension that leaves no room for more": (LARGE, (385, 65_008), None, False),
    "no more in the sector than comes first": (LARGE, (65_000, 8), None, False),
    "large clusters have no larger headers": (view(bits=21, end=120), (65_009,), None, False),
    "an old header longer than a sector": (view(end=1000), (64_520,), None, True),
    "more than behind such a one": (view(end=1000), (64_521,), None, False),
    "all in front of the name": (NAMED, (59_472,), b"other", True),
    "more than in front of the name": (NAMED, (59_473,), b"other", False),
    "all and another name in front": (NAMED, (59_464,), b"n" * 8, True),
    "all and a name too long in front": (NAMED, (59_464,), b"n" * 9, False),
    "all and a name up to the cluster's end": (EARLY, (64_904,), b"n" * 8, True),
    "all and a name too long behind": (EARLY, (64_904,), b"n" * 9, False),
    "all and another name behind": (NAMED, (500,), b"n" * 5012, True),
}


@pytest.mark.parametrize(("old", "sizes", "name", "expected"), CASES.values(), ids=CASES)
def test_what_has_room_is_one_sector(
    old: HeaderView, sizes: tuple[int, ...], name: bytes | None, expected: bool
) -> None:
    new = view(*sizes, bits=old.fields["cluster_bits"], name=name, end=0)
    assert could_be_one(old, new) == expected


def test_a_header_of_version_2_is_shorter() -> None:
    old = view(version=2, bits=9, end=80)
    for size, expected in ((424, True), (425, False)):
        assert could_be_one(old, view(size, version=2, bits=9, end=0)) == expected


@pytest.mark.parametrize(("at", "size", "expected"), [(208, 80, True), (207, 80, False)])
def test_a_name_stays_that_the_new_header_does_not_reach(
    at: int, size: int, expected: bool
) -> None:
    name = b"n" * 305
    old = view(bits=9, end=200, name=name, at=at)
    assert could_be_one(old, view(size, bits=9, end=0, name=name)) == expected
    assert not could_be_one(old, view(size, bits=9, end=0, name=b"m" * 305))


def test_to_version_2_a_header_only_moves_up() -> None:
    for version, sizes, name, expected in (
        (2, (65_408,), b"base", True),
        (3, (65_408,), b"base", False),
        (2, (65_400,), b"base", False),
        (2, (65_408,), b"BASE", False),
    ):
        assert could_be_one(FULL, view(*sizes, version=version, end=0, name=name)) == expected
    old = view(65_408, version=2, end=1 << 16, name=b"base", at=200)
    assert not could_be_one(old, view(65_408, version=2, end=0, name=b"base"))
