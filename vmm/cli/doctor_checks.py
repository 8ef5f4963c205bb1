"""Host side: the checks of `instar doctor`, each of which says what it found, or what is wrong.

Nothing of this is on the run path of an amend, so it imports what it likes. The last checks amend
an image of their own, by the command and in this process.
"""

from __future__ import annotations

import os
import platform
import stat
import struct
import subprocess
import tempfile
import time
from functools import partial

from ..base.errors import HostError
from ..machine import is_free_threaded

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

KVM_DEVICE = "/dev/kvm"
KVM_API_VERSION = 12  # Documentation/virt/kvm/api.rst, 4.1: refuse to run with any other

_JOIN = "sudo usermod -aG"
_GROUP_ACCESS = stat.S_IRGRP | stat.S_IWGRP
_COMPATIBLE_FEATURES = slice(80, 88)  # in the header, qcow2.txt
_LAZY_REFCOUNTS = 1

REPORT = "please report it"


class CheckError(Exception):
    """What a check found wrong, and what to do about it."""

    ok = False

    def __init__(self, message: str, advice: str) -> None:
        super().__init__(message)
        self.advice = advice


class HangError(CheckError):
    """What did not come to an end, and would not do so in the checks that follow."""


class Shortcoming(CheckError):
    """What is not as it should be, though the sandbox can do with it."""

    ok = True


def check_system() -> str:
    """Name the system; whether instar runs on it was asked before."""
    return f"Linux {platform.release()} on x86-64"


def check_interpreter() -> str:
    """Check that this is a build of Python that an amend runs on."""
    found = f"{platform.python_implementation()} {platform.python_version()}"
    if is_free_threaded():
        advice = "use the ordinary build of Python"
        raise CheckError(f"{found}, free-threaded, which is not supported", advice)
    return found


def check_device() -> str:
    """Check that /dev/kvm is there and may be opened."""
    try:
        device = os.open(KVM_DEVICE, os.O_RDWR | os.O_CLOEXEC)
        is_device = stat.S_ISCHR(os.fstat(device).st_mode)
        os.close(device)
    except PermissionError as error:
        raise CheckError(f"{KVM_DEVICE}: {error.strerror}", _advise_on_access()) from None
    except OSError as error:
        advice = "enable virtualisation in the firmware, or for a virtual machine nested"
        advice += " virtualisation in its host; then load the module: sudo modprobe"
        advice += f" {_kvm_module()}; start a container with --device {KVM_DEVICE}"
        raise CheckError(f"{KVM_DEVICE}: {error.strerror}", advice) from None
    if not is_device:
        advice = f"remove it, and load the module: sudo modprobe {_kvm_module()}"
        raise CheckError(f"{KVM_DEVICE} is no device", advice)
    return f"{KVM_DEVICE} is readable and writable"


def check_api() -> str:
    """Check that KVM speaks the one API version that there is."""
    from ..kvm.system import Kvm

    try:
        kvm = Kvm.open(KVM_DEVICE)
    except OSError as error:
        raise CheckError(f"KVM: {error.strerror}", f"make {KVM_DEVICE} accessible first") from None
    try:
        version = kvm.api_version()
    except OSError as error:
        advice = f"{KVM_DEVICE} is another device; make it that of KVM"
        raise CheckError(f"KVM: {error.strerror}", advice) from None
    finally:
        kvm.close()
    found = f"KVM API version {version}"
    if version != KVM_API_VERSION:
        raise CheckError(found, f"use a kernel with version {KVM_API_VERSION}")
    return found


def check_payload() -> str:
    """Check that the payload is installed and fits this host."""
    from instar.abi import INSTAR_ABI_VERSION

    from ..machine.payload import load_payload

    reinstall = "install instar anew"
    try:
        payload = load_payload()
    except HostError as error:
        raise CheckError(str(error), reinstall) from None
    found = f"payload of ABI version {payload.abi_version}, SHA-256 {payload.sha256}"
    if payload.abi_version != INSTAR_ABI_VERSION:
        raise CheckError(f"{found}; this host speaks version {INSTAR_ABI_VERSION}", reinstall)
    return found


def check_locks() -> str:
    """Check that open file description locks, qemu's image locks, work for temporary files."""
    from ..image.locks import lock_image

    with tempfile.TemporaryFile() as file:
        warning = lock_image(file.fileno(), tempfile.gettempdir())
    if warning is not None:
        raise CheckError(warning, "keep images on a file system with open file description locks")
    return "open file description locks work"


_CLIENTS = "unset LD_PRELOAD, PYTHONMALLOC and GLIBC_TUNABLES where they are set, and report it"


def check_memory() -> str:
    """Check that allocations and a flush work in a confined process with what is loaded here."""
    from .trials import TrialError, use_memory

    try:
        use_memory()
    except TrialError as error:
        if MemoryError.__name__ in str(error):
            raise MemoryError from None
        raise CheckError(f"memory and a flush under confinement: {error}", _CLIENTS) from None
    return "a confined process can allocate memory and flush a file"


def check_command() -> str:
    """Amend an image by the command, as it runs on this machine, within a time limit."""
    from .trials import TrialError, TrialHangs, amend_by_command

    start = time.perf_counter()
    try:
        image = amend_by_command(make_image())
    except TrialHangs as error:
        raise HangError(f"the confined command: {error}", REPORT) from None
    except TrialError as error:
        raise CheckError(f"the confined command: {error}", "see the lines above") from None
    if int.from_bytes(image[_COMPATIBLE_FEATURES], "big") != _LAZY_REFCOUNTS:
        raise CheckError("the confined command did not amend a test image", REPORT)
    milliseconds = (time.perf_counter() - start) * 1000
    return f"the confined command amended a test image in {milliseconds:.0f} ms"


def check_sandbox() -> str:
    """Amend an image in a sandbox, and look whether it was amended."""
    from ..api import amend

    with tempfile.NamedTemporaryFile(prefix="instar-doctor-", suffix=".qcow2") as file:
        file.write(make_image())
        file.flush()
        start = time.perf_counter()
        result = amend(file.name, lazy_refcounts=True)
        milliseconds = (time.perf_counter() - start) * 1000
        file.seek(0)
        features = int.from_bytes(file.read()[_COMPATIBLE_FEATURES], "big")
    if result.action != "amended" or features != _LAZY_REFCOUNTS:
        raise CheckError("the sandbox did not amend a test image", REPORT)
    return f"the sandbox amended a test image in {milliseconds:.1f} ms, VM exits: {result.vm_exits}"


BARRIER_ADVICE = {
    "privileges": ("the command gives up its privileges", "see capabilities(7)"),
    "limits": ("the command limits its resources", "mount /proc, and see getrlimit(2)"),
    "landlock": (
        "the command closes all files to itself by Landlock",
        "use Linux 5.13 or later with landlock among its security modules (lsm=)",
    ),
    "descriptors": ("the command opens no descriptor any more", "see getrlimit(2)"),
    "seccomp": (
        "the command gives up most system calls by seccomp",
        "use Linux 4.14 or later with seccomp filters",
    ),
}
"""The barriers of vmm/confine/: what they do, and what they need."""
_ATTEMPT = """
from instar.vmm.confine import Descriptors, attempt
print(attempt(sys.argv[1], Descriptors(image=0, image_size=0, vcpu=0)) or "")
"""


def check_barrier(name: str) -> str:
    """Check in a process of its own that the command can confine itself in this way."""
    from ..fleet.isolation import child_command

    done = subprocess.run(  # noqa: S603 - an argument list, and the package's own code
        [*child_command(_ATTEMPT), name], capture_output=True, check=False, text=True, timeout=60
    )
    if done.returncode:
        raise CheckError(f"{name}: a confined process ends with {done.returncode}", REPORT)
    what, advice = BARRIER_ADVICE[name]
    fault = done.stdout.strip()
    if fault:
        raise Shortcoming(f"{name}: {fault}", f"{advice}; --require-confinement fails here")
    return what


CHECKS: tuple[tuple[str, Callable[[], str]], ...] = (
    ("system", check_system),
    ("interpreter", check_interpreter),
    ("device", check_device),
    ("api", check_api),
    ("payload", check_payload),
    ("locks", check_locks),
    *((name, partial(check_barrier, name)) for name in BARRIER_ADVICE),
    ("memory", check_memory),
    ("command", check_command),
    ("sandbox", check_sandbox),
)


def make_image() -> bytes:
    """Return a valid qcow2 image, version 3, of one empty 32 KiB disk in four 512-byte clusters."""
    cluster_bits, cluster_count, disk_size = 9, 4, 0x8000
    refcount_table, refcount_block, l1_table = (index << cluster_bits for index in (1, 2, 3))
    clusters = (
        # magic, version, backing file (offset, length), cluster_bits, size, crypt_method,
        # L1 (entries, offset), refcount table (offset, clusters), snapshots (count, offset);
        # then the features, refcount_order and header_length of version 3
        struct.pack(
            ">4sIQIIQIIQQIIQ QQQII",
            *(b"QFI\xfb", 3, 0, 0, cluster_bits, disk_size, 0),
            *(1, l1_table, refcount_table, 1, 0, 0),
            *(0, 0, 0, 4, 104),
        ),
        struct.pack(">Q", refcount_block),
        struct.pack(">4H", *[1] * cluster_count),
        b"",
    )
    return b"".join(cluster.ljust(1 << cluster_bits, b"\0") for cluster in clusters)


def _advise_on_access() -> str:
    import grp

    if os.geteuid() == 0:  # no group lets in whom a container, or a security module, keeps out
        return f"start the container with --device {KVM_DEVICE}"
    status = os.stat(KVM_DEVICE)
    make = "sudo groupadd -rf kvm"  # which a minimal system may lack
    give = f"{make}; sudo chgrp kvm {KVM_DEVICE}; sudo chmod 660 {KVM_DEVICE}; {_JOIN} kvm $USER"
    if status.st_mode & _GROUP_ACCESS != _GROUP_ACCESS or status.st_gid == 0:
        return f"give a group access and join it, then log in anew: {give}"
    try:
        group = grp.getgrgid(status.st_gid).gr_name
    except KeyError:  # as a rule the device comes from outside of this container
        run = f"run the container with the additional group {status.st_gid}"
        return f"{run}; outside of one, give a group access and join it, then log in anew: {give}"
    return f"join its group, then log in anew: {_JOIN} {group} $USER"


def _kvm_module() -> str:
    """Return the name of the kernel module for this CPU, or of both where it doesn't say."""
    with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as cpuinfo:
        vendor = cpuinfo.read(1000)
    if "GenuineIntel" in vendor:
        return "kvm_intel"
    return "kvm_amd" if "AuthenticAMD" in vendor else "kvm_intel (or kvm_amd)"
