"""Host side: a machine before its first instruction, and the way back to it.

What a guest can touch is its memory, the registers of its vCPU, and the exit that it last caused,
which KVM completes at the next entry. All of that goes back, whether or not this guest could have
changed it: one image must leave nothing behind that the next one's guest can read.
"""

from __future__ import annotations

from instar.abi import INSTAR_DMA_ADDR
from instar.vmm.boot import system_address
from instar.vmm.kvm.state import read_state, write_state

TYPE_CHECKING = False
if TYPE_CHECKING:
    from instar.vmm.kvm.vcpu import Vcpu
    from instar.vmm.memory import GuestMemory

# Every run uses memory up to here, so it is written anew. What lies between it and the page tables
# only a scan uses: the kernel takes its pages back, and gives zeroed ones when they are touched
# next. Both take a few microseconds, where writing all of the memory takes fifty.
_OFTEN_USED = INSTAR_DMA_ADDR + 0x30000


class Snapshot:
    """The state of one machine, to go back to; to be taken before its guest ever runs."""

    def __init__(self, memory: GuestMemory, vcpu: Vcpu, xsave_size: int) -> None:
        """Copy memory and registers; `xsave_size` as read_state() wants it. OSError from KVM."""
        self._memory = memory
        self._vcpu = vcpu
        self._low = memory.read(0, _OFTEN_USED)
        self._tables = memory.read(system_address(), memory.size - system_address())
        self._registers = read_state(vcpu.fd, xsave_size)

    def restore(self) -> None:
        """Make the machine what it was. OSError from KVM, after which it must not run again."""
        # Without this, KVM would finish the last OUT at the next entry, on the new registers.
        self._vcpu.run_immediate_exit()
        write_state(self._vcpu.fd, self._registers)
        self._memory.write(0, self._low)
        self._memory.discard(_OFTEN_USED, system_address() - _OFTEN_USED)
        self._memory.write(system_address(), self._tables)
