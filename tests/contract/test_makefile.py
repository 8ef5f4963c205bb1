"""Test side: a command of the Makefile says at once what the machine lacks, and begins nothing."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import build_guest
import pytest

pytestmark = pytest.mark.any_python

ROOT = build_guest.ROOT
MAKE = shutil.which("make")
# What every Debian has, as far as the Makefile and its scripts use it.
ESSENTIAL = ("bash", "expand", "find", "sed", "sh")

# Goal: what is taken away, and the line that says so.
LACKING = {
    "test": (
        ("python3", "gcc", "strace"),
        "make test lacks python3, Python's ensurepip, a C compiler and libc, strace;"
        " as root: apt-get install python3 python3-venv gcc libc6-dev strace",
    ),
    "pythons": (
        ("python3", "strace"),
        "make pythons lacks python3, Python's ensurepip, strace;"
        " as root: apt-get install python3 python3-venv strace",
    ),
    "demo": (
        ("gcc",),
        "make demo lacks gcc; as root: apt-get install gcc",
    ),
    "dev": (
        ("python3",),
        "make dev lacks python3, Python's ensurepip; as root: apt-get install python3 python3-venv",
    ),
    "planner": (
        ("gcc",),
        "make planner lacks a C compiler and libc; as root: apt-get install gcc libc6-dev",
    ),
    "fuzz": (
        ("clang", "gcc"),
        "make fuzz lacks a C compiler and libc, clang;"
        " as root: apt-get install gcc libc6-dev clang libclang-rt-dev llvm",
    ),
}


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A clone as it was before anything was built in it."""
    tree = tmp_path / "tree"
    for name in ("Makefile", "scripts/require", "scripts/build_guest.py", "pyproject.toml"):
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, tree / name)
    (tree / "scripts" / "hatch_build.py").touch()
    for folder in ("abi", "bin", "guest", "shared", "vmm"):
        (tree / folder).mkdir()
    (tree / "bin" / "instar").touch()
    return tree


def make(
    tree: Path, goal: str, lacking: tuple[str, ...], *settings: str
) -> subprocess.CompletedProcess[str]:
    """Run make where there is nothing but what the goal needs, without what is lacking."""
    tools = tree.parent / "tools"
    tools.mkdir()
    if "python3" not in lacking:  # not by a link: Python looks for its library around its name
        python = tools / "python3"
        python.write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n', "utf-8")
        python.chmod(0o755)
    for name in ("gcc", "as", "ld", "strace", "losetup", *ESSENTIAL):
        found = shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin")
        if found and name not in lacking:
            (tools / name).symlink_to(found)
    assert MAKE is not None
    before = sorted(tree.rglob("*"))
    done = subprocess.run(
        [MAKE, goal, *settings],
        check=False,
        cwd=tree,
        env={"PATH": str(tools)},
        capture_output=True,
        text=True,
    )
    assert sorted(tree.rglob("*")) == before
    return done


@pytest.mark.parametrize("goal", LACKING)
def test_what_is_lacking_is_named_in_one_line_before_anything_begins(tree: Path, goal: str) -> None:
    lacking, line = LACKING[goal]
    done = make(tree, goal, lacking)
    first, *rest = done.stderr.splitlines()
    assert (done.returncode, done.stdout, first) == (2, "", line)
    assert all(other.startswith("make: ***") for other in rest)


@pytest.mark.parametrize("target", ["planner --seconds 5", "inspect", "repair --runs 9"])
def test_whatever_is_fuzzed_in_c_needs_clang(tree: Path, target: str) -> None:
    done = make(tree, "fuzz", ("clang",), f"ARGS={target}")
    assert done.stderr.startswith("make fuzz lacks clang; as root: apt-get install clang ")


def test_what_no_interpreter_changes_is_compiled_once_and_again_if_a_source_changes(
    tree: Path,
) -> None:
    def compiled() -> list[str]:
        command = [str(MAKE), "-n", "check", "planner", "VENV=build/another"]
        done = subprocess.run(command, cwd=tree, check=True, capture_output=True, text=True)
        return re.findall(r"build_(guest|planner)\.py", done.stdout)

    assert sorted(compiled()) == ["guest", "planner"]
    (tree / "shared" / "part").mkdir()
    source = tree / "shared" / "part" / "one.c"
    source.touch()
    later = time.time() + 10
    for made in (".editable/instar/guest/info.elf", "build/planner/_planner.py"):
        (tree / made).parent.mkdir(parents=True)
        (tree / made).touch()
        os.utime(tree / made, (later, later))
    assert compiled() == []
    os.utime(source, (later + 10, later + 10))
    assert sorted(compiled()) == ["guest", "planner"]
    source.unlink()
    os.utime(source.parent, (later + 10, later + 10))  # a file that has gone
    assert sorted(compiled()) == ["guest", "planner"]


def ask_for_kvm(tree: Path, device: Path) -> subprocess.CompletedProcess[str]:
    """Ask for another device than /dev/kvm; without a terminal, /dev/tty cannot be opened."""
    script = tree / "scripts" / "require"
    text = script.read_text("utf-8")
    assert "device=/dev/kvm\n" in text
    script.write_text(text.replace("device=/dev/kvm\n", f"device={device}\n"), "utf-8")
    return subprocess.run(
        [script, "make demo", "kvm"],
        check=False,
        capture_output=True,
        text=True,
        start_new_session=True,
    )


def test_a_device_that_is_lacking_is_not_made_of_a_file(tree: Path) -> None:
    device = tree.parent / "kvm"
    line = (
        f"make demo lacks a {device} that may be read and written (load the module kvm_intel or"
        f" kvm_amd, or start the container with --device {device})\n"
    )
    done = ask_for_kvm(tree, device)
    assert (done.returncode, done.stderr) == (1, line)
    assert not device.exists()
    device.touch()
    shutil.copy(ROOT / "scripts" / "require", tree / "scripts" / "require")
    done = ask_for_kvm(tree, device)
    assert (done.returncode, done.stderr) == (1, line)


def test_who_may_not_open_the_device_is_told_to_join_its_group(tree: Path) -> None:
    done = ask_for_kvm(tree, Path("/dev/tty"))
    assert (done.returncode, done.stderr) == (
        1,
        "make demo lacks a /dev/tty that may be read and written (ask for access to it, usually by"
        " joining the group kvm and logging in anew)\n",
    )
    shutil.copy(ROOT / "scripts" / "require", tree / "scripts" / "require")
    assert ask_for_kvm(tree, Path(os.devnull)).returncode == 0


def test_an_old_python_is_told_from_a_missing_one(tree: Path) -> None:
    old = tree.parent / "python3.9"
    old.write_text("#!/bin/sh\nexit 1\n", "ascii")
    old.chmod(0o755)
    done = subprocess.run(
        [tree / "scripts" / "require", "make dev", "python"],
        check=False,
        env={**os.environ, "PYTHON": str(old)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert done.stderr == "make dev lacks Python 3.10 or later, chosen by PYTHON=...\n"


def test_the_packages_are_listed_for_continuous_integration() -> None:
    command = [str(ROOT / "scripts" / "require"), "--packages", "python", "venv", "strace"]
    bash = shutil.which("bash")
    assert bash is not None
    done = subprocess.run(
        [bash, *command], check=True, env={"PATH": ""}, capture_output=True, text=True
    )
    assert done.stdout.split() == ["python3", "python3-venv", "strace"]
    assert "scripts/require --packages" in (ROOT / ".ci" / "run").read_text("utf-8")
    assert "apt-get install" not in (ROOT / "Makefile").read_text("utf-8")
