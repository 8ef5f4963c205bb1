"""Test side: what is staged, sector by sector, whatever it is kept in."""

from __future__ import annotations

from instar.abi import INSTAR_PHASE_COUNT
from instar.vmm.image.staging import SECTOR_SIZE, StagedWrites


def sectors(staged: StagedWrites, phase: int) -> dict[int, bytes]:
    """What a phase writes."""
    return {
        first + n: bytes(data[n * SECTOR_SIZE :][:SECTOR_SIZE])
        for first, data in staged.extents(phase)
        for n in range(len(data) // SECTOR_SIZE)
    }


def all_sectors(staged: StagedWrites) -> list[dict[int, bytes]]:
    """The same for each phase."""
    return [sectors(staged, phase) for phase in range(INSTAR_PHASE_COUNT)]
