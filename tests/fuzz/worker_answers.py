"""Test side: what a worker answers for an image: the truth, or a lie of any form."""

from __future__ import annotations

import json
import os
import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from instar import abi
from instar.vmm.amend.result import AmendOutcome, AmendResult, ByteRange
from instar.vmm.contract.terms import Change
from instar.vmm.fleet.worker import LAST, MORE, OVER, PIECE
from instar.vmm.request import AmendRequest
from tests.support.options import told

JUNK: tuple[Any, ...] = (
    *(None, True, False, 0, 1, -1, 2, 3, 6, 77, 511, 512, 1 << 20, 1 << 31, 1 << 62, 1 << 63),
    *(1 << 64, 10**19, -(1 << 63), 0.5, 1e300, "", "x", "amended", "noop", "0.10", "1.1", "qcow2"),
    *(
        "\x1b[31m",
        "\n",
        "\udc00",
        "w" * 70_000,
        [],
        {},
        [1],
        [[]],
        {"a": {"b": ["c"]}},
        [None] * 99,
    ),
)
FAULTS = (
    *("value", "value", "value", "value", "key", "more", "bytes", "cut", "junk", "deep", "long"),
    *(
        "empty pieces",
        "short piece",
        "framing",
        "too long",
        "large",
        "die",
        "end",
        "close",
        "ready",
        "over",
    ),
)
CROSSING = ("twice", "spare piece", "later lie")
LIES = 0.06


class HangError(Exception):
    """The worker is to do nothing more."""


@dataclass(frozen=True)
class Answer:
    """What is said of one image."""

    rng: random.Random
    document: dict[str, Any]
    fault: str
    honest: AmendResult | str | None
    """What the parent must tell: a result, or an error's message; None if the worker lies."""

    def is_told(self, outcome: AmendOutcome) -> bool:
        """Whether the parent tells what was said."""
        if isinstance(self.honest, AmendResult):
            return outcome.result == self.honest
        return outcome.error is not None and str(outcome.error) == self.honest

    def pieces(self) -> Iterator[bytes]:
        """The messages. HangError, or the process ends."""
        rng, fault = self.rng, self.fault
        text = json.dumps(self.document).encode()
        if fault in ("value", "key", "more", "later lie"):
            document = json.loads(text)
            _mutate(rng, document, fault)
            text = json.dumps(document).encode()
        text = _garble(rng, text, fault)
        match fault:
            case "hang":
                raise HangError
            case "die":
                os.kill(os.getpid(), rng.choice((9, 11, 31)))
            case "end" | "close":
                os._exit(rng.choice((0, 0, 1, 7)))
            case "ready":
                yield b"ready"
            case "over":
                yield OVER
            case "empty pieces":
                yield from [MORE] * rng.randrange(1, 100)
            case "short piece":
                yield MORE + text[: rng.randrange(PIECE)]
            case "framing":
                yield rng.choice((b"", b"-", b"\0", b"+", b" .")) + text
            case "too long":
                yield from [MORE + b" " * PIECE] * 40
        yield from _split(text)
        if fault == "twice":
            yield from _split(text)
        if fault == "spare piece":
            yield rng.choice((MORE, LAST, MORE + b" " * PIECE, b"ready", b""))


def make_answer(
    rng: random.Random, path: str, request: AmendRequest, sha256: str, size: int, *, crosses: bool
) -> Answer:
    """An answer of a worker that has this image; `crosses` allows what the next one may get."""
    fault = ""
    if rng.random() < LIES:
        fault = rng.choice((*FAULTS, *CROSSING) if crosses else FAULTS)
        fault = "hang" if rng.random() < 0.002 else fault
    if rng.random() < 0.1:
        message = f"could not read '{path}': {rng.randrange(100)}"
        error = {"kind": "HostError", "message": message, "exit_status": 1, "refusals": []}
        if rng.random() < 0.3:
            error = {**error, "kind": "ImageRejected", "refusals": [_refusal()]}
            message = str(_refusal()["message"])
        return Answer(rng, {"error": error}, fault, None if fault else message)
    result = _result(rng, path, request, sha256, size)
    document = {"result": _fields(result)}
    return Answer(rng, document, fault, None if fault else result)


def _result(
    rng: random.Random, path: str, request: AmendRequest, sha256: str, size: int
) -> AmendResult:
    version = request.compat or 3
    noop = rng.random() < 0.2
    several = rng.choice((0, 0, 0, 1, 5, 40)) if rng.random() < 0.99 else 4000
    several = min(several, size // 1024 - 2)
    ranges = [
        *(ByteRange(0, 512 * (2 * n + 1), 512, False) for n in range(several)),
        ByteRange(3, 0, 512, False),
    ]
    lazy = bool(request.lazy_refcounts) if request.lazy_refcounts is not None else version == 3
    changes: tuple[Change, ...] = (
        Change("compatible_features", 0, 1),
        Change("autoclear_features", 0, 1),
    )
    if request.compat:
        changes = (Change("version", 5 - version, version), *changes)
    return AmendResult(
        filename=path,
        format="qcow2",
        action="noop" if noop else "amended",
        options=told(
            compat="1.1" if version == 3 else "0.10", lazy_refcounts=lazy and version == 3
        ),
        atomic=True,
        dry_run=request.dry_run,
        bytes_read=rng.randrange(1 << 30),
        bytes_written=0 if noop else 512 * len(ranges),
        vm_exits=rng.randrange(1 << 20),
        payload_sha256=sha256,
        changes=() if noop else changes,
        ranges=() if noop else tuple(ranges),
    )


def _refusal() -> dict[str, Any]:
    message = (
        "the image is marked dirty, as it was not closed cleanly; instar amend --repair repairs it"
    )
    code = {"code": "DIRTY", "code_number": 8}
    refusal = {"name": "dirty", "number": abi.REFUSAL_DIRTY, **code, "message": message}
    return {**refusal, "detail": {}, "names": []}


def _fields(result: AmendResult) -> dict[str, Any]:
    lists = {
        name: [dict(vars(part)) for part in getattr(result, name)] for name in ("changes", "ranges")
    }
    return {**{n: getattr(result, n) for n in type(result).__annotations__}, **lists}


def _mutate(rng: random.Random, document: dict[str, Any], fault: str) -> None:
    """Change one value, somewhere in the document, or take or add a key."""
    place: Any = document
    while True:
        keys = list(place) if isinstance(place, dict) else list(range(len(place)))
        if not keys:
            return
        key = rng.choice(keys)
        if isinstance(place[key], dict | list) and place[key] and rng.random() < 0.85:
            place = place[key]
            continue
        if fault == "key":
            del place[key]
        elif fault == "more" and isinstance(place, dict):
            place[rng.choice(("unknown", "filename", "error", "result"))] = rng.choice(JUNK)
        else:
            place[key] = rng.choice(JUNK)
        return


def _garble(rng: random.Random, text: bytes, fault: str) -> bytes:
    match fault:
        case "bytes":
            data = bytearray(text)
            for _ in range(rng.randrange(1, 4)):
                data[rng.randrange(len(data))] = rng.randrange(256)
            return bytes(data)
        case "cut":
            return text[: rng.randrange(len(text))]
        case "junk":
            return rng.randbytes(rng.randrange(2000))
        case "deep":
            return rng.choice((b"[", b'{"result":')) * rng.randrange(1, 20_000)
        case "long":
            return text.replace(b"512", b"9" * rng.randrange(1, 30_000), 1)
        case "large":
            return b"[" + b"[]," * rng.randrange(340_000) + b"[]]"
    return text


def _split(text: bytes) -> Iterator[bytes]:
    for at in range(0, max(len(text), 1), PIECE):
        yield (LAST if at + PIECE >= len(text) else MORE) + text[at : at + PIECE]
