"""Test side: the installed payload is the executor and the operation, whole, and can be named."""

from __future__ import annotations

import shutil
import struct
from pathlib import Path

import pytest

from instar import abi
from instar.vmm.base.errors import HostError
from instar.vmm.machine import payload as payload_module
from instar.vmm.machine.payload import PF_R, PF_W, PF_X, load_payload

INSTALLED = Path(payload_module._installed_folder())


def test_it_is_the_executor_and_the_operation() -> None:
    payload = load_payload()
    assert [image.name for image in payload.images] == ["core", "amend"]
    assert payload.abi_version == abi.INSTAR_ABI_VERSION
    assert {image.abi_version for image in payload.images} == {abi.INSTAR_ABI_VERSION}


def test_its_digest_is_that_of_its_files() -> None:
    from hashlib import sha256

    files = [(INSTALLED / f"{name}.elf").read_bytes() for name in ("core", "amend")]
    assert load_payload().sha256 == sha256(b"".join(files)).hexdigest()


def test_its_segments_are_pages_of_one_kind_of_access() -> None:
    for image in load_payload().images:
        flags = [segment.flags for segment in image.segments]
        assert flags == [PF_R, PF_R | PF_X, PF_R | PF_W]
        assert all(segment.address % 4096 == 0 for segment in image.segments)
        assert all(len(segment.data) <= segment.size for segment in image.segments)


def test_the_call_table_is_where_operations_look_for_it() -> None:
    first = load_payload().images[0].segments[0]
    assert first.address == abi.INSTAR_CALL_TABLE_ADDR
    assert struct.unpack_from("<II", first.data) == (0x494D4147, abi.INSTAR_ABI_VERSION)


def test_it_can_be_loaded_from_another_folder(tmp_path: Path) -> None:
    for name in ("core", "amend"):
        shutil.copy(INSTALLED / f"{name}.elf", tmp_path)
    assert load_payload(directory=str(tmp_path)) == load_payload()


def test_addresses_are_named_by_image_and_function() -> None:
    payload = load_payload()
    core, operation = payload.images
    assert payload.locate(core.entry) == "core:core_start+0x0"
    assert payload.locate(operation.entry + 1) == "amend:operation_start+0x1"


@pytest.mark.parametrize("address", [0, 0xFFF0, abi.INSTAR_STACK_ADDR, (1 << 64) - 1])
def test_other_addresses_are_in_no_function(address: int) -> None:
    assert load_payload().locate(address) == "no function"


@pytest.mark.parametrize("name", ["core", "amend"])
def test_a_missing_file_is_named(tmp_path: Path, name: str) -> None:
    for other in {"core", "amend"} - {name}:
        shutil.copy(INSTALLED / f"{other}.elf", tmp_path)
    expected = f"payload {tmp_path}/{name}.elf: No such file or directory; reinstall instar"
    with pytest.raises(HostError) as caught:
        load_payload(directory=str(tmp_path))
    assert str(caught.value) == expected


def test_a_folder_in_the_place_of_a_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "core.elf").mkdir()
    with pytest.raises(HostError, match="Is a directory; reinstall instar"):
        load_payload(directory=str(tmp_path))


def test_the_executor_is_no_operation(tmp_path: Path) -> None:
    shutil.copy(INSTALLED / "core.elf", tmp_path)
    shutil.copy(INSTALLED / "core.elf", tmp_path / "amend.elf")
    with pytest.raises(HostError, match=r"amend\.elf: segment at 0x10000 is .* outside"):
        load_payload(directory=str(tmp_path))
