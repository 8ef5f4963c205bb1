"""Host side: the allow-list of vmm/confine/rules.py holds what real runs call, and nothing else."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from instar.vmm.confine.rules import CLIENT_RULES, RULES
from tests.confinement.scenes import SCENES, write_image
from tests.support.process import attempt, command

# Rules that a scene may have no use for, and why they are there all the same.
BY_CHANCE = {
    "clock_gettime": "only where the clock cannot be read without the kernel",
    "mmap": "only where Python or malloc has nothing in store",
    "brk": "as mmap",
    "preadv": "only where Python was built for a system without preadv2",
    "mremap": "as mmap, for an allocation over 128 KiB that grows",
}


def pythons() -> dict[str, str]:
    """This interpreter, and the oldest and the newest: in the path, under pyenv, or fetched."""
    pyenv = Path.home() / ".pyenv" / "versions"
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "instar" / "python"
    fetched = Path(os.environ.get("INSTAR_PYTHON") or cache)
    found = {sys.version_info[1]: sys.executable}
    for minor in {*range(10, 20)} - found.keys():
        candidates = [str(path) for path in pyenv.glob(f"3.{minor}.*/bin/python3")]
        candidates += map(str, fetched.glob(f"3.{minor}/usr/bin/python3.{minor}"))
        here = shutil.which(f"python3.{minor}")
        for candidate in candidates if here is None else [here, *candidates]:
            if subprocess.run([candidate, "-IS", "-c", ""], check=False).returncode == 0:
                found[minor] = candidate
                break
    ends = {min(found), sys.version_info[1], max(found)}
    return {f"3.{minor}": found[minor] for minor in sorted(ends)}


PYTHONS = pythons()


# Each scene in a child, as most of the time goes to Python's own start under strace.
FORK = """
for scene, (arguments, patch, expected) in {scenes!r}.items():
    child = os.fork()
    if child == 0:
        sys.argv[1:] = arguments
        break
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if status != expected:
        sys.exit(f"{{scene}}: exit status {{status}}")
else:
    sys.exit()
exec(patch)
"""


def trace(python: str, folder: Path) -> list[set[str]]:
    """The names of the calls that the command makes after it has installed the filter, by scene."""
    scenes = {}
    for number, (name, scene) in enumerate(SCENES.items()):
        place = folder / str(number)
        place.mkdir()
        image = write_image(scene, place)
        arguments = ["amend", "--require-confinement", *scene.arguments, str(image)]
        scenes[name] = arguments, scene.patch, scene.status
    instar = command(patch=FORK.format(scenes=scenes), python=python)
    done = subprocess.run(
        ["strace", "-ff", "-o", folder / "trace", *instar],
        capture_output=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    # A process has a file of its own, and one of each scene confined itself.
    texts = (path.read_text(errors="replace") for path in folder.glob("trace.*"))
    ran = [text.partition("\nseccomp(")[2].splitlines() for text in texts if "\nseccomp(" in text]
    return [{line.partition("(")[0] for line in calls[1:] if line[0].isalpha()} for calls in ran]


@pytest.mark.kvm
@pytest.mark.slow
@pytest.mark.any_python  # whichever runs it tries the oldest and the newest
@pytest.mark.parametrize("python", PYTHONS.values(), ids=PYTHONS)
def test_every_rule_is_needed(tmp_path: Path, python: str) -> None:
    calls = trace(python, tmp_path)
    assert len(calls) == len(SCENES)
    used = set().union(*calls)
    names = {name for name, *_ in RULES}
    assert used <= names | {name for name, *_ in CLIENT_RULES}
    assert names - used <= BY_CHANCE.keys() <= names


NEEDED_BY_CHANCE = {
    "clock_gettime": "call(228, 1, bytes(16))",
    "mmap": "say('done' if mmap.mmap(-1, 1 << 20, flags=0x22) else '')",
    "brk": "say('done' if libc.malloc(100000) else '')",
    "preadv": "call(295, IMAGE, bytes(16), 0, 0, 0)",
    "mremap": "data = bytearray(1 << 20); data += bytes(1 << 20); say('done')",
}


@pytest.mark.parametrize("name", BY_CHANCE)
def test_what_chance_may_need_is_allowed(tmp_path: Path, name: str) -> None:
    assert attempt(NEEDED_BY_CHANCE[name], tmp_path / "image") == (0, "done")
