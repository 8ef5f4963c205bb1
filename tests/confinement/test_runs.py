"""Host side: the confined command does in every mode what the library does without confinement."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import instar
from instar.vmm.request.options import Compat
from tests.confinement.scenes import LAZY, SCENES, Scene, write_image
from tests.support.process import ALL, command, lacking, run

pytestmark = pytest.mark.kvm


@pytest.mark.parametrize("scene", SCENES.values(), ids=SCENES)
def test_every_run_ends_as_it_should(tmp_path: Path, scene: Scene) -> None:
    image = write_image(scene, tmp_path)
    before = image.read_bytes(), image.stat().st_mtime_ns
    done = run("amend", "--require-confinement", *scene.arguments, image, patch=scene.patch)
    assert (done.returncode, "once confined" in done.stderr) == (scene.status, False), done.stderr
    assert scene.error in done.stderr
    if "--output=json" in scene.arguments:
        assert ("error" in json.loads(done.stdout)) == bool(scene.status)
    if scene.status:
        assert (image.read_bytes(), image.stat().st_mtime_ns) == before


@pytest.mark.parametrize("compat", ["0.10", "1.1"])
def test_the_image_is_the_same_as_without_confinement(tmp_path: Path, compat: Compat) -> None:
    scene = SCENES["downgraded" if compat == "0.10" else "upgraded"]
    image = write_image(scene, tmp_path)
    other = tmp_path / "other.qcow2"
    shutil.copy(image, other)
    assert run("amend", *scene.arguments, image).returncode == 0
    assert instar.amend(other, compat=compat).action == "amended"
    assert image.read_bytes() == other.read_bytes()


def test_confinement_comes_before_the_first_read(tmp_path: Path) -> None:
    image = write_image(SCENES["amended"], tmp_path)
    patch = "import os; os.preadv = lambda *_: open('/dev/null')"
    done = run("amend", *LAZY, image, patch=patch)
    assert (done.returncode, "Function not implemented" in done.stderr) == (1, True)
    without = f"{patch}; confine.BARRIERS = ()"
    done = run("amend", *LAZY, image, patch=without)
    assert (done.returncode, "once confined: ('open', '/dev/null')" in done.stderr) == (1, True)


OLD_PYTHON = """
import ctypes, fcntl, os, sys
for module, name in ((fcntl, "F_OFD_GETLK"), (fcntl, "F_OFD_SETLK"), (os, "memfd_create")):
    delattr(module, name)
call = ctypes.CDLL(None, use_errno=True).syscall
def preadv(fd, buffers, offset):
    (view,) = buffers
    start = ctypes.addressof(ctypes.c_char.from_buffer(view))
    vector = (ctypes.c_uint64 * 2)(start, len(view))
    done = call(295, fd, ctypes.byref(vector), 1, ctypes.c_uint64(offset), ctypes.c_uint64(0))
    if done < 0:
        raise OSError(ctypes.get_errno(), "preadv")
    seen.append(done)
    return done
os.preadv, seen = preadv, []
"""


@pytest.mark.parametrize("isolated", [False, True], ids=["here", "in a child"])
def test_a_python_that_was_built_for_old_systems_will_do(tmp_path: Path, isolated: bool) -> None:
    image = write_image(SCENES["amended"], tmp_path)
    how = '"process"' if isolated else "None"
    call = f"instar.amend({str(image)!r}, lazy_refcounts=True, isolation={how})"
    code = f"{OLD_PYTHON}import instar\n{call}"
    subprocess.run([sys.executable, "-c", code], check=True)
    code = f"{OLD_PYTHON}from instar.vmm.cli import main\ntry: main()\nfinally: assert seen"
    for words in (["amend", "-o", "lazy_refcounts=off"], ["info"], ["check"]):
        line = [sys.executable, "-c", code, *words, "--require-confinement", str(image)]
        done = subprocess.run(line, capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(
    ("arguments", "size"), [(("amend", *LAZY), 0), (("info",), 0), (("check",), 512)]
)
def test_so_much_of_the_image_is_read_before_confinement(
    tmp_path: Path, arguments: tuple[str, ...], size: int
) -> None:
    image, log = write_image(SCENES["amended"], tmp_path), tmp_path / "log"
    strace = ["strace", "-y", "-qq", "-o", str(log), "-e", "trace=/read,seccomp"]
    subprocess.run([*strace, *command(*arguments, image)], capture_output=True, check=True)
    calls = log.read_text(errors="replace").splitlines()
    (confined,) = (at for at, call in enumerate(calls) if call.startswith("seccomp("))
    read = [at for at, call in enumerate(calls) if f"<{tmp_path}/" in call]
    assert read[-1] > confined
    assert sum(int(calls[at].rpartition("= ")[2]) for at in read if at < confined) == size


def test_output_may_go_to_a_file_that_is_larger_than_the_image(tmp_path: Path) -> None:
    image = write_image(SCENES["JSON"], tmp_path)
    log = tmp_path / "log"
    log.write_bytes(bytes(10 * image.stat().st_size))
    with log.open("ab") as stream:
        assert run("amend", *SCENES["JSON"].arguments, image, stdout=stream).returncode == 0
    assert json.loads(log.read_bytes().strip(b"\0"))["action"] == "amended"


@pytest.mark.parametrize("name", ALL)
def test_a_missing_barrier_is_an_error_only_if_all_are_required(tmp_path: Path, name: str) -> None:
    image = write_image(SCENES["amended"], tmp_path)
    before = image.read_bytes(), image.stat()
    patch = lacking(name)
    done = run("amend", "--require-confinement", "--output=json", *LAZY, image, patch=patch)
    assert done.returncode == 1
    error = json.loads(done.stdout)["error"]
    assert error["kind"] == "HostError"
    assert f"for want of {name} (Function not implemented); see instar doctor" in error["message"]
    assert image.read_bytes() == before[0]
    assert (image.stat().st_mtime_ns, image.stat().st_atime_ns) == (
        before[1].st_mtime_ns,
        before[1].st_atime_ns,
    )
    done = run("amend", *LAZY, image, patch=patch)
    assert (done.returncode, done.stderr) == (0, "")
    assert image.read_bytes() != before[0]


def test_a_caller_of_main_is_not_confined(tmp_path: Path) -> None:
    image = write_image(SCENES["amended"], tmp_path)
    patch = """
from instar.vmm.cli import main
assert main(["amend", "--require-confinement", *sys.argv[2:]]) == 1
assert main(sys.argv[1:]) == 0
raise SystemExit("Seccomp:\\t0" not in open("/proc/self/status").read())
"""
    done = run("amend", *LAZY, image, patch=patch)
    assert (done.returncode, done.stderr.count("instar: ")) == (0, 1), done.stderr


@pytest.mark.parametrize("command", ["check", "info"])
def test_nor_is_one_that_looks(tmp_path: Path, command: str) -> None:
    image = write_image(SCENES["amended"], tmp_path)
    patch = """
from instar.vmm.cli import main
assert main(sys.argv[1:]) == 0
raise SystemExit("Seccomp:\\t0" not in open("/proc/self/status").read())
"""
    done = run(command, image, patch=patch)
    assert (done.returncode, done.stderr) == (0, ""), done.stderr


# The parent of all processes of a user may be at its limit: nobody, here, may start no thread.
NOBODY = """
import os
from instar.vmm.machine import Machine
prepare = Machine.prepare_vcpu
def prepare_as_nobody(self):
    if os.geteuid() == 0:
        os.setresuid(65534, 65534, 65534)
    {prepare}
Machine.prepare_vcpu = prepare_as_nobody
import instar.vmm.confine
"""


def test_runs_as_an_ordinary_user(tmp_path: Path) -> None:
    image = write_image(SCENES["amended"], tmp_path)
    patch = NOBODY.format(prepare="return prepare(self)")
    done = run("amend", "--require-confinement", *LAZY, image, patch=patch)
    assert (done.returncode, done.stderr) == (0, "")


def test_the_kernels_thread_could_not_be_started_later(tmp_path: Path) -> None:
    image = write_image(SCENES["amended"], tmp_path)
    patch = NOBODY.format(prepare="return self._vcpu.fd")
    done = run("amend", "--require-confinement", *LAZY, image, patch=patch)
    assert done.returncode == 1
    assert "KVM: Resource temporarily unavailable" in done.stderr


IGNORANT = [
    *(sys.executable, "-c"),
    "import os, signal, sys; signal.signal(signal.SIGCHLD, signal.SIG_IGN); "
    "os.execv(sys.argv[1], sys.argv[1:])",
]
"""What runs a command line, and ignores the ends of children."""


def two_images(folder: Path) -> list[Path]:
    for name in "ab":
        (folder / name).mkdir()
    return [write_image(SCENES["amended"], folder / name) for name in "ab"]


@pytest.mark.parametrize(
    "arguments",
    [("amend", *LAZY), ("info",), ("check",), ("check", "-r", "all"), ("amend", "--repair")],
    ids=" ".join,
)
def test_who_starts_the_command_may_ignore_the_ends_of_children(
    tmp_path: Path, arguments: tuple[str, ...]
) -> None:
    images = two_images(tmp_path)
    line: list[str | Path] = [sys.executable, "-m", "instar", *arguments, *images]
    done = subprocess.run([*IGNORANT, *line], capture_output=True, text=True, check=False)
    assert (done.returncode, "internal error" in done.stderr) == (0, False)


def test_how_a_worker_ended_is_told_to_who_ignores_the_ends_of_children(tmp_path: Path) -> None:
    patch = """
import os
from instar.vmm.fleet import worker
worker._amend = lambda *_: os._exit(7)
"""
    images = two_images(tmp_path)
    line = command("amend", *LAZY, *images, patch=patch)
    done = subprocess.run([*IGNORANT, *line], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.count("' ended with status 7; ") == len(images)


def test_a_program_may_ignore_the_ends_of_children(tmp_path: Path) -> None:
    image = write_image(SCENES["amended"], tmp_path)
    code = """
import signal, sys, instar
signal.signal(signal.SIGCHLD, signal.SIG_IGN)
print(instar.amend(sys.argv[1], lazy_refcounts=True, isolation="process").action)
print(instar.info(sys.argv[1], isolation="process").format)
try:
    instar.amend("missing", lazy_refcounts=True, isolation="process")
except instar.HostError as error:
    print(error)
print(instar.vmm.cli.main(["check", sys.argv[1], sys.argv[1]]))
"""
    code = code.replace("import signal", "import instar.vmm.cli, signal")
    line = [sys.executable, "-c", code, str(image)]
    told = subprocess.run(line, capture_output=True, text=True, check=True).stdout.splitlines()
    assert told[:3] == [
        *("amended", "qcow2"),
        "could not open 'missing': No such file or directory",
    ]
    assert told[-1] == "0"


def test_what_a_child_of_many_looks_says_to_the_terminal_is_lost(tmp_path: Path) -> None:
    images = two_images(tmp_path)
    patch = """
import os
from instar.vmm.cli import info
def look(*arguments, original=info.inspect_image, **how):
    os.write(2, b"\\x1b]0;owned\\x07")
    return original(*arguments, **how)
info.inspect_image = look
"""
    done = run("info", *images, patch=patch)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_worker_keeps_no_descriptor_beyond_the_limit_of_the_moment(tmp_path: Path) -> None:
    images = two_images(tmp_path)
    patch = """
import os, resource
os.dup2(os.open("/etc/passwd", os.O_RDONLY), 200)
resource.setrlimit(resource.RLIMIT_NOFILE, (64, 4096))
from instar.vmm.fleet import worker
def prepare(self, request, original=worker.Sandbox.prepare):
    if os.path.exists("/proc/self/fd/200"):
        raise worker.InstarError("open")
    return original(self, request)
worker.Sandbox.prepare = prepare
"""
    done = run("amend", *LAZY, *images, patch=patch)
    assert (done.returncode, done.stderr.count("2 amended")) == (0, 1), done.stderr
