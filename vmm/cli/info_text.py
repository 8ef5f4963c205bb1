"""Host side: what `instar info` found, as lines for people: qemu-img's, and what it does not say.

It is made of the JSON document, which may come from another process and holds hostile text.
"""

from __future__ import annotations

import time
from math import frexp

from ..base.escape import escape

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from typing import Any

_SUFFIXES = ("", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei")
# In the order in which qemu-img says it.
_ORDER = (
    *("compat", "compression-type", "lazy-refcounts", "bitmaps", "refcount-bits", "encrypt"),
    *("data-file", "data-file-raw", "corrupt", "extended-l2", "ivgen-alg", "ivgen-hash-alg"),
    *("detached-header", "hash-alg", "cipher-alg", "uuid", "format", "cipher-mode", "slots"),
    *("active", "iters", "key-offset", "stripes", "payload-offset", "master-key-iters"),
    *("flags", "name", "granularity"),
)


def describe(document: dict[str, Any]) -> str:
    """Return a document of an ImageInfo as text, in whole lines."""
    return "".join(f"{line}\n" for line in _lines(document))


def format_size(size: int) -> str:
    """A number of bytes in the unit that leaves three digits (QEMU, size_to_str)."""
    unit = max(frexp(size / (1000 / 1024))[1] - 1, 0) // 10
    return f"{size / (1 << 10 * unit):.3g} {_SUFFIXES[unit]}B"


def _lines(document: dict[str, Any]) -> Iterator[str]:
    yield f"image: {escape(document['filename'])}"
    yield f"file format: {document['format']}"
    if (size := document.get("virtual-size")) is not None:
        yield f"virtual size: {format_size(size)} ({size} bytes)"
    yield f"disk size: {format_size(document['actual-size'])}"
    if document.get("encrypted"):
        yield "encrypted: yes"
    if "cluster-size" in document:
        yield f"cluster_size: {document['cluster-size']}"
    if document["dirty-flag"]:
        yield "cleanly shut down: no"
    if "backing-filename" in document:
        name = document["backing-filename"]
        full = document.get("full-backing-filename", name)
        actual = "" if full == name else f" (actual path: {escape(full)})"
        yield f"backing file: {escape(name)}{actual}"
    if "backing-filename-format" in document:
        yield f"backing file format: {escape(document['backing-filename-format'])}"
    if "snapshots" in document:
        yield "Snapshot list:"
        yield _row("ID", "TAG", "VM_SIZE", "DATE", "VM_CLOCK", "ICOUNT")
        yield from map(_snapshot_line, document["snapshots"])
    if "format-specific" in document:
        data = document["format-specific"]["data"]
        yield "Format specific information:"
        yield from _tree(data, 1)
    yield from _child_lines(document)
    yield from _own_lines(document)


def _row(*columns: str) -> str:
    widths = (-7, -16, 8, 19, 15, 10)
    cells = (
        text.ljust(-width) if width < 0 else text.rjust(width)
        for text, width in zip(columns, widths, strict=True)
    )
    return " ".join(cells)


def _snapshot_line(snapshot: dict[str, Any]) -> str:
    seconds = snapshot["vm-clock-sec"]
    clock = f"{seconds // 3600:04}:{seconds // 60 % 60:02}:{seconds % 60:02}"
    return _row(
        escape(snapshot["id"]),
        escape(snapshot["name"]),
        format_size(snapshot["vm-state-size"]),
        time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(snapshot["date-sec"])),
        f"{clock}.{snapshot['vm-clock-nsec'] // 10**6:03}",
        str(snapshot.get("icount", "--")),
    )


def _tree(value: Any, depth: int) -> Iterator[str]:
    """A dict or a list, with its parts below it, as qemu prints what it knows no words for."""
    pairs: Iterable[tuple[Any, Any]] = enumerate(value)
    if isinstance(value, dict):
        pairs = [(key, value[key]) for key in _ORDER if key in value]
    for key, part in pairs:
        name = key.replace("-", " ") if isinstance(value, dict) else f"[{key}]"
        head = f"{'    ' * depth}{name}:"
        if isinstance(part, dict | list):
            yield head
            yield from _tree(part, depth + 1)
        else:
            yield f"{head} {_scalar(part)}"


def _scalar(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else escape(str(value))


def _child_lines(document: dict[str, Any]) -> Iterator[str]:
    for child in document["children"]:
        info = child["info"]
        yield f"Child node '/{child['name']}':"
        yield f"    filename: {escape(info['filename'])}"
        yield f"    protocol type: {info['format']}"
        size = info["virtual-size"]
        yield f"    file length: {format_size(size)} ({size} bytes)"
        yield f"    disk size: {format_size(info['actual-size'])}"


def _own_lines(document: dict[str, Any]) -> Iterator[str]:
    """What qemu-img does not say."""
    if document["contents"]:
        yield f"also has the signature of: {', '.join(map(escape, document['contents']))}"
    for name in document["cut"]:
        yield f"there are more {name} than are listed here"
    if document["references"]:
        yield "References:"
        yield from map(_reference_line, document["references"])
    for feature in document["unknown-features"]:
        name = f" ({escape(feature['name'])})" if feature["name"] else ""
        yield f"unknown {feature['kind']} feature: bit {feature['bit']}{name}"
    for problem in document["problems"]:
        yield f"problem: {escape(problem['message'])}"
    for violation in document.get("violations", ()):
        yield f"not safe: {escape(violation['message'])}"


def _reference_line(reference: dict[str, Any]) -> str:
    form = reference["format"]
    how = f"in format {escape(form)}" if form else "in a format that is probed"
    names = [*reference["drivers"], *reference["names"]]
    parts = f"; names {', '.join(map(escape, names))}" if names else ""
    target = reference["resolved"] or reference["name"]
    role = reference["role"].replace("-", " ")
    return f"    {role}: {escape(target)} (by {escape(reference['protocol'])}, {how}){parts}"
