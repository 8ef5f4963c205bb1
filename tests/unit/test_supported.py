"""Host side: on another kind of machine, every way in ends in one line that says so."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys

import pytest

from instar.vmm.base.errors import HostError
from instar.vmm.base.supported import check_machine

# What another platform looks like from inside, as far as instar can see it.
LACKING = "for name in ('fcntl', 'resource', 'mmap', '_ctypes', '_posixsubprocess'):\n"
LACKING += "    sys.modules[name] = None\n"
ARM = "import os, sys, platform\n"
ARM += "os.uname = lambda: os.uname_result(('Linux', 'host', '6.12', '#1', 'aarch64'))\n"
# Python's own modules find what they need on a real one, so those that help uses come before.
WINDOWS = "import importlib.metadata, os, sys, platform\n"
WINDOWS += "sys.platform = 'win32'\ndel os.uname, os.O_DIRECTORY\n"
WINDOWS += "platform.system, platform.machine = (lambda: 'Windows'), (lambda: 'AMD64')\n" + LACKING
MACOS = "import os, sys, platform\nsys.platform = 'darwin'\n"
MACOS += "platform.system, platform.machine = (lambda: 'Darwin'), (lambda: 'arm64')\n"
NARROW = "import sys\nsys.maxsize = 2**31 - 1\n"

FOUND = {
    "Arm": (ARM, "Linux on aarch64"),
    "Windows": (WINDOWS, "Windows on AMD64"),
    "macOS": (MACOS, "Darwin on arm64"),
    "32 bits": (NARROW, "Linux on x86_64, and Python is for 32 bits"),
}
CALLS = ("amend", "amend_many", "Sandbox")


def run(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", code, *arguments]
    return subprocess.run(command, check=False, capture_output=True, text=True)


def line_of(found: str) -> str:
    return f"instar needs Linux on x86-64, and this is {found}"


COMMAND = "\nfrom instar.vmm.cli import main\nmain()"


@pytest.mark.parametrize("place", FOUND)
@pytest.mark.parametrize(
    "arguments",
    [["amend", "-o", "compat=1.1", "d"], ["amend", "-o", "compat=v3", "a", "b"], ["doctor"]],
)
def test_the_command_says_so_in_one_line(place: str, arguments: list[str]) -> None:
    code, found = FOUND[place]
    done = run(code + COMMAND, *arguments)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("instar: ")
    assert done.stderr.endswith(f"{line_of(found)}\n")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("place", FOUND)
def test_json_says_so_as_a_host_error(place: str) -> None:
    code, found = FOUND[place]
    done = run(code + COMMAND, "amend", "--output", "json", "-o", "compat=1.1", "d")
    error = json.loads(done.stdout)["error"]
    assert (error["kind"], error["message"]) == ("HostError", line_of(found))


@pytest.mark.parametrize("place", FOUND)
def test_help_and_version_work_everywhere(place: str) -> None:
    code, _found = FOUND[place]
    for arguments in (["-V"], ["--help"], ["help", "amend"], ["amend", "-o", "help"]):
        done = run(code + COMMAND, *arguments)
        assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("place", FOUND)
@pytest.mark.parametrize("name", CALLS)
def test_the_library_raises_host_error_and_its_errors_are_there(place: str, name: str) -> None:
    code, found = FOUND[place]
    code += "import instar\ntry:\n    instar.{name}\nexcept instar.HostError as e:\n    print(e)"
    assert run(code.replace("{name}", name)).stdout == f"{line_of(found)}\n"


@pytest.mark.parametrize(
    ("largest", "machine", "found"),
    [
        ((1 << 63) - 1, "x86_64", ""),
        ((1 << 32) + 1, "x86_64", ""),
        (1 << 32, "x86_64", "Linux on x86_64, and Python is for 32 bits"),
        ((1 << 31) - 1, "x86_64", "Linux on x86_64, and Python is for 32 bits"),
        ((1 << 31) - 1, "i686", "Linux on i686, and Python is for 32 bits"),
        ((1 << 63) - 1, "aarch64", "Linux on aarch64"),
    ],
)
def test_processor_and_python_have_64_bits(largest: int, machine: str, found: str) -> None:
    system = os.uname_result(("Linux", "host", "6.12", "#1", machine))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "maxsize", largest)
        patch.setattr(os, "uname", lambda: system)
        patch.setattr(platform, "machine", lambda: machine)
        try:
            check_machine()
            said = ""
        except HostError as error:
            said = str(error)
    assert said == (line_of(found) if found else "")
