"""All cases of the baselines, by name. Test side."""

from __future__ import annotations

from collections.abc import Iterator

from tests.baselines import options, others, zeros
from tests.baselines.case import Case, label
from tests.support.program import LUKS
from tests.support.recipe import IMAGE
from tests.support.rows import RECORDED, Row

_ROWS = ("hdr/", "feat/", "zero/", "snap/", "bm/", "back/", "df/", "rc/", "x/", "aes/")
_OWN_ROWS = ("shared/", "v2/", "corrupt/", "own/zstd", "own/zlib", "own/empty", "own/bitmap")

_SECRET = "--object secret,id=s0,data=hunter2"  # noqa: S105 - of images in tests
_LEGACY = f"create {_SECRET} -o encrypt.format=aes,encrypt.key-secret=s0,cluster_size=4k"
_ENCRYPTED = {
    "aes-down": ("compat=0.10", f"{_LEGACY} t.qcow2 64k"),
    "aes-up": ("compat=1.1", f"{_LEGACY},compat=0.10 t.qcow2 64k"),
    "aes-lazy": ("lazy_refcounts=on", f"{_LEGACY} t.qcow2 64k"),
}


def _from_row(row: Row) -> Case:
    """A row of the table of qemu's behaviour, whose image qemu made."""
    *_, options = row.request.arguments
    name = "table-" + row.name.replace("/", "-").replace("+", "-plus-")
    return Case(name=name, options=options, recipe=row.recipe)


def _cases() -> Iterator[Case]:
    yield from zeros.cases()
    yield from others.cases()
    yield from options.cases()
    for name, (asked, recipe) in _ENCRYPTED.items():
        yield Case(name=name, options=asked, recipe=recipe, secret=True)
    yield Case(name="luks-no-secret", options="compat=0.10", files={IMAGE: LUKS})
    for asked in ("compat=0.10", "lazy_refcounts=on", "compat=1.1"):
        yield Case(name=f"luks-{label(asked)}", options=asked, files={IMAGE: LUKS}, secret=True)
    for row in RECORDED:
        if row.name.startswith((*_ROWS, *_OWN_ROWS)):
            yield _from_row(row)


CASES = {case.name: case for case in _cases()}
