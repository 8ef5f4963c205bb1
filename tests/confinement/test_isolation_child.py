"""Host side: whatever a child says or does, the caller gets an outcome or one of our errors."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import pytest

import instar
from instar.vmm.fleet import isolation
from tests.support import documents

RESULT = {**documents.NOOP, "filename": "x", "warnings": ["w"]}
REFUSAL = documents.REFUSAL


def answer(monkeypatch: pytest.MonkeyPatch, code: str) -> None:
    """Let the child be a process that runs `code` instead."""
    monkeypatch.setattr(isolation, "child_command", lambda _: [sys.executable, "-I", "-c", code])


def ask() -> instar.AmendResult:
    return instar.amend("x", lazy_refcounts=True, timeout=0.2, isolation="process")


def test_an_answer_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    answer(monkeypatch, f"print({json.dumps(RESULT)!r})")
    assert ask().warnings == ("w",)


def without(key: str) -> dict[str, Any]:
    return {name: value for name, value in RESULT.items() if name != key}


@pytest.mark.parametrize(
    "document",
    [
        *("", "{", "null", "[]", "1", '"x"', "{}", "[" * 100000, "NaN"),
        *(json.dumps(without(key)) for key in RESULT),
        *(json.dumps({**RESULT, key: "y"}) for key in RESULT if key != "warnings"),
        json.dumps({**RESULT, "unknown": 1}),
        json.dumps({**RESULT, "bytes_read": "1"}),
        json.dumps({**RESULT, "bytes_read": True}),
        json.dumps({**RESULT, "options": {**RESULT["options"], "lazy_refcounts": 1}}),
        json.dumps({**RESULT, "action": None}),
        json.dumps({**RESULT, "changes": [1]}),
        json.dumps({**RESULT, "changes": [{"field": "x", "before": "0", "after": 1}]}),
        json.dumps({**RESULT, "ranges": [{"phase": 3, "offset": 0, "length": 1}]}),
        json.dumps({**RESULT, "warnings": 1}),
    ],
    ids=str,
)
def test_a_result_that_is_none_is_a_host_error(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, document: str
) -> None:
    (tmp_path / "answer").write_text(document, encoding="utf-8")
    answer(monkeypatch, f"print(open({str(tmp_path / 'answer')!r}).read())")
    with pytest.raises(instar.HostError, match="ended with status 0 and no outcome; the image is"):
        ask()


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        ({"kind": "UsageError", "message": "m"}, instar.HostError),
        ({"kind": "HostError", "message": "m"}, instar.HostError),
        ({"kind": "ImageLocked", "message": "m"}, instar.ImageLocked),
        ({"kind": "GuestFault", "message": "m"}, instar.GuestFault),
        ({"kind": "ImageRejected", "message": "", "refusals": [REFUSAL]}, instar.ImageRejected),
        ({"kind": "KeyboardInterrupt", "message": "m"}, instar.HostError),
        ({"kind": "ZeroDivisionError", "message": "m"}, instar.HostError),
        ({"kind": "ImageRejected", "message": "m", "refusals": [1]}, instar.HostError),
        ({"kind": "ImageRejected", "message": "m", "refusals": []}, instar.HostError),
        ({"kind": ["HostError"], "message": "m"}, instar.HostError),
        ({"kind": "HostError"}, instar.HostError),
        (1, instar.HostError),
    ],
)
def test_an_error_is_raised_as_what_it_is(
    monkeypatch: pytest.MonkeyPatch, error: object, expected: type[Exception]
) -> None:
    answer(monkeypatch, f"print({json.dumps({'error': error})!r}); raise SystemExit(1)")
    with pytest.raises(instar.InstarError) as caught:
        ask()
    assert type(caught.value) is expected


def test_a_result_with_the_status_of_an_error_is_a_host_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    answer(monkeypatch, f"print({json.dumps(RESULT)!r}); raise SystemExit(1)")
    with pytest.raises(instar.HostError, match="status 1 and no outcome"):
        ask()


def test_an_error_is_told_though_the_status_is_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    error = json.dumps({"error": {"kind": "GuestFault", "message": "m"}})
    answer(monkeypatch, f"print({error!r}); raise SystemExit(0)")
    with pytest.raises(instar.GuestFault, match=r"^m$"):
        ask()


SPELL = "import os, signal, sys, time; "


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("os.kill(os.getpid(), signal.SIGSYS)", "was killed (Bad system call)"),
        ("os.kill(os.getpid(), signal.SIGKILL)", "was killed (Killed)"),
        ("time.sleep(60)", "did not end within 0.7 s and was killed"),
        ("os.close(1); time.sleep(60)", "did not end within 0.7 s and was killed"),
        ("exec('while 1: os.write(1, bytes(65536))')", "was killed (Killed)"),
        ("sys.exit(5)", "ended with status 5 and no outcome"),
    ],
)
def test_a_child_without_an_outcome_is_a_host_error(
    monkeypatch: pytest.MonkeyPatch, code: str, message: str
) -> None:
    answer(monkeypatch, SPELL + code)
    monkeypatch.setattr(isolation, "MARGIN", 0.5)
    start = time.monotonic()
    with pytest.raises(instar.HostError) as caught:
        ask()
    assert message in str(caught.value)
    assert "the image is the old one or the amended one" in str(caught.value)
    assert time.monotonic() - start < 30


@pytest.mark.parametrize("interpreter", ["", None, "/no/such/python"])
def test_a_child_that_cannot_be_started_is_a_host_error(
    monkeypatch: pytest.MonkeyPatch, interpreter: str | None
) -> None:
    monkeypatch.setattr(sys, "executable", interpreter)
    with pytest.raises(instar.HostError, match="cannot start a child"):
        ask()


def test_an_interrupt_of_the_caller_ends_the_child(monkeypatch: pytest.MonkeyPatch) -> None:
    children: list[int] = []

    def interrupt(child: Any, _end: float) -> bytes:
        children.append(child.pid)
        raise KeyboardInterrupt

    answer(monkeypatch, SPELL + "time.sleep(60)")
    monkeypatch.setattr(isolation, "_read_all", interrupt)
    with pytest.raises(KeyboardInterrupt):
        ask()
    assert not Path(f"/proc/{children[0]}").exists()
