"""Test side: what the image calls what is in the way reaches the user, by the guest that runs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import instar
from tests.support.forge import Image, Snapshot
from tests.support.process import run

pytestmark = pytest.mark.kvm

SIZE = Image().size


def refusals_of(path: Path, snapshots: list[Snapshot]) -> tuple[instar.Refusal, ...]:
    Image(snapshots=snapshots).write(path)
    before = path.read_bytes(), path.stat().st_mtime_ns
    with pytest.raises(instar.ImageRejected) as caught:
        instar.amend(path, compat="0.10")
    assert (path.read_bytes(), path.stat().st_mtime_ns) == before
    return caught.value.refusals


def test_a_snapshot_in_the_way_is_called_by_its_name_and_its_id(path: Path) -> None:
    fine, large = Snapshot(name=b"fine"), Snapshot(name=b"large", id=b"17", disk_size=2 * SIZE)
    state = Snapshot(name=b"state \xff", id=b"x", vm_state_size=1 << 33)
    refusals = refusals_of(path, [fine, large, state])
    found = [(r.name, r.detail["snapshot"], r.names) for r in refusals]
    assert found[:2] == [
        ("downgrade_snapshot_size", 2, ("17", "large")),
        ("downgrade_snapshot_vm_state", 3, ("x", "state \udcff")),
    ]
    assert refusals[0].message.startswith("internal snapshot 'large' (ID '17') prevents the ")


def test_long_names_are_cut(path: Path) -> None:
    odd = {"name": b"n" * 60000, "id": b"i" * 60000, "disk_size": 2 * SIZE}
    (refusal,) = refusals_of(path, [Snapshot(**odd)])  # type: ignore[arg-type]
    assert refusal.names == ("i" * 63, "n" * 255)


def test_there_may_be_more_than_fit(path: Path) -> None:
    refusals = refusals_of(path, [Snapshot(name=b"n" * 200, disk_size=2 * SIZE)] * 8)
    assert [bool(r.names) for r in refusals] == [True] * 3 + [False] * 5
    assert "snapshot number 8 prevents" in refusals[7].message


def test_a_name_may_be_empty(path: Path) -> None:
    (refusal,) = refusals_of(path, [Snapshot(name=b"", id=b"", disk_size=2 * SIZE)])
    assert refusal.names == ("", "")


def test_the_json_has_the_names(path: Path) -> None:
    Image(snapshots=[Snapshot(name=b"large", disk_size=2 * SIZE)]).write(path)
    for more in ([], ["--jobs=1"]):
        done = run("amend", "--output=json", "-o", "compat=0.10", *more, path)
        (refusal,) = json.loads(done.stdout)["error"]["refusals"]
        assert refusal["names"] == ["1", "large"]
        assert refusal["detail"]["snapshot"] == 1


def test_extra_data_that_is_too_long_is_a_reason_with_its_own_remedy(path: Path) -> None:
    (refusal,) = refusals_of(path, [Snapshot(name=b"s", extra_data_size=1032)])
    assert refusal.name == "snapshot_extra_data"
    assert refusal.detail == {"snapshot": 1, "size": 1032, "limit": 1024}
    assert "repair it with qemu-img check -r all" in refusal.message
