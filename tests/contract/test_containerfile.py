"""Test side: what the Containerfile copies exists and is enough to build the package of."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import build_guest
import pytest

pytestmark = pytest.mark.any_python

ROOT = build_guest.ROOT
TEXT = (ROOT / "Containerfile").read_text("utf-8")


def steps(word: str) -> list[str]:
    return re.findall(rf"^{word} (.*)$", TEXT, re.MULTILINE)


@pytest.mark.slow
def test_what_it_copies_is_enough_to_build_the_package(tmp_path: Path) -> None:
    tree = tmp_path / "src"
    tree.mkdir()
    copies = [step.split() for step in steps("COPY") if not step.startswith("--from")]
    assert copies
    for *sources, target in copies:
        for source in sources:
            place = tmp_path / target.lstrip("/")
            if (ROOT / source).is_dir():
                ignored = shutil.ignore_patterns("__pycache__")
                shutil.copytree(ROOT / source, place, ignore=ignored)
            else:
                shutil.copy(ROOT / source, place)
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", str(tree)]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_result_runs_the_command_without_root_or_a_compiler() -> None:
    last = TEXT.rpartition("\nFROM ")[2]
    assert re.search(r"^USER [1-9]\d*:[1-9]\d*$", last, re.MULTILINE)
    assert 'ENTRYPOINT ["instar"]' in last
    assert "gcc" not in last
    assert steps("RUN")[0].split()[-2:] == ["gcc", "python3-venv"]
