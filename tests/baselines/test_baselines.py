"""Instar does as every recorded qemu-img did, or differs on purpose; without any. Test side."""

from __future__ import annotations

import errno
import os
import zlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from construct import ConstructError

import instar
from instar.vmm.base.record import FrozenDict
from instar.vmm.request.lists import parse_options
from tests.baselines.case import FAILING_FLUSH, FOLDER, Case
from tests.baselines.catalogue import CASES
from tests.baselines.reading import audited, described, is_opaque, layer_digests, open_image
from tests.baselines.record import load, path_of, record
from tests.support import qemu as oracle
from tests.support import sparse
from tests.support.divergences import diverges
from tests.support.forge import UnreadableError
from tests.support.grounds import founded
from tests.support.judge import explanation
from tests.support.layers import Layers
from tests.support.verdicts import ACCEPTED, Request, fingerprint

VERSIONS = frozenset({"5.2.0", "7.2.18", "7.2.22", "10.0.2", "10.0.13", "11.1.2", "11.1.3"})
SAMPLE = tuple(CASES)[::16]
LARGEST = 3 << 19
"""In bytes, of all records and fixtures."""
UNREADABLE = (ConstructError, UnreadableError, zlib.error, IndexError, MemoryError, OverflowError)


class Both:
    """A case: the image as it was, and what instar made of it."""

    def __init__(self, case: Case, folder: Path) -> None:
        """Make the image and let instar amend a copy."""
        self.case = case
        self.image = case.make(folder)
        self.ours = sparse.copy(self.image, folder / "ours.qcow2")
        before = fingerprint(self.ours)
        self.request = Request()
        self.names_data = False
        """Whether the disk is to be what another file holds."""
        self.said = self._amend()
        if self.said != ("amended",):
            assert fingerprint(self.ours) == before

    def _amend(self) -> tuple[str, ...]:
        """What instar says: an action, the names of its reasons, or of an error."""
        try:
            options = parse_options([self.case.options]) or {}
            named = {key: options.pop(key, None) for key in ("compat", "lazy_refcounts")}
            items = self.case.options.split(",") if options else []
            more = (item for item in items if item.partition("=")[0] in options)
            self.names_data = "data_file" in options
            self.request = Request(**named, more=",".join(more))
            self.request = replace(self.request, allowed=FrozenDict({"shrink": True}))
            options |= named
            return (instar.amend(self.ours, **options, shrink=True).action,)
        except instar.ImageRejected as error:
            return tuple(dict.fromkeys(refusal.name for refusal in error.refusals))
        except instar.UsageError as error:
            return (type(error).__name__,)

    @property
    def resizes(self) -> bool:
        """Whether the disk gets another size."""
        size = Layers.open(self.image).size if "size" in self.request.others else 0
        return self.request.size_after(size) != size

    def resized(self) -> dict[str, str]:
        """The layers as they are to be: the old disk, cut or extended by zeros."""
        image = Layers.open(self.image)
        return image.digests(self.request.size_after(image.size))

    @property
    def accepted(self) -> bool:
        """Whether the image is now as asked."""
        return set(self.said) <= ACCEPTED


def symptoms(both: Both, found: dict[str, Any]) -> Iterator[str]:
    """In what instar differs from a record, in the words of tests/support/judge.py."""
    theirs = found["exit"] == 0
    if found["exit"] < 0:
        yield "qemu crashes"
    elif both.accepted and not theirs:
        yield f"qemu refuses: {message(found)}"
    elif not both.accepted and theirs:
        yield from (f"instar refuses: {reason}" for reason in both.said)
    if found["changed"] and (both.said == ("noop",) or not theirs):
        yield f"qemu writes: {'noop' if theirs else 'refused'}"
    if both.accepted and theirs:
        yield from compared(both, found)


def message(found: dict[str, Any]) -> str:
    return str(found["messages"][-1]).removeprefix("Could not open 't.qcow2': ")


def compared(both: Both, found: dict[str, Any]) -> Iterator[str]:
    """The differences of two amended images."""
    before, after = found["before"], {**found["before"], **found["after"]}
    if "error" in found["after"]:
        if not both.names_data:  # else the file that both were told to name is none
            yield f"qemu breaks: {after['error']}"
        return
    if "info" in after:
        mine = described(both.ours)
        keys = sorted(mine.keys() | after["info"].keys())
        yield from (f"info: {key}" for key in keys if mine.get(key) != after["info"].get(key))
    wanted = before.get("contents", {})
    if both.resizes:  # qemu-img reads a snapshot as if its disk had the image's size
        wanted = {"active": both.resized()["active"]}
    for layer, contents in wanted.items():
        # Bit 0 of an entry in version 2 makes it unreadable, and is a zero cluster in version 3.
        same = after["contents"][layer] == contents or both.names_data
        if not same and not contents.startswith("error"):
            yield f"contents: {layer.partition(' ')[0]}"
    if isinstance(before.get("check"), dict) and isinstance(after["check"], dict):
        for kind, count in after["check"].items():
            if count > before["check"].get(kind, 0):
                yield f"check: {kind}"


@pytest.mark.kvm
@pytest.mark.parametrize("case", [c for c in CASES.values() if not c.fault], ids=lambda c: c.name)
def test_instar_does_as_every_version_did(case: Case, tmp_path: Path) -> None:
    both = Both(case, tmp_path)
    for reason in both.said:
        assert founded(reason, both.image, both.request)
    for version, found in load(case).items():
        number = tuple(map(int, version.split(".")))
        for symptom in symptoms(both, found):
            name = explanation(symptom, number, both.image, both.request)
            assert name is not None, f"{version}: {symptom}"
    if both.said == ("amended",) and not both.names_data:
        assert_contents_stay(both)


def assert_contents_stay(both: Both) -> None:
    """Each layer holds what it held, as qemu read it then; and no reference is lost."""
    if both.resizes:
        assert Layers.open(both.ours).digests() == both.resized()
        assert audited(both.image) > 0 or audited(both.ours) == 0
        return
    before, after = open_image(both.image), open_image(both.ours)
    try:
        wanted, valid = layer_digests(before), audited(both.image) == 0
    except UNREADABLE:
        return  # its tables are damaged, and all that can be said is said by the records
    readable = {layer for layer, contents in wanted.items() if contents != "unreadable"}
    assert {layer: layer_digests(after)[layer] for layer in readable} == {
        layer: wanted[layer] for layer in readable
    }
    if valid:
        assert audited(both.ours) == 0
    for found in load(both.case).values():
        recorded = found["before"].get("contents", {})
        if not is_opaque(before) and "error" not in str(recorded):
            assert wanted == recorded


@pytest.mark.parametrize("case", CASES.values(), ids=lambda case: case.name)
def test_the_forge_reads_of_an_image_what_qemu_read(case: Case, tmp_path: Path) -> None:
    image = case.make(tmp_path)
    for version, found in load(case).items():
        if "info" in found["before"]:
            assert (version, described(image)) == (version, found["before"]["info"])


@pytest.mark.kvm
@pytest.mark.parametrize("name", ["zero-plain-65536-backed", "zero-preallocated-lazy-refcounts-on"])
def test_another_record_than_what_instar_does_is_noticed(name: str, tmp_path: Path) -> None:
    both = Both(CASES[name], tmp_path)
    for found in load(both.case).values():
        known = set(symptoms(both, found))
        refusing = {**found, "exit": 1 - found["exit"], "messages": ["no"]}
        assert set(symptoms(both, refusing)) != known


@pytest.mark.kvm
def test_each_part_of_a_record_counts(tmp_path: Path) -> None:
    both = Both(CASES["zero-plain-lazy-refcounts-on"], tmp_path)
    (found,) = {repr(record): record for record in load(both.case).values()}.values()
    assert list(symptoms(both, found)) == []
    after = {**found["before"], **found["after"]}
    for part, change, symptom in (
        ("info", {"lazy-refcounts": False}, "info: lazy-refcounts"),
        ("contents", {"active": "other"}, "contents: active"),
        ("check", {"leaks": 1}, "check: leaks"),
    ):
        other = {**found, "after": {**after, part: {**after[part], **change}}}
        assert list(symptoms(both, other)) == [symptom]
    broken = {**found, "after": {"error": "gone"}}
    assert list(symptoms(both, broken)) == ["qemu breaks: gone"]
    crashed = {**found, "exit": -6}
    assert "qemu crashes" in set(symptoms(both, crashed))


@pytest.mark.kvm
@pytest.mark.parametrize(
    "case", [c for c in CASES.values() if c.fault == FAILING_FLUSH], ids=lambda c: c.name
)
def test_a_flush_that_fails_is_an_error_where_qemu_img_exits_with_0(
    case: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(descriptor: int) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    for found in load(case).values():
        assert found["exit"] == 0
        assert "Failed to flush the refcount block cache" in " ".join(found["messages"])
    monkeypatch.setattr(os, "fdatasync", fail)
    with pytest.raises(instar.HostError, match="could not flush"):
        Both(case, tmp_path)
    diverges("failed_flush_is_an_error")


@pytest.mark.parametrize("name", CASES)
def test_every_case_has_a_record_of_every_version(name: str) -> None:
    assert load(CASES[name]).keys() >= VERSIONS


def test_every_record_has_a_case() -> None:
    folders = {path.parent.name for path in FOLDER.glob("*/*.json")}
    assert folders == CASES.keys()
    fixtures = {path.parent.name for path in FOLDER.glob("*/*.xz")}
    assert fixtures == {name for name, case in CASES.items() if case.recipe}


def test_the_records_are_small_and_name_no_place() -> None:
    files = [path for path in FOLDER.glob("*/*") if path.suffix in (".json", ".xz")]
    assert sum(path.stat().st_size for path in files) < LARGEST
    for path in files:
        if path.suffix == ".json":
            text = path.read_text()
            assert not any(word in text for word in ("/tmp", "/dev/shm", "/root", "date-"))  # noqa: S108


@pytest.mark.parametrize("name", SAMPLE)
def test_a_record_is_what_qemu_img_does(name: str, each_qemu: oracle.Qemu) -> None:
    path = path_of(CASES[name], each_qemu.version)
    if path.exists():
        assert record(CASES[name], each_qemu) == path.read_text()
