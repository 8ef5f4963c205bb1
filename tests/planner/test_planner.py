"""The planner on random valid headers: it does what is asked, as safely as can be. Test side."""

from __future__ import annotations

from typing import Any

from hypothesis import HealthCheck, example, given, settings

from instar.vmm.request import AmendRequest
from tests.planner.headers import images, requests
from tests.support.forge import Extension, Image
from tests.support.planner import HEADER_LIMIT, ask, read_cluster
from tests.support.planner_checks import assert_promises, size_in_place

UPGRADE, DOWNGRADE = AmendRequest.of(compat=3), AmendRequest.of(compat=2)


def thorough(examples: int) -> settings:
    """Settings for a property: no deadline, and the same examples in every run."""
    unconcerned = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much]
    return settings(
        max_examples=examples, deadline=None, derandomize=True, suppress_health_check=unconcerned
    )


@thorough(600)
@given(image=images(), request_=requests)
def test_any_request_on_any_header_keeps_all_promises(
    planner: Any, image: Image, request_: AmendRequest
) -> None:
    data = image.build()
    answer = ask(planner, data, request_)
    assert_promises(planner, data, request_, answer)
    assert set(answer.refusals) <= {"lazy_needs_v3", "no_room"}


@thorough(1000)
@given(image=images(version=2))
@example(
    image=Image(
        version=2,
        cluster_bits=11,
        backing_file=b"n" * 1023,
        backing_format=b"qcow2",
    )
)
@example(image=Image(version=2, cluster_bits=11, backing_file=b"n" * 984))
@example(image=Image(version=2, cluster_bits=11, backing_file=b"n" * 985))
@example(image=Image(version=2, cluster_bits=11, backing_file=b"n" * 984, backing_file_offset=81))
@example(image=Image(version=2, cluster_bits=9, extensions=[Extension(0x11111111, b"x" * 384)]))
@example(image=Image(version=2, cluster_bits=9, extensions=[Extension(0x11111111, b"x" * 385)]))
def test_an_upgrade_fails_only_where_there_is_no_room(planner: Any, image: Image) -> None:
    data = image.build()
    answer = ask(planner, data, UPGRADE)
    assert_promises(planner, data, UPGRADE, answer)
    before = read_cluster(data)
    room = min(before.size, HEADER_LIMIT)
    assert answer.planned == (size_in_place(before) <= room)
    assert answer.planned or answer.refusals == ("no_room",)


@thorough(500)
@given(image=images(version=3))
def test_a_downgrade_is_always_one_sector(planner: Any, image: Image) -> None:
    data = image.build()
    answer = ask(planner, data, DOWNGRADE)
    assert_promises(planner, data, DOWNGRADE, answer)
    assert (answer.amended, answer.atomic) == (True, True)


@thorough(200)
@given(image=images(), request_=requests, other=images())
def test_what_the_host_saw_must_be_what_is_there(
    planner: Any, image: Image, request_: AmendRequest, other: Image
) -> None:
    data, seen = image.build(), other.build()
    answer = ask(planner, data, request_, seen=seen)
    agreed = ask(planner, data, request_)
    names = ("version", "cluster_bits", "size")
    words = ("incompatible_features", "compatible_features", "autoclear_features")
    mine, theirs = read_cluster(data).fields, read_cluster(seen).fields
    same = all(mine[name] == theirs[name] for name in names)
    same = same and all(mine.get(word, 0) == theirs.get(word, 0) for word in words)
    assert answer == agreed if same else answer.refusals == ("header_mismatch",)
