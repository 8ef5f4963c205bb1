"""Test side: files that LUKS encrypts, and who opens them with which passphrase."""

from __future__ import annotations

import subprocess
from functools import lru_cache
from pathlib import Path
from typing import Any

from instar.vmm.base.luks_layout import SECTOR_SIZE
from instar.vmm.luks.change import Changed, change_keys
from instar.vmm.luks.header import Header, Slot
from instar.vmm.luks.region import Region, open_slot
from instar.vmm.request.keys import AddKey, EraseKey, check_keys
from tests.support.luks import quick_clock
from tests.support.qemu import Qemu, newest

FIRST = b"correct horse"


def make(path: Path, form: str = "luks", *, qemu: Qemu | None = None, **options: Any) -> Path:
    """Have qemu-img make an encrypted file with the passphrase FIRST in slot 0."""
    prefix = "encrypt." if form == "qcow2" else ""
    fields = {"key-secret": "s", "iter-time": "10", **options}
    listed = [f"{prefix}{key}={value}" for key, value in fields.items()]
    listed += ["encrypt.format=luks"] if prefix else []
    secret = f"secret,id=s,data={FIRST.decode()}"
    command = ("create", "-q", "-f", form, "--object", secret, "-o", ",".join(listed))
    (qemu or newest()).img(*command, str(path), "1M", preload=quick_clock())
    return path


def opens(path: Path, passphrase: bytes, qemu: Qemu, form: str = "luks") -> bool:
    """Whether qemu reads the disk with this passphrase."""
    key = "encrypt.key-secret" if form == "qcow2" else "key-secret"
    line = [str(qemu.directory / "qemu-io"), "-r", "--object"]
    line += [f"secret,id=s,data={passphrase.decode()}", "--image-opts"]
    line += [f"driver={form},{key}=s,file.filename={path}", "-c", "read 0 64k"]
    return subprocess.run(line, capture_output=True, check=False, timeout=60).returncode == 0


def cryptsetup(path: Path, passphrase: bytes, *command: str) -> bool:
    """Whether cryptsetup does something with this passphrase, by default open the file."""
    words = [*(command or ("open", "--test-passphrase")), str(path), "--key-file", "-"]
    line = ["/usr/sbin/cryptsetup", "--batch-mode", *words]
    done = subprocess.run(line, input=passphrase, capture_output=True, check=False, timeout=60)
    return done.returncode == 0


def change(data: bytes, keys: AddKey | EraseKey, seconds: float = 30) -> Changed:
    """Plan a change of the keys of a LUKS file with these bytes."""
    check_keys(keys)
    return change_keys(lambda at, n: data[at : at + n], (0, len(data)), len(data), keys, seconds)


def apply(data: bytes, changed: Changed) -> bytes:
    """The file after all phases."""
    after = bytearray(data)
    for phase in range(6):
        for sector, part in changed.staged.pieces(phase):
            after[sector * SECTOR_SIZE : sector * SECTOR_SIZE + len(part)] = part
    return bytes(after)


def holders(data: bytes, passphrase: bytes) -> set[int]:
    """The keyslots that hold a passphrase. ImageRejected if the header makes no sense."""
    region = Region(lambda at, n: data[at : at + n], 0, len(data), len(data))
    header = Header(**{**vars(region.header), "slots": ()})
    slots = region.header.active
    return {s.number for s in slots if _holds(header, s, region.area(s), passphrase)}


@lru_cache(512)
def _holds(header: Header, slot: Slot, area: bytes, passphrase: bytes) -> bool:
    """Most states that a crash leaves have most slots in common."""
    return open_slot(header, slot, area, passphrase) is not None
