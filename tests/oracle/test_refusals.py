"""Every reason to refuse: it is named, with all others, and nothing is touched. Test side.

Most reasons are rows, see rows.py, for which qemu-img is asked too.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

import instar
from instar.vmm.base.reasons import REASONS
from instar.vmm.devices import block
from instar.vmm.image import image_file
from instar.vmm.image.staging import StagedWrites
from tests.oracle.agreement import assert_as_recorded
from tests.oracle.forged_refusals import FORGED, ZERO_OVER_BACKING
from tests.support.divergences import diverges
from tests.support.qemu import Qemu
from tests.support.recipe import make
from tests.support.rows import RECORDED, REFUSALS, Row
from tests.support.verdicts import ACCEPTED, Request, ask_instar, fingerprint

LAZY_ON = Request(lazy_refcounts=True)
DOWNGRADE = Request(compat="0.10")
IO_ERROR = b"\1"
"""VIRTIO_BLK_S_IOERR, which the host has no reason to send: its own errors end the run."""

FORCED = {
    *("header_mismatch", "read_failed", "write_failed", "device_full"),
    *("backing_itself", "size_difference"),
}
"""The reasons that no image alone can cause; each has a test of its own below."""
ELSEWHERE = {
    *(name for name, *_ in REASONS.values() if name.startswith(("luks_", "repair_"))),
    *("not_encrypted", "not_luks", "refcount_bits_apart"),
}
"""What changes of keyslots and repairs are refused for: tests/keys and tests/repair.

The last one nobody sees: the host has the step planned again in two.
"""


@pytest.fixture
def image(tmp_path: Path, qemu: Qemu) -> Path:
    """An empty image of version 3."""
    return make(qemu, tmp_path, "create t.qcow2 64M")


@pytest.mark.kvm
@pytest.mark.parametrize("row", REFUSALS, ids=lambda row: row.name.partition("/")[2])
def test_a_refusal_names_all_its_reasons_and_touches_nothing(
    row: Row, tmp_path: Path, qemu_versions: tuple[Qemu, ...]
) -> None:
    assert_as_recorded(row, tmp_path, qemu_versions)


def test_every_reason_has_a_case() -> None:
    tested = {
        reason
        for row in (*RECORDED, *REFUSALS)
        if row.instar not in (*ACCEPTED, "usage")
        for reason in row.instar.split()
    }
    reasons = {name for name, *_ in REASONS.values()} | {"unsupported_format"}
    assert tested | FORCED | FORGED.keys() | ELSEWHERE == reasons
    assert not tested & (FORCED | ELSEWHERE)


@pytest.mark.kvm
@pytest.mark.parametrize("difference", ["-64M", "-128M"])
def test_a_difference_that_leaves_no_disk_is_refused(image: Path, difference: str) -> None:
    before = fingerprint(image)
    with pytest.raises(instar.ImageRejected) as caught:
        instar.resize(image, difference, shrink=True)
    assert [refusal.name for refusal in caught.value.refusals] == ["size_difference"]
    assert "and cannot shrink by " in str(caught.value)
    assert fingerprint(image) == before


@pytest.mark.kvm
def test_an_image_is_not_made_its_own_backing_file(image: Path) -> None:
    before = fingerprint(image)
    for name in (image.name, str(image)):
        with pytest.raises(instar.ImageRejected) as caught:
            instar.rebase_unsafe(image, name, "qcow2")
        assert [refusal.name for refusal in caught.value.refusals] == ["backing_itself"]
    assert fingerprint(image) == before


@pytest.mark.kvm
def test_a_header_that_changes_while_it_is_read_is_a_mismatch(
    image: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = image_file.ImageFile.read

    def read_then_change(self: image_file.ImageFile, offset: int, size: int) -> bytes:
        data = honest(self, offset, size)
        with image.open("r+b") as other_program:
            other_program.seek(87)
            other_program.write(b"\1")
        return data

    monkeypatch.setattr(image_file.ImageFile, "read", read_then_change)
    with pytest.raises(instar.ImageRejected) as caught:
        instar.amend(image, compat="0.10")
    assert [refusal.name for refusal in caught.value.refusals] == ["header_mismatch"]


@pytest.mark.kvm
def test_a_guest_that_cannot_read_says_so(image: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(block, "_S_OK", IO_ERROR)
    assert ask_instar(image, DOWNGRADE) == "read_failed"  # of more than what was read ahead


@pytest.mark.kvm
def test_a_guest_that_cannot_write_says_so(image: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(self: StagedWrites, sector: int, data: bytes, phase: int) -> None:
        monkeypatch.setattr(block, "_S_OK", IO_ERROR)

    monkeypatch.setattr(StagedWrites, "write", fail)
    before = fingerprint(image)
    with pytest.raises(instar.ImageRejected) as caught:
        instar.amend(image, refcount_bits=64)  # writes more than goes along with the result
    assert [refusal.name for refusal in caught.value.refusals] == ["write_failed"]
    assert fingerprint(image) == before


@pytest.mark.kvm
@pytest.mark.parametrize("reason", FORGED)
def test_what_only_the_forge_can_make_is_refused_and_not_touched(
    reason: str, tmp_path: Path
) -> None:
    build, options = FORGED[reason]
    image = tmp_path / "t.qcow2"
    build(image)
    before = fingerprint(image)
    with pytest.raises(instar.ImageRejected) as caught:
        instar.amend(image, **options)
    assert [refusal.name for refusal in caught.value.refusals] == [reason]
    assert fingerprint(image) == before


@pytest.mark.kvm
def test_a_block_device_that_is_full_is_not_asked_to_grow(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measure = image_file._measure

    def claim_device(fd: int, name: str, **how: bool) -> tuple[int, int, bool, int]:
        size, allocated, _, limit = measure(fd, name, **how)
        return size, allocated, True, limit

    image = tmp_path / "t.qcow2"
    ZERO_OVER_BACKING.write(image)
    before = fingerprint(image)
    monkeypatch.setattr(image_file, "_measure", claim_device)
    with pytest.raises(instar.ImageRejected, match="device") as caught:
        instar.amend(image, compat="0.10")
    assert [refusal.name for refusal in caught.value.refusals] == ["device_full"]
    assert "--max-growth" not in str(caught.value)
    assert fingerprint(image) == before


def test_refusals_that_are_divergences_are_registered() -> None:
    diverges("growth_limited")
    diverges("work_is_bounded")
    diverges("metadata_kept")
    diverges("encrypted_zero_clusters")


SAID = [
    ("create -o compat=0.10 t.qcow2 64M", LAZY_ON, "lazy_needs_v3"),
    ("create t.qcow2 64M\npoke or incompatible_features 2", LAZY_ON, "corrupt"),
    (
        "create -o refcount_bits=8,extended_l2=on t.qcow2 64M",
        Request(compat="0.10"),
        "downgrade_refcount_width downgrade_extended_l2",
    ),
    ("truncate t.qcow2 1048576", Request(compat="1.1"), "not_qcow2"),
]


@pytest.mark.kvm
@pytest.mark.parametrize(("recipe", "request_", "reasons"), SAID, ids=[case[2] for case in SAID])
def test_the_command_refuses_in_one_line_with_status_1(
    recipe: str, request_: Request, reasons: str, tmp_path: Path, qemu: Qemu
) -> None:
    image = make(qemu, tmp_path, recipe)
    before = fingerprint(image)
    command = [sys.executable, "-m", "instar", "amend", "--output", "json"]
    run = subprocess.run(
        [*command, *request_.arguments, str(image)], check=False, capture_output=True, text=True
    )
    assert run.returncode == 1
    assert run.stderr.startswith("instar: ")
    assert run.stderr.count("\n") == 1
    refusals = json.loads(run.stdout)["error"]["refusals"]
    assert " ".join(refusal["name"] for refusal in refusals) == reasons
    assert all(refusal["message"] in run.stderr for refusal in refusals)
    assert fingerprint(image) == before
