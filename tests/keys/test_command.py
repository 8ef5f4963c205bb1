"""Test side: the command changes keys, and nobody hears of a passphrase."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from instar.vmm.cli.flags import AMEND
from instar.vmm.request.key_options import key_options
from tests.keys.files import FIRST, make, opens
from tests.support.process import PACKAGE
from tests.support.qemu import newest

NEW = b"battery staple"
COMMAND = [sys.executable, "-c", "from instar.vmm.cli import main; main()", "amend"]
SECRETS = ("--object", "secret,id=new,file=new", "--object", "secret,id=old,file=old")


def amend(disk: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    (disk.parent / "new").write_bytes(NEW)
    (disk.parent / "old").write_bytes(FIRST)
    line = [*COMMAND, *SECRETS, *arguments]
    done = subprocess.run(
        *(line,),
        cwd=disk.parent,
        env={"PYTHONPATH": str(PACKAGE)},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    for word in (NEW, FIRST):
        assert word.decode() not in done.stdout + done.stderr
    return done


@pytest.mark.kvm
@pytest.mark.parametrize("form", ["qcow2", "luks"])
def test_the_confined_command_adds_and_erases(disk: Path, form: str) -> None:
    make(disk, form)
    dot = "encrypt." if form == "qcow2" else ""
    add = f"{dot}state=active,{dot}new-secret=new,{dot}iter-time=0"
    opts = f"driver={form},{dot}key-secret=old,file.filename=disk"
    done = amend(disk, "-o", add, "--image-opts", opts, "--require-confinement", "-v")
    assert (done.returncode, done.stdout) == (0, "")
    assert "keyslot_1=1000 iterations" in done.stderr
    assert opens(disk, NEW, newest(), form)
    erase = f"{dot}state=inactive,{dot}old-secret=old"
    done = amend(disk, "-f", form, "-o", erase, "disk", "--require-confinement")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert not opens(disk, FIRST, newest(), form)


@pytest.mark.kvm
def test_workers_change_the_keys_of_many_images(tmp_path: Path) -> None:
    disks = [make(tmp_path / name, "qcow2") for name in ("a", "b")]
    add = "encrypt.state=active,encrypt.new-secret=new,encrypt.iter-time=0"
    done = amend(disks[0], "-o", add, "--key-secret", "old", "--jobs", "2", "a", "b")
    assert done.returncode == 0
    assert all(opens(disk, NEW, newest(), "qcow2") for disk in disks)


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ("keyslot=1", "Parameter 'state' is missing"),
        ("state=on", "Parameter 'state' does not accept value 'on': use active or inactive"),
        ("state=active", "'new-secret' is required to activate a keyslot"),
        ("state=active,new-secret=new,old-secret=old", "'old-secret' must not be given"),
        ("state=active,new-secret=new", "Parameter 'key-secret' is required"),
        ("state=inactive,old-secret=nope", "No secret with id 'nope'"),
        ("state=inactive,new-secret=new", "'new-secret' must not be given when erasing"),
        ("state=inactive,iter-time=1,keyslot=1", "'iter-time' must not be given when erasing"),
        ("state=inactive,keyslot=8", "Invalid keyslot 8 specified, must be between 0 and 7"),
        ("state=inactive,keyslot=x", "Parameter 'keyslot' expects a number from 0 to 7, not 'x'"),
        ("state=inactive,keyslot=1,compat=1.1", "option 'compat' is one of qcow2 images"),
    ],
)
def test_faults_are_told_as_qemu_tells_them(disk: Path, asked: str, message: str) -> None:
    disk.write_bytes(b"")
    done = amend(disk, "-f", "luks", "-o", asked, "disk")
    assert done.returncode == 2
    assert done.stderr.startswith(f"instar: {message}")


def test_completions_offer_the_keys_of_the_table() -> None:
    options = next(flag for flag in AMEND.flags if flag.name == "options")
    offered = {value.partition("=")[0] for value in options.values}
    assert {row.key for row in key_options("qcow2")} <= offered


def test_an_amend_without_keys_imports_nothing_of_them() -> None:
    code = "import sys; from instar.vmm.cli import main; main(['amend', '-o', 'compat=1.1', '/no'])"
    code += "; print(*sys.modules)"
    line = [sys.executable, "-c", code]
    env = {"PYTHONPATH": str(PACKAGE)}
    done = subprocess.run(line, env=env, capture_output=True, text=True, check=False, timeout=60)
    loaded = done.stdout.split()
    assert "instar.vmm.amend" in loaded
    assert not [name for name in loaded if "luks" in name or "keys" in name or "crypto" in name]
