"""Host side: a LUKS region of an image: its header, its slots' areas, and who opens a slot."""

from __future__ import annotations

from hmac import compare_digest

from ..base.errors import ImageRejected
from ..base.luks_layout import DIGEST_SIZE, HEADER_SIZE, SECTOR_SIZE
from ..base.refusals import luks_refusal
from .crypto import decrypt, derive, measure, merge, rounds, wipe
from .header import read_header

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from .header import Header, Slot

    # A view where it can be had: it shows nothing of itself in a traceback.
    Secret = bytes | bytearray | memoryview
    Reader = Callable[[int, int], bytes]

HEADER_SECTORS = 2
"""The header's, of which the second one is not full."""
_NEGLIGIBLE = 1 << 16
"""Iterations of a single digest: some hundredths of a second on any machine."""


class Region:
    """Where a LUKS header and its key material are, in an image file or as one."""

    def __init__(self, read: Reader, offset: int, length: int, size: int) -> None:
        """Read the header. ImageRejected.

        `read(offset, size)` reads the image file, which has `size` bytes; the region is at
        `offset`, and has `length` bytes of which the file may lack some.
        """
        self._read = read
        self.offset = offset
        self.length = min(length, max(size - offset, 0))
        self.raw = read(offset, HEADER_SECTORS * SECTOR_SIZE)
        self.header: Header = read_header(self.raw[:HEADER_SIZE], self.length)

    def is_as_read(self) -> bool:
        """Whether the header still is what was read: to try passphrases takes seconds."""
        return self._read(self.offset, len(self.raw)) == self.raw

    def area(self, slot: Slot) -> bytes:
        """The key material of a slot, as it is stored."""
        size = self.header.area_sectors * SECTOR_SIZE
        return self._read(self.offset + slot.area * SECTOR_SIZE, size)

    def cost(self, slot: Slot) -> int:
        """What it takes to try a passphrase on a slot, in iterations of a single digest."""
        header = self.header
        own = rounds(header.hash, slot.iterations, header.key_bytes)
        return own + rounds(header.hash, header.iterations, DIGEST_SIZE)


def open_slot(header: Header, slot: Slot, area: bytes, passphrase: Secret) -> bytearray | None:
    """The master key, if a slot holds it for this passphrase."""
    size = header.key_bytes
    own = material = key = bytearray()
    right = False
    try:
        own = derive(header.hash, passphrase, slot.salt, slot.iterations, size)
        material = decrypt(header.mode, own, area)
        key = merge(header.hash, material, size)
        found = derive(header.hash, key, header.salt, header.iterations, DIGEST_SIZE)
        right = compare_digest(found, header.digest)
        return key if right else None
    finally:
        wipe(own, material)
        if not right:
            wipe(key)


class Trials:
    """Tries passphrases on slots, within the time there is."""

    def __init__(
        self,
        region: Region,
        left: Callable[[], float],
        progress: Callable[[int, int], None] | None,
    ) -> None:
        """Take who knows how many seconds are left, and who hears of the progress."""
        self._region, self._left, self._progress = region, left, progress
        self._rate = 0.0
        self._done = self._total = 0

    @property
    def rate(self) -> float:
        """How many iterations of a single digest there are in a second; measured once."""
        if not self._rate:
            self._tell()
            self._rate = measure(self._region.header.hash)
        return self._rate

    def expect(self, cost: int) -> None:
        """Say beforehand what so many iterations come to. ImageRejected if time is too short."""
        self._total += cost
        rest = self._total - self._done
        if rest <= _NEGLIGIBLE:
            return  # not worth the measurement, which takes as long
        seconds, left = rest / self.rate, max(self._left(), 0)
        if seconds > left:
            raise ImageRejected((luks_refusal("luks_iterations", int(seconds) + 1, int(left)),))

    def _tell(self) -> None:
        if self._progress is not None:
            self._progress(self._done, self._total or 1)  # of nothing, before there is any

    def did(self, cost: int) -> None:
        """Say that so many of the iterations that were expected are done."""
        self._done += cost
        self._tell()

    def end(self) -> None:
        """Say that nothing more is to be done."""
        self._done = self._total
        self._tell()

    def expect_slots(self, slots: tuple[Slot, ...]) -> None:
        """The same for a trial of each of these slots."""
        self.expect(sum(map(self._region.cost, slots)))

    def open(self, slot: Slot, passphrase: Secret) -> bytearray | None:
        """Try one slot; an interrupt comes before or after."""
        region = self._region
        self._tell()
        key = open_slot(region.header, slot, region.area(slot), passphrase)
        self.did(region.cost(slot))
        return key
