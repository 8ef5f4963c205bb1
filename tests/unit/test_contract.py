"""Test side: what an honest guest stages keeps the write contract, whatever the image is."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from instar.vmm.amend.result import SWITCH
from instar.vmm.base.errors import GuestFault
from instar.vmm.contract.terms import Change
from instar.vmm.qcow2.header_view import HEADER_LIMIT
from tests.support.forge import Extension, Image, parse_header
from tests.support.planning import Case, plan

UNKNOWN = (Extension(0x11111111, b"first"), Extension(0x22222222, b"second extension"))
SMALL: dict[str, Any] = {"cluster_bits": 9, "size": 1 << 20}

# Name: the image, the version and the laziness asked for, and how many phases it takes.
GOOD: dict[str, tuple[Image, int | None, bool | None, int]] = {
    "lazy on": (Image(), None, True, 1),
    "lazy off": (Image(lazy_refcounts=True), None, False, 1),
    "lazy on, other bits": (Image(compatible_features=0xF0), None, True, 1),
    "lazy on, unknown autoclear bits": (Image(autoclear_features=0xFC), None, True, 1),
    "lazy on, a short header": (Image(header_length=104), None, True, 1),
    "lazy on, small clusters": (Image(**SMALL), None, True, 1),
    "lazy on, large clusters": (Image(cluster_bits=21), None, True, 1),
    "lazy on, a data file": (Image(data_file=b"data"), None, True, 1),
    "downgrade": (Image(), 2, None, 1),
    "downgrade, lazy": (Image(lazy_refcounts=True), 2, None, 1),
    "downgrade, lazy off": (Image(lazy_refcounts=True), 2, False, 1),
    "downgrade, backing": (Image(backing_file=b"base", backing_format=b"raw"), 2, None, 1),
    "downgrade, extensions": (Image(extensions=UNKNOWN), 2, None, 1),
    "downgrade, feature names": (
        Image(feature_name_table=True, backing_file=b"base", extensions=UNKNOWN),
        2,
        None,
        1,
    ),
    "downgrade, many extensions": (Image(extensions=UNKNOWN * 20), 2, None, 1),
    "downgrade, a long header": (
        Image(header_length=144, unknown_header_fields=b"\0" * 32),
        2,
        None,
        1,
    ),
    "upgrade": (Image(version=2), 3, None, 1),
    "upgrade, lazy": (Image(version=2), 3, True, 1),
    "upgrade, backing": (
        Image(version=2, backing_file=b"base", backing_format=b"raw"),
        3,
        None,
        1,
    ),
    "upgrade, a long name": (Image(version=2, backing_file=b"b" * 1000), 3, None, 2),
    "upgrade, many extensions": (Image(version=2, extensions=UNKNOWN * 20), 3, None, 2),
    "upgrade, many extensions and a name": (
        Image(version=2, extensions=UNKNOWN * 20, backing_file=b"b" * 1000),
        3,
        True,
        2,
    ),
    "upgrade, small clusters": (Image(version=2, backing_file=b"b" * 50, **SMALL), 3, None, 1),
    "noop": (Image(), 3, None, 0),
    "noop, version 2": (Image(version=2), 2, False, 0),
    "noop, lazy": (Image(lazy_refcounts=True, autoclear_features=0xFC), 3, True, 0),
    "noop, nothing asked": (Image(), None, None, 0),
}


def case(name: str) -> Case:
    image, version, lazy, _ = GOOD[name]
    return plan(image.build(), version, lazy)


@pytest.mark.parametrize("name", GOOD)
def test_what_the_planner_plans_may_be_committed(name: str) -> None:
    honest = case(name)
    assert len([phase for phase in honest.phases if phase]) == GOOD[name][3]
    assert honest.claim.atomic
    changes = honest.judge()
    before, after = parse_header(honest.data), parse_header(honest.amended())
    for change in changes:
        assert before.get(change.field) == change.before != change.after
        assert after.get(change.field) == change.after
    named = {change.field for change in changes}
    for name_ in set(before) | set(after):
        if name_ not in {*named, "_io", "compression_type", "padding", "unknown_header_fields"}:
            assert before.get(name_) == after.get(name_), name_


def test_changes_come_in_the_order_of_the_header() -> None:
    changes = case("upgrade, a long name").judge()
    assert changes[:2] == (Change("version", 2, 3), Change("backing_file_offset", 80, 1080))
    assert [change.field for change in changes[2:]] == [
        "incompatible_features",
        "compatible_features",
        "autoclear_features",
        "refcount_order",
        "header_length",
    ]
    assert {change.before for change in changes[2:]} == {None}


def test_a_downgrade_takes_fields_away() -> None:
    changes = case("downgrade, lazy").judge()
    assert changes[0] == Change("version", 3, 2)
    assert Change("compatible_features", 1, None) in changes


def test_a_noop_changes_nothing() -> None:
    assert case("noop, lazy").judge() == ()


def test_a_rewrite_that_is_not_atomic_may_be_committed_if_it_says_so() -> None:
    filling = Extension(0x33333333, b"x" * 880)
    image = Image(version=2, cluster_bits=10, size=1 << 20, extensions=[filling])
    rewrite = plan(image.build(), 3)
    assert not rewrite.claim.atomic
    assert rewrite.phases == [{}, {}, {}, rewrite.phases[SWITCH], {}, {}]
    assert set(rewrite.phases[SWITCH]) == {0, 1}
    assert rewrite.judge()[0] == Change("version", 2, 3)


@pytest.mark.parametrize("name", GOOD)
def test_the_file_is_read_once_and_only_where_headers_are(name: str) -> None:
    honest = case(name)
    honest.judge()
    assert len(set(honest.reads)) == len(honest.reads)
    elsewhere = [size for offset, size in honest.reads if offset + size > HEADER_LIMIT]
    if GOOD[name][1] == 2:
        # The L1 table, which names no L2 table here, and where small clusters have both there.
        assert elsewhere in ([], [8])
        return
    # The refcount of the header cluster, whose other bytes an upgrade takes; small clusters have it
    # where larger ones have the header.
    assert elsewhere in ([], [8, 2])
    assert not elsewhere or GOOD[name][1] == 3


IMAGES = st.builds(
    Image,
    version=st.sampled_from([2, 3]),
    cluster_bits=st.sampled_from([12, 16, 21]),
    size=st.just(1 << 20),
    backing_file=st.none() | st.binary(min_size=1, max_size=1023),
    extensions=st.lists(
        st.builds(Extension, st.integers(1, 1 << 20), st.binary(max_size=300)), max_size=3
    ),
    feature_name_table=st.booleans(),
)


@settings(max_examples=40, deadline=None)
@given(IMAGES, st.sampled_from([None, 2, 3]), st.sampled_from([None, False, True]))
def test_any_plan_may_be_committed(image: Image, version: int | None, lazy: bool | None) -> None:
    if lazy and (version or image.version) == 2:
        lazy = None
    honest = plan(image.build(), version, lazy)
    changes = honest.judge()
    assert bool(changes) == honest.claim.amended


@settings(max_examples=80, deadline=None)
@given(
    st.sampled_from([name for name, entry in GOOD.items() if entry[3]]),
    st.lists(st.tuples(st.integers(0, 1100), st.binary(min_size=1, max_size=8)), max_size=3),
)
def test_whatever_is_staged_besides_is_judged_or_a_fault(
    name: str, patches: list[tuple[int, bytes]]
) -> None:
    hostile = case(name)
    for offset, data in patches:
        hostile.put(offset, data)
    try:
        hostile.judge()
    except GuestFault:
        return
    before, after = parse_header(hostile.data), parse_header(hostile.amended())
    for field in ("size", "l1_table_offset", "refcount_table_offset", "cluster_bits", "l1_size"):
        assert before[field] == after[field]
    assert hostile.request.compat in (None, after.version)


@settings(max_examples=50, deadline=None)
@given(
    st.lists(
        st.dictionaries(
            st.integers(0, 130), st.binary(min_size=512, max_size=512), min_size=1, max_size=3
        ),
        min_size=6,
        max_size=6,
    ),
    st.booleans(),
    st.booleans(),
)
def test_random_sectors_are_never_committed(
    phases: list[dict[int, bytes]], amended: bool, atomic: bool
) -> None:
    hostile = case("upgrade, backing")
    hostile.phases = phases
    hostile.claims(amended=amended, atomic=atomic)
    with pytest.raises(GuestFault):
        hostile.judge()
