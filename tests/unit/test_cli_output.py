"""Host side: what the command writes about an amend: JSON as documented, or lines for people."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from instar.vmm import cli
from instar.vmm.amend.result import ByteRange
from instar.vmm.base.errors import GuestFault, HostError, ImageLocked, ImageRejected, UsageError
from instar.vmm.cli.report import Report
from instar.vmm.contract.terms import Change
from tests.support.options import told
from tests.unit.command import LAZY, REFUSAL, FakeAmend, fail, fake_amend, make_result, read_json

DOCUMENTATION = Path(__file__).parents[2] / "docs" / "amend.md"


@pytest.fixture
def amend(monkeypatch: pytest.MonkeyPatch) -> FakeAmend:
    """Put a fake where the command looks for amend_image()."""
    return fake_amend(monkeypatch)


def shape(document: Any) -> Any:
    """Return the types of a document, in its structure; details are named by their reason."""
    if isinstance(document, dict):
        return {
            key: "detail" if key == "detail" else shape(value) for key, value in document.items()
        }
    if isinstance(document, list):
        return [shape(item) for item in document[:1]]
    return type(document).__name__


def documented(index: int) -> Any:
    """Return the JSON example of this index in the documentation."""
    blocks = DOCUMENTATION.read_text(encoding="utf-8").split("```json\n")[1:]
    return json.loads(blocks[index].split("```")[0])


def test_json_result_is_as_documented(amend: FakeAmend, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["amend", "--output", "json", *LAZY, "disk.qcow2"]) == 0
    document, err = read_json(capsys)
    assert err == ""
    example = documented(0)
    options = {key: document["options"][key] for key in example["options"]}
    assert shape({**document, "options": options}) == shape(example)
    assert list(document) == list(documented(0))
    assert document["changes"] == [{"field": "compatible_features", "before": 0, "after": 1}]
    assert document["ranges"] == [{"phase": 3, "offset": 0, "length": 512, "zeroes": False}]
    plain: dict[str, Any] = {"changes": None, "ranges": None, "more_ranges": 0, "warnings": []}
    again = {key: document[key] for key in ("compat", "lazy_refcounts")}
    assert {key: document["options"][key] for key in again} == again
    assert {**document, **plain, "steps": ()} == {**vars(make_result()), **again, **plain}


def test_json_error_is_as_documented(amend: FakeAmend, capsys: pytest.CaptureFixture[str]) -> None:
    amend.error = ImageRejected((REFUSAL,))
    assert cli.main(["amend", "--output=json", *LAZY, "disk.qcow2"]) == 1
    document, err = read_json(capsys)
    assert err == f"instar: 'disk.qcow2': {REFUSAL.message}\n"
    assert document == documented(1)


@pytest.mark.parametrize(
    ("arguments", "filename", "kind", "status"),
    [
        (["amend", "--output", "json", "d"], "d", "UsageError", 2),
        (["amend", "--output", "json", *LAZY], None, "UsageError", 2),
        (["amend", "--output", "json", "-Z"], None, "UsageError", 2),
        (["amend", "--output", "json", "-o", "foo=1", "d"], "d", "UsageError", 2),
        (["amend", "--output", "json", "-f", "raw", "-o", "help"], None, "ImageRejected", 1),
        (["doctor", "--output", "json", "d"], None, "UsageError", 2),
    ],
)
def test_usage_errors_are_json_too(
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    filename: str | None,
    kind: str,
    status: int,
) -> None:
    assert cli.main(arguments) == status
    document, err = read_json(capsys)
    assert document["filename"] == filename
    assert document["error"]["kind"] == kind
    assert document["error"]["exit_status"] == status
    assert err == f"instar: {document['error']['message']}\n"


def test_usage_errors_before_json_is_asked_for_are_not_json(
    capsys: pytest.CaptureFixture[str],
) -> None:
    status, line = fail(capsys, "amend", "-Z", "--output", "json")
    assert status == 2
    assert "'Z'" in line


def test_the_last_output_format_counts(
    amend: FakeAmend, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["amend", "--output=json", "--output=human", *LAZY, "d"]) == 0
    assert capsys.readouterr() == ("", "")


def test_quiet_does_not_hide_json(amend: FakeAmend, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["amend", "-q", "-p", "--output=json", "--dry-run", *LAZY, "d"]) == 0
    assert read_json(capsys)[0]["dry_run"] is True
    assert amend.callbacks == [(None, None)]


@pytest.mark.parametrize("name", ["\udcff.qcow2", "a\nb", "\u00e9\U0001f4be"])
def test_json_keeps_every_file_name(
    amend: FakeAmend, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    for error in (None, HostError("no")):
        amend.error = error
        cli.main(["amend", "--output=json", *LAZY, name])
        assert read_json(capsys)[0]["filename"] == name


def test_dry_run_says_what_would_change(
    amend: FakeAmend, capsys: pytest.CaptureFixture[str]
) -> None:
    amend.result = make_result(
        filename="\udcff\n",
        dry_run=True,
        options=told(compat="0.10", lazy_refcounts=False),
        changes=(
            Change("version", 3, 2),
            Change("compatible_features", 1, None),
            Change("header_length", 104, None),
        ),
        ranges=(
            *(ByteRange(0, 4096, 40, zeroes=True), ByteRange(0, 1024, 40), ByteRange(3, 0, 512)),
            ByteRange(6, 8192, 4096, zeroes=True),
        ),
        more_ranges=7,
        file_end=16384,
    )
    assert cli.main(["amend", "--dry-run", "-o", "compat=0.10", "d"]) == 0
    out, err = capsys.readouterr()
    assert out.splitlines() == [
        "\\xff\\n: would become compat 0.10, lazy_refcounts off (atomic)",
        "  version: 3 -> 2",
        "  compatible_features: 0x1 -> none",
        "  header_length: 104 -> none",
        "  before the switch: 40 bytes of zeros at 0x1000",
        "  before the switch: 40 bytes at 0x400",
        "  the switch: 512 bytes at 0x0",
        "  when all is done: given back: 4096 bytes at 0x2000",
        "  and 7 ranges more",
        "  when all is done: given back: all of the file after 16384 bytes",
    ]
    assert err == ""


def test_one_range_more_is_told_as_one(
    amend: FakeAmend, capsys: pytest.CaptureFixture[str]
) -> None:
    amend.result = make_result(filename="d", dry_run=True, more_ranges=1)
    assert cli.main(["amend", "--dry-run", *LAZY, "d"]) == 0
    assert capsys.readouterr().out.endswith("\n  and 1 range more\n")


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({"atomic": False}, "d: would become compat 1.1, lazy_refcounts on (not atomic)\n"),
        ({"action": "noop"}, "d: nothing to change (compat 1.1, lazy_refcounts on)\n"),
    ],
)
def test_dry_run_says_whether_and_how(
    amend: FakeAmend,
    capsys: pytest.CaptureFixture[str],
    changed: dict[str, Any],
    expected: str,
) -> None:
    amend.result = make_result(filename="d", dry_run=True, changes=(), ranges=(), **changed)
    assert cli.main(["amend", "--dry-run", *LAZY, "d"]) == 0
    assert capsys.readouterr() == (expected, "")


def test_a_success_is_told_where_that_was_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    report = Report()
    report.result(make_result(), quiet=False)
    assert tuple(capsys.readouterr()) == ("", "")
    report.expect(verbose=True, dry_run=False)
    report.result(make_result(), quiet=True)
    assert tuple(capsys.readouterr()) == ("", "")
    report.result(make_result(), quiet=False)
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    report.expect(verbose=False, dry_run=False)
    report.result(make_result(), quiet=False)
    assert tuple(capsys.readouterr()) == ("", "")


@pytest.mark.parametrize(
    ("steps", "expected"),
    [
        ([], "0.00 100.00"),
        ([(0, 10), (10, 10)], "0.00 100.00"),
        ([(0, 0)], "0.00 100.00"),
        ([(1, 2)], "0.00 50.00 100.00"),
        ([(0, 200), (1, 200), (2, 200), (3, 200), (4, 200)], "0.00 1.50 100.00"),
        ([(999, 1000)], "0.00 99.90 100.00"),
        ([(30, 10), (40, 10)], "0.00 100.00"),
    ],
)
def test_progress_is_shown_as_qemu_img_shows_it(
    amend: FakeAmend,
    capsys: pytest.CaptureFixture[str],
    steps: list[tuple[int, int]],
    expected: str,
) -> None:
    amend.steps = steps
    assert cli.main(["amend", "-p", *LAZY, "d"]) == 0
    shown = "".join(f"    ({percent}/100%)\r" for percent in expected.split())
    assert capsys.readouterr() == (f"{shown}\n", "")


def test_progress_of_a_failure_ends_the_line_and_claims_nothing(
    amend: FakeAmend, capsys: pytest.CaptureFixture[str]
) -> None:
    amend.steps, amend.error = [(1, 2)], HostError("no")
    assert cli.main(["amend", "--progress", *LAZY, "d"]) == 1
    assert capsys.readouterr() == (
        "    (0.00/100%)\r    (50.00/100%)\r\n",
        "instar: no\n",
    )


@pytest.mark.parametrize("flags", [["-p", "-q"], ["-qp"], ["--quiet", "--progress"]])
def test_quiet_wins_over_progress(
    amend: FakeAmend, capsys: pytest.CaptureFixture[str], flags: list[str]
) -> None:
    assert cli.main(["amend", *flags, *LAZY, "d"]) == 0
    assert capsys.readouterr() == ("", "")


def test_a_warning_is_one_line_on_stderr(
    amend: FakeAmend, capsys: pytest.CaptureFixture[str]
) -> None:
    amend.result = make_result(warnings=("no locks\nhere",))
    assert cli.main(["amend", *LAZY, "d"]) == 0
    assert capsys.readouterr() == ("", "instar: warning: no locks\\nhere\n")
    assert cli.main(["amend", "-q", *LAZY, "d"]) == 0
    assert capsys.readouterr() == ("", "")
    assert cli.main(["amend", "--output=json", *LAZY, "d"]) == 0
    document, err = read_json(capsys)
    assert document["warnings"] == ["no locks\nhere"]
    assert err == "instar: warning: no locks\\nhere\n"


def test_debug_text_of_the_guest_is_escaped(
    amend: FakeAmend, capsys: pytest.CaptureFixture[str]
) -> None:
    amend.debug_text = "one\n\x1b[2Jtwo\n"
    assert cli.main(["amend", "--debug", *LAZY, "d"]) == 0
    assert capsys.readouterr() == ("", "guest: one\nguest: \\x1b[2Jtwo\n")


def test_exit_statuses_are_those_of_the_documentation() -> None:
    section = DOCUMENTATION.read_text(encoding="utf-8").split("## Exit status\n")[1].split("##")[0]
    statuses = {int(line[2]) for line in section.splitlines() if line[2:3].isdigit()}
    errors = (UsageError, HostError, ImageRejected, ImageLocked, GuestFault)
    assert statuses == {0, *(error.exit_status for error in errors)}
