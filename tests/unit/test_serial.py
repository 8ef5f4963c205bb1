"""Test side: the serial port hands on whole frames, and takes all else for a guest fault."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from instar import abi
from instar.vmm.base.errors import GuestFault
from instar.vmm.devices.memory import GuestMemory
from instar.vmm.devices.serial import SerialPort
from tests.support.driver import DMA, WRITE, Driver, frame

FRAME_BUDGET, TEXT_BUDGET = 1 << 20, 4096
RESULT, PROGRESS = abi.FRAME_RESULT, abi.FRAME_PROGRESS
FRAMES = [(PROGRESS, b"a"), (77, b""), (abi.FRAME_REFUSALS, b"r" * 33), (RESULT, b"end")]


class Machine:
    """A port, its driver and what it received."""

    def __init__(self, memory: GuestMemory) -> None:
        self.memory = memory
        self.received: list[tuple[int, bytes]] = []
        self.port = SerialPort(memory, self.receive)
        self.driver = Driver.transmit(memory)

    def receive(self, kind: int, payload: bytes) -> None:
        self.received.append((kind, payload))

    def send(self, *parts: bytes, flags: int = 0) -> None:
        """Send one chain of buffers with one doorbell."""
        buffers = []
        at = DMA
        for part in parts:
            self.memory.write(at, part)
            buffers.append((at, len(part), flags))
            at += len(part)
        self.driver.offer(self.driver.chain(*buffers))
        self.port.notify()


@pytest.fixture
def memory() -> Iterator[GuestMemory]:
    memory = GuestMemory(abi.INSTAR_RAM_SIZE)
    yield memory
    memory.close()


@pytest.fixture
def machine(memory: GuestMemory) -> Machine:
    return Machine(memory)


class TestFrames:
    def test_a_frame_is_handed_on(self, machine: Machine) -> None:
        machine.send(frame(PROGRESS, b"payload"))
        assert machine.received == [(PROGRESS, b"payload")]
        assert (machine.driver.used_index(), machine.driver.used(0)) == (1, (0, 0))

    def test_the_largest_frame_is_handed_on(self, machine: Machine) -> None:
        machine.send(frame(PROGRESS, b"x" * abi.FRAME_PAYLOAD_MAX))
        assert machine.received == [(PROGRESS, b"x" * abi.FRAME_PAYLOAD_MAX)]

    def test_frames_of_one_buffer_come_in_order(self, machine: Machine) -> None:
        machine.send(b"".join(frame(*each) for each in FRAMES))
        assert machine.received == FRAMES
        machine.port.check_ended()

    def test_a_frame_may_come_in_pieces_of_one_chain(self, machine: Machine) -> None:
        whole = frame(RESULT, b"payload")
        machine.send(whole[:1], whole[1:15], whole[15:])
        assert machine.received == [(RESULT, b"payload")]

    def test_a_frame_may_come_a_byte_at_a_time(self, machine: Machine) -> None:
        whole = frame(PROGRESS, b"payload") + frame(RESULT, b"")
        for byte in whole[:-1]:
            machine.send(bytes([byte]))
        assert machine.received == [(PROGRESS, b"payload")]
        machine.send(whole[-1:])
        assert machine.received == [(PROGRESS, b"payload"), (RESULT, b"")]
        machine.port.check_ended()

    @pytest.mark.parametrize("cut", range(1, 40))
    def test_a_frame_may_be_cut_anywhere(self, machine: Machine, cut: int) -> None:
        whole = frame(PROGRESS, b"ab") + frame(RESULT, b"cdef")
        assert len(whole) > 35
        machine.send(whole[:cut])
        if cut < len(whole):
            machine.send(whole[cut:])
        assert machine.received == [(PROGRESS, b"ab"), (RESULT, b"cdef")]

    def test_several_chains_may_come_with_one_doorbell(self, machine: Machine) -> None:
        first, second = frame(PROGRESS, b"a"), frame(RESULT, b"b")
        machine.memory.write(DMA, first + second)
        machine.driver.describe(1, DMA + len(first), len(second))
        machine.driver.describe(2, DMA, len(first))
        machine.driver.offer(2, 1)
        machine.port.notify()
        assert machine.received == [(PROGRESS, b"a"), (RESULT, b"b")]


class TestBadFrames:
    @pytest.mark.parametrize("magic", [0, abi.FRAME_MAGIC ^ 1, 0xFFFFFFFF])
    def test_another_magic(self, machine: Machine, magic: int) -> None:
        with pytest.raises(GuestFault, match=f"^frame with magic {magic:#x} and length 1$"):
            machine.send(frame(RESULT, b"x", magic=magic))

    @pytest.mark.parametrize("length", [abi.FRAME_PAYLOAD_MAX + 1, 1 << 31, 0xFFFFFFFF])
    def test_a_length_over_the_limit(self, machine: Machine, length: int) -> None:
        with pytest.raises(GuestFault, match=f"and length {length}$"):
            machine.send(frame(RESULT, b"x", length=length))

    @pytest.mark.parametrize("crc", [0, 0xFFFFFFFF])
    def test_another_crc(self, machine: Machine, crc: int) -> None:
        with pytest.raises(GuestFault, match=r"^frame with a bad CRC$"):
            machine.send(frame(RESULT, b"x", crc=crc))

    @pytest.mark.parametrize("position", range(4, 18))
    def test_a_flipped_bit_behind_the_magic(self, machine: Machine, position: int) -> None:
        raw = bytearray(frame(RESULT, b"xy") + bytes(600))
        raw[position] ^= 1
        with pytest.raises(GuestFault, match="frame with"):
            machine.send(bytes(raw))

    def test_nothing_of_a_bad_frame_is_handed_on(self, machine: Machine) -> None:
        with pytest.raises(GuestFault):
            machine.send(frame(PROGRESS, b"good") + frame(RESULT, b"bad", crc=1))
        assert machine.received == [(PROGRESS, b"good")]
        assert not machine.port.finished

    def test_a_buffer_over_the_limit(self, machine: Machine) -> None:
        with pytest.raises(GuestFault, match=r"^transmit buffer too large or writable$"):
            machine.send(bytes(abi.INSTAR_TRANSMIT_MAX + 1))

    def test_buffers_that_together_are_over_the_limit(self, machine: Machine) -> None:
        with pytest.raises(GuestFault, match="too large"):
            machine.send(bytes(abi.INSTAR_TRANSMIT_MAX - 1), b"ab")

    def test_a_buffer_for_the_device_to_write(self, machine: Machine) -> None:
        with pytest.raises(GuestFault, match="or writable"):
            machine.send(frame(RESULT, b""), flags=WRITE)

    def test_a_doorbell_without_buffers(self, machine: Machine) -> None:
        with pytest.raises(GuestFault, match="doorbell with 0 new chains in a queue of 4"):
            machine.port.notify()

    def test_a_buffer_outside_the_window(self, machine: Machine) -> None:
        machine.driver.describe(0, abi.INSTAR_CORE_ADDR, 16)
        machine.driver.offer(0)
        with pytest.raises(GuestFault, match="not in the DMA window"):
            machine.port.notify()

    def test_frames_end_at_the_budget(self, machine: Machine) -> None:
        filler = frame(PROGRESS, b"p" * 2032) * 2
        assert len(filler) == abi.INSTAR_TRANSMIT_MAX
        for _ in range(FRAME_BUDGET // len(filler)):
            machine.send(filler)
        with pytest.raises(GuestFault, match=f"^more than {FRAME_BUDGET} bytes of frames$"):
            machine.send(b"x")


class TestTheEnd:
    @pytest.mark.parametrize("more", [b"\0", frame(RESULT, b""), frame(PROGRESS, b"p")])
    def test_nothing_may_follow_the_result(self, machine: Machine, more: bytes) -> None:
        machine.send(frame(RESULT, b"r"))
        with pytest.raises(GuestFault, match=r"^bytes after the result$"):
            machine.send(more)
        assert machine.received == [(RESULT, b"r")]

    def test_nothing_may_follow_the_result_in_the_same_buffer(self, machine: Machine) -> None:
        with pytest.raises(GuestFault, match=r"^bytes after the result$"):
            machine.send(frame(RESULT, b"r") + b"\0")

    def test_silence_is_no_end(self, machine: Machine) -> None:
        with pytest.raises(GuestFault, match=r"^the guest ended without a result$"):
            machine.port.check_ended()

    def test_another_frame_is_no_end(self, machine: Machine) -> None:
        machine.send(frame(PROGRESS, b""))
        with pytest.raises(GuestFault, match="without a result"):
            machine.port.check_ended()

    @pytest.mark.parametrize("cut", range(1, 19))
    def test_a_part_of_the_result_is_no_end(self, machine: Machine, cut: int) -> None:
        machine.send(frame(RESULT, b"abc")[:cut])
        with pytest.raises(GuestFault, match="without a result"):
            machine.port.check_ended()


class TestText:
    def test_text_is_collected(self, machine: Machine) -> None:
        for byte in b"hello":
            machine.port.write_register(bytes([byte]))
        assert machine.port.text == b"hello"

    def test_text_is_no_frame(self, machine: Machine) -> None:
        machine.port.write_register(frame(RESULT, b""))
        assert machine.received == []
        with pytest.raises(GuestFault, match="without a result"):
            machine.port.check_ended()

    def test_the_budget_can_be_used_up(self, machine: Machine) -> None:
        machine.port.write_register(b"x" * TEXT_BUDGET)
        assert len(machine.port.text) == TEXT_BUDGET

    def test_a_byte_beyond_the_budget_is_a_fault(self, machine: Machine) -> None:
        machine.port.write_register(b"x" * TEXT_BUDGET)
        with pytest.raises(GuestFault, match=f"^more than {TEXT_BUDGET} bytes of text$"):
            machine.port.write_register(b"x")

    def test_text_may_come_after_the_result(self, machine: Machine) -> None:
        machine.send(frame(RESULT, b""))
        machine.port.write_register(b"bye")
        machine.port.check_ended()


@settings(max_examples=80, deadline=None)
@given(
    st.lists(
        st.binary(max_size=64).map(lambda data: frame(PROGRESS, data))
        | st.binary(min_size=1, max_size=64)
        | st.just(frame(RESULT, b"")),
        max_size=4,
    ).map(b"".join),
    st.integers(1, 100),
)
def test_any_bytes_in_any_pieces_are_frames_or_a_fault(stream: bytes, size: int) -> None:
    memory = GuestMemory(abi.INSTAR_RAM_SIZE)
    machine = Machine(memory)
    try:
        for at in range(0, len(stream), size):
            machine.send(stream[at : at + size])
        machine.port.check_ended()
        assert stream == b"".join(frame(*each) for each in machine.received)
    except GuestFault:
        pass
    finally:
        memory.close()


@settings(max_examples=60, deadline=None)
@given(st.binary(max_size=64), st.binary(max_size=12), st.binary(max_size=64))
def test_any_memory_is_frames_or_a_fault(
    descriptors: bytes, available: bytes, window: bytes
) -> None:
    memory = GuestMemory(abi.INSTAR_RAM_SIZE)
    memory.write(abi.INSTAR_TRANSMIT_DESC_ADDR, descriptors)
    memory.write(abi.INSTAR_TRANSMIT_AVAIL_ADDR, available)
    memory.write(DMA, window)
    try:
        Machine(memory).port.notify()
    except GuestFault:
        pass
    finally:
        memory.close()
