"""Test side: the keywords of the public functions are those of the table, for people and tools."""

from __future__ import annotations

import inspect
import json
import pickle
import pydoc
import typing
from typing import Any

import pytest

import instar
from instar import abi
from instar.abi import INSTAR_RAM_MAX, INSTAR_RAM_SIZE
from instar.vmm.base.errors import ImageRejected, InstarError, UsageError
from instar.vmm.contract import rules
from instar.vmm.request import AmendRequest
from instar.vmm.request.keywords import make_request
from instar.vmm.request.kinds import FLAG, NUMBER, SIZE, TEXT, Option
from instar.vmm.request.options import BY_KEY, OPTIONS, PERMISSIONS, Keywords
from tests.support.project import ROOT

FUNCTIONS = (instar.amend, instar.amend_many, instar.Sandbox.amend)
CONDUCT = ("format", "dry_run", "cache", "timeout")
ABOUT: Any = {"help": "", "meaning": "", "keyword": "", "since": "0"}


@pytest.mark.parametrize("function", FUNCTIONS, ids=lambda function: function.__qualname__)
def test_all_arguments_stand_equally_far_in_where_the_help_lists_them(function: Any) -> None:
    listed = (inspect.getdoc(function) or "").partition("Args:\n")[2].partition("\n\n")[0]
    names = [line[4:].split(":")[0] for line in listed.splitlines() if line[4] != " "]
    assert sorted(names) == sorted(inspect.signature(function).parameters.keys() - {"self"})


@pytest.mark.parametrize("function", FUNCTIONS, ids=lambda function: function.__qualname__)
def test_a_public_function_spells_out_what_can_be_asked(function: Any) -> None:
    parameters = inspect.signature(function).parameters
    keywords = [name for name in parameters if name in Keywords.__annotations__]
    options = [option.key for option in OPTIONS]
    assert keywords == [*options, "keys", *CONDUCT, *(row.key for row in PERMISSIONS)]
    assert all(parameters[name].kind is inspect.Parameter.KEYWORD_ONLY for name in keywords)
    assert all(parameters[name].default is None for name in options)
    assert parameters.keys() | {"return"} == typing.get_type_hints(function).keys() | {"self"} & {
        *parameters
    }
    text = pydoc.plain(pydoc.render_doc(function))
    assert all(f"{name}: " in text for name in keywords)
    assert "{keywords}" not in text
    assert "**" not in text


@pytest.mark.parametrize("name", instar.__all__)
def test_the_types_of_all_that_is_public_can_be_looked_up(name: str) -> None:
    typing.get_type_hints(getattr(instar, name))


def test_type_checkers_see_the_rows_of_the_tables() -> None:
    rows = [option.key for option in OPTIONS]
    permitted = (row.key for row in PERMISSIONS)
    assert [*Keywords.__annotations__] == [*rows, "keys", *CONDUCT, *permitted]


@pytest.mark.parametrize("name", ["amend", "amend_many"])
def test_a_public_function_is_still_itself(name: str) -> None:
    function = getattr(instar, name)
    assert pickle.loads(pickle.dumps(function)) is function  # noqa: S301 - our own
    with pytest.raises(TypeError, match=rf"^{name}\(\) got an unexpected keyword argument 'comp'"):
        function("x", comp="1.1")


@pytest.mark.parametrize("path", [None, 7, ["disk.qcow2"], object()])
def test_what_is_no_path_is_a_usage_error(path: Any) -> None:
    message = "^a path is a string, bytes or a path object, not "
    with pytest.raises(UsageError, match=message):
        instar.amend(path, compat="1.1")
    with pytest.raises(UsageError, match=message):
        instar.amend(path, compat="1.1", isolation="process")
    with pytest.raises(UsageError, match=message), instar.Sandbox() as sandbox:
        sandbox.amend(path, compat="1.1")


def test_every_option_has_a_row_a_key_of_the_abi_a_rule_and_a_file_of_the_planner() -> None:
    keys = {name: value for name, value in vars(abi).items() if name.startswith("OPTION_")}
    for name in ("KIND_FLAG", "KIND_NUMBER", "KIND_BYTES", "BYTES_MAX", "KEY_MAX"):
        del keys[f"OPTION_{name}"]
    keys = {name: value for name, value in keys.items() if not name.startswith("OptionRecord")}
    assert keys == {f"OPTION_{row.key.upper()}": row.abi_key for row in OPTIONS}
    assert max(keys.values()) == abi.OPTION_KEY_MAX
    shared = {path.stem for path in (ROOT / "shared/amend/options").glob("*.c")}
    assert shared - {"options", "text"} == BY_KEY.keys()
    contract = {path.stem for path in (ROOT / "vmm/contract/rules").glob("*.py")}
    assert contract - {"__init__"} == BY_KEY.keys()
    every = AmendRequest.of(**dict.fromkeys(BY_KEY, 2))
    assert len({*rules.rules_of(every)}) == len(OPTIONS)


def test_a_request_survives_its_way_to_another_process() -> None:
    request = make_request(
        {"compat": "0.10", "lazy_refcounts": False, "dry_run": True, "max_growth": 7, "timeout": 2}
    )
    document = json.loads(json.dumps(request.to_document()))
    assert AmendRequest.from_document(document) == request
    assert pickle.loads(pickle.dumps(request)) == request  # noqa: S301 - our own
    assert hash(request) == hash(AmendRequest.from_document(document))
    plain = AmendRequest()
    assert AmendRequest.from_document(json.loads(json.dumps(plain.to_document()))) == plain


def test_what_is_not_asked_for_is_none_and_what_is_not_allowed_false() -> None:
    request = AmendRequest.of(lazy_refcounts=False)
    assert (request.compat, request.lazy_refcounts) == (None, False)
    assert (request.drop_bitmaps, request.max_growth) == (False, 0)
    with pytest.raises(AttributeError):
        _ = request.lazy_refcount
    with pytest.raises(TypeError):
        request.options["compat"] = 2


FAULTS: list[tuple[dict[str, Any], str]] = [
    ({"format": 7}, "format is a str, not 7"),
    ({"cache": b"none"}, "cache is a str, not b'none'"),
    # Before anything is said of the image a caller hears of what no command line can say.
    ({"compat": 3}, "compat is a str, such as '1.1', not 3"),
    ({"format": "raw"}, "Format driver 'raw' does not support option amendment"),
    ({"cache": "fast"}, "Invalid cache option: fast"),
    ({"compat": "1.2"}, "Unknown compatibility level '1.2'"),
    ({"lazy_refcounts": "on"}, "lazy_refcounts is None, True or False, not 'on'"),
    ({"size": "1G"}, "size is a number of bytes, not '1G'"),
    ({"change_backing": True, "backing_fmt": "new"}, "Invalid format name: 'new' is no format"),
    ({"timeout": 0}, "timeout is a number of seconds above 0 and below 1e6, not 0"),
    ({"keys": "secret"}, "keys"),
    ({"repair": 2}, "repair is True or False, not 2"),
]


@pytest.mark.parametrize("at", range(len(FAULTS)))
def test_of_several_faults_the_first_one_is_told(at: int) -> None:
    first, told = FAULTS[at]
    for second, _ in FAULTS[at:]:
        if second is first or second.keys().isdisjoint(first):
            with pytest.raises(InstarError) as caught:
                make_request({**second, **first})
            assert str(caught.value).startswith(told)


KEYS = instar.EraseKey(1)


@pytest.mark.parametrize("form", ["qcow2", "luks", None])
def test_keys_are_changed_in_files_of_two_formats(form: str | None) -> None:
    assert make_request({"keys": KEYS, "format": form}).format == (form or "qcow2")
    keywords = {"keys": KEYS, "format": form, "compat": "1.1"}
    if form == "luks":
        with pytest.raises(UsageError, match=r"^a LUKS file has keyslots only, and no "):
            make_request(keywords)
    else:
        assert make_request(keywords).compat == 3


def test_nothing_but_keys_is_changed_in_a_luks_file() -> None:
    for keywords in ({"compat": "1.1"}, {}):
        with pytest.raises(ImageRejected, match=r"^Format driver .luks. does not support "):
            make_request({**keywords, "format": "luks"})


@pytest.mark.parametrize(
    ("keywords", "growth"),
    [
        ({}, 0),
        ({"lazy_refcounts": True}, 0),
        ({"size": 512}, 7),
        ({"lazy_refcounts": True, "size": 512}, 7),
        ({"repair": True}, 7),
        ({"repair": True, "lazy_refcounts": True}, 7),
        ({"keys": KEYS}, 0),
    ],
)
def test_a_file_grows_for_what_writes_tables_alone(keywords: dict[str, Any], growth: int) -> None:
    request = make_request({**keywords, "max_growth": 7})
    assert request.max_growth == growth
    assert request.ram_size == (INSTAR_RAM_MAX if "repair" in keywords else INSTAR_RAM_SIZE)


def row(kind: str, **about: Any) -> Option:
    return Option(key="x", kind=kind, abi_key=9, **{**ABOUT, **about})


@pytest.mark.parametrize(
    ("option", "value", "taken", "told", "spelled"),
    [
        (row(FLAG), True, 1, True, "on"),
        (row(FLAG, only=False), False, 0, False, "off"),
        (row(NUMBER, least=1, most=64), 64, 64, 64, "64"),
        (row(SIZE, multiple=512), 1024, 1024, 1024, "1024"),
        (row(TEXT), "a\udcff", b"a\xff", "a\udcff", "a\udcff"),
        (row(TEXT), b"a\xff", b"a\xff", "a\udcff", "a\udcff"),
        (row(TEXT), "", b"", None, ""),
        (BY_KEY["compat"], "v2", 2, "0.10", "0.10"),
    ],
)
def test_a_value_has_three_forms(
    option: Option, value: Any, taken: Any, told: Any, spelled: str
) -> None:
    assert option.take(value) == taken
    assert type(option.take(value)) in (int, bool, bytes)
    assert option.tell(taken) == told
    assert option.is_told(told)
    assert option.spell(told) == spelled


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        (row(FLAG), "on", "x is None, True or False, not 'on'"),
        (row(FLAG, only=False), True, "Parameter 'x' expects 'off', not 'on'"),
        (
            row(NUMBER, least=1, most=64),
            65,
            "Parameter 'x' expects a number from 1 to 64, not '65'",
        ),
        (row(NUMBER), True, "x is a number, not True"),
        (row(SIZE), "1G", "x is a number of bytes, not '1G'"),
        (
            row(SIZE, multiple=512),
            513,
            "Parameter 'x' expects a size such as 512M or 1.5G, a multiple of 512, not '513'",
        ),
        (row(SIZE), -1, "Parameter 'x' expects a size such as 512M or 1.5G, not '-1'"),
        (row(TEXT), 7, "x is a str or bytes, not 7"),
        (row(TEXT), "a\0b", "x holds a NUL byte"),
        (row(TEXT), "\ud800", "x has characters that no text can have"),
        (row(TEXT), "a" * 2049, "x has 2049 bytes, and can have 2048"),
        (row(TEXT, most=1023), b"a" * 1024, "x has 1024 bytes, and can have 1023"),
    ],
)
def test_a_value_of_another_kind_is_a_usage_error(option: Option, value: Any, message: str) -> None:
    with pytest.raises(UsageError) as caught:
        option.take(value)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("option", "told"),
    [
        (row(FLAG), 1),
        (row(FLAG), "on"),
        (row(NUMBER), True),
        (row(NUMBER), -1),
        (row(SIZE), 1 << 64),
        (row(TEXT), ""),
        (row(TEXT), "a" * 65537),
        (row(TEXT), 1),
        (BY_KEY["compat"], "v3"),
        (BY_KEY["compat"], 3),
    ],
)
def test_a_value_that_no_image_has_is_not_told(option: Option, told: Any) -> None:
    assert not option.is_told(told)
