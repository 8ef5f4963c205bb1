"""Test side: a fake in the place of the amend, for tests of the command and of the doctor."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest

from instar.vmm import cli
from instar.vmm.amend.result import AmendResult, ByteRange
from instar.vmm.base.errors import Refusal
from instar.vmm.contract.terms import Change
from instar.vmm.request import AmendRequest
from instar.vmm.request.keywords import make_request
from tests.support.options import told

LAZY = ["-o", "lazy_refcounts=on"]

REFUSAL = Refusal(
    name="unknown_incompatible_features",
    number=6,
    code="UNSUPPORTED_FEATURE",
    code_number=14,
    message="the image uses unknown incompatible features 0x20; use a tool that knows them",
    detail={"bits": 32},
)


def make_result(**changed: Any) -> AmendResult:
    """Return the result of a lazy toggle, with some fields changed."""
    fields: dict[str, Any] = {
        "filename": "disk.qcow2",
        "format": "qcow2",
        "action": "amended",
        "options": told(),
        "atomic": True,
        "dry_run": False,
        "bytes_read": 4096,
        "bytes_written": 512,
        "vm_exits": 1,
        "payload_sha256": "00" * 32,
        "changes": (Change("compatible_features", 0, 1),),
        "ranges": (ByteRange(3, 0, 512),),
    }
    return AmendResult(**{**fields, **changed})


class FakeAmend:
    """Stands in for amend_image(): remembers its calls, does as it is told."""

    def __init__(self) -> None:
        """Start with no calls, and with success as the outcome."""
        self.calls: list[tuple[str, AmendRequest]] = []
        self.callbacks: list[tuple[Any, Any]] = []
        self.steps: list[tuple[int, int]] = []
        self.debug_text = ""
        self.error: BaseException | None = None
        self.result: AmendResult | None = None

    def __call__(
        self,
        path: str,
        request: AmendRequest,
        *,
        before_read: Callable[[Any], None] | None = None,
        **options: Any,
    ) -> AmendResult:
        """Be called as amend_image() is."""
        assert before_read is None  # it would confine the process of the tests
        self.calls.append((path, request))
        self.callbacks.append((options.get("progress"), options.get("debug")))
        for step in self.steps:
            if options.get("progress"):
                options["progress"](*step)
        if options.get("debug"):
            options["debug"](self.debug_text)
        if self.error:
            raise self.error
        return self.result or make_result(filename=path, dry_run=request.dry_run)


def fake_amend(monkeypatch: pytest.MonkeyPatch) -> FakeAmend:
    """Put a fake where the command and the doctor look for the amend."""
    fake = FakeAmend()

    def by_keywords(path: str, **keywords: Any) -> AmendResult:
        return fake(path, make_request(keywords))

    places: tuple[tuple[str, str, Callable[..., AmendResult]], ...] = (
        ("instar.vmm.amend", "amend_image", fake),
        ("instar.vmm.api", "amend", by_keywords),
    )
    for name, function, stand_in in places:
        module = ModuleType(name)
        setattr(module, function, stand_in)
        monkeypatch.setitem(sys.modules, name, module)
    return fake


def fail(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str]:
    """Run the command, which is to fail with one line on stderr; return status and message."""
    status = cli.main(list(arguments))
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("instar: ")
    assert err.endswith("\n")
    assert err.isascii()
    assert err[:-1].isprintable()
    return status, err[len("instar: ") : -1]


def read_json(capsys: pytest.CaptureFixture[str]) -> tuple[Any, str]:
    """Return the document on stdout, which is ASCII, and stderr."""
    out, err = capsys.readouterr()
    assert out.isascii()
    return json.loads(out), err
