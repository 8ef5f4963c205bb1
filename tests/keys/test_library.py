"""Test side: a package cryptography that is missing or broken, and an OpenSSL that lacks a hash.

Each is this machine's fault, said in one line, and the file stays as it is.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import instar
from instar.vmm.luks import crypto
from instar.vmm.luks.header import HASHES
from instar.vmm.request.keys import AddKey
from tests.keys.files import FIRST, apply, change, holders, make
from tests.support.forge import Image
from tests.support.process import PACKAGE

PANIC = "class Panic(BaseException): pass\nraise Panic('Python API call failed\\nmore')"
# What the package does when it is imported, and what is said.
BROKEN = {
    "it is missing": (
        "raise ModuleNotFoundError('x', name='cryptography')",
        "changing keys needs the package cryptography; install it into instar's environment "
        "(docs/keys.md)",
    ),
    "a part of it is missing": ("", "No module named 'cryptography.hazmat"),
    "its library is missing": (
        "raise ImportError('libssl.so.3: cannot open shared object file')",
        "does not work here: ImportError: libssl.so.3: cannot open shared object file;",
    ),
    "what it needs is missing": (
        "import cffi_that_is_not_there",
        "does not work here: ModuleNotFoundError: No module named 'cffi_that_is_not_there';",
    ),
    "it has a defect": ("raise RuntimeError('no provider')", "RuntimeError: no provider;"),
    "it panics": (PANIC, "does not work here: Panic: Python API call failed; install it anew"),
}
BY_COMMAND = "from instar.__main__ import main; main()"
BY_LIBRARY = """import instar
keys = instar.EraseKey(0, force=True)
try:
    instar.amend(sys.argv[-1], format='luks', keys=keys, isolation=%r)
except instar.HostError as error:
    sys.exit('instar: ' + str(error))
"""


def run_with(
    contents: str, packages: Path, code: str, arguments: list[str]
) -> subprocess.CompletedProcess[str]:
    """Run code with arguments where the package cryptography is this instead."""
    package = packages / "cryptography"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text(contents)
    start = f"import sys; sys.path.insert(0, {str(PACKAGE)!r}); {code}"
    return subprocess.run(
        [sys.executable, "-c", start, *arguments],
        env={**os.environ, "PYTHONPATH": str(packages)},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


@pytest.mark.parametrize(
    "code", [BY_COMMAND, BY_LIBRARY % None, BY_LIBRARY % "process"], ids=["command", "-", "process"]
)
@pytest.mark.parametrize("name", BROKEN)
def test_what_is_wrong_with_it_is_said_in_a_line(
    tmp_path: Path, luks: bytes, name: str, code: str
) -> None:
    contents, said = BROKEN[name]
    disk = tmp_path / "disk"
    disk.write_bytes(luks)
    os.utime(disk, ns=(1, 1))
    asked = ["amend", "-f", "luks", "-o", "state=inactive,keyslot=0", "--force", str(disk)]
    done = run_with(contents, tmp_path / "packages", code, asked)
    assert done.returncode == 1
    assert done.stderr.startswith("instar: ")
    assert said in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert disk.read_bytes() == luks
    assert disk.stat().st_mtime_ns == 1


@pytest.mark.kvm
@pytest.mark.parametrize("encrypted", [False, True])
def test_that_it_is_missing_is_said_of_an_image_with_keyslots_only(
    tmp_path: Path, encrypted: bool
) -> None:
    contents, said = BROKEN["it is missing"]
    disk = tmp_path / "disk"
    if encrypted:
        make(disk, "qcow2")
    else:
        Image().write(disk)
    asked = ["-o", "encrypt.state=inactive,encrypt.keyslot=0", "--force", str(disk)]
    done = run_with(contents, tmp_path / "packages", BY_COMMAND, ["amend", *asked])
    assert done.returncode == 1
    assert (said if encrypted else "encryption not present") in done.stderr


def lack(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Have an OpenSSL without a hash, as where its provider is not loaded."""
    derive = crypto.derive

    def refuse(hash_name: str, *rest: Any) -> bytearray:
        if hash_name == name:
            raise ValueError("[digital envelope routines] unsupported")
        return derive(hash_name, *rest)

    monkeypatch.setattr(crypto, "derive", refuse)


@pytest.mark.parametrize("name", ["ripemd160", "sha1"])
def test_without_a_hash_an_image_with_another_one_is_changed(
    monkeypatch: pytest.MonkeyPatch, luks: bytes, name: str
) -> None:
    lack(monkeypatch, name)
    crypto.warm_up()
    changed = change(luks, AddKey(FIRST, b"new", iter_time=0))
    assert holders(apply(luks, changed), b"new") == {1}


def test_a_hash_that_it_lacks_is_named(monkeypatch: pytest.MonkeyPatch, luks: bytes) -> None:
    lack(monkeypatch, "sha256")
    with pytest.raises(instar.HostError, match="OpenSSL does not do PBKDF2 with sha256 on this"):
        change(luks, AddKey(FIRST, b"new", iter_time=0))


def test_a_mode_that_it_lacks_is_named(monkeypatch: pytest.MonkeyPatch, luks: bytes) -> None:
    def refuse(*_: Any) -> Callable[[int], bytes]:
        raise ValueError("unsupported")

    monkeypatch.setattr(crypto, "_iv_maker", refuse)
    crypto.warm_up()
    with pytest.raises(instar.HostError, match="OpenSSL does not do aes-xts-plain64 on this"):
        change(luks, AddKey(FIRST, b"new", iter_time=0))


def test_the_hashes_are_tried_as_they_are_used() -> None:
    for name in HASHES:
        crypto.check_primitives(name, "xts-plain64", 64)
        assert hashlib.new(name).digest_size == HASHES[name]


@pytest.mark.kvm
def test_the_child_that_is_told_passphrases_leaves_no_core(tmp_path: Path, luks: bytes) -> None:
    disk, log = tmp_path / "disk", tmp_path / "log"
    disk.write_bytes(luks)
    code = (
        f"import sys; sys.path.insert(0, {str(PACKAGE)!r}); import instar\n"
        f"keys = instar.AddKey({FIRST!r}, b'new', iter_time=0)\n"
        f"instar.amend({str(disk)!r}, format='luks', keys=keys, isolation='process')"
    )
    calls = "trace=execve,prctl,prlimit64,read"
    trace = ["strace", "-f", "-qq", "-s", "4000", "-e", calls, "-o", str(log)]
    subprocess.run([*trace, sys.executable, "-c", code], check=True, timeout=60)
    told = log.read_text()
    child = told[told.rindex("execve(") :]
    secret = child.index(FIRST.hex())
    assert 0 < child.index("PR_SET_DUMPABLE, SUID_DUMP_DISABLE") < secret
    assert 0 < child.index("RLIMIT_CORE, {rlim_cur=0") < secret
