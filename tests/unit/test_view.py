"""Test side: what a step sees is what the image will be once the steps before it are committed."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from instar import abi
from instar.vmm.base.errors import GuestFault
from instar.vmm.image import view as view_module
from instar.vmm.image.budgets import WORK_FACTOR, staging_budget
from instar.vmm.image.commit import commit
from instar.vmm.image.image_file import ImageFile
from instar.vmm.image.staging import SECTOR_SIZE, StagedWrites
from instar.vmm.image.view import ImageView

SECTORS = 24
GROWTH = 8
"""Sectors by which the files below may grow."""


@contextmanager
def opened(path: Path, growth: int = GROWTH * SECTOR_SIZE) -> Iterator[ImageFile]:
    with ImageFile.open(str(path), writable=True, max_growth=growth) as image:
        yield image


@st.composite
def steps(draw: st.DrawFn) -> StagedWrites:
    """Runs of sectors, each zeroed or written in some phases: no sector is both."""
    staged = StagedWrites()
    at, end = draw(st.integers(0, 6)), SECTORS + GROWTH
    while at < end:
        count = draw(st.integers(1, min(5, end - at)))
        written = draw(st.sets(st.integers(0, abi.INSTAR_PHASE_COUNT - 1), max_size=3))
        if not written:
            staged.zero(at, count)
        for phase in written:
            staged.write(at, bytes([draw(st.integers(1, 255))]) * 512 * count, phase)
        at += count + draw(st.integers(0, 9))
    return staged


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    size=st.integers(1, SECTORS * SECTOR_SIZE),
    hole=st.booleans(),
    chain=st.lists(steps(), max_size=3),
    reads=st.lists(st.tuples(st.integers(0, 1 << 15), st.integers(0, 1 << 14)), max_size=6),
)
def test_a_view_reads_as_the_file_does_after_each_commit(
    tmp_path: Path, size: int, hole: bool, chain: list[StagedWrites], reads: list[tuple[int, int]]
) -> None:
    path = tmp_path / "image"
    path.write_bytes(b"" if hole else b"\xee" * size)
    os.truncate(path, size)
    # The file is committed to a copy: the view's own is not to change.
    copy = tmp_path / "copy"
    copy.write_bytes(path.read_bytes())
    before = path.read_bytes()
    with opened(path) as image:
        view = ImageView(image)
        for staged in chain:
            view.lay(staged)
            with opened(copy) as target:
                commit(target, staged, flush=False)
            expected = copy.read_bytes()
            assert view.size == len(expected)
            assert view.read(0, len(expected) + 100) == expected
            for offset, count in reads:
                assert view.read(offset, count) == expected[offset : offset + count]
                sectors = slice(offset & -SECTOR_SIZE, (offset & -SECTOR_SIZE) + (count | 511) + 1)
                filled = bytearray(b"\xaa" * (sectors.stop - sectors.start))
                with memoryview(filled) as into:
                    view.read_into(sectors.start, into)
                assert filled == expected[sectors].ljust(len(filled), b"\0")
    assert path.read_bytes() == before


@pytest.mark.parametrize("zeroed", [False, True])
def test_a_last_sector_that_is_cut_becomes_whole_if_it_is_written(
    tmp_path: Path, zeroed: bool
) -> None:
    path = tmp_path / "image"
    path.write_bytes(b"\xee" * 1000)
    staged = StagedWrites()
    if zeroed:
        staged.zero(1, 1)
    else:
        staged.write(1, bytes(SECTOR_SIZE), 0)
    with opened(path) as image:
        view = ImageView(image)
        view.lay(staged)
        commit(image, staged, flush=False)
        assert view.size == path.stat().st_size == (1000 if zeroed else 1024)


@pytest.fixture
def image(tmp_path: Path) -> Iterator[ImageFile]:
    path = tmp_path / "image"
    path.write_bytes(b"\xee" * 8192)
    with opened(path) as image:
        yield image


def written(*sectors: int) -> StagedWrites:
    staged = StagedWrites()
    for sector in sectors:
        staged.write(sector, bytes(SECTOR_SIZE), 0)
    return staged


class TestTheStepsShareOneBudget:
    def test_of_growth(self, image: ImageFile) -> None:
        view = ImageView(image)
        view.lay(written(2, 18))
        assert (view.size, view.max_growth) == (19 * 512, 5 * 512)
        view.lay(written(20))
        assert (view.size, view.max_growth) == (21 * 512, 3 * 512)

    def test_of_what_is_read(self, image: ImageFile) -> None:
        view = ImageView(image)
        view.read_into(0, memoryview(bytearray(4096)))
        view.lay(written(0), work=100)
        assert view.work_max == image.work_max - 4096
        view.read_into(0, memoryview(bytearray(512)))
        view.lay(written(0), work=1000)
        assert view.work_max == image.work_max - 4096 - 1000
        view.lay(written(0), work=1 << 62)
        assert view.work_max == 0

    def test_of_what_is_read_and_the_tables_that_were_asked_for_pay_for_themselves(
        self, image: ImageFile
    ) -> None:
        view = ImageView(image)
        view.tables = 1024
        view.lay(written(1, 2, 3))
        assert view.work_max == image.work_max + WORK_FACTOR * 1024
        view.tables = 1024
        view.lay(written(4))
        assert view.work_max == image.work_max + WORK_FACTOR * (1024 + 512)
        view.tables = 0
        view.lay(written(5))
        assert view.work_max == image.work_max + WORK_FACTOR * (1024 + 512)

    def test_of_what_is_staged(self, image: ImageFile, monkeypatch: pytest.MonkeyPatch) -> None:
        view = ImageView(image)
        whole = staging_budget(image.size, 0)
        view.stage(0).write(0, bytes(whole), 0)
        monkeypatch.setattr(view_module, "INSTAR_STAGED_MAX", whole + 512)
        view.lay(written(*range(whole // 512 - 1)))
        view.stage(0).write(0, bytes(1024), 0)
        with pytest.raises(GuestFault, match="more sectors written"):
            view.stage(0).write(0, bytes(1536), 0)

    def test_of_ranges_that_are_zeroed(
        self, image: ImageFile, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(view_module, "INSTAR_SEGMENTS_MAX", 3)
        view = ImageView(image)
        staged = view.stage(0)
        staged.zero(0, 1)
        staged.zero(2, 1)
        view.lay(staged)
        staged = view.stage(0)
        staged.zero(4, 1)
        with pytest.raises(GuestFault, match="more than 1 ranges"):
            staged.zero(6, 1)


def test_what_is_stored_is_what_was_and_what_the_steps_add(image: ImageFile) -> None:
    view = ImageView(image)
    stored = view.stored
    assert stored == image.stored >= 4096
    view.lay(written(1, 2))
    assert view.stored == stored + 1024


def test_no_more_is_read_than_the_sectors_that_are_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "image"
    path.touch()
    os.truncate(path, 1 << 40)
    sizes: list[int] = []
    monkeypatch.setattr(ImageFile, "read_into", lambda _, __, view: sizes.append(len(view)))
    with opened(path) as image:
        view = ImageView(image)
        view.lay(written(0))
        assert view.read((1 << 39) + 100, 1000) == bytes(1000)
    assert sizes == [3 * SECTOR_SIZE]
