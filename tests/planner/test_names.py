"""What the planner makes of names and of the backing file's format, and refuses. Test side."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from instar.vmm.base.record import FrozenDict
from instar.vmm.qcow2.probe import header_fields
from instar.vmm.request import AmendRequest
from tests.planner.headers import images
from tests.support.forge import Bitmap, Data, Extension, Image, Snapshot, Zero, layout
from tests.support.forge.bitmaps import IN_USE
from tests.support.planner import (
    SECTOR,
    Answer,
    Cluster,
    accepted_by_contract,
    apply,
    ask,
    read_cluster,
)

FORMAT, DATA_FILE = layout.EXTENSION_BACKING_FORMAT, layout.EXTENSION_DATA_FILE
BACKED: dict[str, Any] = {"backing_file": b"base.qcow2", "backing_format": b"qcow2"}
EXTERNAL: dict[str, Any] = {"data_file": b"disk.raw", "data_file_raw": True}


def change(name: bytes | None = None, form: bytes | None = None, **others: Any) -> AmendRequest:
    """A request that changes the backing file."""
    asked = {"backing_file": name, "backing_fmt": form}
    return AmendRequest.of(**asked, change_backing=True, **others)


def confirm(name: bytes | None = None, form: bytes | None = None) -> AmendRequest:
    """A request that says what the backing file is."""
    return AmendRequest.of(backing_file=name, backing_fmt=form)


def text(header: Cluster, kind: int) -> bytes | None:
    """What the last extension of a kind says, as qemu reads it."""
    found = [extension.data for extension in header.extensions if extension.type == kind]
    return found[-1].partition(b"\0")[0] if found else None


def amended(planner: Any, data: bytes, request: AmendRequest) -> tuple[Answer, Cluster]:
    """The answer, which must be a plan that the host takes, and the header that it leads to."""
    answer = ask(planner, data, request)
    assert answer.refusals == ()
    accepted_by_contract(data, request, answer)
    after = apply(data, answer.writes)
    again = ask(planner, after, request)
    assert (again.planned, again.amended) == (True, False)
    accepted_by_contract(after, request, again)
    return answer, read_cluster(after)


def refusals(planner: Any, data: bytes, request: AmendRequest) -> tuple[str, ...]:
    answer = ask(planner, data, request)
    assert answer.writes == ()
    return answer.refusals


@pytest.mark.parametrize("version", [2, 3])
@pytest.mark.parametrize("length", [1, 7, 10, 11, 255, 376, 377, 1023])
def test_a_name_of_any_length_is_one_sector_away(planner: Any, version: int, length: int) -> None:
    data = Image(version=version, **BACKED).build()
    name = b"n" * length
    answer, after = amended(planner, data, change(name, b"raw"))
    assert (after.name, text(after, FORMAT), answer.atomic) == (name, b"raw", True)
    back, last = amended(planner, apply(data, answer.writes), change(b"base.qcow2", b"qcow2"))
    assert (last.name, text(last, FORMAT), back.atomic) == (b"base.qcow2", b"qcow2", True)


@pytest.mark.parametrize("version", [2, 3])
def test_a_backing_file_comes_and_goes(planner: Any, version: int) -> None:
    data = Image(version=version).build()
    answer, after = amended(planner, data, change(b"base", b"qcow2"))
    assert (after.name, text(after, FORMAT)) == (b"base", b"qcow2")
    data = apply(data, answer.writes)
    answer, after = amended(planner, data, change(b""))
    assert (after.name, text(after, FORMAT), after.extensions) == (None, None, ())
    fields = header_fields(apply(data, answer.writes)[:SECTOR])
    assert (fields["backing_file_offset"], fields["backing_file_size"]) == (0, 0)


def test_the_other_extensions_stay_as_they_are_and_in_their_order(planner: Any) -> None:
    others = (Extension(0x11111111, b"first"), Extension(0x22222222, b"second!!"))
    doubled = (Extension(FORMAT, b"raw"), *others, Extension(FORMAT, b"vmdk\0x"))
    image = Image(backing_file=b"base", extensions=doubled)
    _, after = amended(planner, image.build(), change(b"other", b"qcow2"))
    assert [extension.data for extension in after.extensions] == [b"qcow2", b"first", b"second!!"]
    _, after = amended(planner, image.build(), change(b"other"))
    assert [part.data for part in after.extensions] == [part.data for part in doubled]


def test_fields_that_nobody_knows_stay(planner: Any) -> None:
    image = Image(header_length=128, unknown_header_fields=b"unknown " * 2, **BACKED)
    data = image.build()
    answer, after = amended(planner, data, change(b"other"))
    assert after.fields["header_length"] == 128
    assert apply(data, answer.writes)[104:128] == data[104:128]


CONFIRMED: list[tuple[Image, AmendRequest]] = [
    (Image(**BACKED), confirm(b"base.qcow2", b"qcow2")),
    (Image(backing_file=b"base\0.x", backing_format=b"raw\0\0"), confirm(b"base", b"raw")),
    (Image(backing_file=b"base"), confirm(b"base")),
    (Image(backing_file=b""), confirm(b"")),
    (Image(backing_format=b"raw"), confirm(None, b"raw")),
    (Image(**EXTERNAL), AmendRequest.of(data_file=b"disk.raw", data_file_raw=True)),
    (Image(), AmendRequest.of(data_file_raw=False)),
    (Image(version=2), AmendRequest.of(data_file_raw=False)),
    (Image(**BACKED), change(b"base.qcow2")),
    (Image(**BACKED), change(None, b"qcow2")),
    (Image(backing_file=b"base"), change(b"base")),
    (Image(), change(b"")),
    (Image(), change(b"", b"")),
    (Image(backing_file=b""), change(b"")),
]


@pytest.mark.parametrize(("image", "request_"), CONFIRMED)
def test_what_is_so_already_is_left_alone(
    planner: Any, image: Image, request_: AmendRequest
) -> None:
    answer, _ = amended(planner, image.build(), request_)
    assert not answer.amended


@pytest.mark.parametrize(("image", "request_"), CONFIRMED)
def test_what_is_so_already_may_be_asked_for_with_something_that_is_not(
    planner: Any, image: Image, request_: AmendRequest
) -> None:
    options = FrozenDict({**request_.options, "lazy_refcounts": True, "compat": 3})
    more = AmendRequest(**{**vars(request_), "options": options})
    before = read_cluster(image.build())
    answer, after = amended(planner, image.build(), more)
    assert answer.amended
    assert after.fields["compatible_features"] == 1
    assert (after.name, after.extensions) == (before.name, before.extensions)


REFUSED: list[tuple[Image, AmendRequest, str]] = [
    (Image(**BACKED), confirm(b"base.qcow"), "backing_change"),
    (Image(**BACKED), confirm(b"./base.qcow2", b"qcow2"), "backing_change"),
    (Image(**BACKED), confirm(b"base.qcow2", b"raw"), "backing_change"),
    (Image(**BACKED), confirm(b"base.qcow2"), "backing_change"),
    (Image(**BACKED), confirm(None, b"qcow2"), "backing_change"),
    (Image(**BACKED), confirm(b""), "backing_change"),
    (Image(), confirm(b""), "backing_change"),
    (Image(), confirm(None, b""), "backing_change"),
    (Image(), confirm(b"base"), "backing_change"),
    (Image(version=2), change(b"base"), "backing_fmt_missing"),
    (Image(backing_file=b"base"), change(b"other"), "backing_fmt_missing"),
    (Image(**BACKED), change(b"other", b""), "backing_fmt_missing"),
    (Image(**BACKED), change(None, b""), "backing_fmt_missing"),
    (Image(), change(None, b"raw"), "backing_file_missing"),
    (Image(**BACKED), change(b"", b"raw"), "backing_file_missing"),
    (Image(**EXTERNAL), change(b"base", b"raw"), "backing_raw"),
    (Image(), AmendRequest.of(data_file=b"x"), "no_data_file"),
    (Image(), AmendRequest.of(data_file=b""), "no_data_file"),
    (Image(version=2), AmendRequest.of(compat=3, data_file=b"x"), "no_data_file"),
    (
        Image(extensions=[Extension(DATA_FILE, b"x")]),
        AmendRequest.of(data_file=b"y"),
        "no_data_file",
    ),
    (Image(), AmendRequest.of(data_file_raw=True), "data_file_raw"),
    (Image(version=2), AmendRequest.of(compat=3, data_file_raw=True), "data_file_raw"),
    (Image(data_file=b"d"), AmendRequest.of(data_file_raw=True), "data_file_raw"),
    (
        Image(version=2, cluster_bits=9, **BACKED),
        change(b"n" * 450, b"qcow2"),
        "no_room",
    ),
]


@pytest.mark.parametrize(("image", "request_", "reason"), REFUSED)
def test_what_cannot_be_is_refused(
    planner: Any, image: Image, request_: AmendRequest, reason: str
) -> None:
    assert refusals(planner, image.build(), request_) == (reason,)


def test_all_reasons_are_named_at_once(planner: Any) -> None:
    request = AmendRequest.of(backing_file=b"x", data_file=b"y", data_file_raw=True)
    expected = {"backing_change", "no_data_file", "data_file_raw"}
    assert {*refusals(planner, Image().build(), request)} == expected


@pytest.mark.parametrize(
    ("image", "request_", "reasons"),
    [
        (
            Image(cluster_bits=9, clusters={0: Data(b"x")}, snapshots=[Snapshot(name=b"s")]),
            AmendRequest.of(data_file=b"d", backing_file=b"b", refcount_bits=1),
            {"no_data_file", "backing_change", "refcount_overflow"},
        ),
        (
            Image(cluster_bits=9, clusters={0: Data(b"x")}, snapshots=[Snapshot(name=b"s")]),
            change(b"n" * 500, b"raw", refcount_bits=1),
            {"refcount_overflow", "no_room"},
        ),
        (
            Image(cluster_bits=9, size=700, **BACKED),
            change(b"n" * 500, b"raw", data_file=b"d"),
            {"no_data_file", "no_room"},
        ),
        (
            Image(cluster_bits=12, size=700, bitmaps=[Bitmap(name=b"b", flags=IN_USE)], **BACKED),
            AmendRequest.of(size=1 << 20),
            {"bitmap_in_use", "grow_head_over_backing"},
        ),
    ],
    ids=["counts", "counts and room", "room", "the disk's end"],
)
def test_what_would_be_refused_later_is_named_too(
    planner: Any, image: Image, request_: AmendRequest, reasons: set[str]
) -> None:
    assert {*refusals(planner, image.build(), request_)} == reasons


def test_a_name_out_of_reach_is_refused_for_that_alone(planner: Any) -> None:
    data = Image(cluster_bits=17, backing_file_offset=(1 << 17) - 10, **BACKED).build()
    for request in (confirm(b"base.qcow2", b"qcow2"), change(b"other", b"raw")):
        assert refusals(planner, data, request) == ("header_too_large",)


def test_a_raw_data_file_may_get_a_backing_file_once_it_is_not_raw_any_more(planner: Any) -> None:
    data = Image(**EXTERNAL).build()
    _, after = amended(planner, data, change(b"base", b"raw", data_file_raw=False))
    assert (after.name, after.fields["autoclear_features"]) == (b"base", 0)


@pytest.mark.parametrize("length", [1, 8, 300, 500, 2048])
def test_a_data_file_of_any_name_is_one_sector_away(planner: Any, length: int) -> None:
    data = Image(**EXTERNAL).build()
    answer, after = amended(planner, data, AmendRequest.of(data_file=b"d" * length))
    assert (text(after, DATA_FILE), answer.atomic) == (b"d" * length, True)
    answer, after = amended(planner, data, AmendRequest.of(data_file=b""))
    assert (text(after, DATA_FILE), answer.atomic) == (None, True)
    assert after.fields["autoclear_features"] == layout.AUTOCLEAR_DATA_FILE_RAW


def test_raw_off_is_the_feature_word_alone(planner: Any) -> None:
    data = Image(**EXTERNAL).build()
    answer, after = amended(planner, data, AmendRequest.of(data_file_raw=False))
    assert [len(write.data) for write in answer.writes] == [SECTOR]
    assert after.fields["autoclear_features"] == 0
    changed = [at for at, byte in enumerate(apply(data, answer.writes)) if byte != data[at]]
    assert changed == [95]


def test_an_image_that_changes_its_version_takes_a_name_along(planner: Any) -> None:
    _, after = amended(planner, Image(version=2).build(), change(b"b", b"raw", compat=3))
    assert (after.fields["version"], after.name, text(after, FORMAT)) == (3, b"b", b"raw")
    _, after = amended(planner, Image(**BACKED).build(), change(b"b", b"raw", compat=2))
    assert (after.fields["version"], after.name, text(after, FORMAT)) == (2, b"b", b"raw")


def test_zero_clusters_stay_zeros_over_a_backing_file_that_comes_with_a_downgrade(
    planner: Any,
) -> None:
    image = Image(size=1 << 20, clusters={3: Zero()})
    plain = ask(planner, image.build(), AmendRequest.of(compat=2, max_growth=1 << 30))
    backed = change(b"b", b"raw", compat=2, max_growth=1 << 30)
    answer = ask(planner, image.build(), backed)
    accepted_by_contract(image.build(), backed, answer)
    assert not any(write.zeroes for write in plain.writes)
    assert any(write.zeroes for write in answer.writes)


def test_what_else_is_in_the_header_cluster_is_not_overwritten(planner: Any) -> None:
    """Compressed data begin in the slack, where a long name would go."""
    image = Image(extended_l2=True, size=1 << 20, clusters={0: Data(b"x")})
    answer, _ = amended(planner, image.build(), change(b"n" * 600, b"raw"))
    assert answer.atomic
    data = bytearray(image.build())
    data[1024:1536] = b"\xee" * 512
    # A bitmap of subclusters that reads as zeros looks like a compressed cluster at 0.
    at = image.regions()["l2_table[0]"].start + 8
    data[at : at + 8] = (0x7FFFFFFF << 32).to_bytes(8, "big")
    answer, _ = amended(planner, bytes(data), change(b"n" * 600, b"raw"))
    assert answer.atomic
    data[at - 8 : at] = (1 << 62 | 1024).to_bytes(8, "big")
    assert refusals(planner, bytes(data), change(b"n" * 600, b"raw")) == ("overlap",)


names_ = st.binary(min_size=1, max_size=1023).map(lambda name: name.replace(b"\0", b"n"))
lengths = st.sampled_from([1, 8, 100, 372, 376, 380, 400, 1023])
asked = st.one_of(
    st.builds(
        change, names_ | lengths.map(lambda n: b"n" * n), st.sampled_from([b"raw", b"qcow2"])
    ),
    st.builds(change, st.just(b"")),
)


@settings(
    max_examples=400,
    deadline=None,
    derandomize=True,
    suppress_health_check=[
        HealthCheck.too_slow,
        HealthCheck.data_too_large,
        HealthCheck.filter_too_much,
    ],
)
@given(image=images(), request_=asked)
def test_any_name_on_any_header_keeps_all_promises(
    planner: Any, image: Image, request_: AmendRequest
) -> None:
    data = image.build()
    answer = ask(planner, data, request_)
    assert not answer.misuse
    assert set(answer.refusals) <= {"no_room", "header_too_large"}
    if not answer.planned:
        return
    accepted_by_contract(data, request_, answer)
    before = read_cluster(data)
    half = [write for write in answer.writes if write.phase == 0]
    if answer.amended:
        assert_old_header_stands(data, apply(data, half), before)
    after_data = apply(data, answer.writes)
    after = read_cluster(after_data)
    assert (after.name or b"").partition(b"\0")[0] == request_.backing_file
    assert after.fields["version"] == before.fields["version"]
    assert after.fields.get("header_length") == before.fields.get("header_length")
    kept = [part for part in before.extensions if part.type != FORMAT]
    assert [(p.type, p.data) for p in after.extensions if p.type != FORMAT] == [
        (p.type, p.data) for p in kept
    ]
    again = ask(planner, after_data, request_)
    assert (again.planned, again.amended) == (True, False)


def assert_old_header_stands(data: bytes, half: bytes, before: Cluster) -> None:
    """What is written before the switch changes nothing that the old header refers to."""
    for part in before.referred():
        assert half[part.start : part.stop] == data[part.start : part.stop]
    assert half[:SECTOR] == data[:SECTOR]
