"""The memory of a check, host and guest together, does not grow with the image. Test side."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import instar
from instar.abi import INSTAR_RAM_MAX
from tests.support.dense import Dense
from tests.support.peak import forget_peak, peak, run_watched

pytestmark = [pytest.mark.kvm, pytest.mark.slow]

MOST = 64 << 20
"""Of all processes together, beyond what a check of a small image takes."""
COMMANDS = {
    "a command": (("check",), 1),
    "a repair of nothing": (("check", "-r", "all"), 1),
    "a batch": (("check", "--jobs", "2"), 2),
}
LIBRARY = """
import sys, instar
assert instar.check(sys.argv[1], isolation="process").exit_status == 0
"""


@pytest.fixture(scope="module")
def disks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, Path]]:
    """A disk of 64 MiB and one of 1 TiB, all of whose clusters are in use."""
    folder = tmp_path_factory.mktemp("dense")
    small, large = folder / "small.qcow2", folder / "large.qcow2"
    Dense(1 << 26, 16, 0).write(small)
    Dense(1 << 40, 16, 0).write(large)
    yield small, large
    large.unlink()


def growth(command: list[str], disks: tuple[Path, Path], images: int) -> int:
    """By how much all processes of a command take more for the large disk than for the small."""
    sums = []
    for disk in disks:
        status, peaks = run_watched([sys.executable, *command, *[disk] * images])
        assert status == 0
        sums.append(sum(peaks.values()))
    return sums[1] - sums[0]


@pytest.mark.parametrize("name", COMMANDS)
def test_a_full_disk_of_1_tib_is_checked_in_less_than_64_mib(
    name: str, disks: tuple[Path, Path]
) -> None:
    arguments, images = COMMANDS[name]
    assert growth(["-m", "instar", *arguments], disks, images) < images * MOST


def test_an_isolated_check_of_the_library_takes_no_more(disks: tuple[Path, Path]) -> None:
    assert growth(["-c", LIBRARY], disks, 1) < MOST


def test_a_disk_that_takes_several_windows_takes_the_memory_of_the_largest(
    disks: tuple[Path, Path],
) -> None:
    """Clusters that no table names are counted too: the file is four times as long."""
    size = forget_peak()
    assert instar.check(disks[1]).exit_status == 0
    once = peak() - size
    assert once < MOST
    length = disks[1].stat().st_size
    os.truncate(disks[1], 4 * length)
    try:
        size = forget_peak()
        assert instar.check(disks[1]).exit_status == 0
        assert peak() - size < INSTAR_RAM_MAX + (8 << 20)
    finally:
        os.truncate(disks[1], length)
