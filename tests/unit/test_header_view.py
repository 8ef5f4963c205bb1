"""Test side: the host's walk over a header sees all of it, and ends whatever the bytes are."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from instar.vmm.qcow2.header_view import HEADER_LIMIT, MalformedHeader, view_header
from tests.support.forge import Extension, Image, layout, parse_extensions, parse_header

UNKNOWN = Extension(0x12345678, b"odd length")

FORGED = {
    "an empty image": Image(),
    "version 2": Image(version=2),
    "a backing file": Image(backing_file=b"base.qcow2", backing_format=b"qcow2"),
    "a backing file of version 2": Image(version=2, backing_file=b"base", backing_format=b"raw"),
    "unknown extensions": Image(extensions=[UNKNOWN, Extension(0x99, b""), UNKNOWN]),
    "feature names": Image(feature_name_table=True, extensions=[UNKNOWN]),
    "bitmaps and a data file": Image(data_file=b"data", data_file_raw=True),
    "a long header": Image(header_length=160, unknown_header_fields=b"\1" * 48),
    "a short header": Image(header_length=104),
    "small clusters": Image(cluster_bits=9, size=1 << 20),
    "narrow refcounts": Image(refcount_order=0),
    "wide refcounts": Image(refcount_order=6),
    "large clusters": Image(cluster_bits=21, backing_file=b"b", backing_file_offset=1 << 20),
    "no end marker": Image(backing_file=b"base", extensions=[UNKNOWN], end_marker=False),
    "an extension larger than a page": Image(extensions=[Extension(0x77, b"x" * 9000)]),
    "the longest name": Image(backing_file=b"b" * 1023),
    "a name up to the end of the cluster": Image(
        backing_file=b"base", backing_file_offset=(1 << 16) - 4
    ),
    "a header up to the limit": Image(
        header_length=HEADER_LIMIT,
        unknown_header_fields=bytes(HEADER_LIMIT - 112),
        end_marker=False,
    ),
    "extensions up to the limit": Image(
        cluster_bits=21, extensions=[Extension(0x77, bytes(HEADER_LIMIT - 112 - 8 - 8))]
    ),
    "a name in its old place": Image(backing_file=b"base", backing_file_offset=3000),
}


def reader(data: bytes) -> Callable[[int, int], bytes]:
    return lambda offset, size: data[offset : offset + size]


@pytest.mark.parametrize("image", FORGED.values(), ids=FORGED)
def test_the_view_is_what_the_image_was_made_of(image: Image) -> None:
    data = image.build()
    header, view = parse_header(data), view_header(reader(data))
    assert view.fields == {name: header[name] for name in view.fields}
    assert view.name == image.backing_file
    assert view.extensions == tuple(
        (extension.type, extension.data)
        for extension in parse_extensions(data)
        if extension.type != layout.EXTENSION_FEATURE_NAME_TABLE
    )
    assert data.startswith(view.raw)


def test_the_raw_bytes_end_with_the_end_marker() -> None:
    image = Image(extensions=[UNKNOWN])
    end = 112 + 8 + 16 + 8
    assert len(view_header(reader(image.build())).raw) == end == image.regions()["extensions"].stop


def test_the_raw_bytes_end_before_the_name_where_no_marker_does() -> None:
    image = Image(backing_file=b"base", extensions=[UNKNOWN], end_marker=False)
    assert len(view_header(reader(image.build())).raw) == image.regions()["backing_file"].start


def test_unknown_fields_are_those_behind_the_known_ones() -> None:
    data = Image(header_length=120, unknown_header_fields=b"unknown!").build()
    assert view_header(reader(data)).unknown == bytes(8) + b"unknown!"
    assert view_header(reader(Image(header_length=104).build())).unknown == b""
    assert view_header(reader(Image(version=2).build())).unknown == b""


def test_an_offset_of_zero_means_no_name_whatever_the_size() -> None:
    data = Image(header={"backing_file_size": 999}).build()
    assert view_header(reader(data)).name is None


def test_a_name_of_no_bytes_is_a_name() -> None:
    assert view_header(reader(Image(backing_file=b"").build())).name == b""


MALFORMED = {
    "a version of 1": Image(header={"version": 1}),
    "a version of 4": Image(header={"version": 4}),
    "clusters of 256 bytes": Image(header={"cluster_bits": 8}),
    "clusters of 4 MiB": Image(header={"cluster_bits": 22}),
    "a huge cluster size": Image(header={"cluster_bits": 0xFFFFFFFF}),
    "a header length of 64": Image(header={"header_length": 64}),
    "an odd header length": Image(header={"header_length": 108}),
    "a header longer than its cluster": Image(
        cluster_bits=9, size=1 << 20, header={"header_length": 520}
    ),
    "a header over the limit": Image(cluster_bits=21, header={"header_length": HEADER_LIMIT + 8}),
    "refcounts of 128 bits": Image(header={"refcount_order": 7}),
    "a huge refcount width": Image(header={"refcount_order": 0xFFFFFFFF}),
    "a name inside the fields": Image(header={"backing_file_offset": 104}),
    "a name behind the cluster": Image(header={"backing_file_offset": (1 << 16) + 1}),
    "a name at the end of 64 bits": Image(header={"backing_file_offset": (1 << 64) - 1}),
    "a name that is too long": Image(
        header={"backing_file_offset": 200, "backing_file_size": 1024}
    ),
    "a name that leaves its cluster": Image(
        header={"backing_file_offset": 0xFFFE, "backing_file_size": 3}
    ),
    "an extension that leaves the cluster": Image(
        extensions=[Extension(1, b"", length=1 << 16)], end_marker=False
    ),
    "an extension of 4 GiB": Image(extensions=[Extension(1, b"", length=0xFFFFFFFF)]),
    "an extension that reaches over the name": Image(
        backing_file=b"base", extensions=[Extension(1, b"12345678", length=9)], end_marker=False
    ),
    "an extension over the limit": Image(
        cluster_bits=21, extensions=[Extension(1, bytes(HEADER_LIMIT))]
    ),
}


@pytest.mark.parametrize("image", MALFORMED.values(), ids=MALFORMED)
def test_a_header_that_cannot_be_walked_is_malformed(image: Image) -> None:
    with pytest.raises(MalformedHeader):
        view_header(reader(image.build()))


@pytest.mark.parametrize("size", [0, 1, 104, 511])
def test_a_file_that_ends_within_its_first_sector_is_malformed(size: int) -> None:
    with pytest.raises(MalformedHeader, match="short header"):
        view_header(reader(Image().build()[:size]))


def test_extensions_that_reach_beyond_the_file_are_malformed() -> None:
    data = Image(extensions=[Extension(1, b"x" * 2000)]).build()
    with pytest.raises(MalformedHeader, match="beyond the file"):
        view_header(reader(data[:1024]))


@pytest.mark.parametrize("size", [512, 1000, 5000])
def test_a_file_may_end_where_its_header_does(size: int) -> None:
    data = Image(extensions=[Extension(1, b"x" * (size - 112 - 8 - 8))]).build()[:size]
    view = view_header(reader(data))
    assert view.raw == data
    assert len(view.raw) == size


def test_no_more_is_read_than_the_header_needs() -> None:
    data = Image(cluster_bits=21, backing_file=b"base", backing_file_offset=70_000).build()
    asked: list[tuple[int, int]] = []

    def read(offset: int, size: int) -> bytes:
        asked.append((offset, size))
        return data[offset : offset + size]

    view_header(read)
    assert asked == [(0, 4096), (70_000, 4)]


HEADERS = st.builds(
    lambda version, bits, name, size, length, rest: (
        Image(
            version=3,
            header={
                "version": version,
                "cluster_bits": bits,
                "backing_file_offset": name,
                "backing_file_size": size,
                "header_length": length,
            },
        ).build()[:112]
        + rest
    ),
    st.sampled_from([2, 3, 3, 3, 4]),
    st.sampled_from([9, 12, 16, 21, 64]),
    st.integers(0, 700) | st.sampled_from([0, 0, 1 << 16, 1 << 63]),
    st.integers(0, 1100),
    st.sampled_from([72, 80, 104, 112, 120, 1024, 1 << 20]),
    st.binary(max_size=700),
)


@settings(max_examples=150, deadline=None)
@given(HEADERS | st.binary(max_size=800))
def test_any_bytes_are_a_view_or_malformed(data: bytes) -> None:
    try:
        view = view_header(reader(data))
    except MalformedHeader:
        return
    assert data.startswith(view.raw)
    assert len(view.raw) <= HEADER_LIMIT
    assert view.fields["version"] in (2, 3)
    assert view.name is None or len(view.name) <= 1023
