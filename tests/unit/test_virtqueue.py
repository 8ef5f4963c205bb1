"""Test side: a virtqueue yields well-formed chains, and takes everything else for a guest fault."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from instar.vmm.base.errors import GuestFault
from instar.vmm.devices.memory import GuestMemory
from instar.vmm.devices.virtqueue import Buffer, Virtqueue
from tests.support.driver import DMA, DMA_END, INDIRECT, NEXT, WRITE, Driver

SIZE = 8
PARTS = (SIZE, 0x1000, 0x2000, 0x3000)
"""A queue of eight at addresses of its own: nothing may depend on those of the ABI."""


@pytest.fixture
def memory() -> Iterator[GuestMemory]:
    memory = GuestMemory(DMA_END)
    yield memory
    memory.close()


@pytest.fixture
def driver(memory: GuestMemory) -> Driver:
    return Driver(memory, *PARTS)


@pytest.fixture
def queue(memory: GuestMemory) -> Virtqueue:
    return Virtqueue(memory, *PARTS)


def take(queue: Virtqueue) -> list[tuple[int, list[Buffer]]]:
    """Pop all chains, and push each as a device does."""
    taken = []
    for head, buffers in queue.pop():
        taken.append((head, buffers))
        queue.push(head, 100 + head)
    return taken


def fault_of(queue: Virtqueue) -> str:
    """The message of the fault that the ring is."""
    with pytest.raises(GuestFault) as caught:
        list(queue.pop())
    return str(caught.value)


class TestGoodRings:
    def test_a_chain_comes_with_its_buffers_in_order(
        self, driver: Driver, queue: Virtqueue
    ) -> None:
        driver.chain((DMA, 16, 0), (DMA + 512, 512, WRITE), (DMA + 16, 1, WRITE), first=3)
        driver.offer(3)
        buffers = [
            (DMA, 16, False),
            (DMA + 512, 512, True),
            (DMA + 16, 1, True),
        ]
        assert take(queue) == [(3, buffers)]

    def test_descriptors_may_be_linked_in_any_order(self, driver: Driver, queue: Virtqueue) -> None:
        driver.describe(7, DMA, 1, NEXT, 0)
        driver.describe(0, DMA + 1, 2, NEXT, 4)
        driver.describe(4, DMA + 2, 3, 0, 0xFFFF)
        driver.offer(7)
        assert [size for _, size, _ in take(queue)[0][1]] == [1, 2, 3]

    def test_chains_come_in_the_order_in_which_they_were_offered(
        self, driver: Driver, queue: Virtqueue
    ) -> None:
        for slot in (1, 5, 2):
            driver.describe(slot, DMA, slot)
        driver.offer(5, 1, 2)
        assert [head for head, _ in take(queue)] == [5, 1, 2]

    def test_each_chain_comes_once(self, driver: Driver, queue: Virtqueue) -> None:
        driver.describe(1, DMA, 1)
        driver.describe(2, DMA, 1)
        driver.offer(1)
        assert [head for head, _ in take(queue)] == [1]
        driver.offer(2)
        assert [head for head, _ in take(queue)] == [2]

    def test_a_full_ring_is_taken(self, driver: Driver, queue: Virtqueue) -> None:
        for slot in range(SIZE):
            driver.describe(slot, DMA, 1)
        driver.offer(*range(SIZE))
        assert len(take(queue)) == SIZE

    def test_a_chain_may_have_all_descriptors(self, driver: Driver, queue: Virtqueue) -> None:
        driver.chain(*[(DMA, 1, 0)] * SIZE)
        driver.offer(0)
        assert len(take(queue)[0][1]) == SIZE

    def test_the_whole_window_may_be_one_buffer(self, driver: Driver, queue: Virtqueue) -> None:
        driver.describe(0, DMA, DMA_END - DMA, WRITE)
        driver.offer(0)
        assert take(queue) == [(0, [(DMA, DMA_END - DMA, True)])]

    def test_used_chains_are_returned_with_what_was_written(
        self, driver: Driver, queue: Virtqueue
    ) -> None:
        for slot in (4, 6):
            driver.describe(slot, DMA, 1)
        driver.offer(4, 6)
        take(queue)
        assert driver.used_index() == 2
        assert [driver.used(number) for number in range(2)] == [(4, 104), (6, 106)]

    def test_the_indices_wrap_at_2_to_the_16(self, driver: Driver, queue: Virtqueue) -> None:
        driver.describe(3, DMA, 1)
        for number in range(0x10000 // SIZE + 1):
            driver.offer(*[3] * SIZE)
            assert len(take(queue)) == SIZE
            assert driver.used_index() == (number + 1) * SIZE & 0xFFFF
        assert driver.used_index() == SIZE

    def test_nothing_is_looked_at_before_the_chain_is_asked_for(
        self, driver: Driver, queue: Virtqueue
    ) -> None:
        driver.describe(0, DMA, 1)
        driver.describe(1, DMA, 0)
        driver.offer(0, 1)
        chains = queue.pop()
        assert next(chains)[0] == 0
        with pytest.raises(GuestFault):
            next(chains)


class TestBadRings:
    def test_a_doorbell_without_chains(self, queue: Virtqueue) -> None:
        assert fault_of(queue) == "doorbell with 0 new chains in a queue of 8"

    @pytest.mark.parametrize("index", [SIZE + 1, 0x7FFF, 0xFFFF])
    def test_more_chains_than_the_queue_holds(
        self, driver: Driver, queue: Virtqueue, index: int
    ) -> None:
        driver.set_index(index)
        assert fault_of(queue) == f"doorbell with {index} new chains in a queue of 8"

    def test_an_index_that_goes_back(self, driver: Driver, queue: Virtqueue) -> None:
        driver.describe(0, DMA, 1)
        driver.offer(0, 0)
        take(queue)
        driver.set_index(1)
        assert fault_of(queue) == "doorbell with 65535 new chains in a queue of 8"

    @pytest.mark.parametrize("head", [SIZE, SIZE + 1, 0xFFFF])
    def test_a_head_that_is_no_descriptor(
        self, driver: Driver, queue: Virtqueue, head: int
    ) -> None:
        driver.offer(head)
        assert fault_of(queue) == f"descriptor index {head} in a queue of 8"

    @pytest.mark.parametrize("after", [SIZE, 0x8000, 0xFFFF])
    def test_a_next_that_is_no_descriptor(
        self, driver: Driver, queue: Virtqueue, after: int
    ) -> None:
        driver.describe(0, DMA, 1, NEXT, after)
        driver.offer(0)
        assert fault_of(queue) == f"descriptor index {after} in a queue of 8"

    @pytest.mark.parametrize("length", [1, 2, 3, SIZE])
    def test_a_chain_that_loops(self, driver: Driver, queue: Virtqueue, length: int) -> None:
        for slot in range(length):
            driver.describe(slot, DMA, 1, NEXT, (slot + 1) % length)
        driver.offer(0)
        assert fault_of(queue) == "descriptor chain loops"

    @pytest.mark.parametrize("flags", [INDIRECT, 8, 0x8000, 0xFFFC, INDIRECT | NEXT | WRITE])
    def test_flags_that_were_not_agreed(self, driver: Driver, queue: Virtqueue, flags: int) -> None:
        driver.describe(0, DMA, 16, flags)
        driver.offer(0)
        assert fault_of(queue) == f"descriptor flags {flags:#x}"

    @pytest.mark.parametrize(
        ("address", "size"),
        [
            (DMA - 1, 1),
            (DMA - 1, 2),
            (DMA_END, 1),
            (DMA_END - 1, 2),
            (DMA, DMA_END - DMA + 1),
            (0, 1),
            (0, 0xFFFFFFFF),
            (0x10000, 512),
            (DMA - 512, 512),
            (DMA, 0xFFFFFFFF),
            ((1 << 64) - 1, 1),
            ((1 << 64) - 1, 0xFFFFFFFF),
            ((1 << 64) - 512, 0x40000),
            ((1 << 63) + DMA, 512),
            ((1 << 32) + DMA, 512),
        ],
    )
    def test_a_buffer_outside_the_window(
        self, driver: Driver, queue: Virtqueue, address: int, size: int
    ) -> None:
        driver.describe(0, address, size)
        driver.offer(0)
        expected = f"buffer of {size} bytes at {address:#x} is not in the DMA window"
        assert fault_of(queue) == expected

    @pytest.mark.parametrize("address", [DMA, DMA_END - 1, DMA_END])
    def test_an_empty_buffer(self, driver: Driver, queue: Virtqueue, address: int) -> None:
        driver.describe(0, address, 0)
        driver.offer(0)
        assert "buffer of 0 bytes" in fault_of(queue)

    def test_a_bad_buffer_anywhere_in_the_chain(self, driver: Driver, queue: Virtqueue) -> None:
        driver.chain((DMA, 1, 0), (DMA, 1, 0), (DMA_END, 1, 0))
        driver.offer(0)
        assert "is not in the DMA window" in fault_of(queue)

    @pytest.mark.parametrize("part", range(3))
    def test_a_ring_that_is_not_in_memory(self, memory: GuestMemory, part: int) -> None:
        places = [0x1000, 0x2000, 0x3000]
        driver = Driver(memory, SIZE, *places)
        driver.describe(0, DMA, 1)
        driver.offer(0)
        places[part] = DMA_END if part != 1 else DMA_END - 2
        with pytest.raises(GuestFault, match="are not guest memory"):
            take(Virtqueue(memory, SIZE, *places))


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=16 * SIZE), st.binary(max_size=4 + 2 * SIZE), st.integers(1, 4))
def test_any_rings_give_chains_in_the_window_or_a_fault(
    descriptors: bytes, available: bytes, doorbells: int
) -> None:
    memory = GuestMemory(DMA_END)
    memory.write(PARTS[1], descriptors)
    memory.write(PARTS[2], available)
    queue = Virtqueue(memory, *PARTS)
    try:
        for _ in range(doorbells):
            for head, buffers in take(queue):
                assert 0 <= head < SIZE
                assert 1 <= len(buffers) <= SIZE
                assert all(DMA <= at < at + size <= DMA_END for at, size, _ in buffers)
    except GuestFault:
        pass
    finally:
        memory.close()


@settings(max_examples=100, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.integers(DMA - 2, DMA + 2) | st.integers(DMA_END - 2, DMA_END + 2),
            st.integers(0, 3),
            st.sampled_from([0, NEXT, WRITE, NEXT | WRITE, INDIRECT]),
            st.integers(0, SIZE),
        ),
        min_size=SIZE,
        max_size=SIZE,
    ),
    st.integers(0, SIZE),
)
def test_nearly_good_rings_give_chains_in_the_window_or_a_fault(
    descriptors: list[tuple[int, int, int, int]], head: int
) -> None:
    memory = GuestMemory(DMA_END)
    driver = Driver(memory, *PARTS)
    for slot, descriptor in enumerate(descriptors):
        driver.describe(slot, *descriptor)
    driver.offer(head)
    try:
        ((taken, buffers),) = take(Virtqueue(memory, *PARTS))
        assert taken == head
        assert all(size and DMA <= at <= DMA_END - size for at, size, _ in buffers)
    except GuestFault:
        pass
    finally:
        memory.close()
