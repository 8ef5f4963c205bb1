"""Test side: info and check take qemu-img's flags, or refuse them by name and say why."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.forge import Data, Image
from tests.support.qemu import Qemu

pytestmark = pytest.mark.kvm

VALUES = {
    "FMT": "qcow2",
    "CACHE": "none",
    "CACHE_MODE": "none",
    "human|json": "json",
    "OBJDEF": "secret,id=s,data=x",
    "leaks|all": "leaks",
}
REFUSED = {"backing-chain": "opens what images name", "limits": "an image that qemu has opened"}


def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "instar", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "t.qcow2"
    Image(clusters={0: Data(b"\x05")}).write(path)
    return path


@pytest.mark.parametrize("command", ["info", "check"])
def test_each_flag_of_qemu_imgs_help_is_taken_or_refused_by_name(
    command: str, image: Path, qemu: Qemu
) -> None:
    told = qemu.img(command, "--help").stdout
    rows = re.findall(r"^  (?:-(\w), )?--([\w-]+)(?: (\S+))?$", told, re.MULTILINE)
    flags = [(short, name, value) for short, name, value in rows if name != "help"]
    assert len(flags) >= 7
    for short, name, value in flags:
        spelled = [f"--{name}={VALUES[value]}", f"-{short}{VALUES[value]}"] if value else []
        spelled = spelled or [f"--{name}", f"-{short}"]
        operand = f"driver=qcow2,file.filename={image}" if name == "image-opts" else str(image)
        for flag in spelled[: 2 if short else 1]:
            done = run(command, flag, operand)
            if name in REFUSED:
                assert (done.returncode, done.stdout) == (2, "")
                (line,) = done.stderr.splitlines()
                assert f"--{name} is not supported" in line
                assert REFUSED[name] in line
            else:
                assert (done.returncode, done.stderr) == (0, ""), flag


def test_the_letter_that_qemu_img_10_has_for_a_chain_is_refused_too(image: Path) -> None:
    done = run("info", "-b", image)
    assert done.returncode == 2
    assert "--backing-chain is not supported: it opens what images name; look at" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["info", "-t", "fast"], "Invalid cache option: fast"),
        (["check", "-T", "fast"], "Invalid cache option: fast"),
        (["check", "-r", "leak"], "-r expects 'leaks' or 'all', not 'leak"),
        (["check", "-r", "all", "-U"], "--force-share"),
        (["info", "--output=xml"], "expected human or json"),
        (["info", "--image-opts", "-f", "qcow2"], "mutually exclusive"),
        (["info", "-q"], "invalid option -- 'q'"),
        (["check", "-t", "none"], "invalid option -- 't'"),
    ],
)
def test_what_qemu_img_refuses_is_refused_in_one_line(
    arguments: list[str], message: str, image: Path, qemu: Qemu
) -> None:
    assert not qemu.img(*arguments, str(image), accept=(0, 1)).ok
    before = image.read_bytes(), image.stat().st_mtime_ns
    done = run(*arguments, image)
    assert (done.returncode, done.stdout) == (2, "")
    (line,) = done.stderr.splitlines()
    assert message in line
    assert (image.read_bytes(), image.stat().st_mtime_ns) == before


def test_the_driver_of_image_opts_is_what_the_image_must_be(image: Path, tmp_path: Path) -> None:
    raw = tmp_path / "raw"
    raw.write_bytes(bytes(4096))
    for name, status in ((image, 0), (raw, 1)):
        assert (
            run("info", "--image-opts", f"driver=qcow2,file.filename={name}").returncode == status
        )
        assert run("info", "--image-opts", f"file.filename={name}").returncode == 0
    both = [f"driver=qcow2,file.filename={image}", f"file.filename={raw}"]
    done = run("info", "--image-opts", "--output=json", *both)
    assert ["error" in json.loads(line) for line in done.stdout.splitlines()] == [False, True]


@pytest.mark.parametrize(
    "arguments",
    [
        ("info", "-t", "fast"),
        ("info", "-b"),
        ("info", "--timeout", "x"),
        ("check", "-T", "fast"),
        ("check", "-r", "most"),
        ("check", "-0"),
        ("check", "-f", "raw"),
        ("amend", "-o", "compat=1.1", "-t", "fast"),
    ],
)
def test_a_fault_in_a_value_or_a_choice_of_flags_is_told_with_the_images_name(
    arguments: tuple[str, ...], image: Path
) -> None:
    document = json.loads(run(*arguments, "--output", "json", image).stdout)
    assert document["filename"] == str(image)
    assert document["error"]["refusals" if "raw" in arguments else "message"]
