"""Host side: the workers of a batch: what they may call, what they cannot do, what they may say."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from instar.vmm.amend.result import RANGES_MAX
from instar.vmm.confine.rules import CLIENT_RULES, RESET_REQUESTS, WORKER_RULES
from instar.vmm.kvm import state
from tests.confinement.scenes import HANG, LAZY
from tests.confinement.test_calls import BY_CHANCE
from tests.support.forge import Data, Image, Zero, ZeroAllocated
from tests.support.process import command, guest_code, lacking, run
from tests.support.sparse import stored

pytestmark = pytest.mark.kvm

MANY = ("amend", "--require-confinement", "--output=json", *LAZY)


def write(path: Path, **fields: Any) -> Path:
    Image(**{"size": 1 << 20, "clusters": {0: Data(b"\x05")}, **fields}).write(path)
    return path


def write_some(folder: Path, count: int = 6) -> list[Path]:
    return [write(folder / f"image {n}\n") for n in range(count)]


def outcomes(stdout: str) -> dict[str, Any]:
    """By file name: what was done, or the kind of the error and its message."""
    documents = [json.loads(line) for line in stdout.splitlines()]
    told = {
        Path(d["filename"]).name: d.get("action") or (d["error"]["kind"], d["error"]["message"])
        for d in documents
    }
    assert len(told) == len(documents)
    return told


# An image that grows in a downgrade, and in which something is zeroed.
ZEROES: dict[str, Any] = {
    "backing_file": b"base",
    "clusters": {0: Zero(), 1: ZeroAllocated(b"x"), 2: Data(b"a")},
}
# Runs that together need every rule: arguments, image, patch.
CALLS: tuple[tuple[tuple[str, ...], dict[str, Any], str], ...] = (
    (LAZY, {}, ""),
    (("-o", "compat=0.10"), {}, ""),
    (("-o", "compat=0.10"), ZEROES, ""),
    (("-o", "size=64k", "--shrink"), {"clusters": {0: Data(b"a"), 9: Data(b"b")}}, ""),
    (LAZY, {"dirty": True}, ""),
    (LAZY, {}, guest_code("0f0b")),
    (("--timeout=0.2", *LAZY), {}, HANG),
)


@pytest.mark.slow
def test_every_rule_of_a_worker_is_needed(tmp_path: Path) -> None:
    used = set()
    for number, (arguments, fields, patch) in enumerate(CALLS):
        folder = tmp_path / str(number)
        folder.mkdir()
        images = [str(write(folder / str(n), **fields)) for n in range(3)]
        line = command("amend", "--require-confinement", "-j1", *arguments, *images, patch=patch)
        subprocess.run(["strace", "-ff", "-o", folder / "trace", *line], check=False, timeout=60)
        for path in folder.glob("trace.*"):
            calls = path.read_text(errors="replace").partition("\nseccomp(")[2]
            used |= {line.partition("(")[0] for line in calls.splitlines()[1:] if line[0].isalpha()}
    names = {name for name, *_ in WORKER_RULES}
    assert used <= names
    assert names - used <= BY_CHANCE.keys() | {name for name, *_ in CLIENT_RULES}


def test_the_requests_of_a_reset_are_those_of_the_binding() -> None:
    by_ioctl = {set_ for name, (_, _, set_) in state.KINDS.items() if name not in state.AT_ENTRY}
    assert by_ioctl | {state.KVM_SET_MSRS} == set(RESET_REQUESTS)


REFUSED = "HostError: the confined process failed at '{bad}': internal error, please report it: "

# Code in the place of the amend, which has the image's descriptor `fd`, and what becomes of it.
TAKEN_OVER = {
    "open a file": ("os.open('/etc/passwd', 0)", REFUSED),
    "print": ("os.write(1, b'x')", REFUSED),
    "report to stderr": ("os.write(2, b'x')", REFUSED),
    "fork": ("os.fork()", REFUSED),
    "make a socket": ("socket.socket()", REFUSED),
    "copy a descriptor": ("os.dup(fd)", REFUSED),
    "read what is no image": ("os.pread(3, 1, 0)", f"{REFUSED}PermissionError"),
    "read it into memory": ("os.preadv(3, [bytearray(1)], 0)", f"{REFUSED}PermissionError"),
    "raise a limit": (
        "__import__('resource').setrlimit(1, (1 << 40, 1 << 40))",
        REFUSED,
    ),
    "let a file grow": (
        "os.pwrite(fd, b'x', os.lseek(fd, 0, 2))",
        "HostError: the confined process failed at '{bad}': internal error, please report it: "
        "OSError: [Errno 27] File too large",
    ),
    "take two images": (
        "print(socket.recv_fds(socket.socket(fileno=3), 100, 1))",
        REFUSED,
    ),
    "end": ("os._exit(0)", "HostError: the confined worker for '{bad}' ended with status 0;"),
    "say nothing that makes sense": (
        "os.write(3, b'.{'); os._exit(0)",
        "HostError: the confined worker ",
    ),
    "say what is no outcome": (
        'os.write(3, b\'.{"result": {"filename": 1}}\'); os._exit(0)',
        "HostError: the confined worker ",
    ),
    "never come to an end of what it says": (
        "exec('while True: os.write(3, b\\'+\\' * 32769)')",
        "HostError: the confined worker ",
    ),
    "die of a signal": ("os.kill(os.getpid(), 9)", REFUSED),
    "hang": (
        "exec('while True: pass')",
        "HostError: the confined worker for '{bad}' did not answer within 1.6 s and was killed;",
    ),
}

PATCH = """
import instar.vmm.fleet.batch, instar.vmm.fleet.worker
instar.vmm.fleet.batch.MARGIN = 1.5
def amend(sandbox, fd, message, order, original=instar.vmm.fleet.worker._amend):
    import socket
    if b"bad" in message:
        {attempt}
    return original(sandbox, fd, message, order)
instar.vmm.fleet.worker._amend = amend
"""


@pytest.mark.parametrize(("attempt", "expected"), TAKEN_OVER.values(), ids=TAKEN_OVER)
def test_a_worker_that_is_taken_over_costs_its_image_and_no_other(
    tmp_path: Path, attempt: str, expected: str
) -> None:
    images = write_some(tmp_path, 2)
    bad = write(tmp_path / "bad")
    contents = bad.read_bytes()
    patch = f"import socket\n{PATCH.format(attempt=attempt)}"
    done = run(*MANY, "--timeout=0.1", "-j1", images[0], bad, images[1], patch=patch)
    told = outcomes(done.stdout)
    assert done.returncode == 1
    kind, message = told.pop("bad")
    assert f"{kind}: {message}".startswith(expected.replace("{bad}", str(bad)))
    assert str(bad) in message
    assert told == {image.name: "amended" for image in images}
    assert bad.read_bytes()[: len(contents)] == contents
    assert "3 images: 2 amended, 0 as asked, 1 failed" in done.stderr


MAPS = """
import instar.vmm.fleet.worker as worker
def confine(*arguments, original=worker.confine, **named):
    with open("/proc/self/maps") as maps, open({mark!r}, "a") as file:
        file.write(maps.read())
    return original(*arguments, **named)
worker.confine = confine
"""


def test_a_worker_shares_no_memory_with_another_process(tmp_path: Path) -> None:
    mark = tmp_path / "maps"
    run(*MANY, "-j2", *write_some(tmp_path, 4), patch=MAPS.format(mark=str(mark)))
    shared = set()
    for line in mark.read_text("utf-8").splitlines():
        place, rights, _, _, _, *name = line.split()
        start, end = (int(address, 16) for address in place.split("-"))
        if rights[1] == "w" and rights[3] == "s":
            shared.add((" ".join(name), end - start))
    # KVM's own, and a page or so by which run() learns of the processes.
    assert {name for name, _ in shared} == {"anon_inode:kvm-vcpu:0", "/dev/zero (deleted)"}
    assert [size for name, size in shared if name[0] == "/"] == [1 << 16]


def test_a_worker_lets_no_file_grow_whatever_limit_the_user_has(tmp_path: Path) -> None:
    images = [write(tmp_path / "bad"), *write_some(tmp_path, 1)]
    size = images[0].stat().st_size
    patch = "import socket\n" + PATCH.format(attempt="os.pwrite(fd, b'x', 5 << 30)")
    line = ["prlimit", f"--fsize={1 << 40}:", "--", *command(*MANY, "-j1", *images, patch=patch)]
    done = subprocess.run(line, capture_output=True, text=True, check=False)
    assert "File too large" in done.stderr
    assert images[0].stat().st_size == size


def test_a_worker_that_says_more_than_it_was_asked_is_ended(tmp_path: Path) -> None:
    images = [*write_some(tmp_path, 2), write(tmp_path / "bad"), write(tmp_path / "bad too")]
    patch = "import socket\n" + PATCH.format(attempt="os.write(3, b'.{\"result\": 1}')")
    done = run(*MANY, "-j1", *images, patch=patch)
    told = outcomes(done.stdout)
    assert [told[image.name] for image in images[:2]] == ["amended"] * 2
    assert {told[image.name][0] for image in images[2:]} == {"HostError"}


def test_guest_faults_cost_a_worker_each_and_no_other_image(tmp_path: Path) -> None:
    images = write_some(tmp_path)
    patch = """
import instar.vmm.amend
from instar.vmm.base.errors import GuestFault
def plan(machine, image, *rest, original=instar.vmm.amend.plan):
    if image.name[-2] in "135":
        raise GuestFault("it is bad")
    return original(machine, image, *rest)
instar.vmm.amend.plan = plan
"""
    done = run(*MANY, "-j2", *images, patch=patch)
    told = outcomes(done.stdout)
    fault = ("GuestFault", "it is bad")
    assert [told[image.name] for image in images] == ["amended", fault] * 3


def test_a_guest_that_always_faults_ends_every_image(tmp_path: Path) -> None:
    images = write_some(tmp_path)
    done = run(*MANY, "-j2", *images, patch=guest_code("0f0b"))
    assert {kind for kind, _ in outcomes(done.stdout).values()} == {"GuestFault"}
    assert len(outcomes(done.stdout)) == 6


def test_confinement_comes_before_the_first_read(tmp_path: Path) -> None:
    patch = "import os; os.preadv = lambda *_: open('/dev/null')"
    done = run(*MANY, *write_some(tmp_path, 2), patch=patch)
    messages = [message for _, message in outcomes(done.stdout).values()]
    assert len(messages) == 2
    assert all(message.endswith("Function not implemented") for message in messages)


def test_nothing_is_imported_or_opened_once_a_worker_is_confined(tmp_path: Path) -> None:
    images = [*write_some(tmp_path), write(tmp_path / "dirty", dirty=True)]
    (tmp_path / "vmdk").write_bytes(b"KDMV")
    done = run(*MANY, *images, tmp_path / "vmdk")
    told = outcomes(done.stdout)
    assert "once confined" not in done.stderr
    assert [told["dirty"][0], told["vmdk"][0]] == ["ImageRejected"] * 2


def test_a_machine_without_kvm_is_one_error(tmp_path: Path) -> None:
    patch = """
import instar.vmm.machine
from instar.vmm.kvm.system import Kvm
def fail():
    raise OSError(2, "No such file or directory")
Kvm.open = fail
"""
    images = write_some(tmp_path)
    before = [image.read_bytes() for image in images]
    done = run("amend", *LAZY, *images, patch=patch)
    assert done.returncode == 1
    assert done.stderr.startswith("instar: could not use /dev/kvm: No such file or directory")
    assert done.stderr.count("\n") == 1
    assert [image.read_bytes() for image in images] == before


def test_a_missing_barrier_is_an_error_only_if_all_are_required(tmp_path: Path) -> None:
    images = write_some(tmp_path, 2)
    patch = lacking("landlock")
    done = run(*MANY, *images, patch=patch)
    assert done.returncode == 1
    assert "for want of landlock" in done.stderr
    done = run("amend", *LAZY, *images, patch=patch)
    assert done.returncode == 0


def test_a_worker_is_told_what_an_image_may_cost(tmp_path: Path) -> None:
    images = write_some(tmp_path, 2)
    sizes = [stored(image) for image in images]
    patch = "import instar.vmm.image.budgets as b; b.WORK_MIN, b.WORK_FACTOR = 1000, 1"
    done = run(*MANY, "-j1", *images, patch=patch)
    for image, size in zip(images, sizes, strict=True):
        kind, message = outcomes(done.stdout)[image.name]
        assert kind == "ImageRejected"
        assert f"takes more work than reading {1000 + size} bytes" in message


def test_an_outcome_of_any_length_comes_through(tmp_path: Path) -> None:
    clusters: dict[int, Any] = {}
    for number in range(0, 12_000, 2):
        clusters |= {number: ZeroAllocated(b"z"), number + 1: Data(b"d")}
    images = [tmp_path / "one", tmp_path / "two"]
    for image in images:
        Image(cluster_bits=9, size=12_000 << 9, clusters=clusters).write(image)
    done = run("amend", "--output=json", "-o", "compat=0.10", "-j1", *map(str, images))
    assert done.returncode == 0, done.stderr
    documents = [json.loads(line) for line in done.stdout.splitlines()]
    assert [document["action"] for document in documents] == ["amended"] * 2
    assert {len(document["ranges"]) for document in documents} == {RANGES_MAX}
    assert all(document["more_ranges"] > 6000 - RANGES_MAX for document in documents)
