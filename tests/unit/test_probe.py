"""Test side: the host reads the fixed header at fixed offsets, and names what is no qcow2 image."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from instar.vmm.qcow2.probe import (
    PROBE_SIZE,
    FixedHeader,
    header_fields,
    identify,
    parse_fixed_header,
)
from tests.support.forge import Image, parse_header

SIGNATURES = {
    "a qcow (version 1) image": [b"QFI\xfb\0\0\0\1"],
    "a vmdk image": [b"KDMV", b"COWD"],
    "a vmdk descriptor": [b"# Disk DescriptorFile\nversion=1"],
    "a vhd (vpc) image": [b"conectix"],
    "a vhdx image": [b"vhdxfile"],
    "a luks volume": [b"LUKS\xba\xbe\0\1"],
    "a qed image": [b"QED\0"],
    "a parallels image": [b"WithoutFreeSpace", b"WithouFreSpacExt"],
    "a bochs image": [b"Bochs Virtual HD Image"],
    "a vdi image": [b"<<< Oracle VM VirtualBox Disk Image >>>".ljust(64) + b"\x7f\x10\xda\xbe"],
}

FORGED = {
    "version 2": Image(version=2, backing_file=b"base"),
    "version 3": Image(),
    "feature words": Image(
        incompatible_features=0x20, compatible_features=0x40, autoclear_features=0x80
    ),
    "one-bit refcounts": Image(refcount_order=0),
    "64-bit refcounts": Image(refcount_order=6),
    "small clusters": Image(cluster_bits=9, size=1 << 20),
    "large clusters": Image(cluster_bits=21),
    "a short header": Image(header_length=104),
}


@pytest.mark.parametrize("image", FORGED.values(), ids=FORGED)
def test_all_fields_are_read_where_the_specification_has_them(image: Image) -> None:
    data = image.build()[:PROBE_SIZE]
    expected = parse_header(data)
    fields = header_fields(data)
    assert fields == {name: expected[name] for name in fields}
    assert len(fields) == (12 if image.version == 2 else 17)


@pytest.mark.parametrize("image", FORGED.values(), ids=FORGED)
def test_the_fields_for_the_guest_are_those_of_the_header(image: Image) -> None:
    header = parse_fixed_header(image.build()[:PROBE_SIZE])
    assert header is not None
    assert header.version == image.version
    assert header.size == image.size
    assert header.cluster_size == 1 << image.cluster_bits
    assert header.refcount_bits == 1 << image.refcount_order
    assert header.lazy_refcounts is bool(image.compatible_features & 1)


def test_version_2_has_what_it_implies_whatever_stands_there() -> None:
    data = bytearray(Image(version=2).build()[:PROBE_SIZE])
    data[72:104] = b"\xff" * 32
    header = parse_fixed_header(bytes(data))
    assert header is not None
    assert (header.incompatible_features, header.compatible_features) == (0, 0)
    assert (header.autoclear_features, header.refcount_bits) == (0, 16)


def test_an_unknown_version_is_read_as_the_newest() -> None:
    header = parse_fixed_header(Image(header={"version": 9}, refcount_order=5).build()[:512])
    assert header is not None
    assert (header.version, header.refcount_bits) == (9, 32)


@pytest.mark.parametrize("bits", [0, 8, 22, 63, 64, (1 << 32) - 1])
def test_a_cluster_size_out_of_range_is_zero(bits: int) -> None:
    assert FixedHeader(3, bits, 0, 0, 0, 0, 4).cluster_size == 0


@pytest.mark.parametrize("order", [7, 64, (1 << 32) - 1])
def test_a_refcount_width_out_of_range_is_zero(order: int) -> None:
    assert FixedHeader(3, 16, 0, 0, 0, 0, order).refcount_bits == 0


def test_lazy_refcounts_are_one_bit() -> None:
    assert FixedHeader(3, 16, 0, 0, 0xFF, 0, 4).lazy_refcounts
    assert not FixedHeader(3, 16, 0, 0, 0xFE, 0, 4).lazy_refcounts


@pytest.mark.parametrize("size", [8, 9, 71, 72, 103, 104])
def test_what_the_file_lacks_counts_as_zeros(size: int) -> None:
    whole = Image().build()[:size]
    assert parse_fixed_header(whole) == parse_fixed_header(whole.ljust(PROBE_SIZE, b"\0"))


@pytest.mark.parametrize(
    "head",
    [
        *(b"", b"Q", b"QFI", b"QFI\xfa", b"\0QFI\xfb", b"qfi\xfb", b"QFI\xfb\0\0\0\1"),
        *(b"QFI\xfb", b"QFI\xfb\0\0\0"),
    ],
)
def test_another_magic_or_none_with_a_version_is_no_header(head: bytes) -> None:
    assert parse_fixed_header(head) is None


@given(st.binary(max_size=PROBE_SIZE))
def test_any_bytes_behind_the_magic_are_a_header(rest: bytes) -> None:
    header = parse_fixed_header(b"QFI\xfb" + rest)
    if header is None:
        assert len(rest) < 4 or rest.startswith(b"\0\0\0\1"), "qcow, version 1, is another format"
        return
    assert header.cluster_size in {0} | {1 << bits for bits in range(9, 22)}
    assert header.refcount_bits in (0, 1, 2, 4, 8, 16, 32, 64)


class TestIdentify:
    @pytest.mark.parametrize(
        ("name", "head"),
        [(name, head) for name, heads in SIGNATURES.items() for head in heads],
    )
    def test_a_signature_is_recognised(self, name: str, head: bytes) -> None:
        assert identify(head.ljust(PROBE_SIZE, b"\0"), bytes(PROBE_SIZE)) == name

    def test_a_vhd_with_its_footer_only_is_recognised(self) -> None:
        footer = struct.pack(">8sII", b"conectix", 2, 0x10000).ljust(512, b"\0")
        assert identify(bytes(PROBE_SIZE), footer) == "a vhd (vpc) image"

    def test_an_empty_file_is_called_so(self) -> None:
        assert identify(b"", b"") == "an empty file"

    @pytest.mark.parametrize("size", [1, 71])
    def test_a_short_file_is_called_so(self, size: int) -> None:
        expected = f"a file of {size} byte{'s' * (size > 1)}, too short for any image"
        assert identify(bytes(size), bytes(size)) == expected

    @pytest.mark.parametrize("head", [bytes(72), b"x" * 512, b"\x00KDMV".ljust(512)])
    def test_the_rest_is_raw_at_best(self, head: bytes) -> None:
        assert identify(head, head) == "a raw image, or no image at all"

    @given(st.binary(max_size=PROBE_SIZE), st.binary(max_size=PROBE_SIZE))
    def test_anything_has_a_name_in_one_line(self, head: bytes, tail: bytes) -> None:
        assert identify(head, tail).isprintable()
