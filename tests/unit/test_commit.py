"""Test side: what was judged is written phase by phase, with a barrier behind each."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from instar.vmm.commit import commit, planned_ranges
from instar.vmm.errors import HostError
from instar.vmm.image_file import ImageFile
from instar.vmm.result import SWITCH, ByteRange

Phases = list[dict[int, bytes]]


def sector(byte: int) -> bytes:
    return bytes([byte]) * 512


SLACK_AND_SWITCH: Phases = [{3: sector(3), 2: sector(2), 7: sector(7)}, {0: sector(1)}]


class RecordingImage(ImageFile):
    """An image file that remembers what was done to it, and fails when it is told to."""

    def __init__(self, path: Path, fail_at: int | None = None) -> None:
        super().__init__(str(path), writable=True)
        self.calls: list[tuple[object, ...]] = []
        self.fail_at = fail_at

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
    path.write_bytes(bytes(8192))
    return path


CALLS = [
    ("write", 1024, 1024),
    ("write", 3584, 512),
    ("barrier",),
    ("write", 0, 512),
    ("barrier",),
]


def test_each_phase_ends_with_a_barrier(path: Path) -> None:
    image = RecordingImage(path)
    with image:
        commit(image, SLACK_AND_SWITCH, flush=True)
        assert image.calls == CALLS


def test_without_flush_the_order_is_the_same(path: Path) -> None:
    image = RecordingImage(path)
    with image:
        commit(image, SLACK_AND_SWITCH, flush=False)
        assert image.calls == [call for call in CALLS if call != ("barrier",)]


def test_nothing_to_write_is_nothing_done(path: Path) -> None:
    image = RecordingImage(path)
    with image:
        commit(image, [], flush=True)
        assert image.calls == []


@pytest.mark.parametrize("fail_at", range(len(CALLS)))
def test_a_failure_says_what_the_image_is_now(path: Path, fail_at: int) -> None:
    switching = fail_at >= 3
    state = (
        "the image may be amended or not, see with qemu-img info"
        if switching
        else "the image reads as before"
    )
    image = RecordingImage(path, fail_at)
    with image:
        with pytest.raises(HostError, match=f"^{re.escape(f'the disk is gone; {state}')}$"):
            commit(image, SLACK_AND_SWITCH, flush=True)
        assert image.calls == CALLS[:fail_at]
    assert switching or path.read_bytes()[:512] == bytes(512)


def test_a_read_only_file_is_the_hosts_fault(path: Path) -> None:
    message = r"^could not write .*; the image reads as before$"
    with (
        ImageFile(str(path), writable=False) as image,
        pytest.raises(HostError, match=message),
    ):
        commit(image, SLACK_AND_SWITCH, flush=True)
    assert path.read_bytes() == bytes(8192)


def test_the_last_phase_is_the_switch() -> None:
    assert planned_ranges(SLACK_AND_SWITCH) == (
        ByteRange(SWITCH - 1, 1024, 1024),
        ByteRange(SWITCH - 1, 3584, 512),
        ByteRange(SWITCH, 0, 512),
    )
    assert planned_ranges([{0: sector(1)}]) == (ByteRange(SWITCH, 0, 512),)
    assert planned_ranges([]) == ()


PHASES = st.lists(
    st.dictionaries(st.integers(0, 15), st.integers(1, 255).map(sector), max_size=6), max_size=2
)


@settings(
    max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(PHASES)
def test_the_file_is_what_was_staged_and_only_planned_ranges_change(
    path: Path, phases: Phases
) -> None:
    path.write_bytes(b"\xee" * 8192)
    expected = bytearray(path.read_bytes())
    for phase in phases:
        for number, data in phase.items():
            expected[number * 512 : number * 512 + 512] = data
    image = RecordingImage(path)
    with image:
        commit(image, phases, flush=False)
        written = [call[1:] for call in image.calls]
        assert image.bytes_written == sum(part.length for part in planned_ranges(phases))
    assert path.read_bytes() == expected
    assert written == [(part.offset, part.length) for part in planned_ranges(phases)]
