"""Test side: scripts are checked like all other Python, and run whichever Python begins them."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.project import ROOT

pytestmark = pytest.mark.any_python

SCRIPTS = [
    path
    for path in sorted((ROOT / "scripts").iterdir())
    if path.is_file() and path.read_bytes().startswith(b"#!/usr/bin/env python3\n")
]
COMMANDS = [
    path.name
    for path in sorted((ROOT / "scripts").iterdir())
    if path.suffix in ("", ".py")
    and path.is_file()
    and (path.stat().st_mode & 0o100 or 'if __name__ == "__main__"' in path.read_text("utf-8"))
]
WITHOUT = {"check_binary_sizes", "demo"}
"""They need no package of `make dev`."""


def test_every_script_is_checked_for_style_and_types() -> None:
    settings = (ROOT / "pyproject.toml").read_text("utf-8")
    for key in ("extend-include", "files"):  # ruff's and mypy's
        (listed,) = re.findall(rf"^{key} = \[(.*?)\]", settings, re.DOTALL | re.MULTILINE)
        assert set(re.findall(r'"scripts/(\w+)"', listed)) == {path.name for path in SCRIPTS}


def test_every_script_enters_the_environment_before_it_imports_from_there() -> None:
    for path in SCRIPTS:
        lines = path.read_text("utf-8").splitlines()
        entered = [
            number for number, line in enumerate(lines) if "import enter_environment" in line
        ]
        outside = [
            number
            for number, line in enumerate(lines)
            if re.match(r"(from|import) (tests|instar|bench_)", line)
        ]
        assert bool(entered) != (path.name in WITHOUT), path
        assert path.name in WITHOUT or entered[0] < min(outside, default=entered[0] + 1), path


@pytest.mark.parametrize("name", ["benchmark", "fuzz", "inspect_fuzz", "mutants"])
def test_a_script_runs_in_the_environment_whichever_python_begins_it(name: str) -> None:
    python = sys._base_executable  # type: ignore[attr-defined]
    command = [python, "-B", str(ROOT / "scripts" / name), "--help"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(f"usage: {name}")


def call(name: str, *arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Call a script in an empty folder that is the user's home as well; nothing is made there."""
    path = ROOT / "scripts" / name
    begin = [] if path.read_bytes().startswith(b"#!/bin/bash\n") else [sys.executable, "-B"]
    environment = {**os.environ, "HOME": str(folder)}
    for key in ("XDG_CACHE_HOME", "INSTAR_PYTHON", "INSTAR_QEMU"):
        environment.pop(key, None)
    done = subprocess.run(
        [*begin, str(path), *arguments],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert list(folder.iterdir()) == []
    return done


@pytest.mark.parametrize("name", COMMANDS)
def test_every_script_answers_a_call_for_help_and_does_nothing(name: str, tmp_path: Path) -> None:
    done = call(name, "--help", folder=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert re.search(rf"^(usage:)? +{re.escape(name)} ", done.stdout, re.MULTILINE)


def test_help_is_asked_of_all_scripts() -> None:
    assert {path.name for path in SCRIPTS} < set(COMMANDS)
    assert {"fetch_python", "fetch_qemu", "require", "build_abi.py"} < set(COMMANDS)


@pytest.mark.parametrize(
    "line",
    [
        *(("fetch_python",), ("fetch_python", "--foo"), ("fetch_qemu", "--foo"), ("require",)),
        *(("benchmark", "--rounds=0"), ("benchmark", "--images=0"), ("crash_survey", "tables")),
        *(("generate_tables", "check"), ("demo", "x"), ("build_manual.py",)),
    ],
    ids=" ".join,
)
def test_a_script_says_how_it_is_used(line: tuple[str, ...], tmp_path: Path) -> None:
    done = call(*line, folder=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"usage: {line[0]} ")


def test_the_demo_says_that_it_needs_the_package() -> None:
    command = [sys.executable, "-I", "-S", str(ROOT / "scripts" / "demo")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr == "demo needs the package instar; 'make demo' installs it\n"


@pytest.mark.parametrize("found", [False, True])
def test_without_an_environment_that_has_the_package_it_says_so(
    tmp_path: Path, found: bool
) -> None:
    script = tmp_path / "scripts" / "fuzz"
    script.parent.mkdir()
    script.write_text("import enter_environment\n")
    shutil.copy(ROOT / "scripts" / "enter_environment.py", script.parent)
    python = sys._base_executable  # type: ignore[attr-defined]
    if found:
        inside = tmp_path / ".venv" / "bin" / "python"
        inside.parent.mkdir(parents=True)
        inside.symlink_to(python)
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(
        [python, str(script)], capture_output=True, text=True, check=False, env=environment
    )
    assert done.returncode == 1
    assert done.stderr == "fuzz needs the environment that 'make dev' makes\n"
