"""Host side: the guest's writes, kept from the image until they have been judged."""

from __future__ import annotations

from instar.vmm.errors import GuestFault

SECTOR_SIZE = 512

STAGED_SECTORS_MAX = 256
"""The budget: twice what a header's 64 KiB can take."""


class StagedWrites:
    """An overlay of sectors in phases; a flush by the guest ends a phase.

    `phases` maps, for each phase, a sector number to its 512 bytes. The last one may be empty.
    """

    def __init__(self) -> None:
        """Start with one empty phase."""
        self.phases: list[dict[int, bytes]] = [{}]
        self._count = 0

    def write(self, sector: int, data: bytes) -> None:
        """Stage whole sectors from `sector` on. GuestFault beyond the budget."""
        self._count += len(data) // SECTOR_SIZE
        if self._count > STAGED_SECTORS_MAX:
            raise GuestFault(f"more than {STAGED_SECTORS_MAX} sectors written")
        for at in range(0, len(data), SECTOR_SIZE):
            self.phases[-1][sector + at // SECTOR_SIZE] = data[at : at + SECTOR_SIZE]

    def flush(self) -> None:
        """Begin the next phase, unless the current one is still empty."""
        if self.phases[-1]:
            self.phases.append({})

    def sectors(self) -> dict[int, bytes]:
        """All staged sectors as a reader sees them."""
        return {number: data for phase in self.phases for number, data in phase.items()}

    def written_phases(self) -> list[dict[int, bytes]]:
        """The phases that write anything."""
        return [phase for phase in self.phases if phase]


def runs(phase: dict[int, bytes]) -> list[tuple[int, bytes]]:
    """Join a phase's sectors into (byte offset, data), ascending, one for each contiguous run."""
    joined: list[tuple[int, list[bytes]]] = []
    for sector in sorted(phase):
        if joined and joined[-1][0] + len(joined[-1][1]) == sector:
            joined[-1][1].append(phase[sector])
        else:
            joined.append((sector, [phase[sector]]))
    return [(sector * SECTOR_SIZE, b"".join(parts)) for sector, parts in joined]
