"""Test side: a batch has no image in work twice at a time, whatever its names are."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from instar.vmm.amend.result import AmendOutcome
from instar.vmm.base.errors import HostError
from instar.vmm.fleet import supply as module
from instar.vmm.fleet.supply import Supply, Taken
from tests.support.project import ROOT
from tests.unit.command import make_result


@pytest.fixture
def names(tmp_path: Path) -> list[str]:
    """Names of one image: its own, a hard link, a symbolic link, and a detour."""
    image = tmp_path / "a"
    image.write_bytes(b"x")
    (tmp_path / "hard").hardlink_to(image)
    (tmp_path / "soft").symlink_to("a")
    (tmp_path / "folder").symlink_to(".")
    return [str(tmp_path / name) for name in ("a", "hard", "soft", "folder/a")]


def take(supply: Supply) -> Taken:
    taken = supply.take()
    assert taken is not None
    return taken


def warnings_of(taken: Taken) -> tuple[str, ...]:
    path = os.fsdecode(taken.path)
    result = taken.tell(AmendOutcome(path, make_result(filename=path), None)).result
    assert result is not None
    return result.warnings


def test_one_image_under_several_names_is_handed_out_in_turn(names: list[str]) -> None:
    supply = Supply(names)
    for name in names:
        taken = take(supply)
        assert taken.path == name
        assert supply.take() is None
        supply.done(taken)
    assert supply.take() is None


def test_an_outcome_says_that_the_image_had_another_name_before(names: list[str]) -> None:
    supply = Supply(names)
    told = []
    while (taken := supply.take()) is not None:
        told.append(warnings_of(taken))
        supply.done(taken)
    first, *others = names
    same = [(f"'{name}' is the same image as '{first}', listed before it",) for name in others]
    assert told == [(), *same]


def test_the_same_name_again_is_worth_no_warning(names: list[str]) -> None:
    supply = Supply([names[0], names[0]])
    for _ in range(2):
        taken = take(supply)
        assert warnings_of(taken) == ()
        supply.done(taken)


def test_what_would_be_done_twice_is_an_error_however_many_come_between(
    names: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "REMEMBERED", 2)
    others = [str(tmp_path / str(number)) for number in range(5)]
    for settles in (True, False):
        supply = Supply([names[0], *others, names[0], names[1]], settles=settles)
        errors = []
        while (taken := supply.take()) is not None:
            errors.append(taken.error)
            supply.done(taken)
        assert errors[:6] == [None] * 6
        said = [str(error) for error in errors[6:]]
        assert said == (
            ["None", "None"]
            if settles
            else [
                f"'{names[0]}' is listed twice, and would be changed twice; list it once",
                f"'{names[1]}' is the same image as '{names[0]}', listed before it, and would be "
                "changed twice; list it once",
            ]
        )


def test_an_outcome_says_that_another_file_has_taken_the_image_s_place(
    names: list[str], tmp_path: Path
) -> None:
    supply = Supply(names[:1])
    taken = take(supply)
    assert warnings_of(taken) == ()
    about = "this is about the file that was there"
    gone = f"'{names[0]}' has been replaced or removed meanwhile: {about}"
    other = tmp_path / "other"
    other.write_bytes(b"y")
    other.replace(names[0])
    assert warnings_of(taken) == (gone,)
    Path(names[0]).unlink()
    assert warnings_of(taken) == (gone,)


def test_an_error_stays_as_it_is(names: list[str]) -> None:
    supply = Supply(names[:2])
    supply.done(take(supply))
    outcome = AmendOutcome(names[1], None, HostError("no"))
    assert take(supply).tell(outcome) is outcome


def test_what_is_put_back_is_no_second_time(names: list[str]) -> None:
    supply = Supply(names[:1])
    supply.put_back(take(supply))
    assert take(supply).before is None


def test_two_nodes_of_one_device_are_one_image(monkeypatch: pytest.MonkeyPatch) -> None:
    nodes = {"x": 1, "y": 2}

    def stat_node(name: str) -> os.stat_result:
        fields = [stat.S_IFBLK, nodes[name], 5, *[0] * 7]
        return os.stat_result(fields, {"st_rdev": 7 << 8})

    monkeypatch.setattr(os, "stat", stat_node)
    supply = Supply(["x", "y"])
    assert take(supply).path == "x"
    assert supply.take() is None


@pytest.mark.parametrize("odd", ["missing", "nul\0", "\ud800", b"\xff", 3, None])
def test_what_cannot_be_looked_up_is_handed_out_all_the_same(odd: object) -> None:
    supply = Supply([odd])  # type: ignore[list-item]
    assert take(supply).path == odd


def test_other_images_do_not_wait(names: list[str], tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.write_bytes(b"")
    supply = Supply([*names, other])
    assert [taken.path for taken in supply.take_some(9)] == [names[0], other]


def test_no_more_names_are_kept_than_promised(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "REMEMBERED", 2)
    supply = Supply([str(tmp_path / str(number)) for number in (1, 2, 3, 2, 1)])
    taken = []
    while (one := supply.take()) is not None:
        taken.append(one.before is not None)
        supply.done(one)
    assert taken == [False, False, False, True, False]


def test_as_many_names_are_kept_as_the_decision_says() -> None:
    text = (ROOT / "docs/decisions/0014-a-batch-knows-images-by-device-and-inode.md").read_text()
    assert f"the last {module.REMEMBERED:,} images" in text


def test_no_more_paths_wait_for_an_image_than_have_room(names: list[str]) -> None:
    read: list[str] = []

    def paths() -> Iterator[str]:
        for name in [names[0]] * 3000:
            read.append(name)
            yield name

    supply = Supply(paths())
    taken = take(supply)
    for _ in range(2):
        assert supply.take() is None
        assert len(read) == 1 + 1024
    supply.done(taken)
    assert take(supply).path == names[0]
    assert supply.take() is None
    assert len(read) == 1 + 1 + 1024
