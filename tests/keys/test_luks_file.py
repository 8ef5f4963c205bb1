"""A LUKS file, which is no qcow2 image: no guest, and nothing told that it lacks. Test side."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

import instar
from tests.support.forge import Image
from tests.support.luks import WORDS, make_by_qemu, secret_flag
from tests.support.process import PACKAGE
from tests.support.qemu import newest

MAIN = f"import sys; sys.path.insert(0, {str(PACKAGE)!r}); from instar.__main__ import main; main()"
PROGRAM = [sys.executable, "-c", MAIN]
SECRETS = [part for word in WORDS for part in secret_flag(word)]
ADD = {
    "luks": "state=active,new-secret=two,iter-time=0",
    "qcow2": "encrypt.state=active,encrypt.new-secret=two,encrypt.iter-time=0",
}


def add(form: str) -> list[str]:
    return ["amend", "-f", form, *SECRETS, "--key-secret", "one", "-o", ADD[form]]


@pytest.mark.parametrize("count", [1, 3])
def test_it_needs_no_virtual_machine(tmp_path: Path, count: int) -> None:
    volumes = [make_by_qemu(tmp_path / f"{number}", "luks") for number in range(count)]
    log = tmp_path / "log"
    trace = ["strace", "-f", "-qq", "-e", "trace=openat,open,ioctl", "-o", str(log)]
    line = [*trace, *PROGRAM, *add("luks"), "--require-confinement"]
    line += [str(volume.path) for volume in volumes]
    done = subprocess.run(line, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    calls = log.read_text()
    assert "/dev/null" in calls or count == 1  # what is opened is seen
    assert "openat(" in calls
    assert "/dev/kvm" not in calls
    assert "KVM_" not in calls
    for volume in volumes:
        assert volume.opened(newest(), ["one", "two", "three"]) == {"one", "two"}


def test_a_sandbox_makes_no_virtual_machine_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise AssertionError("a machine is made")

    monkeypatch.setattr("instar.vmm.machine.Machine.__init__", fail)
    volumes = [make_by_qemu(tmp_path / name, "luks") for name in "abc"]
    keys = instar.AddKey(b"one", b"two", iter_time=0)
    with instar.Sandbox() as sandbox:
        assert sandbox.amend(volumes[0].path, keys=keys, format="luks").action == "amended"
    paths = [volume.path for volume in volumes[1:]]
    outcomes = [*instar.amend_many(paths, keys=keys, format="luks")]
    assert [outcome.unwrap().action for outcome in outcomes] == ["amended", "amended"]


@pytest.mark.parametrize("isolation", [None, "process"])
def test_its_result_has_no_level_and_no_options(tmp_path: Path, isolation: None) -> None:
    volume = make_by_qemu(tmp_path / "i", "luks")
    keys = instar.AddKey(b"one", b"two", iter_time=0)
    result = instar.amend(volume.path, keys=keys, format="luks", isolation=isolation)
    assert result.compat is None
    assert result.lazy_refcounts is False
    assert set(result.options.values()) == {None}
    document = json.loads(json.dumps(result.to_dict()))
    assert (document["compat"], document["payload_sha256"]) == (None, "")


def _make(path: Path, sort: str) -> str:
    if sort in ("luks", "encrypted"):
        make_by_qemu(path, "luks" if sort == "luks" else "qcow2")
    else:
        Image(version=2 if sort == "old" else 3).write(path)
    return "luks" if sort == "luks" else "qcow2"


@pytest.mark.kvm
@pytest.mark.parametrize("sort", ["luks", "encrypted", "old", "new"])
def test_what_is_not_there_is_never_told_as_the_text_none(tmp_path: Path, sort: str) -> None:
    form = _make(tmp_path / "i", sort)
    asked = add(form) if sort in ("luks", "encrypted") else ["amend", "-o", "lazy_refcounts=off"]
    commands = [["info"], ["check"]] if form == "qcow2" else []
    commands += [[*asked, "--dry-run"], [*asked, "-v"], ["amend", "-f", form, "-o", "help"]]
    commands += [[*command, "--output=json"] for command in commands[:-1]]
    for command in commands:
        line = [*PROGRAM, *command, *(["i"] if "help" not in command else [])]
        done = subprocess.run(
            *(line,), cwd=tmp_path, capture_output=True, text=True, check=False, timeout=60
        )
        assert done.stdout + done.stderr
        assert not re.search(r"\bNone\b", done.stdout + done.stderr), (command, done)
    assert [path.name for path in tmp_path.iterdir()] == ["i"]
