"""While slots are tried the user hears of it, and can stop it between two of them. Test side."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path
from struct import pack_into

import pytest

import instar
import instar.vmm.luks.region
from instar.vmm.luks import crypto
from instar.vmm.luks.crypto import measure
from tests.keys.files import FIRST
from tests.support.luks import make_by_qemu
from tests.support.process import PACKAGE

MAIN = f"import sys; sys.path.insert(0, {str(PACKAGE)!r}); from instar.__main__ import main; main()"
LONG = 500_000  # iterations: some tenths of a second


@pytest.fixture
def slow(disk: Path, full: bytes) -> Path:
    """A file with eight slots in use, of which all but the first take long to try."""
    data = bytearray(full)
    for number in range(1, 8):
        pack_into(">I", data, 208 + 48 * number + 4, LONG)
    disk.write_bytes(data)
    return disk


@pytest.mark.kvm
@pytest.mark.parametrize("form", ["qcow2", "luks"])
def test_each_slot_that_is_tried_moves_the_progress(tmp_path: Path, form: str) -> None:
    path = make_by_qemu(tmp_path / "i", form).path
    for number in range(1, 5):
        keys = instar.AddKey(b"one", b"two", number, iter_time=0)
        instar.amend(path, keys=keys, format=form)
    told: list[float] = []
    instar.amend(
        *(path,),
        keys=instar.EraseKey(secret=b"two"),
        format=form,
        progress=lambda done, total: told.append(done / total),
    )
    assert told == sorted(told)
    assert (told[0], told[-1]) == (0, 1)
    assert len({*told}) >= 6  # nothing yet, and each of the five slots


def test_a_user_hears_of_the_measurement_and_of_the_new_slot(
    disk: Path, luks: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk.write_bytes(luks)
    told: list[tuple[int, int]] = []
    heard: list[int] = []

    def look(name: str) -> float:
        heard.append(len(told))
        return measure(name)

    monkeypatch.setattr(instar.vmm.luks.region, "measure", look)
    keys = instar.AddKey(FIRST, b"new", iter_time=50)
    instar.amend(disk, keys=keys, format="luks", progress=lambda *done: told.append(done))
    assert heard == [1]  # before it began
    parts = [done / total for done, total in told]
    assert parts == sorted(parts)
    # At first nothing, then the slot that was tried; the new one, made; and opened once.
    tried, made = sorted({*parts})[1:-1]
    assert (parts[0], parts[-1]) == (0, 1)
    assert made - tried == pytest.approx(1 - made)


@pytest.mark.parametrize("speed", [1e3, 3e5, 9e6, 4e7])
def test_the_measurement_is_right_and_takes_little_longer_than_it_has_to(
    monkeypatch: pytest.MonkeyPatch, speed: float
) -> None:
    passed = [0.0]

    def derive(_name: str, _passphrase: bytes, _salt: bytes, count: int, _size: int) -> bytearray:
        passed[0] += count / speed
        return bytearray(32)

    monkeypatch.setattr(crypto, "derive", derive)
    monkeypatch.setattr(time, "perf_counter", lambda: passed[0])
    assert measure("sha256") == pytest.approx(speed)
    least = max(crypto._BENCHMARK, 4096 / speed)
    assert least <= passed[0] <= 1.5 * least


@pytest.mark.parametrize("speed", [1e9, float("inf")])
def test_the_measurement_ends_on_a_machine_that_is_too_fast_for_it(
    monkeypatch: pytest.MonkeyPatch, speed: float
) -> None:
    passed, counts = [0.0], list[int]()

    def derive(_name: str, _passphrase: bytes, _salt: bytes, count: int, _size: int) -> bytearray:
        passed[0] += count / speed
        counts.append(count)
        return bytearray(32)

    monkeypatch.setattr(crypto, "derive", derive)
    monkeypatch.setattr(time, "perf_counter", lambda: passed[0])
    assert measure("sha256") == pytest.approx(min(speed, (1 << 22) / 1e-6))
    assert counts == [1 << 12, 1 << 22]


def test_nothing_is_measured_where_the_iterations_take_no_time(
    disk: Path, full: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured: list[str] = []

    def look(name: str) -> float:
        measured.append(name)
        return measure(name)

    monkeypatch.setattr(instar.vmm.luks.region, "measure", look)
    for count in (1000, LONG):
        data = bytearray(full)
        pack_into(">I", data, 208 + 4, count)
        disk.write_bytes(data)
        instar.amend(disk, keys=instar.EraseKey(7), format="luks")
        instar.amend(disk, keys=instar.EraseKey(secret=b"k6"), format="luks")
        assert len(measured) == (count == LONG)


def test_iterations_are_few_up_to_a_bound(luks: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    region = instar.vmm.luks.region.Region(
        lambda at, size: luks[at : at + size], 0, len(luks), len(luks)
    )
    monkeypatch.setattr(instar.vmm.luks.region, "measure", lambda _name: 1.0)
    few = instar.vmm.luks.region._NEGLIGIBLE
    instar.vmm.luks.region.Trials(region, lambda: 0.0, None).expect(few)
    with pytest.raises(instar.ImageRejected, match="iterations"):
        instar.vmm.luks.region.Trials(region, lambda: 0.0, None).expect(few + 1)


@pytest.mark.kvm
def test_the_keys_are_a_step_of_the_progress_of_all(tmp_path: Path) -> None:
    path = make_by_qemu(tmp_path / "i", "qcow2").path
    told: list[float] = []
    keys = instar.AddKey(b"one", b"two", iter_time=0)
    instar.amend(path, keys=keys, size=1 << 24, progress=lambda n, total: told.append(n / total))
    assert told == sorted(told)
    assert told[-1] <= 1


def test_a_caller_ends_it_between_two_slots(slow: Path) -> None:
    before, tried = slow.read_bytes(), []

    def stop(done: int, total: int) -> None:
        tried.append(done)
        if done:
            raise KeyboardInterrupt

    keys = instar.AddKey(b"nope", b"new", slot=0, iter_time=0, force=True)
    with pytest.raises(KeyboardInterrupt):
        instar.amend(slow, keys=keys, format="luks", progress=stop, timeout=600)
    assert len([done for done in tried if done]) == 1  # after the first, none was tried
    assert slow.read_bytes() == before


def test_an_interrupt_of_the_command_comes_between_two_slots(slow: Path) -> None:
    before = slow.read_bytes()
    secrets = ["--object", "secret,id=n,data=nope", "--object", "secret,id=o,data=other"]
    asked = "state=inactive,old-secret=n"
    line = [*(sys.executable, "-c", MAIN, "amend", "-p", "-f", "luks", "--timeout", "600")]
    line += [*secrets, "-o", asked, str(slow)]
    with subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as child:
        assert child.stdout is not None
        shown = b""
        while shown.count(b"%") < 2 and (part := child.stdout.read(1)):
            shown += part
        child.send_signal(signal.SIGINT)
        rest, said = child.communicate(timeout=120)
    assert (child.returncode, said.count(b"\n")) == (1, 1), said
    assert b"interrupted" in said
    shown += rest
    assert shown.startswith(b"    (0.00/100%)\r")
    assert b"(100.00/100%)" not in shown  # the last slots were not tried
    assert b"Traceback" not in said
    assert slow.read_bytes() == before
    assert FIRST not in shown + said
