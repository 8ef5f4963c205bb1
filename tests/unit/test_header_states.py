"""Host side: whether bytes of the header cluster may belong to something else, by its refcount."""

from __future__ import annotations

import pytest

from instar.vmm.amend.result import SWITCH
from instar.vmm.contract.header import HeaderStates
from instar.vmm.contract.terms import Original
from instar.vmm.image.budgets import WORK_MIN
from instar.vmm.image.staging import SECTOR_SIZE, StagedWrites
from tests.support.forge import Image

SLACK = 300
"""Where a header cluster of 512 bytes has nothing that the header names."""


def may_be_others(data: bytes, now: int) -> bool:
    """What is said of a header of which one byte of what it does not name is to be `now`."""
    staged = StagedWrites()
    sector = bytearray(data[:SECTOR_SIZE])
    sector[SLACK] = now
    staged.write(0, bytes(sector), SWITCH)
    read = lambda at, size: data[at : at + size]  # noqa: E731 - as short as it can be
    return HeaderStates(Original(read, len(data), WORK_MIN), staged).changes_others()


COUNTS = [
    (order, refcount)
    for order in range(7)
    for refcount in (0, 1, 2, (1 << 64) - 1)
    if refcount < 1 << (1 << order)
]


@pytest.mark.parametrize(("order", "refcount"), COUNTS)
def test_zeros_that_change_are_the_headers_own_by_its_refcount(order: int, refcount: int) -> None:
    image = Image(cluster_bits=9, size=1 << 14, refcount_order=order, refcounts={0: refcount})
    assert may_be_others(image.build(), 0x55) == (refcount != 1)
    assert not may_be_others(image.build(), 0)


@pytest.mark.parametrize("order", range(7))
def test_what_is_there_already_may_be_others_whatever_the_refcount(order: int) -> None:
    image = Image(cluster_bits=9, size=1 << 14, refcount_order=order)
    data = image.build()
    data = data[:SLACK] + b"\x55" + data[SLACK + 1 :]
    assert may_be_others(data, 0x54)
    assert may_be_others(data, 0)
    assert not may_be_others(data, 0x55)


@pytest.mark.parametrize("entry", [0, 1 << 40, -1])
def test_a_refcount_that_cannot_be_read_is_none(entry: int) -> None:
    image = Image(cluster_bits=9, size=1 << 14)
    table = image.regions()["refcount_table"].start
    data = image.build()
    word = (len(data) if entry < 0 else entry).to_bytes(8, "big")
    assert may_be_others(data[:table] + word + data[table + 8 :], 0x55)
