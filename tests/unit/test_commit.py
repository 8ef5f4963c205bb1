"""Test side: what was judged is written phase by phase, with a barrier behind each."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from instar.vmm.amend.result import SWITCH, ByteRange
from instar.vmm.base.errors import HostError
from instar.vmm.image import commit as commit_module
from instar.vmm.image.commit import commit
from instar.vmm.image.image_file import ImageFile
from instar.vmm.image.staging import StagedWrites
from tests.support.staged import all_sectors

if TYPE_CHECKING:
    from typing_extensions import Self


def sector(byte: int) -> bytes:
    return bytes([byte]) * 512


def stage(*writes: tuple[int, int], zeroes: tuple[tuple[int, int], ...] = ()) -> StagedWrites:
    """Stage sectors as (phase, number), and ranges of zeros."""
    staged = StagedWrites()
    for phase, number in writes:
        staged.write(number, sector(phase + 1), phase)
    for start, count in zeroes:
        staged.zero(start, count)
    return staged


def planned_ranges(staged: StagedWrites, most: int) -> tuple[tuple[ByteRange, ...], int]:
    ranges, more = commit_module.planned_ranges(staged, most)
    return tuple(ByteRange(*part) for part in ranges), more


SLACK_AND_SWITCH = stage((0, 3), (0, 2), (0, 7), (SWITCH, 0))
GROWING = stage(
    *((0, 4), (0, 17), (1, 5), (2, 6), (SWITCH, 0), (4, 4), (5, 6)), zeroes=((10, 2), (18, 6))
)
"""As a downgrade is: refcounts, a new refcount block and its table, L2 entries; the file grows."""


class RecordingImage(ImageFile):
    """An image file that remembers what was done to it, and fails when it is told to."""

    fail_at: int | None = None

    def __init__(self, *measured: Any, **more: Any) -> None:
        super().__init__(*measured, **more)
        self.calls: list[tuple[object, ...]] = []

    @classmethod
    def of(cls, path: Path, fail_at: int | None = None) -> Self:
        image = cls.open(str(path), writable=True, max_growth=1 << 20)
        image.fail_at = fail_at
        return image

    def _note(self, *call: object) -> None:
        if len(self.calls) == self.fail_at:
            raise HostError("the disk is gone")
        self.calls.append(call)

    def write(self, offset: int, data: bytes) -> None:
        self._note("write", offset, len(data))
        super().write(offset, data)

    def barrier(self) -> None:
        self._note("barrier")
        super().barrier()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "image"
    path.write_bytes(b"\xee" * 8192)
    return path


CALLS = [
    ("write", 1024, 1024),
    ("write", 3584, 512),
    ("barrier",),
    ("write", 0, 512),
    ("barrier",),
]
GROWING_CALLS = [
    *(("write", 10 * 512, 1024), ("write", 17 * 512, 512), ("write", 4 * 512, 512), ("barrier",)),
    *(("write", 5 * 512, 512), ("barrier",), ("write", 6 * 512, 512), ("barrier",)),
    *(("write", 0, 512), ("barrier",), ("write", 4 * 512, 512), ("barrier",)),
    *(("write", 6 * 512, 512), ("barrier",)),
]


@pytest.mark.parametrize(("staged", "calls"), [(SLACK_AND_SWITCH, CALLS), (GROWING, GROWING_CALLS)])
def test_each_phase_ends_with_a_barrier(
    path: Path, staged: StagedWrites, calls: list[tuple[object, ...]]
) -> None:
    image = RecordingImage.of(path)
    with image:
        commit(image, staged, flush=True)
        assert image.calls == calls


def test_without_flush_the_order_is_the_same(path: Path) -> None:
    image = RecordingImage.of(path)
    with image:
        commit(image, SLACK_AND_SWITCH, flush=False)
        assert image.calls == [call for call in CALLS if call != ("barrier",)]


def test_nothing_to_write_is_nothing_done(path: Path) -> None:
    image = RecordingImage.of(path)
    with image:
        commit(image, StagedWrites(), flush=True)
        assert image.calls == []


@pytest.mark.parametrize("fail_at", range(len(CALLS)))
def test_a_failure_says_what_the_image_is_now(path: Path, fail_at: int) -> None:
    switching = fail_at >= 3
    state = (
        "the image may be amended or not, see with qemu-img info"
        if switching
        else "the image reads as before"
    )
    image = RecordingImage.of(path, fail_at)
    with image:
        with pytest.raises(HostError, match=f"^{re.escape(f'the disk is gone; {state}')}$"):
            commit(image, SLACK_AND_SWITCH, flush=True)
        assert image.calls == CALLS[:fail_at]
    assert switching or path.read_bytes()[:512] == b"\xee" * 512


LEAKS = "the image reads as before, but may have leaked clusters, see instar check -r leaks"
AMENDED = "the image is amended, but may have leaked clusters, see instar check -r all"


@pytest.mark.parametrize("fail_at", range(len(GROWING_CALLS)))
def test_a_failure_of_a_long_commit_does_too(path: Path, fail_at: int) -> None:
    state = LEAKS if fail_at < 8 else "the image may be amended or not" if fail_at < 10 else AMENDED
    image = RecordingImage.of(path, fail_at)
    with image:
        with pytest.raises(HostError, match=f"^the disk is gone; {state}"):
            commit(image, GROWING, flush=True)
        assert image.calls == GROWING_CALLS[:fail_at]
    assert path.stat().st_size == (8192 if fail_at < 4 else 24 * 512)


def test_an_entry_that_has_dropped_its_cluster_may_have_leaked_it(path: Path) -> None:
    image = RecordingImage.of(path, fail_at=1)
    with image, pytest.raises(HostError, match=f"^the disk is gone; {LEAKS}$"):
        commit(image, stage((2, 6), (SWITCH, 0), (4, 4)), flush=True)


def test_a_read_only_file_is_the_hosts_fault(path: Path) -> None:
    message = r"^could not write .*; the image reads as before$"
    with (
        ImageFile.open(str(path), writable=False) as image,
        pytest.raises(HostError, match=message),
    ):
        commit(image, SLACK_AND_SWITCH, flush=True)
    assert path.read_bytes() == b"\xee" * 8192


def test_a_file_that_cannot_grow_is_left_alone(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_fd: int, _size: int) -> None:
        raise OSError(27, "File too large")

    monkeypatch.setattr(os, "ftruncate", refuse)
    image = RecordingImage.of(path)
    with image:
        message = r"^could not extend '.*': File too large; the image reads as before$"
        with pytest.raises(HostError, match=message):
            commit(image, GROWING, flush=True)
        assert image.calls == []


def test_ranges_are_those_of_the_phases() -> None:
    assert planned_ranges(SLACK_AND_SWITCH, 9) == (
        (ByteRange(0, 1024, 1024), ByteRange(0, 3584, 512), ByteRange(SWITCH, 0, 512)),
        0,
    )
    assert planned_ranges(StagedWrites(), 9) == ((), 0)
    ranges = (
        ByteRange(0, 10 * 512, 1024, zeroes=True),
        ByteRange(0, 18 * 512, 3072, zeroes=True),
        *(ByteRange(0, 4 * 512, 512), ByteRange(0, 17 * 512, 512)),
        *(ByteRange(1, 5 * 512, 512), ByteRange(2, 6 * 512, 512), ByteRange(SWITCH, 0, 512)),
        *(ByteRange(4, 4 * 512, 512), ByteRange(5, 6 * 512, 512)),
    )
    for most in range(10):
        assert planned_ranges(GROWING, most) == (ranges[:most], max(9 - most, 0))


@settings(
    max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 20)), max_size=12))
def test_the_file_is_what_was_staged_and_only_planned_ranges_change(
    path: Path, writes: list[tuple[int, int]]
) -> None:
    path.write_bytes(b"\xee" * 8192)
    staged = stage(*writes)
    expected = bytearray(b"\xee" * 8192).ljust(staged.end() * 512, b"\0")
    for phase in all_sectors(staged):
        for number, data in phase.items():
            expected[number * 512 : number * 512 + 512] = data
    image = RecordingImage.of(path)
    with image:
        commit(image, staged, flush=False)
        written = [call[1:] for call in image.calls]
        ranges, more = planned_ranges(staged, 1000)
        assert image.bytes_written == sum(part.length for part in ranges)
    assert path.read_bytes() == expected
    assert more == 0
    assert sorted(written) == sorted((r.offset, r.length) for r in ranges)


def test_want_of_memory_says_what_the_image_is_now(path: Path) -> None:
    class Hungry(RecordingImage):
        def write(self, offset: int, data: bytes) -> None:
            raise MemoryError

    with (
        Hungry.of(path) as image,
        pytest.raises(HostError, match=r"^out of memory; the image reads"),
    ):
        commit(image, SLACK_AND_SWITCH, flush=True)
