"""After an interrupt, or a child's death, `instar check -r` tells all that was repaired.

Test side. Repairs that were begun come to their end, nothing else is begun, and nobody is left.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import instar
from instar.vmm import repair
from tests.support.forge import Data, Image
from tests.support.process import command

pytestmark = pytest.mark.kvm

IMAGE = Image(cluster_bits=9, size=64 << 9, clusters={0: Data(b"a"), 3: Data(b"b")})
DAMAGED = replace(IMAGE, refcounts={IMAGE.regions()["data[0]"].start >> 9: 0}, dirty=True)
SLOW = """
import os, time
flush = os.fdatasync
def fdatasync(descriptor):
    end = time.monotonic() + {}
    while time.monotonic() < end:
        pass
    flush(descriptor)
os.fdatasync = fdatasync
"""
"""A patch that has each barrier take so many seconds; a confined process cannot sleep."""
UNSURE = "the image is the old one or the amended one"


def write_some(folder: Path, count: int) -> list[Path]:
    images = [folder / f"{number}.qcow2" for number in range(count)]
    for image in images:
        DAMAGED.write(image)
    return images


def start(*arguments: str | Path, seconds: float) -> subprocess.Popen[str]:
    return subprocess.Popen(
        command("check", "-r", "all", "--output=json", *arguments, patch=SLOW.format(seconds)),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def wait_for(condition: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    end = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < end
        assert process.poll() is None
        time.sleep(0.01)


def to_all(process: subprocess.Popen[str]) -> None:
    """As a terminal interrupts: the command and its children."""
    os.killpg(process.pid, signal.SIGINT)


INTERRUPTS: dict[str, Callable[[subprocess.Popen[str]], None]] = {
    "of a terminal": to_all,
    "SIGINT": lambda process: process.send_signal(signal.SIGINT),
    "SIGTERM": lambda process: process.send_signal(signal.SIGTERM),
}


def documents_of(process: subprocess.Popen[str]) -> tuple[list[dict[str, Any]], str]:
    """What is told until the end; nobody may be left then."""
    out, err = process.communicate(timeout=30)
    with pytest.raises(ProcessLookupError):
        os.killpg(process.pid, 0)
    decoder, documents = json.JSONDecoder(), []
    while out.strip():
        document, end = decoder.raw_decode(out.lstrip())
        documents.append(document)
        out = out.lstrip()[end:]
    return documents, err


@pytest.mark.parametrize("jobs", ["1", "2"])
@pytest.mark.parametrize("how", INTERRUPTS)
def test_what_was_repaired_is_told_and_the_rest_is_untouched(
    how: str, jobs: str, tmp_path: Path
) -> None:
    images = write_some(tmp_path, 8)
    before = images[0].read_bytes()
    process = start("--jobs", jobs, *images, seconds=0.15)
    wait_for(lambda: images[1].read_bytes() != before, process)
    INTERRUPTS[how](process)
    *told, last = documents_of(process)[0]
    assert process.returncode == 1
    assert (last["filename"], last["error"]["kind"]) == (None, "KeyboardInterrupt")
    repaired = [str(image) for image in images if image.read_bytes() != before]
    assert 0 < len(repaired) < len(images)
    assert [one["filename"] for one in told if one["repair"]["action"] == "amended"] == repaired
    assert [one["exit-status"] for one in told] == [0] * len(repaired)


def test_a_single_image_that_was_repaired_is_told(tmp_path: Path) -> None:
    (image,) = write_some(tmp_path, 1)
    before = image.read_bytes()
    process = start(image, seconds=0.2)
    wait_for(lambda: image.read_bytes() != before, process)
    to_all(process)
    (told, last), err = documents_of(process)
    assert process.returncode == 1
    assert (told["repair"]["action"], told["exit-status"]) == ("amended", 0)
    assert last["error"]["kind"] == "KeyboardInterrupt"
    assert err == "instar: interrupted; no image is left half-changed\n"


def test_a_repair_that_takes_too_long_is_told_to_be_unsure(tmp_path: Path) -> None:
    images = write_some(tmp_path, 2)
    before = images[0].read_bytes()
    process = start("--jobs", "1", *images, seconds=20)
    wait_for(lambda: images[0].read_bytes() != before, process)
    process.send_signal(signal.SIGINT)
    (told, _), err = documents_of(process)
    assert told["filename"] == str(images[0])
    assert UNSURE in told["error"]["message"]
    assert f"'{images[0]}': the command was interrupted; {UNSURE}" in err
    assert images[1].read_bytes() == before


def is_there(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


def kill_child(process: subprocess.Popen[str]) -> None:
    (child,) = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    os.kill(int(child), signal.SIGKILL)


def test_a_killed_repair_is_told_to_be_unsure_and_the_next_image_is_repaired(
    tmp_path: Path,
) -> None:
    images = write_some(tmp_path, 2)
    before = images[0].read_bytes()
    process = start("--jobs", "1", *images, seconds=0.5)
    wait_for(lambda: images[0].read_bytes() != before, process)
    kill_child(process)
    (first, second), _ = documents_of(process)
    assert UNSURE in first["error"]["message"]
    assert second["repair"]["action"] == "amended"


def test_no_repair_outlives_a_command_that_is_killed(tmp_path: Path) -> None:
    images = write_some(tmp_path, 2)
    before = images[0].read_bytes()
    process = start(*images, seconds=20)
    wait_for(lambda: images[0].read_bytes() != before, process)
    process.kill()
    assert process.communicate(timeout=30) == ("", "")
    end = time.monotonic() + 5
    while is_there(process.pid):
        assert time.monotonic() < end
        time.sleep(0.01)
    # Nobody has its locks, and the next repair finishes it.
    assert [instar.check(image, repair="all").exit_status for image in images] == [0, 0]


def test_a_check_that_fails_after_the_repair_does_not_hide_it(tmp_path: Path) -> None:
    (image,) = write_some(tmp_path, 1)
    patch = """
from instar.vmm.cli import check
look = check._look
def fail(name, **how):
    if open(name, "rb").read()[79] & 1:
        return look(name, **how)
    raise OSError("no second check")
check._look = fail
"""
    process = subprocess.run(
        command("check", "-r", "all", "--output=json", image, patch=patch),
        capture_output=True,
        check=False,
        text=True,
    )
    told = json.loads(process.stdout)
    assert process.returncode == 1
    assert told["error"]["message"].startswith("repaired, but not checked again: ")
    assert told["repair"]["action"] == "amended"


@pytest.mark.parametrize("isolation", [None, "process"])
def test_a_program_hears_of_a_repair_whose_check_failed(
    isolation: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (image,) = write_some(tmp_path, 1)
    name = "check_image" if isolation else "check_open"
    check = getattr(repair, name)

    def fail_when_clean(*arguments: Any, **how: Any) -> Any:
        if image.read_bytes()[79] & 1:
            return check(*arguments, **how)
        raise instar.GuestFault("no second check")

    monkeypatch.setattr(repair, name, fail_when_clean)
    with pytest.raises(instar.HostError, match=r"^repaired, but not checked again: no second"):
        instar.check(image, repair="all", isolation=isolation)
    monkeypatch.undo()
    assert instar.check(image).exit_status == 0
