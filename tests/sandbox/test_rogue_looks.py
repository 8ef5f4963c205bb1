"""Test side: a guest that lies about an image which it only looks at, one payload for each lie.

What the header's fixed fields contradict is a guest fault. The rest is shown as what it is, the
guest's word, and made fit for a terminal; what instar.Policy decides on is none of it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import instar
from instar.abi import CHECK_KIND_MAX
from instar.vmm.cli import main
from instar.vmm.inspect import looker
from tests.sandbox.rogues import FOLDER, Rogues
from tests.support.forge import Bitmap, Image, Snapshot

pytestmark = [pytest.mark.kvm, pytest.mark.any_python]

IMAGE = Image(
    backing_file=b"base",
    backing_format=b"qcow2",
    snapshots=[Snapshot(name=b"s")],
    bitmaps=[Bitmap(name=b"b")],
)
DIRTY = replace(IMAGE, dirty=True, corrupt=True)
CALLS: dict[str, Callable[..., Any]] = {"info": instar.info, "check": instar.check}

NAME = "the guest does not tell a backing file as the header has it"
REST = "the guest tells snapshots or bitmaps that the header does not have"
CONTRADICTION = "a result that contradicts what was told"
# One of the two ends it, on a busy machine the second.
FLOOD = r"more than 1048576 bytes of frames|the sandbox did not finish within 10 s; .*"

FAULTS = {
    "info_of_no_backing_file": NAME,
    "info_of_a_longer_name": NAME,
    "info_of_an_endless_name": r"text 3 of 66000 bytes",
    "info_of_a_name_with_gaps": r"text 1 of 2 bytes",
    "info_of_an_unknown_text": r"text 4 of 1 bytes",
    "info_of_two_snapshots": REST,
    "info_of_a_cut_snapshot": r"snapshots of \d+ bytes",
    "info_that_miscounts": CONTRADICTION,
    "info_of_a_giant_bitmap": r"a bitmap with 2\^64 bytes for each of its bits",
    "info_of_an_uncounted_bitmap": CONTRADICTION,
    "info_of_a_luks_header": "the guest does not tell a LUKS header as the header has it",
    "info_without_a_reason": "the guest did not read all, and does not say why",
    "info_of_nothing": NAME,
    "info_that_reads_more": CONTRADICTION,
    "info_without_end": FLOOD,
    "info_that_checks": "frame of type 22 from an operation that has none",
    "check_of_leaks_alone": "fewer leaks than were told",
    "check_of_an_unknown_kind": f"a finding of kind {CHECK_KIND_MAX + 1}",
    "check_without_end": FLOOD,
    "check_of_endless_progress": FLOOD,
    "check_that_refuses_twice": "a result with 2 refusals",
    "check_that_tells_names": r"frame of type 17 with \d+ bytes",
}
SHOWN = {
    *("info_of_an_empty_name", "info_of_hostile_names", "info_of_many_bitmaps"),
    *("info_that_refuses", "check_of_the_largest_numbers", "check_of_no_clusters"),
    *("check_of_everything", "check_of_a_sound_image", "check_of_strange_progress"),
}

# Payloads of amends that break the rules which all operations have.
OTHERS = {
    "exit_without_result": "the guest ended without a result",
    "bad_frame_crc": "frame with a bad CRC",
    "text_flood": "more than 4096 bytes of text",
    "endless_loop": r"the sandbox did not finish within 0\.2 s; a slow disk .*",
    "too_many_reads": r"more than \d+ bytes read|the guest stopped for the host \d+ times",
    "writes_then_exit": "block request of type 1 from a guest that may only read",
    "unmapping_zeroes": "block request of type 13 from a guest that may only read",
    "read_page_tables": r"the guest faulted at .*",
}


def call_of(name: str) -> Callable[..., Any]:
    return CALLS[name.partition("_")[0]]


def test_every_payload_is_expected() -> None:
    assert {path.stem for path in (FOLDER / "looks").glob("*.c")} == {*FAULTS, *SHOWN}


@pytest.mark.parametrize("name", FAULTS)
def test_what_cannot_be_is_a_guest_fault(rogues: Rogues, path: Path, name: str) -> None:
    error = rogues.look(name, path, IMAGE, call_of(name), timeout=10)
    assert type(error) is instar.GuestFault
    assert re.fullmatch(FAULTS[name], str(error)), error


@pytest.mark.parametrize("command", CALLS)
@pytest.mark.parametrize("name", OTHERS)
def test_a_look_ends_as_an_amend_does(
    rogues: Rogues, path: Path, name: str, command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("instar.vmm.image.budgets.WORK_MIN", 0)
    timeout = 0.2 if name == "endless_loop" else 10
    error = rogues.look(name, path, Image(), CALLS[command], timeout=timeout)
    assert type(error) is instar.GuestFault
    assert re.fullmatch(OTHERS[name], str(error)), error


def test_bitmaps_of_an_image_that_has_none_are_a_guest_fault(rogues: Rogues, path: Path) -> None:
    name = "info_of_many_bitmaps"
    assert rogues.look(name, path, IMAGE, instar.info).cut == ("snapshots", "bitmaps")
    error = rogues.look(name, path, replace(IMAGE, bitmaps=()), instar.info)
    assert (type(error), str(error)) == (instar.GuestFault, REST)


def test_a_backing_file_is_a_reference_whatever_its_name(rogues: Rogues, path: Path) -> None:
    info = rogues.look("info_of_an_empty_name", path, IMAGE, instar.info)
    assert [(one.role, one.name, one.resolved) for one in info.references] == [
        ("backing-file", "", None)
    ]
    assert ("backing_file", True) in [
        (one.name, one.by_host) for one in instar.Policy().violations(info)
    ]


def test_a_header_that_changes_in_between_is_no_fault_of_the_guest(
    rogues: Rogues, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    IMAGE.write(path)
    look = looker.Looker.look

    def then_change(*arguments: Any, **keywords: Any) -> None:
        look(*arguments, **keywords)
        replace(IMAGE, backing_file=b"other").write(path)

    monkeypatch.setattr(looker.Looker, "look", then_change)
    with pytest.raises(instar.HostError, match="was changed while it was looked at"):
        instar.info(path, payload=rogues.payload("info_of_no_backing_file"), force_share=True)


def test_an_info_refused_for_every_reason_is_an_error_in_words(rogues: Rogues, path: Path) -> None:
    error = rogues.look("info_that_refuses", path, IMAGE, instar.info)
    assert type(error) is instar.ImageRejected
    assert len(error.refusals) == 64
    assert all(one.message.isprintable() for one in error.refusals)


def test_no_check_hides_that_an_image_is_marked(rogues: Rogues, path: Path) -> None:
    result = rogues.look("check_of_a_sound_image", path, DIRTY, instar.check)
    assert (result.exit_status, result.is_dirty, result.is_corrupt) == (0, True, True)
    result = rogues.look("check_of_a_sound_image", path, IMAGE, instar.check)
    assert (result.is_dirty, result.is_corrupt) == (False, False)


def test_a_progress_that_is_none_is_not_told(rogues: Rogues, path: Path) -> None:
    told: list[tuple[int, int]] = []
    rogues.look(
        *("check_of_strange_progress", path, IMAGE, instar.check),
        progress=lambda *step: told.append(step),
    )
    ones = (1 << 64) - 1
    assert told == [(5, 9), (ones, ones), (1, ones), (2, 3)]


ARGUMENTS = {
    "info": [(), ("--output=json",), ("--safe",)],
    "check": [(), ("--output=json",), ("-p",)],
}
TOLD = [
    (name, arguments)
    for name in sorted({*FAULTS, *SHOWN})
    if FAULTS.get(name) != FLOOD  # which takes seconds, and tells nothing else
    for arguments in ARGUMENTS[name.partition("_")[0]]
]


@pytest.mark.parametrize(("name", "arguments"), TOLD)
def test_the_command_tells_it_in_words_that_no_terminal_obeys(
    rogues: Rogues,
    path: Path,
    name: str,
    arguments: tuple[str, ...],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    command, payload = name.partition("_")[0], rogues.payload(name)
    monkeypatch.setattr(looker, "choose_payload", lambda _payload, _operation: payload)
    IMAGE.write(path)
    before, mtime = path.read_bytes(), path.stat().st_mtime_ns
    status = main([command, *arguments, str(path)])
    told = capsys.readouterr()
    assert (path.read_bytes(), path.stat().st_mtime_ns) == (before, mtime)
    if name in FAULTS or name == "info_that_refuses":
        assert status == 1
        assert told.err.count("\n") == 1
    elif command == "info":
        assert status == (1 if arguments == ("--safe",) else 0)
    else:
        assert status in (0, 1)
    shown = f"{told.out}{told.err}".replace("\r    (", "").replace(")\r", ")")
    assert all(map(str.isprintable, shown.split("\n"))), shown
    if arguments == ("--output=json",):
        json.loads(told.out)
