"""Host side: the confined command does in every mode what the library does without confinement."""

from __future__ import annotations

import json
import shutil
import subprocess
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
