"""Test side: each way to break the rules is a guest fault that says which, and changes nothing."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from instar.vmm import machine
from instar.vmm.base.errors import GuestFault
from instar.vmm.image import budgets
from tests.sandbox.rogues import FOLDER, LARGE, TOGGLED, UPGRADE, UPGRADED, Rogues, Set
from tests.support.forge import Image, Zero

# On AMD's processors nobody knows where: KVM resets the vCPU before it reports a shutdown
# (Linux, arch/x86/kvm/svm/svm.c, shutdown_interception).
FORGOTTEN = r"at 0xfff0 \(no function\), last page fault at 0x0"

AFTER_ADDRESS = 0xA
"""Where ROGUE_AT's instructions start in the function."""

# Payload: the address that it must not touch so, all by the instruction at rogue+AFTER_ADDRESS.
PAGE_FAULTS = {
    "null_read": 0,
    "null_write": 0,
    "write_text": 0x19000,
    "write_core_text": 0x11000,
    "write_rodata": 0x18000,
    "write_call_table": 0x10008,
    "write_config": 0xA008,
    "read_page_tables": 0x2000,
    "write_page_tables": 0x5000,
    "read_tss": 0xF000,
    "write_tss": 0xF068,
    "read_unmapped_ram": 0x47000,
    "read_beyond_ram": 0x200000,
    "write_beyond_ram": 0x200000,
    "mmio_like": 0xFEE00300,
    "high_half": 0xFFFF800000000000,
    "straddle_guard": 0xF000,
}

# Payload: where it jumped to.
EXECUTIONS = {
    "execute_stack": 0xB010,
    "execute_dma": 0x5D000,
    "execute_queue": 0x9800,
    "execute_config": 0xA000,
    "execute_call_table": 0x10000,
    "execute_null": 0,
}

# Payload: the offset in the function rogue of the instruction that it may not run.
FAULTS = {
    "non_canonical": AFTER_ADDRESS,
    "ud2": 0,
    "hlt": 0,
    "cli": 0,
    "sti": 0,
    "int_0x80": 0,
    "sysenter": 0,
    "sysret": 0,
    "iret": 13,
    "far_return": 7,
    "load_data_segment": 4,
    "divide_by_zero": 2,
    "trap_flag": 10,
    "lgdt": 0,
    "lidt": 0,
    "lldt": 0,
    "ltr": 0,
    "mov_to_cr0": 2,
    "mov_to_cr3": 5,
    "mov_from_cr3": 0,
    "mov_to_cr4": 5,
    "mov_to_dr7": 5,
    "clts": 0,
    "lmsw": 0,
    "wrmsr": 9,
    "rdmsr": 5,
    "rdpmc": 2,
    "invlpg": 0,
    "wbinvd": 0,
    "swapgs": 0,
    "xsetbv": 9,
    "out_post": 0,
    "out_keyboard_reset": 2,
    "out_next_to_exit": 0,
    "out_below_notify": 0,
    "out_above_serial": 4,
    "out_beyond_bitmap": 4,
    "out_pci": 4,
    "out_last_port": 4,
    "outs_closed": 12,
    "out16_exit": 0,
    "out16_notify": 0,
    "out16_serial": 4,
    "out16_below_serial": 4,
    "out32_exit": 0,
    "out32_below_exit": 0,
    "out32_serial": 4,
    "in_keyboard": 0,
}

IN = r"the guest used port {} against the rules at 0x190[0-9a-f]+ \({}:rogue\+0x[0-9a-f]+\)"
NO_RESULT = "the guest ended without a result"
OUTSIDE = "the guest reports success, yet wrote nothing or outside the header"
FIELD = "the guest changes a header field that it must not change"
EXTENSION = "the guest changes, adds or drops a header extension"
NAME = "the guest changes the backing file name"
ORDER = "the guest's phases are not slack, then the switch"
MISREPORTED = "the guest reports another version or feature word than it wrote"
BAD_RESULT = "a result with a bad magic, format or reserved field"
WINDOW = "buffer of {} bytes at {} is not in the DMA window"

# Payload: the message as a regular expression.
OTHERS = {
    "stack_overflow": r"the guest faulted at .*:rogue\+0x0\), last page fault at 0xaff8",
    "stack_underflow": r"the guest faulted at .*:rogue\+0x0\), last page fault at 0xf000",
    "execute_data": r"the guest faulted at (0x1[a-f]...) \(no function\), last page fault at \1",
    "syscall": r"the guest faulted at .*, last page fault at 0x0",
    # Traps, which some kernels report with the next instruction's address.
    "int1": r"the guest faulted at .* \(int1:rogue\+0x[01]\), last page fault at 0x0",
    "int3": r"the guest faulted at .* \(int3:rogue\+0x[01]\), last page fault at 0x0",
    "writes_then_fault": r"the guest faulted at .* \(writes_then_fault:operation_start\+.*",
    "null_frame": r"the guest faulted at .* \(core:\w+\+0x[0-9a-f]+\), last page fault at 0x0",
    "in_exit": IN.format("0xf4", "in_exit"),
    "in_notify": IN.format("0xe0", "in_notify"),
    "in_serial": IN.format("0x3f8", "in_serial"),
    "ins_serial": IN.format("0x3f8", "ins_serial"),
    "unknown_queue": "the guest wrote 03 to port 0xe0",
    # Budgets
    "endless_loop": r"the sandbox did not finish within 0\.2 s, and nothing was .* --timeout",
    "writes_then_hang": r"the sandbox did not finish within 0\.2 s, and nothing was .* --timeout",
    "scattered_backwards": r"the sandbox did not finish within 0\.2 s, and nothing .* --timeout",
    "endless_requests": "the guest stopped for the host 500 times",
    "text_flood": "more than 4096 bytes of text",
    "frame_flood": "more than 1048576 bytes of frames",
    "too_many_reads": "more than [0-9]+ bytes read",
    "too_many_writes": "more sectors written than any amend of this image needs",
    # Ends
    "exit_code": "the guest gave up with code 7",
    "executor_panic": "the guest gave up with code 2",
    "executor_panic_of_many": "the guest gave up with code 2",
    "exit_without_result": NO_RESULT,
    "writes_then_exit": NO_RESULT,
    "text_as_result": NO_RESULT,
    "partial_frame": NO_RESULT,
    # Frames
    "result_twice": "bytes after the result",
    "bytes_after_result": "bytes after the result",
    "bad_frame_magic": "frame with magic 0x12345678 and length 0",
    "bad_frame_length": "frame with magic 0x52464e49 and length 4294967295",
    "bad_frame_crc": "frame with a bad CRC",
    "bad_frame_type": "frame of type 99 with 5 bytes",
    "short_result": "frame of type 1 with 63 bytes",
    "bad_result_magic": BAD_RESULT,
    "bad_result_reserved": BAD_RESULT,
    "bad_result_action": "a result with action 2",
    "contradictory_result": "a result that contradicts itself",
    "error_without_refusals": "a result with error 8 and 0 refusals",
    "refusal_count_mismatch": "a result with error 8 and 3 refusals",
    "refusals_without_error": "a result with error 0 and 2 refusals",
    "refusals_twice": "frame of type 2 with 32 bytes",
    "partial_refusal": "refusals of 48 bytes",
    "unknown_reason": "the guest refuses with reason 1000 and error 8",
    "unknown_error_code": "the guest refuses with reason 8 and error 0",
    # Lies
    "success_without_writes": OUTSIDE,
    "write_outside_header": OUTSIDE,
    "noop_with_writes": "the guest reports a no-op, yet wrote",
    "noop_unsatisfied": "the guest reports a no-op, yet the image is not as asked",
    "changed_virtual_size": FIELD,
    "changed_l1_table": FIELD,
    "changed_refcount_table": FIELD,
    "changed_snapshots": FIELD,
    "wrong_feature_word": FIELD,
    "wrong_version": FIELD,
    "changed_backing_name": NAME,
    "dropped_backing_name": NAME,
    "changed_backing_format": EXTENSION,
    "added_data_file": EXTENSION,
    "dropped_extension": EXTENSION,
    "unknown_field": "the guest sets header fields that nobody asked for",
    "malformed_header": r"the guest accepted or made a malformed header: version, .*",
    "misreported_version": MISREPORTED,
    "misreported_word": MISREPORTED,
    "misreported_atomic": "the guest's switch is not the one it reports",
    "slack_in_another_phase": ORDER,
    "toggle_with_zeroes": OUTSIDE,
    "toggle_with_slack": ORDER,
    "zeroes_twice": "sector 128 is to be zeroed twice",
    "switch_of_two_sectors": "the guest writes sector 1 in phase 3 for nothing",
    "another_header_first": "the guest changes the old header before the switch",
    "noop_dirty": "the guest amends an image whose features forbid it",
    "noop_not_atomic": "the guest's switch is not the one it reports",
    "names_without_refusals": "bitmap names without a refusal",
    "sector_0_first": ORDER,
    "toggle_with_more": "the guest fills sector 0 with what nobody names",
    "upgrade_with_more": "the guest fills sector 0 with what nobody names",
    "upgrade_by_two_sectors": "the guest switches by several sectors, where one would do",
    "downgrade_of_the_header_alone": "the guest leaves zero clusters in the L2 table at 0x.*",
    "early_change": "the guest changes the old header before the switch",
    # Options
    "options_missing": r"a result with the options \[\]",
    "options_of_one": r"a result with the options \[1\]",
    "options_twice": r"frame of type 6 with \d+ bytes",
    "options_duplicate_key": "option 1 of kind 2 out of turn, or unknown",
    "options_out_of_order": "option 1 of kind 2 out of turn, or unknown",
    "options_unknown_key": r"option \d+ of kind 1 out of turn, or unknown",
    "options_unknown_kind": "option 2 of kind 4 out of turn, or unknown",
    "options_another_kind": "option 1 of kind 3 out of turn, or unknown",
    "options_flag_of_two": "option 2 with 8 bytes of value 0x2",
    "options_contradiction": "a result that contradicts its options",
    "options_partial_head": "option records of 20 bytes",
    "options_short_number": "option 1 with 4 bytes of value 0x3",
    "options_beyond_frame": "option 1 with 16 bytes of value 0x3",
    "options_endless_string": "option 1 of kind 3 out of turn, or unknown",
    "options_dirty_padding": "option 1 with 4 bytes of value 0x100000003",
    "options_with_refusals": "options with a refusal",
    # Queues
    "descriptor_loop": "descriptor chain loops",
    "descriptor_out_of_range": "descriptor index 128 in a queue of 128",
    "indirect_descriptor": "descriptor flags 0x4",
    "read_over_page_tables": WINDOW.format(512, "0x2000"),
    "read_over_text": WINDOW.format(512, "0x11000"),
    "write_from_page_tables": WINDOW.format(512, "0x2000"),
    "transmit_secret": WINDOW.format(64, "0x11000"),
    "buffer_wraps": WINDOW.format(262144, "0xfffffffffffffe00"),
    "sector_beyond_end": r"block request for sector 1099511627776 of \d+",
    "sector_wraps": r"block request for sector 18446744073709551615 of \d+",
    "unknown_request": "block request of type 4",
    "unknown_phase": "block request to write in phase 6",
    "unmapping_zeroes": "block request to zero 1 sectors with flags 0x1",
    "toggle_that_grows": r"block request for sector 32768 of \d+",
    "doorbell_without_requests": "doorbell with 0 new chains in a queue of 128",
    "both_without_requests": "doorbell with 0 new chains in a queue of 128",
    "both_without_a_frame": "doorbell with 0 new chains in a queue of 4",
    "doorbell_index_jump": "doorbell with 129 new chains in a queue of 128",
}

EXPECTED = {
    **{
        name: (
            rf"the guest faulted at 0x[0-9a-f]+ \({name}:rogue\+{AFTER_ADDRESS:#x}\), "
            f"last page fault at {address:#x}"
        )
        for name, address in PAGE_FAULTS.items()
    },
    **{
        name: rf"the guest faulted at {place:#x} \(no function\), last page fault at {place:#x}"
        for name, place in EXECUTIONS.items()
    },
    **{
        name: (
            rf"the guest faulted at 0x[0-9a-f]+ \({name}:rogue\+{offset:#x}\), "
            "last page fault at 0x[0-9a-f]+"
        )
        for name, offset in FAULTS.items()
    },
    **OTHERS,
}

# What a payload is run on, where it is not a toggle of lazy refcounts.
SETS: dict[str, Set] = {
    "dropped_backing_name": UPGRADED,
    "changed_backing_format": UPGRADED,
    "added_data_file": UPGRADED,
    "dropped_extension": UPGRADED,
    "unknown_field": UPGRADED,
    "upgrade_with_more": UPGRADED,
    "upgrade_by_two_sectors": UPGRADED,
    "downgrade_of_the_header_alone": Set(Image(clusters={3: Zero()}), {"compat": "0.10"}),
    "early_change": LARGE,
    "noop_dirty": Set(Image(dirty=True), UPGRADE),
    "noop_not_atomic": Set(Image(), UPGRADE),
}

NO_ROGUES = {"honest", "keys", "liars", "looks", "probes", "repair", "traces"}
"""Folders of payloads that other tests run."""

# What makes a test of a limit short: the timeout, or a budget and the module that has it.
TIMEOUTS = {"endless_loop": 0.2, "writes_then_hang": 0.2, "scattered_backwards": 0.2}
BUDGETS = {
    "endless_requests": (machine, "EXIT_BUDGET", 500),
    "too_many_reads": (budgets, "WORK_MIN", 0),
}


def test_every_payload_has_an_expectation_and_every_expectation_a_payload() -> None:
    rogues = [path.stem for path in FOLDER.rglob("*.c") if path.parent.name not in NO_ROGUES]
    assert sorted(EXPECTED) == sorted(rogues)
    assert len(EXPECTED) == len(PAGE_FAULTS) + len(EXECUTIONS) + len(FAULTS) + len(OTHERS)


def test_every_exception_is_of_a_payload() -> None:
    assert {*SETS, *TIMEOUTS, *BUDGETS} <= set(EXPECTED)


@pytest.mark.kvm
@pytest.mark.any_python
@pytest.mark.parametrize("name", EXPECTED)
def test_a_rogue_payload_is_a_guest_fault_and_the_image_is_untouched(
    rogues: Rogues, path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    if name in BUDGETS:
        module, budget, value = BUDGETS[name]
        monkeypatch.setattr(module, budget, value)
    options: dict[str, Any] = {"timeout": TIMEOUTS[name]} if name in TIMEOUTS else {}
    error = rogues.run(name, path, SETS.get(name, TOGGLED), **options)
    assert type(error) is GuestFault
    message = str(error)
    assert message.isprintable()
    if message.startswith("the guest faulted"):
        assert re.fullmatch(f"{EXPECTED[name]}|the guest faulted {FORGOTTEN}", message), message
    else:
        assert re.fullmatch(EXPECTED[name], message), message
