"""Test side: what this machine lacks is one line that says so, and leaves nothing open."""

from __future__ import annotations

import errno
import os
import resource
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import pytest

import instar
from instar.vmm.kvm.system import Kvm
from instar.vmm.kvm.vcpu import Vcpu
from instar.vmm.kvm.vm import Vm
from instar.vmm.machine import boot
from instar.vmm.machine.payload import load_payload
from tests.sandbox.rogues import open_descriptors
from tests.support.forge import Image
from tests.support.process import run

NOBODY = 65534
JOIN = "ask for access to it, usually by joining the group kvm, and see instar doctor"


def error_of(path: Path) -> str:
    """What an amend ends in that this machine is at fault for."""
    Image().write(path)
    os.utime(path, ns=(1, 1))
    contents, descriptors = path.read_bytes(), open_descriptors()
    with pytest.raises(instar.HostError) as caught:
        instar.amend(path, lazy_refcounts=True)
    assert (path.read_bytes(), path.stat().st_mtime_ns) == (contents, 1)
    assert open_descriptors() == descriptors
    assert str(caught.value).isprintable()
    return str(caught.value)


def run_as_nobody(code: str, folder: Path) -> str:
    """Run code in a folder without any privilege; what it prints.

    All that is imported is imported before: the interpreter may lie where only root may read.
    """
    prelude = """\
        import os, sys
        import instar
        import instar.vmm.api as _api
        from instar.vmm.kvm.system import Kvm
        from instar.vmm.machine.payload import load_payload
        payload = load_payload()
        instar.HostError, instar.UsageError, instar.ImageRejected, instar.amend
        if os.getuid() == 0:
            os.setgroups([])
            os.setresgid(65534, 65534, 65534)
            os.setresuid(65534, 65534, 65534)
        """
    folder.chmod(0o755)
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(prelude) + textwrap.dedent(code)],
        cwd=folder,
        check=True,
        capture_output=True,
        text=True,
    )
    return done.stdout.strip()


AMEND = """\
    try:
        instar.amend("image.qcow2", lazy_refcounts=True, payload=payload)
    except instar.HostError as error:
        print(error)
    """


def test_a_file_that_may_not_be_written_is_named(path: Path) -> None:
    Image().write(path)
    path.chmod(0o444)
    expected = "could not open 'image.qcow2': Permission denied"
    assert run_as_nobody(AMEND, path.parent) == expected


def test_a_file_that_may_not_be_read_is_named(path: Path) -> None:
    Image().write(path)
    path.chmod(0)
    expected = "could not open 'image.qcow2': Permission denied"
    assert run_as_nobody(AMEND.replace("lazy", "dry_run=True, lazy"), path.parent) == expected


def test_a_device_that_may_not_be_opened_is_named(path: Path) -> None:
    # A file in the place of /dev/kvm, which may be anybody's on this machine.
    Image().write(path)
    path.chmod(0o666)
    device = path.with_name("kvm")
    device.touch(mode=0)
    code = f"Kvm.open.__func__.__defaults__ = ('kvm',)\n{textwrap.dedent(AMEND)}"
    printed = run_as_nobody(code, path.parent)
    assert printed == f"could not use /dev/kvm: Permission denied; {JOIN}"


def replace_device(monkeypatch: pytest.MonkeyPatch, path: str) -> None:
    """Have another file opened than /dev/kvm."""
    whole: Any = Kvm.open
    monkeypatch.setattr(whole.__func__, "__defaults__", (path,))


def test_a_missing_device_is_named(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    missing = str(path.with_name("kvm"))
    replace_device(monkeypatch, missing)
    expected = (
        "could not use /dev/kvm: No such file or directory; load the module kvm_intel or kvm_amd, "
        "in a virtual machine enable nested virtualisation, start a container with "
        "--device /dev/kvm, and see instar doctor"
    )
    assert error_of(path) == expected


@pytest.mark.parametrize("command", [("info",), ("check",), ("amend", "-o", "compat=1.1")])
@pytest.mark.parametrize("own_process", [True, False])
def test_a_missing_image_is_named_before_a_missing_device(
    path: Path, command: tuple[str, ...], own_process: bool
) -> None:
    patch = "from instar.vmm.kvm.system import Kvm\nKvm.open.__func__.__defaults__ = ('missing',)"
    if not own_process:
        patch += "\nimport sys; from instar.vmm import cli; sys.exit(cli.main(sys.argv[1:]))"
    missing = path.with_name("other")
    told = f"instar: could not open '{missing}': No such file or directory\n"
    assert run(*command, missing, patch=patch).stderr == told
    Image().write(path)
    assert "/dev/kvm" in run(*command, path, patch=patch).stderr


@pytest.mark.parametrize("function", [instar.info, instar.check])
@pytest.mark.parametrize("isolation", [None, "process"])
def test_a_look_names_a_missing_image_before_a_missing_device(
    path: Path, monkeypatch: pytest.MonkeyPatch, function: Callable[..., object], isolation: Any
) -> None:
    replace_device(monkeypatch, str(path.with_name("kvm")))
    with pytest.raises(instar.HostError, match=r"^could not open '.*/image.qcow2'"):
        function(path, isolation=isolation)
    path.write_bytes(bytes(512))  # a raw image, for which no guest would run
    with pytest.raises(instar.HostError, match="/dev/kvm"):
        instar.info(path)


@pytest.mark.parametrize("number", [errno.EACCES, errno.EPERM])
def test_root_is_not_told_to_join_a_group(
    path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def refuse(*_arguments: object) -> NoReturn:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(Kvm, "open", refuse)
    assert error_of(path) == (
        f"could not use /dev/kvm: {os.strerror(number)}; start the container with "
        "--device /dev/kvm, and see instar doctor"
    )


def test_every_error_of_kvm_names_the_doctor(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in errno.errorcode:

        def refuse(*_arguments: object, number: int = number) -> NoReturn:
            raise OSError(number, os.strerror(number))

        monkeypatch.setattr(Kvm, "open", refuse)
        assert error_of(path).endswith("see instar doctor")


def test_a_device_that_is_another_is_named(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    replace_device(monkeypatch, "/dev/null")
    expected = "could not use /dev/kvm: Inappropriate ioctl for device; see instar doctor"
    assert error_of(path) == expected


def failing(number: int) -> Callable[..., Any]:
    def fail(*_arguments: object, **_options: object) -> None:
        raise OSError(number, os.strerror(number))

    return fail


STEPS: dict[str, tuple[object, str]] = {
    "the VM": (Kvm, "create_vm"),
    "its memory": (Vm, "set_user_memory_region"),
    "its processor": (Vm, "create_vcpu"),
    "its registers": (boot, "set_registers"),
    "reading its registers": (Vcpu, "get_sregs"),
    "writing its registers": (Vcpu, "set_regs"),
}


@pytest.mark.kvm
@pytest.mark.parametrize(("owner", "name"), STEPS.values(), ids=STEPS)
def test_a_step_that_fails_is_the_hosts_fault(
    path: Path, monkeypatch: pytest.MonkeyPatch, owner: object, name: str
) -> None:
    monkeypatch.setattr(owner, name, failing(errno.ENOMEM))
    expected = "could not use /dev/kvm: Cannot allocate memory; see instar doctor"
    assert error_of(path) == expected


@pytest.mark.kvm
@pytest.mark.parametrize("name", ["set_signal_mask", "run"])
def test_a_run_that_fails_is_the_hosts_fault(
    path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr(Vcpu, name, failing(errno.EIO))
    assert error_of(path) == "KVM: Input/output error; see instar doctor"


def test_memory_that_is_refused_is_the_hosts_fault(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mmap.mmap", failing(errno.ENOMEM))
    assert error_of(path) == "no memory for the guest: Cannot allocate memory"
    limits = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (1 << 50, limits[1]))
    try:
        expected = "Cannot allocate memory; raise the limit of address space (ulimit -v) of"
        assert f"{expected} {1 << 40} KiB" in error_of(path)
    finally:
        resource.setrlimit(resource.RLIMIT_AS, limits)


@pytest.mark.kvm
def test_a_timer_that_is_refused_is_the_hosts_fault(path: Path) -> None:
    # Each timer takes one of the signals that a user may have pending.
    limits = resource.getrlimit(resource.RLIMIT_SIGPENDING)
    resource.setrlimit(resource.RLIMIT_SIGPENDING, (0, limits[1]))
    try:
        assert "Resource temporarily unavailable" in error_of(path)
    finally:
        resource.setrlimit(resource.RLIMIT_SIGPENDING, limits)


@pytest.mark.kvm
@pytest.mark.parametrize("free", [0, 1, 2, 3])
def test_too_many_open_files_are_the_hosts_fault(path: Path, free: int) -> None:
    Image().write(path)
    payload = load_payload()
    instar.amend(path, lazy_refcounts=True, payload=payload)  # which imports all that it needs
    spare = [os.open("/dev/null", os.O_RDONLY) for _ in range(8)]
    for descriptor in spare:
        os.close(descriptor)
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    descriptors = open_descriptors()
    resource.setrlimit(resource.RLIMIT_NOFILE, (spare[free], limits[1]))
    try:
        with pytest.raises(instar.HostError, match="Too many open files"):
            instar.amend(path, lazy_refcounts=False, payload=payload)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert open_descriptors() == descriptors
