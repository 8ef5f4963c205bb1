"""Test side: documents that an honest process of ours sends."""

from __future__ import annotations

from typing import Any

from instar.vmm.base.errors import ImageRejected, error_fields
from instar.vmm.base.refusals import overlap
from instar.vmm.machine.payload import load_payload
from tests.support.options import told

NAME = "/images/a\n.qcow2"
SHA256 = load_payload().sha256

RESULT: dict[str, Any] = {
    "filename": NAME,
    "format": "qcow2",
    "action": "amended",
    "options": told(),
    "atomic": True,
    "dry_run": False,
    "bytes_read": 8192,
    "bytes_written": 1024,
    "vm_exits": 1,
    "payload_sha256": SHA256,
    "changes": [
        {"field": "version", "before": 2, "after": 3},
        {"field": "compatible_features", "before": None, "after": 1},
    ],
    "ranges": [
        {"phase": 0, "offset": 4096, "length": 4096, "zeroes": True},
        {"phase": 0, "offset": 512, "length": 512, "zeroes": False},
        {"phase": 3, "offset": 0, "length": 512, "zeroes": False},
    ],
    "more_ranges": 0,
    "file_end": None,
    "warnings": [],
    "steps": [],
}
NOTHING: dict[str, Any] = {"changes": [], "ranges": [], "bytes_written": 0}
NOOP = {**RESULT, **NOTHING, "action": "noop"}

REFUSAL: dict[str, Any] = error_fields(ImageRejected((overlap(4096, 1),)))["refusals"][0]
