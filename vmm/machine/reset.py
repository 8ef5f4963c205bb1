"""Host side: a machine before its first instruction, and the way back to it.

What a guest can touch is its memory, the registers of its vCPU, and the exit that it last caused,
which KVM completes at the next entry. All of that goes back, whether or not a guest in ring 3 could
have changed it: one image must leave nothing behind that the next one's guest can read. Only MSRs
that no guest can write in any ring are left as they are, and XCR0, which has but one value.
"""

from __future__ import annotations

from instar.abi import INSTAR_DMA_ADDR

from ..devices.memory import PAGE_SIZE
from ..kvm.state import write_state

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ..devices.memory import GuestMemory
    from ..kvm.vcpu import Vcpu

# Every run uses what lies below the end of the operation's image, and many the DMA window as far as
# the planner's copy of a table that was read ahead. That is written anew, as is the window up to
# where data was read to, for the next image may well need as much. The pages of the rest go back to
# the kernel, which gives zeroed ones when they are touched next: each costs the guest a fault, but
# writing all of the memory takes longer.
_OFTEN_USED = 0x44000
_WRITTEN_MAX = 0x80000


class Snapshot:
    """The state of one machine, to go back to; to be taken before its guest ever runs."""

    def __init__(
        self, memory: GuestMemory, code_end: int, vcpu: Vcpu, registers: dict[str, bytearray]
    ) -> None:
        """Copy the memory; `registers` are what write_state() takes.

        From `code_end` on, the end of the operation's image, memory is zero.
        """
        self._memory = memory
        self._vcpu = vcpu
        self._low = memory.read(0, code_end)
        self._zeros = memoryview(bytes(_WRITTEN_MAX))
        self._registers = registers

    def restore(self, filled_to: int) -> None:
        """Make the machine what it was. OSError from KVM, after which it must not run again.

        `filled_to` is the guest address up to which the run read data; any number will do.
        """
        # Without this, KVM would finish the last OUT at the next entry, on the new registers.
        self._vcpu.run_immediate_exit()
        write_state(self._vcpu, self._registers)
        memory, start = self._memory, len(self._low)
        pages = -(-(filled_to - INSTAR_DMA_ADDR) // PAGE_SIZE)
        used = max(_OFTEN_USED, min(pages * PAGE_SIZE, _WRITTEN_MAX))
        memory.write(0, self._low)
        memory.discard(start, INSTAR_DMA_ADDR - start)
        memory.write(INSTAR_DMA_ADDR, self._zeros[:used])
        end = INSTAR_DMA_ADDR + used
        memory.discard(end, memory.size - end)
