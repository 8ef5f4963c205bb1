"""Passphrases are shown nowhere, and the guest never has them. Test side."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import instar
from instar.vmm.devices.memory import GuestMemory
from instar.vmm.luks import region
from instar.vmm.luks.region import open_slot
from instar.vmm.request import AmendRequest
from tests.support.luks import make_by_qemu
from tests.support.process import PACKAGE

OLD, NEW, OTHER = "one", "Tr0ub4dor", "c0rrect-h0rse"


def traces(text: str | bytes) -> list[str]:
    """Passphrases that are in what somebody can read, as text or in hexadecimal digits."""
    data = text.encode() if isinstance(text, str) else text
    found = [(word, word.encode()) for word in (NEW, OTHER)]
    return [word for word, raw in found if raw in data or raw.hex().encode() in data]


@pytest.mark.kvm
def test_the_guest_never_has_a_passphrase_or_a_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    volume = make_by_qemu(tmp_path / "i", "qcow2")
    seen: list[bytes] = []
    close = GuestMemory.close

    def look(memory: GuestMemory) -> None:
        seen.append(memory.read(0, memory.size))
        close(memory)

    found: list[bytes] = []

    def keep(*arguments: Any) -> bytearray | None:
        key = open_slot(*arguments)
        found.append(bytes(key or b""))
        return key

    monkeypatch.setattr(region, "open_slot", keep)
    monkeypatch.setattr(GuestMemory, "close", look)
    instar.amend(volume.path, keys=instar.AddKey(OLD.encode(), NEW.encode(), iter_time=0))
    (ram,) = seen
    assert len(ram) >= 2 << 20
    assert b"QFI\xfb" in ram  # what it has is there to be found
    assert traces(ram) == []
    assert OLD.encode() not in ram
    assert [len(key) for key in found] == [64]
    assert all(half not in ram for half in (found[0][:32], found[0][32:]))


@pytest.mark.parametrize(
    "keys",
    [
        instar.AddKey(NEW.encode(), bytearray(OTHER.encode())),
        instar.EraseKey(secret=NEW.encode()),
        instar.EraseKey(3, bytearray(OTHER.encode())),
    ],
)
def test_a_repr_shows_none(keys: instar.AddKey | instar.EraseKey) -> None:
    request = AmendRequest.of(keys=keys)
    for text in (repr(keys), str(keys), f"{keys}", repr(request), request.spell()):
        assert traces(text) == []
    assert traces(json.dumps(dict(request.told_all()))) == []
    assert hash(keys) == hash(keys)


@pytest.mark.kvm
def test_results_refusals_logs_and_audit_events_show_none(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    volume = make_by_qemu(tmp_path / "i", "qcow2")
    events: list[object] = []
    sys.addaudithook(lambda name, told: events.append(told) if name == "instar.amend" else None)
    caplog.set_level(logging.DEBUG)
    keys = instar.AddKey(OLD.encode(), NEW.encode(), iter_time=0)
    result = instar.amend(volume.path, keys=keys, dry_run=True)
    wrong = instar.AddKey(OTHER.encode(), NEW.encode(), iter_time=0)
    with pytest.raises(instar.ImageRejected) as caught:
        instar.amend(volume.path, keys=wrong)
    assert len(events) == 2
    told = [repr(result), json.dumps(result.to_dict()), repr(caught.value), caplog.text]
    assert traces("\n".join([*told, repr(events), repr(vars(caught.value))])) == []
    assert caplog.text


@pytest.mark.kvm
def test_a_child_is_told_by_a_pipe_and_not_in_its_arguments(tmp_path: Path) -> None:
    volume = make_by_qemu(tmp_path / "i", "qcow2")
    log = tmp_path / "log"
    code = (
        f"import sys; sys.path.insert(0, {str(PACKAGE)!r}); import instar\n"
        f"new = open({str(tmp_path / 'new')!r}, 'rb').read()\n"
        f"keys = instar.AddKey(b{OLD!r}, new, iter_time=0)\n"
        f"result = instar.amend({str(volume.path)!r}, keys=keys, isolation='process')\n"
        "print(result.to_dict())"
    )
    (tmp_path / "new").write_text(NEW)
    trace = ["strace", "-f", "-qq", "-s", "100000", "-e", "trace=execve", "-o", str(log)]
    done = subprocess.run(
        [*trace, sys.executable, "-c", code], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "keyslot_1" in done.stdout
    assert traces(done.stdout + done.stderr) == []
    calls = log.read_text()
    assert calls.count("execve(") >= 2
    assert traces(calls) == []


@pytest.mark.kvm
def test_the_command_says_none_and_forgets_them(tmp_path: Path) -> None:
    volume = make_by_qemu(tmp_path / "i", "qcow2")
    (tmp_path / "old").write_text(OTHER)
    (tmp_path / "new").write_text(NEW)
    secrets = [
        *("--object", f"secret,id=o,file={tmp_path / 'old'}"),
        *("--object", f"secret,id=n,file={tmp_path / 'new'}"),
    ]
    asked = "encrypt.state=active,encrypt.new-secret=n,encrypt.iter-time=0"
    code = f"import sys; sys.path.insert(0, {str(PACKAGE)!r}); from instar.__main__ import main"
    arguments = ["amend", *secrets, "-o", asked, "--key-secret", "o", "-v", "--debug"]
    done = subprocess.run(
        [sys.executable, "-c", f"{code}; main()", *arguments, "--output=json", str(volume.path)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1, done  # OTHER does not open it
    assert "Invalid password" in done.stderr
    assert traces(done.stdout + done.stderr) == []


@pytest.mark.kvm
def test_what_is_not_asked_for_keys_loads_none_of_it(tmp_path: Path) -> None:
    volume = make_by_qemu(tmp_path / "i", "qcow2")
    code = (
        f"import sys; sys.path.insert(0, {str(PACKAGE)!r}); import instar\n"
        f"instar.amend({str(volume.path)!r}, lazy_refcounts=True)\n"
        "print(*sorted(name for name in sys.modules if 'luks' in name or 'crypt' in name))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""
