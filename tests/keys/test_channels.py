"""What processes of ours say to each other holds no passphrase, but a child's task. Test side.

The kernel tells what goes through a worker's socket, a confined child's pipe, the streams and the
image: strace shows each call of every process. Left out are the files that hold the secrets and the
memory that a child finds its task in, with which the secrets come.
"""

from __future__ import annotations

import gc
import re
import subprocess
import sys
import weakref
from base64 import b64encode
from pathlib import Path
from typing import Any

import pytest

import instar
from tests.support.luks import make_by_qemu
from tests.support.process import PACKAGE

pytestmark = pytest.mark.kvm

FIRST, SECOND, WRONG = "one", "Tr0ub4dor-and-3", "c0rrect-h0rse-battery"
ALL_CALLS = "read,write,pread64,pwrite64,readv,writev,preadv,pwritev,execve"
MESSAGES = "sendto,sendmsg,sendmmsg,recvfrom,recvmsg,recvmmsg"
TASK = "/memfd:instar-task"


def spellings(word: str) -> set[str]:
    """A passphrase as text, in hexadecimal digits, and in base64 wherever it may begin."""
    raw = word.encode()
    found = {word, raw.hex(), raw.hex().upper()}
    for skip in range(3):
        text = b64encode(bytes(skip) + raw).decode()
        found.add(text[-(-skip * 4 // 3) : (skip + len(raw)) * 4 // 3])  # what is of it alone
    return found


def traces(text: str) -> list[str]:
    """All spellings of the passphrases that stand in a text."""
    return [found for word in (SECOND, WRONG) for found in spellings(word) if found in text]


def traced(folder: Path, *line: str) -> tuple[subprocess.CompletedProcess[str], list[str]]:
    """Run a program; return how it ended, and each call of it and of its children."""
    folder.mkdir()
    calls = ["-ff", "-y", "-qq", "-s", "1000000", "-e", f"trace={ALL_CALLS},{MESSAGES}"]
    strace = ["strace", *calls, "-o", str(folder / "of"), *line]
    done = subprocess.run(strace, capture_output=True, text=True, check=False, timeout=120)
    logs = [path.read_text(errors="replace") for path in folder.iterdir()]
    return done, [call for log in logs for call in log.splitlines()]


def between(calls: list[str], *left_out: str) -> str:
    """What these calls carried, but for those on files of these names."""
    return "\n".join(call for call in calls if not any(name in call for name in left_out))


@pytest.fixture
def secrets(tmp_path: Path) -> list[str]:
    """Options with three passphrases, each in a file."""
    given = []
    for name, word in (("first", FIRST), ("second", SECOND), ("wrong", WRONG)):
        (tmp_path / f"{name}.secret").write_text(word)
        given += ["--object", f"secret,id={name},file={tmp_path / name}.secret"]
    return given


MAIN = f"import sys; sys.path.insert(0, {str(PACKAGE)!r}); from instar.__main__ import main; main()"


def test_a_spelling_is_found_wherever_it_stands() -> None:
    for word in (SECOND, WRONG):
        raw = word.encode()
        for before in range(6):
            text = b64encode(b"x" * before + raw + b"yz").decode()
            assert traces(text), (word, before)
        assert traces(raw.hex())
        assert traces(f"<{word}>")
    assert traces("what stands here") == []


@pytest.mark.parametrize("form", ["qcow2", "luks"])
def test_the_workers_of_a_batch_and_their_parent_say_none(
    tmp_path: Path, secrets: list[str], form: str
) -> None:
    images = [str(make_by_qemu(tmp_path / f"{n}.image", form).path) for n in range(2)]
    prefix = "encrypt." if form == "qcow2" else ""
    asked = f"{prefix}state=active,{prefix}new-secret=second,{prefix}iter-time=0"
    start = [sys.executable, "-c", MAIN, "amend", "-f", form, *secrets, "-o", asked, "-v", "-j2"]
    for number, (unlock, status) in enumerate((("first", 0), ("wrong", 1), ("second", 0))):
        line = [*start, "--key-secret", unlock, "--output=json", *images]
        done, calls = traced(tmp_path / f"log{number}", *line)
        said = between(calls, ".secret>")
        assert traces(said + done.stdout + done.stderr) == []
        assert done.returncode == status, done.stderr
        answers = re.findall(r"^sendmsg\(|^sendto\(|^write\(\d+<socket:", said, re.MULTILINE)
        assert len(answers) >= 4  # two images there, two answers back
        assert ("Invalid password" if status else "keyslot_") in said
        assert f"<{images[0]}>" in said  # what is written to the image is among it


@pytest.mark.parametrize("form", ["qcow2", "luks"])
def test_a_confined_child_answers_none(tmp_path: Path, secrets: list[str], form: str) -> None:
    image = make_by_qemu(tmp_path / "i.image", form).path
    code = f"""
import sys; sys.path.insert(0, {str(PACKAGE)!r}); import instar
first, second, wrong = (open(path, "rb").read() for path in sys.argv[1:])
how = dict(isolation="process", format={form!r})
for unlock in (wrong, first):
    try:
        keys = instar.AddKey(unlock, second, iter_time=0)
        print(instar.amend({str(image)!r}, keys=keys, **how).to_dict())
    except instar.ImageRejected as error:
        print(error, error.to_dict(), file=sys.stderr)
"""
    files = [str(tmp_path / f"{name}.secret") for name in ("first", "second", "wrong")]
    done, calls = traced(tmp_path / "log", sys.executable, "-c", code, *files)
    said = between(calls, ".secret>", TASK)
    assert traces(said + done.stdout + done.stderr) == []
    assert done.returncode == 0, done.stderr
    assert "Invalid password" in done.stderr
    assert "keyslot_1" in done.stdout
    task = [call for call in calls if TASK in call]
    assert any(call.startswith("read(0<") for call in task)  # the child's, by which it gets them
    assert set(traces("\n".join(task))) == {SECOND.encode().hex(), WRONG.encode().hex()}
    assert len(re.findall(r"^read\(\d+<pipe:.*keyslot_1", said, re.MULTILINE)) == 1
    assert len(re.findall(r"^write\(1<pipe:.*Invalid password", said, re.MULTILINE)) == 1


@pytest.mark.parametrize("form", ["qcow2", "luks"])
def test_nothing_keeps_a_passphrase_when_its_amend_has_ended(tmp_path: Path, form: str) -> None:
    image = str(make_by_qemu(tmp_path / "i.image", form).path)
    how: dict[str, Any] = {"format": form}
    with instar.Sandbox() as sandbox:
        for amend in (instar.amend, sandbox.amend):
            for word in (WRONG, FIRST):
                keys = instar.AddKey(word.encode(), SECOND.encode(), iter_time=0)
                known = weakref.ref(keys)
                try:
                    assert amend(image, keys=keys, **how).action == "amended"
                    assert word == FIRST
                except instar.ImageRejected:
                    assert word == WRONG
                del keys
                gc.collect()
                assert known() is None
