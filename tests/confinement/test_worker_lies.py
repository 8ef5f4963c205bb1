"""Host side: a worker that was taken over, or dies at any moment, against the parent of a batch."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from tests.confinement.scenes import LAZY
from tests.confinement.test_batch import processes_of, wait_for
from tests.confinement.test_worker import outcomes, write_some
from tests.support.forge import Image, Snapshot, parse_header
from tests.support.process import command, run

pytestmark = [pytest.mark.kvm, pytest.mark.any_python]

MANY = ("amend", "--output=json", "--timeout=0.1", *LAZY)

# Code in the place of telling the answer `real` of the second image, which it may change.
PATCH = """
import json, os, time
import instar.vmm.fleet.batch, instar.vmm.fleet.worker
instar.vmm.fleet.batch.MARGIN = 1.5
told = 0
def tell(answer, honest=instar.vmm.fleet.worker._tell):
    global told
    told += 1
    if told != 2:
        return honest(answer)
    real = json.loads(answer)
    {lie}
    honest(json.dumps(real).encode())
instar.vmm.fleet.worker._tell = tell
"""
LIES = {
    "empty pieces for ever": "exec('while True: os.write(3, b\"+\")')",
    "a piece now and then": (
        'exec(\'while True:\\n os.write(3, b"+")\\n'
        " end = time.monotonic() + .3\\n while time.monotonic() < end: pass')"
    ),
    "full pieces now and then": (
        'exec(\'while True:\\n os.write(3, b"+" + b" " * 32768)\\n'
        " end = time.monotonic() + .3\\n while time.monotonic() < end: pass')"
    ),
    "a full piece, and no more": ('exec(\'os.write(3, b"+" + b" " * 32768)\\nwhile True: pass\')'),
    "an empty message": "os.write(3, b'')",
    "ready once more": "os.write(3, b'ready')",
    "a phase that does not exist": "real['result']['ranges'][0]['phase'] = 77",
    "a range below 0": "real['result']['ranges'][0]['offset'] = -1",
    "an action that does not exist": "real['result']['action'] = 'destroyed'",
    "another digest": "real['result']['payload_sha256'] = 'f' * 64",
    "a dry run": "real['result']['dry_run'] = True",
    "another image": "real['result']['filename'] = 'x'",
    "more bytes than there are": "real['result']['bytes_written'] = 10**18",
    "a terminal's escape": "real['result']['format'] = '\\x1b[31m'",
    "a refusal that does not exist": (
        "real = {'error': {'kind': 'ImageRejected', 'message': 'x', 'refusals': [{'name': 'x', "
        "'number': -5, 'code': 'x', 'code_number': 1, 'message': 'x', 'detail': {'a': {}}}]}}"
    ),
    "a kind that is none": "real = {'error': {'kind': [], 'message': 'x'}}",
    "much": "os.write(3, b'.[' + b'[],' * 10_000 + b'[]]')",
    "deep": 'exec(\'for n in range(9): os.write(3, b"+" + b"[" * 32768)\')',
    "the truth, and a MiB of spaces": "return honest(answer + b' ' * (1 << 20))",
    "a long number": 'exec(\'for n in range(9): os.write(3, b"+" + b"9" * 32768)\')',
}


@pytest.mark.parametrize("lie", LIES.values(), ids=LIES)
def test_a_lie_costs_its_own_image_which_is_named(tmp_path: Path, lie: str) -> None:
    images = write_some(tmp_path, 3)
    done = run(*MANY, "-j1", *images, patch=PATCH.format(lie=lie))
    told = outcomes(done.stdout)
    kind, message = told[images[1].name]
    assert kind == "HostError"
    assert message.startswith(f"the confined worker for '{images[1]}' ")
    assert "; the image is the old one or the amended one" in message
    assert told[images[0].name] == "amended"
    # It may have been done by the same worker, before anybody had heard the lie.
    assert told[images[2].name] in ("amended", "noop")
    assert (done.returncode, done.stderr.count("\n")) == (1, 2)


@pytest.mark.parametrize("told", [b'{"a" 1}', b'{"a', b'{"a": 1 "b": 2}', b"{1: 2}", b"[1,]"])
def test_malformed_json_costs_its_own_image_where_json_was_never_imported(
    tmp_path: Path, told: bytes
) -> None:
    images = write_some(tmp_path, 3)
    patch = f"""
import instar.vmm.fleet.batch, instar.vmm.fleet.worker
instar.vmm.fleet.batch.MARGIN = 1.5
count = 0
def tell(answer, honest=instar.vmm.fleet.worker._tell):
    global count
    count += 1
    honest(answer if count != 2 else {told!r})
instar.vmm.fleet.worker._tell = tell
"""
    done = run("amend", "--timeout=0.1", *LAZY, "-j1", *images, patch=patch)
    summary = "3 images: 2 amended, 0 as asked, 1 failed"
    again = "3 images: 1 amended, 1 as asked, 1 failed"
    assert done.returncode == 1
    assert f"the confined worker for '{images[1]}' ".replace("\n", "\\n") in done.stderr
    assert summary in done.stderr or again in done.stderr


def test_a_worker_that_hangs_is_noticed_while_others_are_busy(tmp_path: Path) -> None:
    images = write_some(tmp_path, 200)
    patch = """
import instar.vmm.fleet.batch, instar.vmm.fleet.worker, time
instar.vmm.fleet.batch.MARGIN = 0.4
def amend(sandbox, fd, message, order, original=instar.vmm.fleet.worker._amend):
    end = time.monotonic() + (60 if b"image 7\\n" in message else 0.01)
    while time.monotonic() < end: pass
    return original(sandbox, fd, message, order)
instar.vmm.fleet.worker._amend = amend
"""
    process = subprocess.Popen(
        command(*MANY, "-j2", *images, patch=patch), stdout=subprocess.PIPE, text=True
    )
    lines = process.communicate(timeout=60)[0].splitlines()
    failed = [n for n, line in enumerate(lines) if "error" in json.loads(line)]
    assert len(lines) == 200
    assert len(failed) == 1
    assert failed[0] < 150  # long before the other one has done the rest


# What becomes of the worker number `number`, from 1, before it says that it is ready.
EARLY = """
import os
import instar.vmm.confine, instar.vmm.fleet.worker
from instar.vmm.base.errors import HostError
from instar.vmm.fleet.worker_process import WorkerProcess
number = 0
def start(self, *arguments, original=WorkerProcess.__init__):
    global number
    number += 1
    original(self, *arguments)
WorkerProcess.__init__ = start
def confine(*arguments, original=instar.vmm.fleet.worker.confine, **options):
    if {condition}:
        {end}
    return original(*arguments, **options)
instar.vmm.fleet.worker.confine = confine
"""
ENDS = {
    "killed": "os.kill(os.getpid(), 9)",
    "ended": "os._exit(3)",
    "out of memory": "raise MemoryError",
    "an error": "raise HostError('could not use /dev/kvm')",
    "nonsense": "os.write(3, b'{'); os._exit(0)",
}


@pytest.mark.parametrize(("which", "jobs"), [(1, 1), (1, 2), (2, 2), (2, 4)])
@pytest.mark.parametrize("end", ENDS.values(), ids=ENDS)
def test_a_worker_that_never_begins_costs_one_image_at_most(
    tmp_path: Path, which: int, end: str, jobs: int
) -> None:
    images = write_some(tmp_path, 60)
    patch = EARLY.format(condition=f"number == {which}", end=end)
    if jobs == 1 and end == ENDS["an error"]:  # then it is this machine that cannot
        done = run(*MANY, "-j1", *images, patch=patch)
        assert json.loads(done.stdout)["error"]["message"] == "could not use /dev/kvm"
        return
    done = run(*MANY, f"-j{jobs}", *images, patch=patch)
    told = outcomes(done.stdout)
    assert len(told) == 60, done.stderr
    failed = {name: outcome for name, outcome in told.items() if outcome != "amended"}
    assert len(failed) == (1 if jobs == 1 else 0)
    for name, (kind, message) in failed.items():
        assert kind == "HostError"
        assert message.startswith(f"the confined worker for '{tmp_path / name}' ")
        assert message.endswith("; nothing was written")
    amended = [parse_header(image.read_bytes()).compatible_features for image in images]
    assert sum(amended) == 60 - len(failed)


def test_workers_that_all_die_fail_every_image_and_come_to_an_end(tmp_path: Path) -> None:
    images = write_some(tmp_path, 20)
    patch = EARLY.format(condition="True", end="os.kill(os.getpid(), 9)")
    done = run(*MANY, "-j3", *images, patch=patch)
    assert {kind for kind, _ in outcomes(done.stdout).values()} == {"HostError"}
    assert len(outcomes(done.stdout)) == 20


def test_a_machine_that_stops_running_workers_costs_the_images_that_are_left(
    tmp_path: Path,
) -> None:
    images = write_some(tmp_path, 40)
    patch = EARLY.format(condition="number > 1", end="raise HostError('no /dev/kvm')")
    patch += PATCH.format(lie="os._exit(0)")
    done = run(*MANY, "-j1", *images, patch=patch)
    told = list(outcomes(done.stdout).values())
    assert len(told) == 40
    assert told[0] == "amended"
    assert {message.split(" for ")[0] for _, message in told[2:]} == {"no worker"}
    assert all("no /dev/kvm" in message for _, message in told[2:])


@pytest.mark.parametrize("allowed", [0, 1])
def test_a_batch_makes_do_with_the_processes_that_there_may_be(
    tmp_path: Path, allowed: int
) -> None:
    images = write_some(tmp_path, 40)
    patch = f"""
import os
def fork(original=os.fork, forked=[]):
    if len(forked) == {allowed}:
        raise BlockingIOError(11, "Resource temporarily unavailable")
    forked.append(0)
    return original()
os.fork = fork
"""
    told = outcomes(run(*MANY, "-j4", *images, patch=patch).stdout)
    assert len(told) == 40
    if allowed:
        assert set(told.values()) == {"amended"}
    else:
        assert {kind for kind, _ in told.values()} == {"HostError"}


def test_workers_that_are_killed_at_any_moment_cost_an_image_each(tmp_path: Path) -> None:
    images = write_some(tmp_path, 300)
    process = subprocess.Popen(
        command(*MANY, "-j2", *images),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    killed: set[int] = set()
    end = time.monotonic() + 0.6
    while process.poll() is None and time.monotonic() < end:
        for worker in set(processes_of(process.pid)) - killed:
            time.sleep(0.005 * (len(killed) % 20))
            os.kill(worker, signal.SIGKILL)
            killed.add(worker)
    told = outcomes(process.communicate(timeout=60)[0])
    assert len(told) == 300
    failed = {name: outcome for name, outcome in told.items() if outcome != "amended"}
    assert killed
    assert len([outcome for outcome in failed.values() if outcome != "noop"]) <= len(killed)
    for name, outcome in failed.items():
        assert outcome == "noop" or str(tmp_path / name) in outcome[1]


def test_an_interrupt_leaves_the_images_that_a_worker_was_sent_and_had_not_begun(
    tmp_path: Path,
) -> None:
    images = write_some(tmp_path)
    before = [image.read_bytes() for image in images]
    patch = """
import instar.vmm.fleet.worker, _socket, time
class Slow(_socket.socket):
    def recvmsg(self, *arguments):
        end = time.monotonic() + 1
        while time.monotonic() < end: pass
        return super().recvmsg(*arguments)
instar.vmm.fleet.worker.socket = type("socket", (), {"socket": Slow})
"""
    process = subprocess.Popen(
        command(*MANY, "-j1", *images, patch=patch), stdout=subprocess.PIPE, text=True
    )
    wait_for(lambda: len(processes_of(process.pid)) == 1)
    status = Path(f"/proc/{processes_of(process.pid)[0]}/status")
    wait_for(lambda: "Seccomp:\t2" in status.read_text())
    process.send_signal(signal.SIGINT)
    stdout = process.communicate(timeout=20)[0]
    assert process.returncode == 1
    assert [json.loads(line)["error"]["kind"] for line in stdout.splitlines()] == [
        "KeyboardInterrupt"
    ]
    assert [image.read_bytes() for image in images] == before


@pytest.mark.parametrize("jobs", [1, 2])
def test_an_interrupt_tells_what_became_of_every_image_that_was_begun(
    tmp_path: Path, jobs: int
) -> None:
    images = write_some(tmp_path, 300)
    patch = """
import instar.vmm.fleet.worker, time
def amend(*arguments, original=instar.vmm.fleet.worker._amend):
    answer = original(*arguments)
    end = time.monotonic() + 0.01
    while time.monotonic() < end: pass
    return answer
instar.vmm.fleet.worker._amend = amend
"""
    process = subprocess.Popen(
        command(*MANY, f"-j{jobs}", *images, patch=patch), stdout=subprocess.PIPE, text=True
    )
    wait_for(lambda: images[20].read_bytes()[87] == 1)
    process.send_signal(signal.SIGINT)
    stdout = process.communicate(timeout=20)[0]
    documents: list[Any] = [json.loads(line) for line in stdout.splitlines()]
    assert documents.pop()["error"]["kind"] == "KeyboardInterrupt"
    amended = {
        str(image) for image in images if parse_header(image.read_bytes()).compatible_features
    }
    assert {document["filename"] for document in documents} == amended
    assert 0 < len(amended) < 300


@pytest.mark.parametrize("jobs", [1, 2])
def test_an_interrupt_loses_no_answer_where_none_was_heard_yet(tmp_path: Path, jobs: int) -> None:
    images = write_some(tmp_path)
    patch = f"""
import time, instar.vmm.fleet.batch
class Supply(instar.vmm.fleet.batch.Supply):
    def take(self):
        taken = super().take()
        if taken is None:
            while not open({str(images[0])!r}, "rb").read()[87]:
                time.sleep(0.01)
            raise KeyboardInterrupt
        return taken
instar.vmm.fleet.batch.Supply = Supply
"""
    told = run(*MANY, f"-j{jobs}", *images, patch=patch)
    documents: list[Any] = [json.loads(line) for line in told.stdout.splitlines()]
    assert documents.pop()["error"]["kind"] == "KeyboardInterrupt"
    amended = {
        str(image) for image in images if parse_header(image.read_bytes()).compatible_features
    }
    assert {document["filename"] for document in documents} == amended
    assert str(images[0]) in amended


@pytest.mark.parametrize(
    "place",
    [
        "instar.vmm.fleet.worker_process.WorkerProcess.receive",
        "instar.vmm.fleet.worker_process.WorkerProcess.takes_piece",
        "instar.vmm.fleet.batch.read_outcome",
        "instar.vmm.fleet.supply.Supply.done",
        "instar.vmm.cli.report.Report.result",
    ],
)
def test_an_interrupt_loses_no_answer_wherever_it_meets_the_command(
    tmp_path: Path, place: str
) -> None:
    images = write_some(tmp_path, 60)
    room, _, name = place.rpartition(".")
    patch = f"""
import os, pkgutil, signal, instar.vmm.cli.batch
room = pkgutil.resolve_name("{room}")
calls = 0
def interrupted(*arguments, original=room.{name}, **keywords):
    global calls
    calls += 1
    answer = original(*arguments, **keywords)
    if calls == 20:
        os.kill(os.getpid(), signal.SIGINT)
    return answer
room.{name} = interrupted
"""
    told = run(*MANY, "-j2", *images, patch=patch)
    documents: list[Any] = [json.loads(line) for line in told.stdout.splitlines()]
    assert documents.pop()["error"]["kind"] == "KeyboardInterrupt"
    assert {document["filename"] for document in documents} == {
        str(image) for image in images if parse_header(image.read_bytes()).compatible_features
    }
    # How many is the scheduler's choice: a call may bring no answer.
    assert 0 < len(documents) < 60


ENDS_AT_SECOND = """
import os, instar.vmm.fleet.worker
told = 0
def tell(answer, honest=instar.vmm.fleet.worker._tell):
    global told
    told += 1
    if told == 2:
        {before}
        os._exit(7)
    honest(answer)
instar.vmm.fleet.worker._tell = tell
"""


@pytest.mark.parametrize("refused", [False, True], ids=["after a success", "after a refusal"])
def test_an_image_whose_worker_died_is_not_begun_again(tmp_path: Path, *, refused: bool) -> None:
    """After a refusal too, where workers may end by themselves: it would grow twice."""
    images = write_some(tmp_path, 3)
    if refused:
        Image(version=2, snapshots=[Snapshot(name=b"s")]).write(images[0])
    sizes = [parse_header(image.read_bytes()).size for image in images]
    names = [str(image) for image in images]
    patch = ENDS_AT_SECOND.format(before="")
    done = run("resize", "-j1", "--output=json", *names, "--", "+1M", patch=patch)
    told = outcomes(done.stdout)
    assert (told[images[0].name] == "amended") != refused
    assert "ended with status 7; the image is the old one or" in told[images[1].name][1]
    assert told[images[2].name] == "amended"
    grown = [parse_header(image.read_bytes()).size for image in images]
    more = [0 if refused else 1 << 20, 1 << 20, 1 << 20]
    assert grown == [size + by for size, by in zip(sizes, more, strict=True)]


def test_after_an_interrupt_an_image_whose_worker_died_is_told_of(tmp_path: Path) -> None:
    images = write_some(tmp_path, 3)
    wait = "exec('import time\\nend = time.monotonic() + 2\\nwhile time.monotonic() < end: pass')"
    process = subprocess.Popen(
        command(*MANY, "-j1", *images, patch=ENDS_AT_SECOND.format(before=wait)),
        stdout=subprocess.PIPE,
        text=True,
    )
    wait_for(lambda: images[1].read_bytes()[87] == 1)
    process.send_signal(signal.SIGINT)
    stdout = process.communicate(timeout=20)[0]
    documents: list[Any] = [json.loads(line) for line in stdout.splitlines()]
    assert documents.pop()["error"]["kind"] == "KeyboardInterrupt"
    assert [document["filename"] for document in documents] == [str(n) for n in images[:2]]
    assert "the image is the old one or the amended one" in documents[1]["error"]["message"]
    assert images[2].read_bytes()[87] == 0
