"""Test side: the ABI is what the documents say, and both sides read the same numbers from it."""

from __future__ import annotations

import re
import struct
import subprocess
from pathlib import Path

import build_abi
import build_guest
import pytest

from instar import abi
from instar.vmm.request.options import OPTIONS

ROOT = build_abi.ROOT
HEADER = build_abi.HEADER.read_text(encoding="ascii")
PAGE = 4096

CONSTANTS = {name: value for name, value in vars(abi).items() if isinstance(value, int)}
STRUCTS = tuple(name.removesuffix("_FIELDS") for name in vars(abi) if name.endswith("_FIELDS"))
SIZES = {f"{name}_SIZE" for name in STRUCTS}

# The memory regions of the header: name, address, size.
REGIONS = (
    ("core", abi.INSTAR_CORE_ADDR, abi.INSTAR_CORE_LIMIT),
    ("operation", abi.INSTAR_OPERATION_ADDR, abi.INSTAR_OPERATION_LIMIT),
    ("stack", abi.INSTAR_STACK_ADDR, abi.INSTAR_STACK_SIZE),
    ("queues", abi.INSTAR_QUEUE_ADDR, abi.INSTAR_QUEUE_PAGES_SIZE),
    ("configuration", abi.OPERATION_CONFIG_ADDR, abi.OPERATION_CONFIG_SIZE),
    ("DMA window", abi.INSTAR_DMA_ADDR, abi.INSTAR_RAM_SIZE - abi.INSTAR_DMA_ADDR),
)

# Virtio 1.2, 2.7: the parts of a split virtqueue: name, fixed bytes, bytes an entry, alignment.
QUEUE_PARTS = (("DESC", 0, 16, 16), ("AVAIL", 6, 2, 2), ("USED", 6, 8, 4))
QUEUES = ("BLOCK", "TRANSMIT")

WORKSPACE_MIN = "CALL_TABLE_WORKSPACE_MIN"


def offsets(name: str) -> dict[str, int]:
    """The offset of each of a struct's values, by the format string that Python unpacks with."""
    form: str = vars(abi)[f"{name}_FORMAT"]
    assert form[0] == "<"
    sizes = []
    for count, code in re.findall(r"(\d*)([a-zA-Z])", form[1:]):
        whole = code == "s" or not count
        sizes += (
            [struct.calcsize(f"<{count}{code}")] if whole else [struct.calcsize(code)] * int(count)
        )
    fields: tuple[str, ...] = vars(abi)[f"{name}_FIELDS"]
    assert len(fields) == len(sizes)
    return {field: sum(sizes[:index]) for index, field in enumerate(fields)}


def c_member(field: str) -> str:
    """A value's name in C: field_0 of an array is field[0]."""
    match = re.fullmatch(r"(\w+)_(\d+)", field)
    if match and re.search(rf"\b{match[1]}\[", HEADER):
        return f"{match[1]}[{match[2]}]"
    return field


def c_values(expressions: list[str], folder: Path, header: str = "instar_abi.h") -> list[int]:
    """What the C compiler takes `expressions` to be, once it has read `header`."""
    lines = [f'    printf("%llu\\n", (unsigned long long)({text}));' for text in expressions]
    source = folder / "abi.c"
    source.write_text(
        f'#include "{header}"\n#include <stddef.h>\n#include <stdio.h>\n'
        "int main(void)\n{\n" + "\n".join(lines) + "\n    return 0;\n}\n",
        encoding="ascii",
    )
    flags = ["-std=c11", "-Wall", "-Wextra", "-Wpadded", "-Werror", f"-I{ROOT / 'abi'}"]
    command = [*build_guest.compiler(build_guest.ZIG_HOST), *flags, str(source)]
    build_guest.run_compiler(command, folder / "abi")
    printed = subprocess.run([str(folder / "abi")], check=True, capture_output=True, text=True)
    return [int(line) for line in printed.stdout.split()]


def test_every_constant_of_the_header_has_its_value_in_c(tmp_path: Path) -> None:
    names = sorted(CONSTANTS.keys() - SIZES)
    assert names == sorted(re.findall(r"^#define\s+(\w+)[ \t]+\S", HEADER, flags=re.MULTILINE))
    assert dict(zip(names, c_values(names, tmp_path), strict=True)) == {
        name: CONSTANTS[name] for name in names
    }


def test_every_struct_of_the_header_has_its_layout_in_c(tmp_path: Path) -> None:
    assert sorted(STRUCTS) == sorted(re.findall(r"^struct (\w+)", HEADER, flags=re.MULTILINE))
    expected = {f"sizeof(struct {name})": vars(abi)[f"{name}_SIZE"] for name in STRUCTS}
    for name in STRUCTS:
        for field, offset in offsets(name).items():
            expected[f"offsetof(struct {name}, {c_member(field)})"] = offset
    assert dict(zip(expected, c_values(list(expected), tmp_path), strict=True)) == expected


@pytest.mark.parametrize(
    ("source", "name", "size", "words"),
    [
        ("core/main.c", WORKSPACE_MIN, 0x1A6000, "smaller than operations may count on"),
        ("amend/amend.c", WORKSPACE_MIN, 0x100000, "does not fit the least RAM"),
        ("check/check.c", WORKSPACE_MIN, 0x4000, "does not fit the least RAM"),
        ("check/check.c", "CHECK_MEMORY_RESERVED", 0x1B0000, "than the host takes them to have"),
        ("info/info.c", WORKSPACE_MIN, 0x4000, "does not fit the least RAM"),
    ],
)
def test_a_workspace_that_is_larger_than_said_does_not_compile(
    source: str, name: str, size: int, words: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    header = "call_table.h" if name == WORKSPACE_MIN else "instar_abi.h"
    text = (ROOT / "abi" / header).read_text(encoding="ascii")
    (tmp_path / header).write_text(re.sub(f"{name} .*", f"{name} {size:#x}", text))
    includes = [f"-I{ROOT / folder}" for folder in build_guest.INCLUDES]
    command = [*build_guest.compiler(), *build_guest.CFLAGS, "-c", str(ROOT / "guest" / source)]
    build_guest.run_compiler([*command, *includes], tmp_path / "good.o")
    with pytest.raises(build_guest.BuildError):
        build_guest.run_compiler([*command, f"-I{tmp_path}", *includes], tmp_path / "bad.o")
    assert words in capfd.readouterr().err


@pytest.mark.parametrize("name", STRUCTS)
def test_a_format_string_is_as_long_as_its_struct(name: str) -> None:
    assert struct.calcsize(vars(abi)[f"{name}_FORMAT"]) == vars(abi)[f"{name}_SIZE"]


def test_the_generated_module_is_up_to_date() -> None:
    assert abi.__file__ is not None
    generated = Path(abi.__file__).read_text(encoding="ascii")
    assert generated == build_abi.render(build_abi.read_header()), 'run "make guest"'


def test_amend_config_is_as_documented() -> None:
    assert abi.AmendConfig_SIZE == 128
    assert list(offsets("AmendConfig").items())[:11] == [
        ("magic", 0),
        ("target_format", 4),
        ("flags", 8),
        ("sector_size", 12),
        ("cluster_size", 16),
        ("current_version", 20),
        ("current_refcount_bits", 24),
        ("pad", 28),
        ("current_incompatible_features", 32),
        ("current_compatible_features", 40),
        ("virtual_size", 48),
    ]
    assert min(list(offsets("AmendConfig").values())[11:]) == 56
    assert abi.AMEND_CONFIG_MAGIC == 0x414D4E44
    assert abi.AMEND_FORMAT_QCOW2 == 2
    flags = {name: value for name, value in CONSTANTS.items() if name.startswith("AMEND_FLAG_")}
    assert flags.pop("AMEND_FLAG_QUIET") == 1
    assert min(flags.values()) > 16  # 2 to 16 were options


def test_options_have_room_in_the_page_of_the_request_and_in_a_frame() -> None:
    assert abi.OptionRecord_SIZE == 8
    room = min(abi.OPERATION_CONFIG_SIZE - abi.AmendConfig_SIZE, abi.FRAME_PAYLOAD_MAX)
    assert room >= abi.OPTION_BYTES_MAX + 1024 + 8 * abi.OPTION_KEY_MAX
    keys = [CONSTANTS[f"OPTION_{row.key.upper()}"] for row in OPTIONS]
    assert len(keys) == len(set(keys))
    assert (min(keys), max(keys)) == (1, abi.OPTION_KEY_MAX)


def test_amend_result_is_as_documented() -> None:
    assert abi.AmendResult_SIZE == 64
    assert list(offsets("AmendResult").items())[:6] == [
        ("magic", 0),
        ("target_format", 4),
        ("action", 8),
        ("error", 12),
        ("resulting_version", 16),
        ("resulting_lazy_refcounts", 20),
    ]
    assert min(list(offsets("AmendResult").values())[6:]) == 24
    assert abi.AMEND_RESULT_MAGIC == 0x414D5253
    assert (abi.AMEND_ACTION_NOOP, abi.AMEND_ACTION_AMENDED) == (0, 1)


def test_error_codes_are_as_documented() -> None:
    first = (
        "AMEND_OK",
        "AMEND_ERROR_UNSUPPORTED_FORMAT",
        "AMEND_ERROR_DOWNGRADE_BLOCKED",
        "AMEND_ERROR_REFCOUNT_WIDTH",
        "AMEND_ERROR_LAZY_NEEDS_V3",
        "AMEND_ERROR_HEADER_MISMATCH",
        "AMEND_ERROR_PARSE_FAILED",
        "AMEND_ERROR_DIRTY",
        "AMEND_ERROR_EXTENSION_RELOCATION",
        "AMEND_ERROR_WRITE_FAILED",
        "AMEND_ERROR_SCRATCH_TOO_SMALL",
        "AMEND_ERROR_OVERFLOW",
    )
    assert [CONSTANTS[name] for name in first] == [0, 1, *range(3, 13)]


@pytest.mark.parametrize("prefix", ["REFUSAL_", "FRAME_"])
def test_lists_are_numbered_in_their_order(prefix: str) -> None:
    others = {"REFUSAL_MAX", "FRAME_MAGIC", "FRAME_PAYLOAD_MAX"}
    numbers = [
        CONSTANTS[name] for name in CONSTANTS if name.startswith(prefix) if name not in others
    ]
    assert numbers[0] == 1
    assert numbers == sorted({*numbers})


def test_a_frame_header_is_as_documented() -> None:
    assert abi.FrameHeader_SIZE == 16
    assert offsets("FrameHeader") == {"magic": 0, "type": 4, "length": 8, "crc": 12}
    assert abi.FRAME_MAGIC.to_bytes(4, "little") == b"INFR"


def test_all_refusals_fit_in_one_frame_and_frames_in_one_buffer() -> None:
    assert abi.REFUSAL_MAX * abi.AmendRefusal_SIZE <= abi.FRAME_PAYLOAD_MAX
    assert abi.AmendResult_SIZE <= abi.FRAME_PAYLOAD_MAX
    assert abi.FrameHeader_SIZE + abi.FRAME_PAYLOAD_MAX <= abi.INSTAR_TRANSMIT_MAX


def test_the_call_table_is_append_only(tmp_path: Path) -> None:
    members = (
        "magic",
        "version",
        "read_blocks",
        "write_blocks",
        "zero_blocks",
        "send_frame",
        "debug",
        "workspace",
    )
    expressions = [f"offsetof(struct call_table, {member})" for member in members]
    expressions.append("CALL_TABLE_MAGIC")
    values = c_values(expressions, tmp_path, "call_table.h")
    assert values == [0, 4, 8, 16, 24, 32, 40, 48, 0x494D4147]


def test_memory_regions_are_pages_of_ram_that_do_not_overlap() -> None:
    end = PAGE  # page 0 is unmapped
    for name, address, size in sorted(REGIONS, key=lambda region: region[1]):
        assert address % PAGE == size % PAGE == 0, name
        assert address >= end, name
        end = address + size
    assert end <= abi.INSTAR_RAM_SIZE


def test_every_address_of_the_header_lies_in_a_region() -> None:
    addresses = {name: value for name, value in CONSTANTS.items() if name.endswith("_ADDR")}
    assert {address for _, address, _ in REGIONS} <= set(addresses.values())
    for name, address in addresses.items():
        assert any(start <= address < start + size for _, start, size in REGIONS), name


def test_the_stack_lies_between_pages_that_cannot_be_written() -> None:
    assert abi.OPERATION_CONFIG_ADDR + abi.OPERATION_CONFIG_SIZE == abi.INSTAR_STACK_ADDR
    above = abi.INSTAR_STACK_ADDR + abi.INSTAR_STACK_SIZE
    for name, address, size in REGIONS:
        assert above + PAGE <= address or address + size <= above, name


def test_the_call_table_opens_the_executor_image() -> None:
    assert abi.INSTAR_CALL_TABLE_ADDR == abi.INSTAR_CORE_ADDR


def test_linker_scripts_lay_the_images_out_at_their_addresses() -> None:
    for name in build_guest.IMAGES:
        address = abi.INSTAR_CORE_ADDR if name == "core" else abi.INSTAR_OPERATION_ADDR
        script = build_guest.linker_script(name).read_text(encoding="ascii")
        assert re.findall(r"^\s*\. = (0x[0-9a-f]+);", script, flags=re.MULTILINE) == [hex(address)]


def test_queue_structures_are_aligned_apart_and_within_the_queue_pages() -> None:
    end = abi.INSTAR_QUEUE_ADDR
    for queue in QUEUES:
        entries = CONSTANTS[f"INSTAR_{queue}_QUEUE_SIZE"]
        assert entries.bit_count() == 1  # virtio 1.2, 2.7: a power of 2
        assert entries <= 32768
        for part, fixed, each, alignment in QUEUE_PARTS:
            address = CONSTANTS[f"INSTAR_{queue}_{part}_ADDR"]
            assert address % alignment == 0, (queue, part)
            assert address >= end, (queue, part)
            end = address + fixed + each * entries
    assert end <= abi.INSTAR_QUEUE_ADDR + abi.INSTAR_QUEUE_PAGES_SIZE


def test_queues_and_ports_are_told_apart() -> None:
    assert [CONSTANTS[f"INSTAR_{queue}_QUEUE"] for queue in QUEUES] == [0, 1]
    ports = [value for name, value in CONSTANTS.items() if name.startswith("INSTAR_PORT_")]
    assert len(set(ports)) == len(ports)
    assert max(ports) <= 0xFFFF


def test_the_largest_request_fits_in_the_dma_window() -> None:
    window = abi.INSTAR_RAM_SIZE - abi.INSTAR_DMA_ADDR
    assert window >= abi.INSTAR_BLOCK_REQUEST_MAX + abi.INSTAR_TRANSMIT_MAX
    assert abi.INSTAR_BLOCK_REQUEST_MAX % 512 == 0


@pytest.mark.parametrize(
    "text",
    [
        "#define TWICE (2 * 3)\n",
        '#define NAME "x"\n',
        "struct Padded { uint8_t a; uint32_t b; };\n",
        "struct Padded { uint32_t a; uint8_t b; };\n",
        "struct Signed { int32_t a; };\n",
        "struct Plain { long a; };\n",
        "struct Bits { uint32_t a : 1; };\n",
        "struct Pointer { uint8_t *a; };\n",
        "struct Inner { uint8_t a; };\nstruct Outer { struct Inner a; };\n",
    ],
)
def test_a_header_that_says_more_than_the_contract_may_is_refused(
    text: str, tmp_path: Path
) -> None:
    header = tmp_path / "header.h"
    header.write_text(text, encoding="ascii")
    with pytest.raises(build_abi.HeaderError):
        build_abi.read_header(header)


def test_a_header_is_read_without_its_comments_and_guard(tmp_path: Path) -> None:
    header = tmp_path / "header.h"
    header.write_text(
        "#ifndef H\n#define H /* guard */\n#include <stdint.h>\n#define A 0x10u // ten\n"
        "/* #define NOT 1\n */\nstruct S {\n    uint8_t a[2]; /* IN */\n    uint16_t b[3];\n};\n"
        '_Static_assert(sizeof(struct S) == 8,\n               "(size)");\n#endif\n',
        encoding="ascii",
    )
    read = build_abi.read_header(header)
    assert read.constants == {"A": "0x10"}
    assert read.structs == (build_abi.Struct("S", 8, "<2s3H", ("a", "b_0", "b_1", "b_2")),)
