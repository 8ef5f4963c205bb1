"""Test side: after every state that a crash can leave, the keys that should open the file do."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations

import pytest

from instar.vmm.base.luks_layout import SECTOR_SIZE
from instar.vmm.luks.change import Changed
from instar.vmm.request.keys import AddKey, EraseKey
from tests.keys.files import FIRST, apply, change, holders

ADD = {n: AddKey(FIRST, b"new", slot=n, iter_time=0) for n in range(1, 8)}
REPLACE = {n: AddKey(FIRST, b"new", slot=n, iter_time=0, force=True) for n in range(8)}


def states(data: bytes, changed: Changed) -> Iterator[bytes]:
    """What a crash leaves: all phases before one, and of that one any of its pieces.

    A piece is the header's sector, or a half of an area.
    """
    for phase in range(6):
        pieces = []
        for sector, part in changed.staged.pieces(phase):
            half = len(part) // 2 // SECTOR_SIZE * SECTOR_SIZE
            pieces += [(sector * SECTOR_SIZE, part[:half])] if half else []
            pieces.append((sector * SECTOR_SIZE + half, part[half:]))
        for count in range(len(pieces) + 1):
            for chosen in combinations(pieces, count) if len(pieces) < 6 else [pieces[:count]]:
                state = bytearray(data)
                for at, part in chosen:
                    state[at : at + len(part)] = part
                yield bytes(state)
        whole = bytearray(data)
        for at, part in pieces:
            whole[at : at + len(part)] = part
        data = bytes(whole)


@pytest.mark.parametrize("number", ADD)
def test_an_add_is_old_or_new(luks: bytes, number: int) -> None:
    changed = change(luks, ADD[number])
    assert changed.atomic
    found = [holders(state, b"new") for state in states(luks, changed)]
    assert {frozenset(one) for one in found} == {frozenset(), frozenset({number})}
    assert all(holders(state, FIRST) == {0} for state in states(luks, changed))


@pytest.mark.parametrize("number", range(8))
def test_an_erasure_takes_one_key_and_leaves_the_others(full: bytes, number: int) -> None:
    keys = EraseKey(number)
    changed = change(full, keys)
    own, other = (FIRST if n == 0 else b"k%d" % n for n in (number, (number + 3) % 8))
    assert changed.atomic
    for state in states(full, changed):
        assert holders(state, own) <= {number}
        assert holders(state, other) == {(number + 3) % 8}
    assert holders(apply(full, changed), own) == set()


def test_several_slots_are_erased_one_sector_after_the_other(full: bytes) -> None:
    for number in (6, 7):
        full = apply(full, change(full, AddKey(FIRST, b"twice", number, 0, force=True)))
    changed = change(full, EraseKey(secret=b"twice"))
    assert not changed.atomic
    found = [holders(state, b"twice") for state in states(full, changed)]
    assert {frozenset(one) for one in found} == {frozenset(s) for s in ({6, 7}, {7}, set())}
    assert all(holders(state, FIRST) == {0} for state in states(full, changed))


@pytest.mark.parametrize("number", [0, 3, 5, 7])
def test_with_a_spare_area_a_replacement_is_old_or_new(full: bytes, number: int) -> None:
    spare = 6 if number == 7 else 2
    full = apply(full, change(full, EraseKey(spare)))
    changed = change(full, REPLACE[number])
    old = FIRST if number == 0 else b"k%d" % number
    assert changed.atomic
    for state in states(full, changed):
        assert (holders(state, old), holders(state, b"new")) in (
            ({number}, set()),
            (set(), {number}),
        )
    again = apply(full, changed)
    again = apply(again, change(again, AddKey(b"k1", b"more", spare, 0)))
    assert holders(again, b"more") == {spare}


@pytest.mark.parametrize("number", [1, 6])
def test_without_one_a_replacement_leaves_all_other_keys(full: bytes, number: int) -> None:
    changed = change(full, REPLACE[number])
    assert not changed.atomic
    for state in states(full, changed):
        assert holders(state, FIRST) == {0}
        assert holders(state, b"new") | holders(state, b"k%d" % number) <= {number}
    assert holders(apply(full, changed), b"new") == {number}


def test_nothing_of_an_erased_key_is_left(full: bytes) -> None:
    for number, keys in ((4, EraseKey(4)), (6, EraseKey(6)), (5, REPLACE[5]), (6, REPLACE[6])):
        at = 208 + 48 * number
        area = int.from_bytes(full[at + 40 : at + 44], "big") * SECTOR_SIZE
        after = apply(full, change(full, keys))
        assert full[at + 8 : at + 40] not in after  # the salt
        for start in range(area, area + 32 * 4000, SECTOR_SIZE):
            assert full[start : start + SECTOR_SIZE] not in after
