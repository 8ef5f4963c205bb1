"""Test side: a request knows when it is satisfied, and what the amended header must say."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from instar.abi import INSTAR_STAGED_MAX
from instar.vmm.contract import rules
from instar.vmm.qcow2.header_view import HeaderView
from instar.vmm.qcow2.probe import HEADER_FIELDS, V3_FIELDS
from instar.vmm.request import AmendRequest
from instar.vmm.request.keywords import make_request

V2 = {
    "version": 2,
    "backing_file_offset": 120,
    "backing_file_size": 4,
    "cluster_bits": 16,
    "size": 1 << 30,
    "crypt_method": 0,
    "l1_size": 2,
    "l1_table_offset": 0x30000,
    "refcount_table_offset": 0x10000,
    "refcount_table_clusters": 1,
    "nb_snapshots": 0,
    "snapshots_offset": 0,
}
V3 = {
    **V2,
    "version": 3,
    "incompatible_features": 0,
    "compatible_features": 0,
    "autoclear_features": 0,
    "refcount_order": 4,
    "header_length": 112,
}
LAZY = {**V3, "compatible_features": 1}


def without_name(fields: dict[str, int]) -> dict[str, int]:
    return {name: value for name, value in fields.items() if name != "backing_file_offset"}


def header(fields: dict[str, int]) -> HeaderView:
    return HeaderView(fields, b"", b"", (), None)


def expect(request: AmendRequest, before: dict[str, int]) -> dict[str, int]:
    return rules.expected(request, header(before)).fields


def test_the_fields_of_these_tests_are_the_headers() -> None:
    assert tuple(V3) == (*HEADER_FIELDS, *V3_FIELDS)


@pytest.mark.parametrize(
    ("version", "lazy", "fields", "satisfied"),
    [
        (None, None, V2, True),
        (None, None, V3, True),
        (2, None, V2, True),
        (2, None, V3, False),
        (3, None, V2, False),
        (3, None, LAZY, True),
        (None, False, V2, True),
        (None, True, V2, False),
        (None, True, V3, False),
        (None, True, LAZY, True),
        (None, False, LAZY, False),
        (None, False, {**V3, "compatible_features": 0xFE}, True),
        (None, True, {**V3, "compatible_features": 0xFF}, True),
        (3, True, LAZY, True),
        (3, True, V3, False),
        (2, True, LAZY, False),
        (2, True, V2, False),
        (2, False, V2, True),
    ],
)
def test_a_request_is_satisfied_if_all_it_asks_for_is_true(
    version: int | None, lazy: bool | None, fields: dict[str, int], satisfied: bool
) -> None:
    request = AmendRequest.of(compat=version, lazy_refcounts=lazy)
    assert rules.is_satisfied(request, header(fields)) is satisfied


def test_a_lazy_toggle_changes_one_bit() -> None:
    before = {**V3, "compatible_features": 0xF0, "header_length": 104}
    after = expect(AmendRequest.of(lazy_refcounts=True), before)
    assert after == {**without_name(before), "compatible_features": 0xF1}
    after = expect(AmendRequest.of(lazy_refcounts=False), {**before, "compatible_features": 0xF1})
    assert after == without_name(before)


def test_an_upgrade_implies_what_version_2_means() -> None:
    assert expect(AmendRequest.of(compat=3), V2) == without_name(V3)
    assert expect(AmendRequest.of(compat=3, lazy_refcounts=True), V2) == without_name(LAZY)


def test_a_downgrade_leaves_the_fields_of_version_2() -> None:
    assert expect(AmendRequest.of(compat=2), LAZY) == without_name(V2)


def test_whoever_writes_clears_unknown_autoclear_bits() -> None:
    after = expect(AmendRequest.of(lazy_refcounts=True), {**V3, "autoclear_features": 0xFF})
    assert after["autoclear_features"] == 3


def test_what_is_passed_in_is_left_alone() -> None:
    before = dict(V3)
    expect(AmendRequest.of(compat=2, lazy_refcounts=False), before)
    assert before == V3


REQUESTS = st.builds(
    AmendRequest.of,
    compat=st.sampled_from([None, 2, 3]),
    lazy_refcounts=st.sampled_from([None, False, True]),
)
WORDS = st.integers(0, (1 << 64) - 1)


@given(REQUESTS, st.booleans(), WORDS, WORDS, WORDS)
def test_only_version_and_feature_words_ever_change(
    request: AmendRequest, v3: bool, compatible: int, autoclear: int, size: int
) -> None:
    before = {**(V3 if v3 else V2), "size": size}
    if v3:
        before.update(compatible_features=compatible, autoclear_features=autoclear)
    after = expect(request, before)
    untouched = set(V2) - {"version", "backing_file_offset"}
    assert {name: after[name] for name in untouched} == {name: before[name] for name in untouched}
    assert set(after) == set(without_name(V3 if after["version"] == 3 else V2))
    assert after["version"] == (request.compat or before["version"])


@given(REQUESTS, st.booleans(), WORDS)
def test_what_is_expected_satisfies_the_request_where_version_3_results(
    request: AmendRequest, v3: bool, compatible: int
) -> None:
    before = {**V3, "compatible_features": compatible} if v3 else V2
    after = expect(request, before)
    assert after["version"] == 2 or rules.is_satisfied(request, header(after))


class TestSteps:
    @pytest.mark.parametrize(
        "options",
        [
            {"compat": "1.1"},
            {"lazy_refcounts": True},
            {"compat": "1.1", "lazy_refcounts": True, "backing_file": "a", "backing_fmt": "raw"},
            {"compat": "0.10", "lazy_refcounts": False, "backing_file": "a"},
            {"size": 1 << 20},
            {},
        ],
        ids=str,
    )
    def test_what_one_switch_can_change_is_one_step(self, options: dict[str, Any]) -> None:
        request = make_request(options)
        assert request.steps() == (request,)
        assert request.steps()[0] is request

    @pytest.mark.parametrize(
        ("options", "steps"),
        [
            ({"compat": "1.1", "size": 1 << 20}, [{"compat": "1.1"}, {"size": 1 << 20}]),
            ({"compat": "0.10", "size": 1 << 20}, [{"size": 1 << 20}, {"compat": "0.10"}]),
            (
                {"compat": "0.10", "lazy_refcounts": False, "size": 512, "backing_file": "a"},
                [
                    {"size": 512},
                    {"compat": "0.10", "lazy_refcounts": False, "backing_file": "a"},
                ],
            ),
        ],
        ids=str,
    )
    def test_what_takes_more_is_done_in_order(
        self, options: dict[str, Any], steps: list[dict[str, Any]]
    ) -> None:
        found = make_request(options).steps()
        assert [dict(step.told()) for step in found] == steps

    def test_all_else_is_alike_in_all_steps_but_growth_where_nothing_can_grow(self) -> None:
        keywords = {"timeout": 7, "dry_run": True, "cache": "unsafe", "drop_bitmaps": True}
        request = make_request({"lazy_refcounts": True, "size": 512, **keywords})
        for step in request.steps():
            assert (step.timeout, step.dry_run, step.flush, step.drop_bitmaps) == (
                7,
                True,
                False,
                1,
            )
        assert [step.max_growth for step in request.steps()] == [0, request.max_growth]


class TestNewTables:
    """How many bytes of tables a disk that grows may need."""

    @pytest.mark.parametrize(
        ("size", "cluster_size", "tables"),
        [
            # For each cluster an entry of 16 bytes, and a cluster at least.
            ((1 << 40) - (1 << 16), 1 << 16, 16 + (1 << 16)),
            (1 << 39, 1 << 16, (16 << 23) + (1 << 16)),
            (1 << 39, 1 << 21, (16 << 18) + (1 << 21)),
            ((1 << 40) - 512, 512, 16 + 512),
            ((1 << 40) - 31, 512, 512),
            ((1 << 40) - 512, 0, 16),  # as a header says it that nobody has refused yet
            (1 << 40, 1 << 16, 1 << 16),
            (1 << 41, 1 << 16, 1 << 16),
        ],
    )
    def test_it_is_what_is_added_to_the_disk_that_counts(
        self, size: int, cluster_size: int, tables: int
    ) -> None:
        request = AmendRequest.of(size=1 << 40, max_growth=1 << 30)
        assert request.tables_for(size, cluster_size) == tables
        for most in (tables, tables - 1):
            request = AmendRequest.of(size=1 << 40, max_growth=most)
            assert request.tables_for(size, cluster_size) == most

    def test_it_is_no_more_than_the_file_may_grow_by_or_can_be_staged(self) -> None:
        for growth in (0, 1, INSTAR_STAGED_MAX, INSTAR_STAGED_MAX + 1):
            request = AmendRequest.of(size=1 << 60, max_growth=growth)
            most = min(growth, INSTAR_STAGED_MAX)
            assert (request.tables_max, request.tables_for(0, 1 << 16)) == (most, most)

    def test_no_table_is_needed_where_no_size_is_asked_for(self) -> None:
        request = AmendRequest.of(compat=2, max_growth=1 << 30)
        assert (request.tables_max, request.tables_for(1 << 40, 1 << 16)) == (0, 0)


def test_a_request_stays_itself_where_it_fits() -> None:
    request = AmendRequest.of(size=1 << 30, max_growth=7)
    for growth in (7, 8):
        assert request.within(growth) is request
    assert request.within(6) == AmendRequest.of(size=1 << 30, max_growth=6)
    assert request.fit(is_device=False) is request
    fixed = AmendRequest.of(size=1 << 30, max_growth=0, fixed_size=True)
    assert request.fit(is_device=True) == fixed
    assert not request.fixed_size
