"""Hostile images: feature words, the header's length and the compression type. Test side."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from tests.hostile.case import CLUSTER, TINY, V3, Case, fields, header_cases, number
from tests.support.forge import Image

ALL = (1 << 64) - 1


def cases() -> Iterator[Case]:
    yield from _incompatible()
    yield from _other_words()
    yield from _header_length()
    yield from _compression_type()
    yield from _combined()


def _incompatible() -> Iterator[Case]:
    word = "incompatible_features"
    yield from header_cases("v3", V3, word, (1,), "dirty", "dirty_refused")
    yield from header_cases("v3", V3, word, (2, 3), "corrupt")
    yield from header_cases("v3", V3, word, (4,), "downgrade_data_file", "data_file_not_opened")
    yield from header_cases("v3", V3, word, (8,), "compression_type")
    yield from header_cases("v3", V3, word, (16,), "downgrade_extended_l2")
    unknown = tuple(1 << bit for bit in (5, 6, 7, 8, 15, 16, 31, 32, 33, 47, 48, 62, 63))
    yield from header_cases(
        "v3", V3, word, (*unknown, ALL, ALL - 31), "unknown_incompatible_features"
    )


def _other_words() -> Iterator[Case]:
    words = tuple(1 << bit for bit in (1, 2, 31, 32, 63))
    yield from header_cases("v3", V3, "compatible_features", (1, *words, ALL, ALL - 1))
    yield from header_cases("v3", V3, "autoclear_features", (1, 4, 8, 1 << 31, 1 << 32, 1 << 63))
    yield from header_cases("v3", V3, "autoclear_features", (2, 3, ALL), "raw_without_data_file")


def _header_length() -> Iterator[Case]:
    name = "header_length"
    short = (0, 1, 8, 71, 72, 96, 103)
    yield from header_cases("v3", V3, name, short, "header_length")
    yield from header_cases("v3", V3, name, (104, 112, 120, 512, 520, 4096))
    full = (CLUSTER - 8, CLUSTER)
    yield from header_cases("v3", V3, name, full, "", "feature_names_not_added")
    odd = (105, 106, 107, 108, 110, 111, 113, 116, 119, 511)
    yield from header_cases("v3", V3, name, odd, "header_length", "header_length_unaligned")
    long = (CLUSTER - 1, CLUSTER + 1, CLUSTER + 8, 1 << 20, 1 << 31, (1 << 32) - 8, (1 << 32) - 1)
    yield from header_cases("v3", V3, name, long, "header_length")
    yield from header_cases("tiny clusters", TINY, name, (504,))
    yield from header_cases("tiny clusters", TINY, name, (512,), "", "feature_names_not_added")
    yield from header_cases("tiny clusters", TINY, name, (520, 1024), "header_length")
    huge = replace(V3, cluster_bits=21)
    yield from header_cases(
        "huge clusters", huge, name, (CLUSTER + 8, 1 << 20), "header_length", "header_limit"
    )
    yield from header_cases("huge clusters", huge, name, (1 << 21,), "header_length")


def _compression_type() -> Iterator[Case]:
    reason = "compression_type"
    yield from header_cases("v3", V3, reason, (1, 2, 127, 128, 255), reason)
    zstd = replace(V3, compression_type=1)
    yield from header_cases("v3 with the bit", zstd, reason, (1,), "", "no_zstd_in_5_2")
    yield from header_cases("v3 with the bit", zstd, reason, (0, 2, 255), reason)
    short = replace(zstd, header_length=104)
    yield Case("v3 with the bit: the header ends before the type", short, reason=reason)
    for padding in (b"\1" + bytes(6), bytes(6) + b"\xff"):
        yield Case(
            f"v3: the padding behind the type is {padding.hex()}",
            replace(V3, patches=[(105, padding)]),
        )


def _combined() -> Iterator[Case]:
    def extended(cluster_bits: int) -> Image:
        return Image(cluster_bits=cluster_bits, size=1 << 20, extended_l2=True)

    for bits in (9, 13):
        yield Case(
            f"extended L2 entries in clusters of 2^{bits}",
            extended(bits),
            reason="extended_l2_cluster_size",
        )
    yield Case(
        "extended L2 entries in clusters of 2^14", extended(14), reason="downgrade_extended_l2"
    )
    yield Case(
        "extended L2 entries, and the L1 table covers only half of the disk",
        replace(extended(14), size=1 << 24, patches=fields(size=(1 << 24) + 1)),
        reason="l1_too_small",
    )
    everything = fields(incompatible_features=ALL, compatible_features=ALL, autoclear_features=ALL)
    yield Case("all feature bits are set", replace(V3, patches=everything), reason="dirty")
    for value in (0, ALL & 0xFF):
        yield Case(
            f"all bytes of the header behind the magic are {number(value)}",
            replace(V3, patches=[(8, bytes([value]) * 96)]),
            reason="cluster_bits",
        )
