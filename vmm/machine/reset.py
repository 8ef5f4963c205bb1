"""Host side: a machine before its first instruction, and the way back to it.

What a guest can touch is its memory, the registers of its vCPU, and the exit that it last caused,
which KVM completes at the next entry. All of that goes back, whether or not this guest could have
changed it: one image must leave nothing behind that the next one's guest can read.
"""

from __future__ import annotations

from instar.abi import INSTAR_DMA_ADDR

from ..kvm.state import read_state, write_state

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ..devices.memory import GuestMemory
    from ..kvm.vcpu import Vcpu

# Every run uses the start of the DMA window, and all that lies below the end of the operation's
# image: that is written anew. The pages of the rest go back to the kernel, which gives zeroed ones
# when they are touched next. Both take a few microseconds; writing all of the memory takes fifty.
_OFTEN_USED = 0x30000


class Snapshot:
    """The state of one machine, to go back to; to be taken before its guest ever runs."""

    def __init__(self, memory: GuestMemory, code_end: int, vcpu: Vcpu, xsave_size: int) -> None:
        """Copy memory and registers; `xsave_size` as read_state() wants it. OSError from KVM.

        From `code_end` on, the end of the operation's image, memory is zero.
        """
        self._memory = memory
        self._vcpu = vcpu
        self._low = memory.read(0, code_end)
        self._zeros = bytes(_OFTEN_USED)
        self._registers = read_state(vcpu.fd, xsave_size)

    def restore(self) -> None:
        """Make the machine what it was. OSError from KVM, after which it must not run again."""
        # Without this, KVM would finish the last OUT at the next entry, on the new registers.
        self._vcpu.run_immediate_exit()
        write_state(self._vcpu.fd, self._registers)
        memory, start, end = self._memory, len(self._low), INSTAR_DMA_ADDR + _OFTEN_USED
        memory.write(0, self._low)
        memory.discard(start, INSTAR_DMA_ADDR - start)
        memory.write(INSTAR_DMA_ADDR, self._zeros)
        memory.discard(end, memory.size - end)
