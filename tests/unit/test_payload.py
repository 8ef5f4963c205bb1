"""Test side: the loader takes the payload that was built, and nothing that is built badly."""

from __future__ import annotations

import contextlib
import os
import shutil
import struct
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from instar import abi
from instar.vmm.base.errors import HostError
from instar.vmm.machine import payload as payload_module
from instar.vmm.machine.payload import PF_R, PF_W, PF_X, Image, load_image, load_payload

INSTALLED = Path(payload_module._installed_folder())
START, LIMIT = abi.INSTAR_OPERATION_ADDR, abi.INSTAR_OPERATION_LIMIT

# System V ABI: offsets in the ELF header, and in a program header.
E_IDENT, E_TYPE, E_MACHINE, E_ENTRY, E_PHOFF, E_PHNUM = 0, 16, 18, 24, 32, 56
P_TYPE, P_FLAGS, P_OFFSET, P_VADDR, P_FILESZ, P_MEMSZ = 0, 4, 8, 16, 32, 40
PT_LOAD, PT_NOTE = 1, 4

FAR = (1 << 20, (1 << 63) - 1, 1 << 63, (1 << 64) - 1)
"""Offsets outside every file, two of them outside what Python's struct takes."""


class Elf:
    """An operation image of ours, to be spoilt."""

    def __init__(self) -> None:
        self.raw = bytearray((INSTALLED / "amend.elf").read_bytes())

    def put(self, offset: int, form: str, value: int) -> None:
        struct.pack_into(form, self.raw, offset, value)

    def headers(self, kind: int) -> list[int]:
        """Where the program headers of this type are."""
        (start,) = struct.unpack_from("<Q", self.raw, E_PHOFF)
        (count,) = struct.unpack_from("<H", self.raw, E_PHNUM)
        offsets = [start + 56 * number for number in range(count)]
        return [at for at in offsets if struct.unpack_from("<I", self.raw, at)[0] == kind]

    def segment(self, number: int, field: int, value: int) -> None:
        form = "<I" if field in (P_TYPE, P_FLAGS) else "<Q"
        self.put(self.headers(PT_LOAD)[number] + field, form, value)

    def note(self) -> int:
        """Where the note is in the file."""
        (offset,) = struct.unpack_from("<Q", self.raw, self.headers(PT_NOTE)[0] + P_OFFSET)
        return int(offset)

    def load(self, folder: Path) -> Image:
        (folder / "spoilt.elf").write_bytes(self.raw)
        return load_image(str(folder), "spoilt", START, LIMIT)


@pytest.fixture
def elf() -> Elf:
    return Elf()


def error_of(elf: Elf, folder: Path) -> str:
    """What the loader says, without what it always says."""
    with pytest.raises(HostError) as caught:
        elf.load(folder)
    message = str(caught.value)
    assert message.isprintable()
    prefix, suffix = f"payload {folder}/spoilt.elf: ", "; reinstall instar"
    assert message.startswith(prefix)
    assert message.endswith(suffix)
    return message[len(prefix) : -len(suffix)]


def put(offset: int, form: str, value: int) -> Callable[[Elf], None]:
    return lambda elf: elf.put(offset, form, value)


def segment(number: int, field: int, value: int) -> Callable[[Elf], None]:
    return lambda elf: elf.segment(number, field, value)


# Three segments: constants at 0x18000, text at 0x19000, data at 0x1c000 or thereabouts.
SPOILT: dict[str, tuple[Callable[[Elf], None], str]] = {
    "no ELF": (put(E_IDENT, "<I", 0x12345678), "not an x86-64 executable"),
    "32 bits": (put(E_IDENT + 4, "<B", 1), "not an x86-64 executable"),
    "big-endian": (put(E_IDENT + 5, "<B", 2), "not an x86-64 executable"),
    "a shared library": (put(E_TYPE, "<H", 3), "not an x86-64 executable"),
    "another processor": (put(E_MACHINE, "<H", 183), "not an x86-64 executable"),
    "an entry in constants": (put(E_ENTRY, "<Q", START), f"entry {START:#x} is not executable"),
    "an entry in no segment": (put(E_ENTRY, "<Q", 0x1000), "entry 0x1000 is not executable"),
    "an entry at the end of memory": (
        put(E_ENTRY, "<Q", (1 << 64) - 1),
        "entry 0xffffffffffffffff is not executable",
    ),
    "no segments": (
        put(E_PHNUM, "<H", 0),
        f"built for ABI version None, this is {abi.INSTAR_ABI_VERSION}",
    ),
    "an unaligned segment": (
        segment(1, P_VADDR, 0x19010),
        "segment at 0x19010 is unaligned, overlaps or is outside",
    ),
    "text over constants": (
        segment(1, P_VADDR, START),
        "segment at 0x18000 is unaligned, overlaps or is outside",
    ),
    "constants over text": (
        segment(0, P_MEMSZ, 0x1001),
        "segment at 0x19000 is unaligned, overlaps or is outside",
    ),
    "a segment in the executor": (
        segment(0, P_VADDR, abi.INSTAR_CORE_ADDR),
        "segment at 0x10000 is unaligned, overlaps or is outside",
    ),
    "a segment at address 0": (
        segment(0, P_VADDR, 0),
        "segment at 0x0 is unaligned, overlaps or is outside",
    ),
    "a segment behind the limit": (
        segment(2, P_VADDR, START + LIMIT),
        f"segment at {START + LIMIT:#x} is unaligned, overlaps or is outside",
    ),
    "a segment at the end of memory": (
        segment(2, P_VADDR, (1 << 64) - 4096),
        "segment at 0xfffffffffffff000 is unaligned, overlaps or is outside",
    ),
    "a segment over the limit": (segment(2, P_MEMSZ, LIMIT), "is too large"),
    "a segment of 64 bits": (segment(2, P_MEMSZ, (1 << 64) - 4096), "is too large"),
    "more in the file than in memory": (segment(1, P_MEMSZ, 0x100), "is too large"),
    "writable text": (
        segment(1, P_FLAGS, PF_R | PF_W | PF_X),
        "segment at 0x19000 is writable and executable",
    ),
    "executable data": (segment(2, P_FLAGS, PF_R | PF_W | PF_X), "is writable and executable"),
    "text that cannot be read": (segment(1, P_FLAGS, PF_X), "segment at 0x19000 is "),
    "a segment without rights": (segment(0, P_FLAGS, 0), "segment at 0x18000 is "),
    "text that is not executable": (segment(1, P_FLAGS, PF_R), "is not executable"),
}


@pytest.mark.parametrize(("spoil", "message"), SPOILT.values(), ids=SPOILT)
def test_a_bad_build_does_not_run(
    elf: Elf, tmp_path: Path, spoil: Callable[[Elf], None], message: str
) -> None:
    elf.load(tmp_path)
    spoil(elf)
    assert message in error_of(elf, tmp_path)


def test_an_image_may_take_all_the_memory_that_is_for_it(elf: Elf, tmp_path: Path) -> None:
    data = elf.load(tmp_path).segments[2]
    elf.segment(2, P_MEMSZ, START + LIMIT - data.address)
    assert elf.load(tmp_path).segments[2].size > data.size


def test_the_entry_may_be_any_byte_of_the_text_and_no_other(elf: Elf, tmp_path: Path) -> None:
    text = elf.load(tmp_path).segments[1]
    for entry in (text.address, text.address + text.size - 1):
        elf.put(E_ENTRY, "<Q", entry)
        assert elf.load(tmp_path).entry == entry
    for entry in (text.address - 1, text.address + text.size):
        elf.put(E_ENTRY, "<Q", entry)
        assert error_of(elf, tmp_path) == f"entry {entry:#x} is not executable"


class TestTheNote:
    @pytest.mark.parametrize("version", [0, 1, 0xFFFFFFFF])
    def test_another_version_is_refused_and_both_are_named(
        self, elf: Elf, tmp_path: Path, version: int
    ) -> None:
        elf.put(elf.note() + 20, "<I", version)
        assert (
            error_of(elf, tmp_path)
            == f"built for ABI version {version}, this is {abi.INSTAR_ABI_VERSION}"
        )

    def test_an_image_without_a_note_is_refused(self, elf: Elf, tmp_path: Path) -> None:
        elf.put(elf.headers(PT_NOTE)[0] + P_TYPE, "<I", 0)
        assert (
            error_of(elf, tmp_path)
            == f"built for ABI version None, this is {abi.INSTAR_ABI_VERSION}"
        )

    @pytest.mark.parametrize("offset", [0, 8, 12], ids=["name size", "type", "name"])
    def test_a_note_of_somebody_else_is_no_note(
        self, elf: Elf, tmp_path: Path, offset: int
    ) -> None:
        elf.put(elf.note() + offset, "<I", 4)
        assert (
            error_of(elf, tmp_path)
            == f"built for ABI version None, this is {abi.INSTAR_ABI_VERSION}"
        )

    @pytest.mark.parametrize("offset", FAR)
    def test_a_note_outside_the_file_is_refused(
        self, elf: Elf, tmp_path: Path, offset: int
    ) -> None:
        elf.put(elf.headers(PT_NOTE)[0] + P_OFFSET, "<Q", offset)
        assert error_of(elf, tmp_path)


@pytest.mark.parametrize("offset", FAR)
def test_program_headers_outside_the_file_are_refused(
    elf: Elf, tmp_path: Path, offset: int
) -> None:
    elf.put(E_PHOFF, "<Q", offset)
    assert error_of(elf, tmp_path)


@pytest.mark.parametrize("offset", FAR)
def test_a_segment_outside_the_file_is_refused(elf: Elf, tmp_path: Path, offset: int) -> None:
    elf.segment(1, P_OFFSET, offset)
    assert error_of(elf, tmp_path)


@pytest.mark.parametrize("name", ["core", "amend"])
def test_a_truncated_image_does_not_run_whatever_its_length(name: str, tmp_path: Path) -> None:
    start = abi.INSTAR_CORE_ADDR if name == "core" else START
    path = tmp_path / f"{name}.elf"
    shutil.copy(INSTALLED / path.name, path)
    accepted = []
    for size in reversed(range(path.stat().st_size)):
        os.truncate(path, size)
        with contextlib.suppress(HostError):
            load_image(str(tmp_path), name, start, LIMIT)
            accepted.append(size)
    assert accepted == []


@settings(
    max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.lists(st.tuples(st.integers(0, 400), st.integers(0, 255)), min_size=1, max_size=4))
def test_any_spoilt_headers_are_loaded_or_refused(
    tmp_path: Path, bytes_: list[tuple[int, int]]
) -> None:
    elf = Elf()
    for offset, value in bytes_:
        elf.raw[offset] = value
    try:
        image = elf.load(tmp_path)
    except HostError:
        return
    assert all(segment.flags & (PF_W | PF_X) != PF_W | PF_X for segment in image.segments)
    assert all(START <= s.address < s.address + s.size <= START + LIMIT for s in image.segments)


def test_the_same_files_are_read_once_and_other_ones_again(tmp_path: Path) -> None:
    for name in ("core.elf", "amend.elf"):
        shutil.copy(INSTALLED / name, tmp_path)
    first = load_payload("amend", str(tmp_path))
    assert load_payload("amend", str(tmp_path)) is first
    assert load_payload() is not first
    shutil.copy(INSTALLED / "amend.elf", tmp_path / "new.elf")
    (tmp_path / "new.elf").replace(tmp_path / "amend.elf")
    assert load_payload("amend", str(tmp_path)) is not first
    (tmp_path / "amend.elf").write_bytes(b"")
    with pytest.raises(HostError):
        load_payload("amend", str(tmp_path))
