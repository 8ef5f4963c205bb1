"""Host side: -o lists mean what they mean to qemu-img, and every fault in them is named."""

from __future__ import annotations

import os
from typing import Any

import pytest

from instar.vmm.base.errors import ImageRejected, UsageError
from instar.vmm.cli.flags import AMEND
from instar.vmm.request.keys import AddKey, check_keys
from instar.vmm.request.keywords import CACHE_MODES, OTHER_FORMATS, check_format, make_request
from instar.vmm.request.kinds import BOOLEANS, FLAG
from instar.vmm.request.lists import parse_number, parse_options, parse_size
from instar.vmm.request.options import COMPAT_LEVELS, OPTIONS

HELP = None
LAZY = {"lazy_refcounts": True}
NOT_LAZY = {"lazy_refcounts": False}

# The names are those of the cases that were observed with qemu-img.
ACCEPTED = {
    "o-implied-on": (["lazy_refcounts"], LAZY),
    "o-implied-no": (["nolazy_refcounts"], NOT_LAZY),
    "o-repeat": (
        ["compat=1.1", "lazy_refcounts=on"],
        {"compat": "1.1", "lazy_refcounts": True},
    ),
    "o-repeat-conflict": (["lazy_refcounts=off", "lazy_refcounts=on"], LAZY),
    "o-dup": (["lazy_refcounts=on,lazy_refcounts=off"], NOT_LAZY),
    "o-dup2": (["compat=9.9,compat=1.1"], {"compat": "1.1"}),
    "o-dup2, in two lists": (["compat=9.9", "compat=0.10"], {"compat": "0.10"}),
    "compat-0.10": (["compat=0.10"], {"compat": "0.10"}),
    "compat-1.1": (["compat=1.1"], {"compat": "1.1"}),
    "compat-v2": (["compat=v2"], {"compat": "v2"}),
    "compat-v3": (["compat=v3"], {"compat": "v3"}),
    "id": (["id=x,lazy_refcounts=on"], LAZY),
    "id-only": (["id=x"], {}),
    "id, bare": (["id,noid"], {}),
    "help": (["help"], HELP),
    "help-q": (["?"], HELP),
    "help-mixed": (["help,foo=bar"], HELP),
    "help-mixed2": (["compat=1.1,help"], HELP),
    "help-mixed3": (["lazy_refcounts=on", "help"], HELP),
    "help, after a fault": (["lazy_refcounts=maybe,cluster_size=1,help"], HELP),
    "help, after a literal comma and a separator": (["compat=1.1,,,help"], HELP),
    "help, after an empty item": (["a,,help"], HELP),
}

INVALID_LISTS = {
    "o-empty": "",
    "o-comma": ",",
    "two commas": ",,",
    "o-trailing-comma": "lazy_refcounts=on,",
    "three trailing commas": "compat=1.1,,,",
    "o-leading-comma": ",lazy_refcounts=on",
    "two leading commas": ",,lazy_refcounts=on",
}

WIDTH_FAULT = "Refcount width must be a power of two and may not exceed 64 bits, not "
BOOLEAN_FAULT = "Parameter 'lazy_refcounts' expects 'on' or 'off', not "
COMPAT_FAULT = "Unknown compatibility level "

BAD_VALUES = {
    "o-double-comma": ("lazy_refcounts=on,,compat=1.1", f"{BOOLEAN_FAULT}'on,compat=1.1'"),
    "o-triple-comma": ("lazy_refcounts=on,,,compat=1.1", f"{BOOLEAN_FAULT}'on,'"),
    "o-space-trail": ("lazy_refcounts=on ", f"{BOOLEAN_FAULT}'on '"),
    "o-dup-bad-bool": ("lazy_refcounts=maybe,lazy_refcounts=on", f"{BOOLEAN_FAULT}'maybe'"),
    "bool-ON": ("lazy_refcounts=ON", f"{BOOLEAN_FAULT}'ON'"),
    "bool-On": ("lazy_refcounts=On", f"{BOOLEAN_FAULT}'On'"),
    "bool-1": ("lazy_refcounts=1", f"{BOOLEAN_FAULT}'1'"),
    "bool-0": ("lazy_refcounts=0", f"{BOOLEAN_FAULT}'0'"),
    "bool-False": ("lazy_refcounts=False", f"{BOOLEAN_FAULT}'False'"),
    "bool-empty": ("lazy_refcounts=", f"{BOOLEAN_FAULT}''"),
    "bool-maybe": ("lazy_refcounts=maybe", f"{BOOLEAN_FAULT}'maybe'"),
    "o-implied-compat": ("compat", f"{COMPAT_FAULT}'on'"),
    "nocompat": ("nocompat", f"{COMPAT_FAULT}'off'"),
    "o-dup3": ("compat=1.1,compat=9.9", f"{COMPAT_FAULT}'9.9'"),
    "compat-0.1": ("compat=0.1", f"{COMPAT_FAULT}'0.1'"),
    "compat-1.10": ("compat=1.10", f"{COMPAT_FAULT}'1.10'"),
    "compat-V3": ("compat=V3", f"{COMPAT_FAULT}'V3'"),
    "compat-V2": ("compat=V2", f"{COMPAT_FAULT}'V2'"),
    "compat-2": ("compat=2", f"{COMPAT_FAULT}'2'"),
    "compat-3": ("compat=3", f"{COMPAT_FAULT}'3'"),
    "compat-space": ("compat=1.1 ", f"{COMPAT_FAULT}'1.1 '"),
    "compat-empty": ("compat=", f"{COMPAT_FAULT}''"),
    "compat-0.42": ("compat=0.42", f"{COMPAT_FAULT}'0.42'"),
    "trailing-double-comma": ("compat=1.1,,", f"{COMPAT_FAULT}'1.1,'"),
    "key-eq-eq": ("compat==1.1", f"{COMPAT_FAULT}'=1.1'"),
    "help-as-value": ("compat=help", f"{COMPAT_FAULT}'help'"),
    "q-value": ("compat=?", f"{COMPAT_FAULT}'?'"),
    "utf8": ("compat=1\u20241", f"{COMPAT_FAULT}'1\u20241'"),
    "newline": ("compat=1.1\n", f"{COMPAT_FAULT}'1.1\n'"),
    "long-value": ("compat=" + "x" * 5000, f"{COMPAT_FAULT}'{'x' * 60}...'"),
}

UNKNOWN = {
    "o-implied-unknown": ("foo", "foo"),
    "o-value-only": ("1.1", "1.1"),
    "o-space-eq": ("lazy_refcounts = on", "lazy_refcounts "),
    "o-space-lead": (" lazy_refcounts=on", " lazy_refcounts"),
    "o-space-after-comma": ("compat=1.1, lazy_refcounts=on", " lazy_refcounts"),
    "o-key-upper": ("LAZY_REFCOUNTS=on", "LAZY_REFCOUNTS"),
    "o-dash": ("lazy-refcounts=on", "lazy-refcounts"),
    "unk-foo": ("foo=bar", "foo"),
    "unk-after-good": ("lazy_refcounts=on,foo=bar", "foo"),
    "help-eq": ("help=on", "help"),
    "question mark with a value": ("?=on", "?"),
    "nohelp": ("nohelp", "nohelp"),
    "empty-key": ("=on", ""),
    "bare key and a doubled comma": ("lazy_refcounts,,compat=1.1", ""),
    "no-prefix-unknown": ("nofoo", "nofoo"),
    "no-only": ("no", "no"),
    "no-prefix with a value": ("nolazy_refcounts=on", "nolazy_refcounts"),
    "nocow": ("nocow=on", "nocow"),
    "extent_size_hint": ("extent_size_hint=1M", "extent_size_hint"),
}

CREATE_ONLY = {
    "unk-cluster_size": ("cluster_size=32k", "cluster_size"),
    "unk-cluster_size-same": ("cluster_size=64k", "cluster_size"),
    "unk-badcluster": ("cluster_size=banana", "cluster_size"),
    "create-dup": ("cluster_size=64k,cluster_size=1k", "cluster_size"),
    "create-with-good": ("lazy_refcounts=on,cluster_size=64k", "cluster_size"),
    "unk-prealloc": ("preallocation=on", "preallocation"),
    "unk-prealloc-off": ("preallocation=off", "preallocation"),
    "unk-extl2": ("extended_l2=on", "extended_l2"),
    "unk-comp": ("compression_type=zstd", "compression_type"),
    "unk-encryption": ("encryption=off", "encryption"),
    "unk-encformat": ("encrypt.format=luks", "encrypt.format"),
    "unk-enckey": ("encrypt.key-secret=s0", "encrypt.key-secret"),
    "unk-cipher": ("encrypt.cipher-alg=aes-256", "encrypt.cipher-alg"),
    "cipher-mode": ("encrypt.cipher-mode=xts", "encrypt.cipher-mode"),
    "ivgen-alg": ("encrypt.ivgen-alg=plain64", "encrypt.ivgen-alg"),
    "ivgen-hash-alg": ("encrypt.ivgen-hash-alg=sha256", "encrypt.ivgen-hash-alg"),
    "hash-alg": ("encrypt.hash-alg=sha256", "encrypt.hash-alg"),
    "keep_data_file": ("keep_data_file=on", "keep_data_file"),
}

ALL_FAULTS = {
    "unk-two": ("cluster_size=32k,foo=bar", ["'cluster_size' cannot be amended", "'foo'"]),
    "unk-cluster-then-bad": (
        "cluster_size=32k,lazy_refcounts=maybe",
        ["'cluster_size' cannot be amended", f"{BOOLEAN_FAULT}'maybe'"],
    ),
    "compat+rb": (
        "refcount_bits=13,compat=0.42",
        [f"{COMPAT_FAULT}'0.42'", f"{WIDTH_FAULT}'13'"],
    ),
    "parse-order": (
        "refcount_bits=x,lazy_refcounts=maybe",
        [f"{WIDTH_FAULT}'x'", f"{BOOLEAN_FAULT}'maybe'"],
    ),
    "unknown-then-bad": ("foo=1,lazy_refcounts=maybe", ["unknown option 'foo'", BOOLEAN_FAULT]),
    "two bad booleans": (
        "lazy_refcounts=a,lazy_refcounts=b",
        [f"{BOOLEAN_FAULT}'a'", f"{BOOLEAN_FAULT}'b'"],
    ),
}


WIDTHS = {
    "rb-16": ("16", 16),
    "rb-hex": ("0x10", 16),
    "rb-oct": ("010", 8),
    "rb-lead-space": (" 8", 8),
    "rb-plus": ("+8", 8),
    "rb-1": ("1", 1),
    "rb-64": ("64", 64),
    "the last one counts": ("13,refcount_bits=2", 2),
}

NO_WIDTHS = {
    "rb-0": "0",
    "rb-128": "128",
    "rb-13": "13",
    "rb--1": "-1",
    "rb-wrap": "4294967312",  # which qemu-img cuts to 16
    "rb-wrap8": "4294967304",
    "rb-negwrap": "-4294967288",
    "rb-huge": "99999999999999999999",
    "rb-empty": "",
    "rb-suffix": "16k",
    "rb-word": "banana",
    "o-implied-refcount": "on",
    "an octal number with an 8": "08",
    "trailing space": "8 ",
    "no digits": "0x",
    "two signs": "+-8",
    "all are read": "x,refcount_bits=8",
    "a digit that is none of C": "\u0664",
}


@pytest.mark.parametrize(("text", "bits"), WIDTHS.values(), ids=WIDTHS)
def test_a_width_is_read_in_the_notation_of_c(text: str, bits: int) -> None:
    assert parse_options([f"refcount_bits={text}"]) == {"refcount_bits": bits}


@pytest.mark.parametrize("text", NO_WIDTHS.values(), ids=NO_WIDTHS)
def test_a_width_that_there_is_not_is_named(text: str) -> None:
    assert fault(f"refcount_bits={text}").startswith(f"{WIDTH_FAULT}'{text.partition(',')[0]}'")


def fault(*lists: str) -> str:
    """Return the message of the UsageError that the lists raise."""
    with pytest.raises(UsageError) as caught:
        parse_options(lists)
    return str(caught.value)


@pytest.mark.parametrize(("lists", "expected"), ACCEPTED.values(), ids=ACCEPTED)
def test_accepts_what_qemu_img_accepts(
    lists: list[str], expected: dict[str, object] | None
) -> None:
    assert parse_options(lists) == expected


@pytest.mark.parametrize("text", ["on", "yes", "true", "y"])
def test_spellings_of_on(text: str) -> None:
    assert parse_options([f"lazy_refcounts={text}"]) == LAZY


@pytest.mark.parametrize("text", ["off", "no", "false", "n"])
def test_spellings_of_off(text: str) -> None:
    assert parse_options([f"lazy_refcounts={text}"]) == NOT_LAZY


def test_tables_hold_these_values_and_no_others() -> None:
    assert COMPAT_LEVELS == {"0.10": 2, "v2": 2, "1.1": 3, "v3": 3}
    assert [text for text, value in BOOLEANS.items() if value] == ["on", "yes", "true", "y"]
    assert [text for text, value in BOOLEANS.items() if not value] == ["off", "no", "false", "n"]
    assert [mode for mode, flushes in CACHE_MODES.items() if not flushes] == ["unsafe"]
    assert sorted(CACHE_MODES) == [
        *("directsync", "none", "off", "unsafe", "writeback", "writethrough")
    ]


@pytest.mark.parametrize("text", INVALID_LISTS.values(), ids=INVALID_LISTS)
def test_each_list_must_stand_alone(text: str) -> None:
    where = "start" if text.startswith(",") else "end"
    shown = f"{text} (an empty entry at its {where})" if text else "(it is empty)"
    assert fault(text) == f"Invalid option list: {shown}"
    assert fault("compat=1.1", text, "help") == f"Invalid option list: {shown}"


@pytest.mark.parametrize(("text", "expected"), BAD_VALUES.values(), ids=BAD_VALUES)
def test_names_the_bad_value(text: str, expected: str) -> None:
    message = fault(text)
    assert message.startswith(expected)
    assert ";" not in message


@pytest.mark.parametrize(("text", "key"), UNKNOWN.values(), ids=UNKNOWN)
def test_names_the_unknown_option(text: str, key: str) -> None:
    message = fault(text)
    assert message.startswith(f"unknown option '{key}'")
    assert ";" not in message


@pytest.mark.parametrize("key", ["backing_file", "backing_fmt", "data_file"])
def test_a_name_is_not_taken_from_a_key_alone(key: str) -> None:
    expected = f"Parameter '{key}' needs a value: {key}=..., or {key}= for none"
    for text in (key, f"no{key}", f"lazy_refcounts,{key}", f"{key},{key}=x"):
        assert fault(text) == expected
    assert parse_options([f"{key}=on"]) == {key: "on"}
    assert parse_options([f"{key}="]) == {key: ""}
    assert parse_options([f"{key}=a,,b,,,lazy_refcounts"]) == {key: "a,b,", "lazy_refcounts": True}


def test_a_name_is_taken_as_text_whatever_it_looks_like() -> None:
    for name in ("json:{}", "nbd://host/x", "file:x", "/etc/passwd", "..", "a=b", " ", "\udcff"):
        assert parse_options([f"backing_file={name}"]) == {"backing_file": name}
        assert make_request({"data_file": name}).data_file == os.fsencode(name)


def test_a_name_has_a_measure_and_no_nul() -> None:
    for key, most in (("backing_file", 1023), ("backing_fmt", 15), ("data_file", 2048)):
        assert parse_options([f"{key}={'n' * most}"]) == {key: "n" * most}
        assert fault(f"{key}={'n' * (most + 1)}").startswith(f"{key} has {most + 1} bytes")
        assert fault(f"{key}=a\0b") == f"{key} holds a NUL byte"


@pytest.mark.parametrize("form", ["foo", "QCOW2", "qcow2 ", "nbd", "\udcff"])
def test_a_format_that_nobody_knows_can_be_confirmed_but_not_given(form: str) -> None:
    asked = {"backing_file": "b", "backing_fmt": form}
    assert make_request(asked).backing_fmt == os.fsencode(form)
    with pytest.raises(UsageError, match=r"^Invalid format name: '"):
        make_request({**asked, "change_backing": True})


@pytest.mark.parametrize(("text", "key"), CREATE_ONLY.values(), ids=CREATE_ONLY)
def test_says_cannot_be_amended_by_name(text: str, key: str) -> None:
    assert fault(text).startswith(f"option '{key}' cannot be amended")
    assert ";" not in fault(text)


@pytest.mark.parametrize(("text", "expected"), ALL_FAULTS.values(), ids=ALL_FAULTS)
def test_reports_all_faults_in_one_line(text: str, expected: list[str]) -> None:
    faults = fault(text).split("; ")
    assert all(part in found for part, found in zip(expected, faults, strict=True))
    assert "\n" not in fault(text)


def test_faults_of_several_lists_come_together() -> None:
    assert fault("a=1", "size=1,", "b=2") == (
        "Invalid option list: size=1, (an empty entry at its end); unknown option 'a'; "
        "unknown option 'b'"
    )


@pytest.mark.parametrize(
    ("text", "nearest"),
    [
        ("lazy_refcount=on", "lazy_refcounts"),
        ("LAZY_REFCOUNTS=on", "lazy_refcounts"),
        ("lazy-refcounts=on", "lazy_refcounts"),
        ("compatt=1.1", "compat"),
        ("lazy=on", "lazy_refcounts"),
        ("nolazy_refcount", "nolazy_refcounts"),
        ("encrypt.keyslots=1", "encrypt.keyslot"),
    ],
)
def test_suggests_the_nearest_key(text: str, nearest: str) -> None:
    assert f"(did you mean '{nearest}'?)" in fault(text)


def test_options_of_qcow2_are_not_unknown_with_another_format() -> None:
    for text in ("compat=1.1", "size=1G", "lazy_refcounts"):
        key = text.partition("=")[0]
        words = f"^option '{key}' is one of qcow2 images: with -f luks only keyslots change$"
        with pytest.raises(UsageError, match=words):
            parse_options([text], "luks")


def test_suggests_nothing_where_nothing_is_near() -> None:
    for key in ("foo", "nope", "encrypt.nope", "clustersize"):
        assert fault(f"{key}=1") == f"unknown option '{key}'"
    assert fault("nope") == "unknown option 'nope'"


@pytest.mark.parametrize("name", [None, "qcow2"])
def test_qcow2_is_amendable(name: str | None) -> None:
    check_format(name)


@pytest.mark.parametrize("name", OTHER_FORMATS)
def test_other_formats_are_refused(name: str) -> None:
    with pytest.raises(ImageRejected) as caught:
        check_format(name)
    assert str(caught.value) == f"Format driver '{name}' does not support option amendment"
    assert caught.value.exit_status == 1
    assert [refusal.number for refusal in caught.value.refusals] == [0]


@pytest.mark.parametrize("name", ["", "nosuch", "QCOW2", "qcow2 "])
def test_unknown_formats_are_usage_errors(name: str) -> None:
    with pytest.raises(UsageError, match=f"^Unknown driver '{name}'; use qcow2$"):
        check_format(name)
    with pytest.raises(UsageError, match=f"^Unknown driver '{name}'; use qcow2 or luks$"):
        check_format(name, keys=True)


SIZES = {
    "0": 0,
    "512": 512,
    "512b": 512,
    "1k": 1 << 10,
    "1K": 1 << 10,
    "64M": 64 << 20,
    "1g": 1 << 30,
    "2T": 2 << 40,
    "3P": 3 << 50,
    "7E": 7 << 60,
    "007": 7,
    "1.5G": 3 << 29,
    "0.5k": 512,
    "0.0001k": 0,
    "1.9999k": 2048,
    "1.0005k": 1025,
    "1.4999k": 1536,
    "3.999999999999999999M": 4 << 20,
    "0x1000": 4096,
    "0XfF": 255,
    "9223372036854775807": (1 << 63) - 1,
    "7.99E": (799 << 60) // 100,
    ".5G": 1 << 29,
    "1.G": 1 << 30,
    "512.": 512,
    "512.0": 512,
    "512.0b": 512,
}
NO_SIZES = (
    *("", " ", "k", ".", ".k", "1.5", "1.5b", "-1", "+1", "1 G", " 1", "1GG", "1GB"),
    *("1e3", "0x", "0xg", "0x-1", "1_000", "\u0661", "8E", "9223372036854775808", "0x" + "f" * 16),
    *("1KiB", "inf", "nan", "1.5.5G", "9" * 100),
)


@pytest.mark.parametrize(("text", "size"), SIZES.items())
def test_a_size_is_read_as_qemu_reads_it(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", NO_SIZES)
def test_what_is_no_size_is_none(text: str) -> None:
    assert parse_size(text) is None


@pytest.mark.parametrize("number", [0, 1, -1, (1 << 64) - 1, -(1 << 63)])
def test_a_number_of_64_bits_is_read_in_all_notations(number: int) -> None:
    sign, size = "-" * (number < 0), abs(number)
    for digits in (
        f"{size}",
        f"0x{size:x}",
        f"0X{size:X}",
        f"0{size:o}",
        f"0x{size:040x}",
        f"0{size:039o}",
    ):
        assert parse_number(sign + digits) == number
        assert parse_number(" \t\n\v\f\r" + (sign or "+") + digits) == number


@pytest.mark.parametrize("number", [1 << 64, 1 << 65, -(1 << 63) - 1, -(1 << 64)])
def test_a_number_of_more_than_64_bits_is_none(number: int) -> None:
    sign, size = "-" * (number < 0), abs(number)
    for digits in (f"{size}", f"0x{size:x}", f"0{size:o}"):
        assert parse_number(sign + digits) is None


@pytest.mark.parametrize(
    "text",
    [
        *("", " ", "+", "-", "+-1", "--1", "- 1", "1 ", "0x", "-0x", "09", "0a", "a", "1.0", "0b1"),
        *("0o7", "1_0", "\u0661", "0" * 40 + "7", "0x" + "0" * 41),
    ],
)
def test_what_is_no_number_is_none(text: str) -> None:
    assert parse_number(text) is None


@pytest.mark.parametrize(
    ("key", "form", "words"),
    [
        ("state", "qcow2", "'encrypt.state', and of a LUKS file 'state' with -f luks"),
        ("encrypt.state", "luks", "of a LUKS file it is 'state'"),
    ],
)
def test_a_key_of_keyslots_is_known_under_its_other_name(key: str, form: str, words: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_options([f"{key}=active"], form)
    assert words in str(caught.value)


def test_each_value_that_a_shell_offers_is_taken() -> None:
    (offered,) = (flag.values for flag in AMEND.flags if flag.name == "options")
    whole = [text for text in offered if not text.startswith("encrypt.") and "=" in text[:-1]]
    assert all(parse_options([text]) for text in whole)
    flags = {row.key for row in OPTIONS if row.kind == FLAG}
    assert {f"{key}={value}" for key in flags for value in ("on", "off")} <= {*whole}
    others = {row.key for row in OPTIONS if not row.choices and not row.numbers} - flags
    assert {f"{key}=" for key in others} <= {*offered}


@pytest.mark.parametrize("iter_time", [0, 1, (1 << 63) - 1, -1, 1 << 63, 1.0, True, "2000", None])
def test_the_time_of_a_keys_iterations_is_a_number_of_milliseconds(iter_time: Any) -> None:
    keys = AddKey(b"old", b"new", iter_time=iter_time)
    if type(iter_time) is int and 0 <= iter_time < 1 << 63:
        check_keys(keys)
    else:
        with pytest.raises(
            UsageError, match=r"^iter_time is a number of milliseconds from 0, not "
        ):
            check_keys(keys)
