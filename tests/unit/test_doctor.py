"""Host side: the doctor: every check runs, says what it found and what to do about it."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import instar
from instar.abi import INSTAR_ABI_VERSION
from instar.vmm import cli, machine
from instar.vmm.amend.result import AmendResult
from instar.vmm.base.errors import GuestFault, HostError
from instar.vmm.cli import doctor, doctor_checks, trials
from instar.vmm.confine import BARRIERS
from instar.vmm.machine.payload import load_payload
from instar.vmm.request.keywords import make_request
from tests.support.forge.audit import faults
from tests.support.forge.reader import Reader
from tests.unit.command import FakeAmend, fake_amend, make_result, read_json


@pytest.fixture
def amend(monkeypatch: pytest.MonkeyPatch) -> FakeAmend:
    """Put a fake where the command looks for amend_image()."""
    return fake_amend(monkeypatch)


GIVE_ACCESS = (
    "give a group access and join it, then log in anew: sudo groupadd -rf kvm; "
    "sudo chgrp kvm {0}; sudo chmod 660 {0}; sudo usermod -aG kvm $USER"
)
NO_NAME = "run the container with the additional group 8; outside of one, "
GOOD_CHECKS = (("first", lambda: "first is fine"), ("second", lambda: "second is fine"))


def break_check() -> str:
    """Be a check with a defect."""
    raise ZeroDivisionError("oops")


def test_doctor_is_content(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor, "CHECKS", GOOD_CHECKS)
    assert cli.main(["doctor"]) == 0
    out, err = capsys.readouterr()
    headline, *lines = out.splitlines()
    assert headline.startswith(f"instar {instar.__version__}, Python 3.")
    assert lines == ["ok   first is fine", "ok   second is fine"]
    assert err == ""


def test_doctor_survives_a_broken_check_and_runs_the_others(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor, "CHECKS", (("broken", break_check), *GOOD_CHECKS))
    assert cli.main(["doctor"]) == 1
    assert capsys.readouterr().out.splitlines()[1:] == [
        "FAIL broken: ZeroDivisionError: oops: please report it",
        "ok   first is fine",
        "ok   second is fine",
    ]


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (
            FileNotFoundError(2, "No usable temporary directory found in ['/tmp']"),
            "FAIL locks: no writable temporary directory: set TMPDIR to one, mount a tmpfs on",
        ),
        (OSError(24, "Too many"), "FAIL locks: Too many: raise the limit of open files"),
        (BlockingIOError(11, "Busy"), "FAIL locks: Busy: raise the limit of processes"),
        (PermissionError(1, "Denied"), "FAIL locks: [Errno 1] Denied: allow this where a filter"),
        (
            FileNotFoundError(2, "No", os.devnull),
            "FAIL locks: cannot open /dev/null: No: make it, as root: mknod -m 666 /dev/null c 1 3",
        ),
        (OSError(38, "None"), "FAIL locks: [Errno 38] None: allow this where a filter"),
        (MemoryError(), "FAIL locks: out of memory; where it is limited, raise the limit of"),
    ],
)
def test_doctor_knows_the_limits_that_a_check_meets(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    error: Exception,
    line: str,
) -> None:
    def fail() -> str:
        raise error

    monkeypatch.setattr(doctor, "CHECKS", (("locks", fail),))
    assert cli.main(["doctor"]) == 1
    told = capsys.readouterr().out.splitlines()[1]
    assert told.startswith(line)
    assert "report it" not in told


def test_doctor_speaks_json(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor, "CHECKS", (("broken", break_check), GOOD_CHECKS[0]))
    assert cli.main(["doctor", "--output", "json"]) == 1
    document, err = read_json(capsys)
    assert err == ""
    assert (list(document), document["ok"]) == (["version", "python", "ok", "checks"], False)
    assert document["checks"] == [
        {
            "check": "broken",
            "ok": False,
            "message": "broken: ZeroDivisionError: oops",
            "advice": "please report it",
        },
        {"check": "first", "ok": True, "message": "first is fine", "advice": ""},
    ]


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Give the doctor a /dev/kvm that is another device."""
    path = tmp_path / "kvm"
    path.symlink_to(os.devnull)
    monkeypatch.setattr(doctor_checks, "KVM_DEVICE", str(path))
    return path


def diagnose(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, check: Any
) -> str:
    """Return the line that one check results in."""
    monkeypatch.setattr(doctor, "CHECKS", (("it", check),))
    status = cli.main(["doctor"])
    out, err = capsys.readouterr()
    _headline, line = out.splitlines()
    assert (status, err) == (0 if line.startswith("ok   ") else 1, "")
    return str(line)


def test_doctor_names_the_system(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert diagnose(capsys, monkeypatch, doctor_checks.check_system).startswith("ok   Linux ")


def test_doctor_looks_for_the_device(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, device: Path
) -> None:
    expected = f"ok   {device} is readable and writable"
    assert diagnose(capsys, monkeypatch, doctor_checks.check_device) == expected
    device.unlink()
    line = diagnose(capsys, monkeypatch, doctor_checks.check_device)
    assert line.startswith(f"FAIL {device}: No such file or directory: enable virtualisation")
    assert "sudo modprobe kvm_" in line
    device.touch()
    line = diagnose(capsys, monkeypatch, doctor_checks.check_device)
    assert line.startswith(f"FAIL {device} is no device: remove it, and load the module: sudo mod")


def test_doctor_tells_another_device_from_that_of_kvm(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, device: Path
) -> None:
    assert diagnose(capsys, monkeypatch, doctor_checks.check_api) == (
        f"FAIL KVM: Inappropriate ioctl for device: {device} is another device; make it that of KVM"
    )


@pytest.mark.parametrize(
    ("mode", "gid", "advice"),
    [
        (0o660, 7, "join its group, then log in anew: sudo usermod -aG virt $USER"),
        (0o660, 8, NO_NAME + GIVE_ACCESS),
        (0o660, 0, GIVE_ACCESS),
        (0o640, 7, GIVE_ACCESS),
        (0o600, 7, GIVE_ACCESS),
    ],
)
def test_doctor_knows_who_may_open_the_device(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    device: Path,
    mode: int,
    gid: int,
    advice: str,
) -> None:
    class FakeOs:
        O_RDWR, O_CLOEXEC = os.O_RDWR, os.O_CLOEXEC
        geteuid = staticmethod(lambda: 1000)

        def open(self, path: str, _flags: int) -> int:
            raise PermissionError(13, "Permission denied", path)

        def stat(self, _path: str) -> os.stat_result:
            return os.stat_result((mode, 0, 0, 1, 0, gid, 0, 0, 0, 0))

    monkeypatch.setattr(doctor_checks, "os", FakeOs())
    monkeypatch.setattr("grp.getgrgid", {7: SimpleNamespace(gr_name="virt")}.__getitem__)
    line = diagnose(capsys, monkeypatch, doctor_checks.check_device)
    assert line == f"FAIL {device}: Permission denied: {advice.format(device)}"


@pytest.mark.parametrize(
    ("version", "expected"),
    [
        (12, "ok   KVM API version 12"),
        (11, "FAIL KVM API version 11: use a kernel with version 12"),
    ],
)
def test_doctor_asks_for_the_api_version(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    device: Path,
    version: int,
    expected: str,
) -> None:
    monkeypatch.setattr("instar.vmm.kvm.system.Kvm.api_version", lambda _self: version)
    assert diagnose(capsys, monkeypatch, doctor_checks.check_api) == expected
    device.unlink()
    line = diagnose(capsys, monkeypatch, doctor_checks.check_api)
    assert line == f"FAIL KVM: No such file or directory: make {device} accessible first"


def test_doctor_looks_at_the_payload(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    payload = SimpleNamespace(abi_version=INSTAR_ABI_VERSION, sha256="ab" * 32)
    monkeypatch.setattr("instar.vmm.machine.payload.load_payload", lambda: payload)
    found = f"payload of ABI version {INSTAR_ABI_VERSION}, SHA-256 {'ab' * 32}"
    assert diagnose(capsys, monkeypatch, doctor_checks.check_payload) == f"ok   {found}"
    payload.abi_version += 1
    assert diagnose(capsys, monkeypatch, doctor_checks.check_payload) == (
        f"FAIL payload of ABI version {INSTAR_ABI_VERSION + 1}, SHA-256 {'ab' * 32}; "
        f"this host speaks version {INSTAR_ABI_VERSION}: install instar anew"
    )


def test_doctor_says_what_the_payload_lacks(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def load_payload() -> None:
        raise HostError("no payload")

    monkeypatch.setattr("instar.vmm.machine.payload.load_payload", load_payload)
    line = diagnose(capsys, monkeypatch, doctor_checks.check_payload)
    assert line == "FAIL no payload: install instar anew"


@pytest.mark.parametrize(
    ("warning", "expected"),
    [
        (None, "ok   open file description locks work"),
        ("no locks", "FAIL no locks: keep images on a file system with open file description"),
    ],
)
def test_doctor_tries_the_locks(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    warning: str | None,
    expected: str,
) -> None:
    monkeypatch.setattr("instar.vmm.image.locks.lock_image", lambda _fd, _name: warning)
    assert diagnose(capsys, monkeypatch, doctor_checks.check_locks).startswith(expected)


@pytest.mark.parametrize("name", ["privileges", "limits", "landlock", "descriptors", "seccomp"])
def test_doctor_tries_each_barrier_elsewhere(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    assert [barrier for barrier, _ in BARRIERS] == list(doctor_checks.BARRIER_ADVICE)
    check = dict(doctor_checks.CHECKS)[name]
    before = Path("/proc/self/status").read_text(encoding="ascii")
    assert diagnose(capsys, monkeypatch, check) == f"ok   {doctor_checks.BARRIER_ADVICE[name][0]}"
    status = Path("/proc/self/status").read_text(encoding="ascii")
    fields = ("Cap", "NoNewPrivs", "Seccomp")
    assert [line for line in status.splitlines() if line.startswith(fields)] == [
        line for line in before.splitlines() if line.startswith(fields)
    ]


@pytest.mark.parametrize(
    ("name", "reason", "advice"),
    [
        ("landlock", "Function not implemented", "use Linux 5.13 or later with landlock"),
        ("seccomp", "Invalid argument", "use Linux 4.14 or later with seccomp filters"),
    ],
)
def test_doctor_warns_of_a_missing_barrier(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    reason: str,
    advice: str,
) -> None:
    monkeypatch.setattr(doctor_checks, "_ATTEMPT", f"print({reason!r})")
    monkeypatch.setattr(doctor, "CHECKS", ((name, dict(doctor_checks.CHECKS)[name]),))
    assert cli.main(["doctor"]) == 0
    line = capsys.readouterr().out.splitlines()[1]
    assert line.startswith(f"warn {name}: {reason}: {advice}")
    assert line.endswith("; --require-confinement fails here")
    monkeypatch.setattr(doctor_checks, "_ATTEMPT", "import os; os.kill(os.getpid(), 9)")
    line = diagnose(capsys, monkeypatch, dict(doctor_checks.CHECKS)[name])
    assert line == f"FAIL {name}: a confined process ends with -9: please report it"


@pytest.mark.parametrize(
    ("action", "features", "expected"),
    [
        ("amended", 1, r"ok   the sandbox amended a test image in \d+\.\d ms, VM exits: 1"),
        ("amended", 0, "FAIL the sandbox did not amend a test image: please report it"),
        ("amended", 2, "FAIL the sandbox did not amend a test image: please report it"),
        ("noop", 1, "FAIL the sandbox did not amend a test image: please report it"),
    ],
)
def test_doctor_looks_whether_the_sandbox_did_its_work(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    amend: FakeAmend,
    action: str,
    features: int,
    expected: str,
) -> None:
    def write_features(path: str, **_options: Any) -> AmendResult:
        with Path(path).open("r+b") as image:
            image.seek(80)
            image.write(features.to_bytes(8, "big"))
        return make_result(action=action)

    monkeypatch.setattr(sys.modules["instar.vmm.api"], "amend", write_features)
    assert re.fullmatch(expected, diagnose(capsys, monkeypatch, doctor_checks.check_sandbox))


def test_doctor_repeats_what_the_sandbox_says(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, amend: FakeAmend
) -> None:
    amend.error = GuestFault("triple fault")
    line = diagnose(capsys, monkeypatch, doctor_checks.check_sandbox)
    assert line == "FAIL it: triple fault: see the lines above"
    assert amend.calls[0][1] == make_request({"lazy_refcounts": True})


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ("Permission denied; join the group kvm, and see instar doctor", "; join the group kvm"),
        ("Permission denied; see instar doctor", ""),
    ],
)
def test_doctor_sends_nobody_to_the_doctor(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    amend: FakeAmend,
    said: str,
    told: str,
) -> None:
    amend.error = HostError(f"could not use /dev/kvm: {said}")
    expected = f"could not use /dev/kvm: Permission denied{told}: see the lines above"
    line = diagnose(capsys, monkeypatch, doctor_checks.check_sandbox)
    assert line == f"FAIL it: {expected}"
    monkeypatch.setattr(trials, "COMMAND_CODE", f"sys.exit({str(amend.error)!r})")
    line = diagnose(capsys, monkeypatch, doctor_checks.check_command)
    assert line == f"FAIL the confined command: it ended with status 1: {expected}"


@pytest.mark.kvm
def test_doctor_amends_by_the_command(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    line = diagnose(capsys, monkeypatch, doctor_checks.check_command)
    assert re.fullmatch(r"ok   the confined command amended a test image in \d+ ms", line)
    monkeypatch.setattr(trials, "COMMAND_CODE", "sys.exit('no luck')")
    line = diagnose(capsys, monkeypatch, doctor_checks.check_command)
    assert line == (
        "FAIL the confined command: it ended with status 1: no luck: see the lines above"
    )


@pytest.mark.parametrize("seconds", ["0.5"])
def test_doctor_says_that_the_command_hangs_and_does_not_hang_itself(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, seconds: str
) -> None:
    monkeypatch.setattr(trials, "SECONDS", float(seconds))
    monkeypatch.setattr(trials, "COMMAND_CODE", "exec('while True: pass')")
    some = (("command", doctor_checks.check_command), ("broken", break_check))
    monkeypatch.setattr(doctor, "CHECKS", some)
    assert cli.main(["doctor"]) == 1
    assert capsys.readouterr().out.splitlines()[1:] == [
        f"FAIL the confined command: it did not end within {seconds} s: please report it"
    ]


def test_doctor_uses_memory_under_confinement(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    line = diagnose(capsys, monkeypatch, doctor_checks.check_memory)
    assert line == "ok   a confined process can allocate memory and flush a file"
    forbidden = trials._MEMORY.replace("os.fdatasync(image)", "os.fsync(image)")
    monkeypatch.setattr(trials, "_MEMORY", forbidden)
    line = diagnose(capsys, monkeypatch, doctor_checks.check_memory)
    assert "it ended with status 1: OSError: [Errno 38] Function not implemented: unset" in line
    monkeypatch.setattr(trials, "_MEMORY", "bytearray(1 << 60)")
    line = diagnose(capsys, monkeypatch, doctor_checks.check_memory)
    assert "out of memory; where it is limited, raise the limit of address space" in line


def test_doctor_and_an_amend_refuse_a_free_threaded_build(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert diagnose(capsys, monkeypatch, doctor_checks.check_interpreter).startswith(
        "ok   CPython 3."
    )
    monkeypatch.setattr(machine, "abiflags", "t")
    line = diagnose(capsys, monkeypatch, doctor_checks.check_interpreter)
    assert line.endswith(
        ", free-threaded, which is not supported: use the ordinary build of Python"
    )
    with pytest.raises(HostError, match="free-threaded builds of Python are not supported"):
        machine.Machine(load_payload())


def test_doctors_image_is_valid() -> None:
    image = Reader(doctor_checks.make_image())
    assert faults(image) == []
    assert len(image.data) == 4 * image.cluster_size
    assert (image.header.version, image.header.header_length) == (3, 104)
    unused = ("backing_file_offset", "backing_file_size", "crypt_method", "nb_snapshots")
    features = ("incompatible_features", "compatible_features", "autoclear_features")
    assert not any(image.header[field] for field in unused + features)
    assert image.header.l1_size * image.l2_entries * image.cluster_size == image.header.size
    assert image.data[image.header.l1_table_offset :] == bytes(image.cluster_size)
