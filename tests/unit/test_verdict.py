"""Test side: every reason of the ABI has a name and a message that helps, and no other has."""

from __future__ import annotations

import re
import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from instar import abi
from instar.vmm.base.errors import GuestFault, ImageRejected
from instar.vmm.base.findings import FINDINGS
from instar.vmm.base.reasons import OF_NONE, REASONS
from instar.vmm.base.refusals import Circumstances, is_known, not_qcow2, overlap, translate
from instar.vmm.inspect.findings import describe_finding
from instar.vmm.request import AmendRequest
from instar.vmm.request.keywords import DEFAULTS

NUMBERS = {
    value: name
    for name, value in vars(abi).items()
    if name.startswith("REFUSAL_") and name != "REFUSAL_MAX"
}
ERRORS = {
    value: name.removeprefix("AMEND_ERROR_")
    for name, value in vars(abi).items()
    if name.startswith("AMEND_ERROR_")
}
WORDS = st.integers(0, (1 << 64) - 1)
SEVERAL = r"(?!(?:begins|does|has|instead|is|lacks|loses|names|prevents|writes)\b)[a-z]+s\b"


def test_every_reason_of_the_abi_is_known_in_its_order() -> None:
    assert list(REASONS) == sorted(NUMBERS)


def test_names_are_used_once() -> None:
    names = [name for name, _, _ in REASONS.values()]
    assert len(set(names)) == len(names)


@pytest.mark.parametrize("reason", REASONS, ids=NUMBERS.get)
def test_a_name_is_made_of_lower_case_words(reason: int) -> None:
    name, details, _ = REASONS[reason]
    for word in (name, *details):
        assert word.replace("_", "").isalnum()
        assert word == word.lower()


@pytest.mark.parametrize("reason", REASONS, ids=NUMBERS.get)
def test_a_message_uses_details_that_exist(reason: int) -> None:
    _, details, message = REASONS[reason]
    used = {name for _, name, _, _ in string.Formatter().parse(message) if name}
    extra = {"names", "users", "which", "check", "found", "luks_field", "direction"}
    assert used <= {*details, *extra}
    assert "users" not in used or reason == abi.REFUSAL_OVERLAP
    assert "which" not in used or "snapshot" in details
    about_bitmaps = (abi.REFUSAL_SIZE_BITMAPS, abi.REFUSAL_BITMAP_IN_USE)
    with_names = (abi.REFUSAL_DOWNGRADE_BITMAPS, *about_bitmaps, abi.REFUSAL_LUKS_CIPHER)
    assert "names" not in used or reason in with_names
    assert "found" not in used or reason == abi.REFUSAL_REPAIR_ENTRY
    assert "luks_field" not in used or reason == abi.REFUSAL_LUKS_HEADER
    assert "direction" not in used or reason == abi.REFUSAL_SIZE_DIFFERENCE
    assert len(details) == len(set(details)) <= 3


@pytest.mark.parametrize("reason", REASONS, ids=NUMBERS.get)
def test_a_reason_is_put_into_one_line(reason: int) -> None:
    (refusal,) = translate(((reason, 1, 11, 22, 33),))
    assert refusal.number == reason
    assert (refusal.code, refusal.code_number) == (ERRORS[1], 1)
    assert refusal.name == REASONS[reason][0]
    assert tuple(refusal.detail.values()) == (11, 22, 33)[: len(REASONS[reason][1])]
    assert refusal.message
    assert refusal.message.isprintable()
    assert "{" not in refusal.message


@pytest.mark.parametrize("reason", REASONS, ids=NUMBERS.get)
def test_of_one_thing_a_reason_does_not_speak_as_of_several(reason: int) -> None:
    (refusal,) = translate(((reason, 1, 1, 1, 1),))
    assert not re.search(rf"\b1 {SEVERAL}", refusal.message)


@pytest.mark.parametrize("kind", FINDINGS)
def test_of_one_thing_a_finding_does_not_speak_as_of_several(kind: int) -> None:
    assert not re.search(rf"\b1 {SEVERAL}", describe_finding(kind, (1, 1, 1)).message)


def test_each_flag_that_a_reason_advises_is_a_keyword_too() -> None:
    of_others = r"(?:qemu-img [\w -]*?|container with )--[a-z-]+"
    texts = [message for _, _, message in REASONS.values()]
    found = {
        flag.replace("-", "_")
        for text in (*texts, *OF_NONE.values())
        for flag in re.findall("--([a-z-]+)", re.sub(of_others, "", text))
    }
    assert "max_growth" in found
    assert found <= DEFAULTS.keys()


def test_what_there_are_several_of_is_told_so() -> None:
    (refusal,) = translate(((abi.REFUSAL_REFCOUNT, 1, 0x10000, 0, 2),))
    assert "and 2 references are needed;" in refusal.message
    finding = describe_finding(abi.CHECK_CLUSTER_LEAKED, (7, 3, 2))
    assert finding.message == "cluster 7 has 2 users and refcount 3"


@pytest.mark.parametrize("error", ERRORS, ids=ERRORS.get)
def test_every_error_code_has_its_name(error: int) -> None:
    (refusal,) = translate(((abi.REFUSAL_DIRTY, error, 0, 0, 0),))
    assert (refusal.code, refusal.code_number) == (ERRORS[error], error)


def test_reasons_keep_their_order() -> None:
    raw = ((abi.REFUSAL_CORRUPT, 8, 0, 0, 0), (abi.REFUSAL_DIRTY, 8, 0, 0, 0))
    assert [refusal.name for refusal in translate(raw)] == ["corrupt", "dirty"]


def test_no_refusals_are_no_reasons() -> None:
    assert translate(()) == ()


@pytest.mark.parametrize("reason", [0, max(REASONS) + 1, 1 << 31, (1 << 32) - 1])
def test_an_unknown_reason_is_the_guests_fault(reason: int) -> None:
    with pytest.raises(GuestFault, match=f"^the guest refuses with reason {reason} and error 8$"):
        translate(((reason, 8, 0, 0, 0),))


@pytest.mark.parametrize("error", [0, max(ERRORS) + 1, (1 << 32) - 1])
def test_an_unknown_error_is_the_guests_fault(error: int) -> None:
    with pytest.raises(GuestFault, match=f"^the guest refuses with reason 7 and error {error}$"):
        translate(((abi.REFUSAL_DIRTY, error, 0, 0, 0),))


@given(st.tuples(st.integers(0, 60) | WORDS, st.integers(0, 20) | WORDS, WORDS, WORDS, WORDS))
def test_any_numbers_are_a_refusal_or_a_fault(raw: tuple[int, ...]) -> None:
    try:
        (refusal,) = translate((raw,))
        assert refusal.message.isprintable()
    except GuestFault:
        assert raw[0] not in REASONS or raw[1] not in ERRORS


def message_with(*names: bytes) -> str:
    raw = (abi.REFUSAL_DOWNGRADE_BITMAPS, 3, len(names), 0, 0)
    return translate((raw,), Circumstances(names))[0].message


def test_bitmaps_are_named() -> None:
    assert message_with(b"one", "zwölf".encode()) == (
        "cannot downgrade an image with bitmaps, and this one has 2 ('one', 'zwölf'); remove them "
        "with --drop-bitmaps, or with qemu-img bitmap --remove"
    )


def test_bitmaps_that_are_no_longer_valid_are_not_counted() -> None:
    assert message_with() == (
        "cannot downgrade an image with bitmaps, and this one still has some that a program "
        "without bitmaps has made invalid; remove them with --drop-bitmaps"
    )


def test_bitmap_names_are_hostile() -> None:
    message = message_with(b"\x1b[2J\n", b"\xff{count}", "\u202e".encode(), b"n" * 1023)
    assert message.isprintable()
    assert r"'\x1b[2J\n', '\xff{count}', '\u202e', '" in message
    assert f"'{'n' * 64}...'" in message
    assert message_with(*[b"x"] * 100).count("'x'") == 8
    assert ", ...)" in message_with(*[b"x"] * 100)


@given(st.lists(st.binary(max_size=80), max_size=10))
def test_any_names_are_one_line(names: list[bytes]) -> None:
    message = message_with(*names)
    assert message.isprintable()
    assert len(message) < 2500


@pytest.mark.parametrize(
    ("users", "said"),
    [
        ((), "is used twice, and"),
        ((0, 1 << 63), "is used twice, and"),
        ((abi.AMEND_USE_BITMAP,), "is used twice, as a bitmap and for something else, and"),
        ((0, abi.AMEND_USE_DATA), "is used twice, as data and for something else, and"),
        (
            (abi.AMEND_USE_HEADER, abi.AMEND_USE_COMPRESSED),
            "is used twice, as the header and as compressed data, and",
        ),
    ],
)
def test_an_overlap_names_both_users_as_far_as_they_are_known(
    users: tuple[int, ...], said: str
) -> None:
    refusal = overlap(0x30000, *users)
    assert (refusal.name, refusal.number) == ("overlap", abi.REFUSAL_OVERLAP)
    names = ("offset", "user", "other_user")
    assert refusal.detail == dict(zip(names, (0x30000, *users, 0, 0), strict=False))
    assert f"the cluster at 0x30000 {said} the amend would change it" in refusal.message


def test_every_use_of_the_abi_has_a_name() -> None:
    uses = [value for name, value in vars(abi).items() if name.startswith("AMEND_USE_")]
    assert len(uses) == len(set(uses))
    for use in set(uses) - {abi.AMEND_USE_UNKNOWN}:
        assert " and for something else, " in overlap(0, use).message


def test_a_file_of_another_kind_is_named() -> None:
    refusal = not_qcow2("a vmdk image", "only qcow2 images can be amended")
    assert refusal.message == "this is a vmdk image; only qcow2 images can be amended"
    assert (refusal.name, refusal.number) == ("not_qcow2", abi.REFUSAL_BAD_MAGIC)
    assert refusal.code == "UNSUPPORTED_FORMAT"


SNAPSHOT_REASONS = (
    abi.REFUSAL_DOWNGRADE_SNAPSHOT_SIZE,
    abi.REFUSAL_DOWNGRADE_SNAPSHOT_VM_STATE,
)


@pytest.mark.parametrize("reason", SNAPSHOT_REASONS)
def test_a_snapshot_is_named_by_its_name_and_its_id(reason: int) -> None:
    about = Circumstances(snapshots={2: (b"7", b"before update")})
    known, unknown = translate(((reason, 3, 2, 8, 9), (reason, 3, 3, 8, 9)), about)
    assert known.message.startswith(
        "internal snapshot 'before update' (ID '7') prevents the downgrade: "
    )
    assert known.names == ("7", "before update")
    assert unknown.message.startswith("internal snapshot number 3 prevents the downgrade: ")
    assert unknown.names == ()


def test_snapshot_names_are_hostile() -> None:
    about = Circumstances(snapshots={1: (b"\x1b[2J", b"\xff{snapshot}" + b"n" * 250)})
    (refusal,) = translate(((SNAPSHOT_REASONS[0], 3, 1, 8, 9),), about)
    assert refusal.message.isprintable()
    assert r"'\xff{snapshot}nnn" in refusal.message
    assert len(refusal.message) < 400
    assert refusal.names == ("\x1b[2J", "\udcff{snapshot}" + "n" * 250)


def test_names_of_bitmaps_are_there_for_programs_too() -> None:
    raw = (abi.REFUSAL_DOWNGRADE_BITMAPS, 3, 2, 0, 0)
    assert translate((raw,), Circumstances((b"one", b"\xff")))[0].names == ("one", "\udcff")


HEADER = {"cluster_bits": 16, "nb_snapshots": 0}
MISSING = {
    "l1_table": (abi.REFUSAL_L1_TABLE, 0x100000, 1, 0x20000),
    "last part of an l1_table": (abi.REFUSAL_L1_TABLE, 0x10000, 0x2001, 0x20000),
    "refcount_table": (abi.REFUSAL_REFCOUNT_TABLE, 0x100000, 1, 0x20000),
    "l2_table": (abi.REFUSAL_L2_TABLE, 0x10000, 3, 0x20000),
    "snapshot_table": (abi.REFUSAL_SNAPSHOT_TABLE, 0x100000, 1, 0),
}
DAMAGED = {
    "l1_table": (abi.REFUSAL_L1_TABLE, 0x10200, 1, 0x20000),
    "refcount_table": (abi.REFUSAL_REFCOUNT_TABLE, 0x10000, 0, 0x20000),
    "l2_table": (abi.REFUSAL_L2_TABLE, 0x10000, 3, 0x100200),
    "snapshot_table": (abi.REFUSAL_SNAPSHOT_TABLE, 0x10008, 1, 0),
}


@pytest.mark.parametrize("raw", MISSING.values(), ids=MISSING)
def test_a_table_beyond_the_files_end_is_a_truncated_file(raw: tuple[int, ...]) -> None:
    reason, *details = raw
    (refusal,) = translate(((reason, 7, *details),), Circumstances(size=0x20000, header=HEADER))
    assert refusal.message.endswith(
        "; the file ends before its tables, as a truncated download or copy does"
    )
    assert "qemu-img" not in refusal.message


def test_a_refcount_table_that_begins_in_the_file_can_be_missing_too() -> None:
    raw = (abi.REFUSAL_REFCOUNT_TABLE, 7, 0x10000, 4, 0x20000)
    (refusal,) = translate((raw,), Circumstances(size=0x30000, header=HEADER))
    assert "truncated" in refusal.message


ABSURD = {
    "a snapshot's L1 table of 32 GiB": (abi.REFUSAL_SNAPSHOT_TABLE, 0x10000, 0xFFFFFFFF, 1),
    "a snapshot's L1 table for 32 TiB": (abi.REFUSAL_SNAPSHOT_TABLE, 0x10000, 0x10000, 1),
    "a snapshot's L1 table at 1 PiB": (abi.REFUSAL_SNAPSHOT_TABLE, 1 << 50, 1, 1),
    "a million snapshots": (abi.REFUSAL_SNAPSHOT_TABLE, 0x10000, 1 << 20, 0),
    "snapshots at 1 TiB": (abi.REFUSAL_SNAPSHOT_TABLE, 1 << 40, 1, 0),
    "an L1 table for 32 TiB": (abi.REFUSAL_L1_TABLE, 0x10000, 0x10000, 0x20000),
    "an L1 table at 2^62": (abi.REFUSAL_L1_TABLE, 1 << 62, 1, 0x20000),
    "a refcount table of 64 TiB": (abi.REFUSAL_REFCOUNT_TABLE, 0x10000, 1 << 30, 0x20000),
    "a refcount table at 1 TiB": (abi.REFUSAL_REFCOUNT_TABLE, 1 << 40, 1, 0x20000),
    "an L2 table at 1 TiB": (abi.REFUSAL_L2_TABLE, 0x10000, 3, 1 << 40),
    "a LUKS header at 1 TiB": (abi.REFUSAL_LUKS_REGION, 1 << 40, 1 << 20, 0x20000),
}


@pytest.mark.parametrize("raw", ABSURD.values(), ids=ABSURD)
def test_a_number_that_no_image_has_is_no_truncated_file(raw: tuple[int, ...]) -> None:
    reason, *details = raw
    header = {**HEADER, "size": 64 << 20, "refcount_table_clusters": 1}
    (refusal,) = translate(((reason, 7, *details),), Circumstances(size=0x20000, header=header))
    assert "of such a disk" in refusal.message
    assert " itself is damaged; " in refusal.message
    assert "truncated" not in refusal.message
    assert refusal.message.endswith(f"; {REASONS[reason][2].rpartition('; ')[2]}")
    assert is_known(refusal)


@pytest.mark.parametrize("raw", MISSING.values(), ids=MISSING)
def test_what_an_image_of_its_size_may_have_is_missing(raw: tuple[int, ...]) -> None:
    reason, *details = raw
    header = {**HEADER, "size": 4 << 40, "refcount_table_clusters": 1}
    (refusal,) = translate(((reason, 7, *details),), Circumstances(size=0x20000, header=header))
    assert "truncated" in refusal.message


@pytest.mark.parametrize("bits", [22, 63, 1 << 31])
def test_a_cluster_is_not_taken_to_be_larger_than_it_can_be(bits: int) -> None:
    raw = (abi.REFUSAL_L1_TABLE, 7, 3 << 21, 1, 0x20000)
    told = [
        translate((raw,), Circumstances(size=3 << 21, header={**HEADER, "cluster_bits": number}))
        for number in (21, bits)
    ]
    assert "truncated" in told[0][0].message
    assert told[0] == told[1]


@pytest.mark.parametrize("raw", DAMAGED.values(), ids=DAMAGED)
def test_a_table_that_is_damaged_is_no_truncated_file(raw: tuple[int, ...]) -> None:
    reason, *details = raw
    (refusal,) = translate(((reason, 7, *details),), Circumstances(size=0x20000, header=HEADER))
    assert refusal.message.endswith(f"; {REASONS[reason][2].rpartition('; ')[2]}")
    assert "truncated" not in refusal.message


@pytest.mark.parametrize("count", [0, 1])
@pytest.mark.parametrize("reason", [r for r in REASONS if "qemu-img convert" in REASONS[r][2]])
def test_that_a_copy_drops_snapshots_is_said_where_there_are_some(reason: int, count: int) -> None:
    about = Circumstances(size=1 << 30, header={**HEADER, "nb_snapshots": count})
    (refusal,) = translate(((reason, 3, 0, 0, 0),), about)
    told = re.search(
        r"qemu-img convert.*; qemu-img convert drops internal snapshots$", refusal.message
    )
    assert bool(told) == (count > 0)


@pytest.mark.parametrize(("sign", "word"), [(1, "grow"), (-1, "shrink")])
def test_a_difference_that_no_disk_has_is_named_by_its_direction(sign: int, word: str) -> None:
    request = AmendRequest.of(size=(1 << 63) - 512, relative=sign)
    with pytest.raises(ImageRejected) as caught:
        request.for_disk(1 << 20)
    (refusal,) = caught.value.refusals
    assert f"and cannot {word} by 9223372036854775296: its size" in refusal.message
    assert refusal.detail == {"virtual_size": 1 << 20, "difference": (1 << 63) - 512}
    assert is_known(refusal)
