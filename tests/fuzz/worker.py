"""Test side: speaks the worker's side of the protocol to the real parent of a batch.

Each worker is a forked process that answers from tests/fuzz/worker_answers.py instead of amending:
most images honestly, others with what no amend comes to, in pieces of any kind, too late, or not at
all. The parent must tell every image once, the honest ones as they were told, and go on. It must
have none begun twice, unless a worker lies about that, or has lied before.
"""

from __future__ import annotations

import mmap
import os
import random
import socket
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NoReturn
from unittest.mock import patch

from instar.vmm.amend.result import AmendOutcome
from instar.vmm.base.errors import HostError
from instar.vmm.fleet import batch, worker_process
from instar.vmm.fleet.worker import IMAGE, NAME_MAX, OVER, READY, _shed
from instar.vmm.machine.payload import load_payload
from instar.vmm.request import AmendRequest
from instar.vmm.request.keywords import make_request
from tests.fuzz.worker_answers import Answer, HangError, make_answer
from tests.fuzz.worker_oracle import judge

IMAGES = 300
SIZE = 1 << 20
OVER_AFTER = 0.2
"""After how many of their honest errors workers end."""
EARLY = 0.02
"""How many of the workers end before they are ready."""
REQUESTS = (
    make_request({"compat": "1.1", "lazy_refcounts": True, "timeout": 0.5, "max_growth": 1 << 20}),
    make_request({"compat": "0.10", "dry_run": True, "timeout": 0.5, "max_growth": 0}),
    make_request({"lazy_refcounts": False, "timeout": 0.5}),
)


class FindingError(AssertionError):
    """The parent did what it must not do."""


@dataclass
class Tally:
    """What a run came to."""

    messages: int = 0
    workers: int = 0
    endings: Counter[str] = field(default_factory=Counter)


@dataclass(frozen=True)
class Round:
    """One batch, of which both sides know how each image is answered."""

    name: str
    request: AmendRequest
    crosses: bool
    """Whether answers may be taken for those of the next image."""
    sha256: str

    def answer(self, path: str) -> Answer:
        """How the worker answers for an image, however often it is asked."""
        rng = random.Random(f"{self.name} {Path(path).name!r}")  # noqa: S311 - reproducible
        return make_answer(rng, path, self.request, self.sha256, SIZE, crosses=self.crosses)


def run(seed: int, runs: int, seconds: float) -> Tally:
    """Send `runs` messages, or as many as `seconds` allow. FindingError."""
    tally = Tally()
    end = time.monotonic() + seconds
    with TemporaryDirectory(prefix="instar-fuzz-", dir="/dev/shm") as folder:
        paths = [f"{folder}/{number}\n\udcff" for number in range(IMAGES)]
        for path in paths:
            with open(path, "wb") as file:  # noqa: PTH123 - the name is none for a Path
                file.truncate(SIZE)
        number = 0
        while tally.messages < runs and time.monotonic() < end:
            number += 1
            rng = random.Random(f"{seed} {number}")  # noqa: S311 - reproducible
            this = Round(
                f"{seed}/{number}", rng.choice(REQUESTS), number % 4 == 0, load_payload().sha256
            )
            _run_round(this, paths, rng.choice((1, 2, 3)), tally)
    return tally


def _run_round(this: Round, paths: list[str], jobs: int, tally: Tally) -> None:
    told: Counter[str] = Counter()
    started = time.monotonic()
    begun = mmap.mmap(-1, IMAGES)  # by how many workers, which had not lied, each image was
    with _impostors(this, tally, begun) as early:
        try:
            for outcome in batch.amend_batch(paths, this.request, jobs=jobs, required=False):
                told[str(outcome.path)] += 1
                tally.endings[_judge(this, outcome, early)] += 1
        except HostError as error:
            if "no machine" not in str(error) or any(told.values()):
                raise FindingError(f"{this.name}: the batch ended with {error!r}") from error
            tally.endings["no machine"] += 1
            return
    if told != Counter(paths):
        raise FindingError(f"{this.name}: {sum(told.values())} outcomes, {len(told)} images")
    for number, path in enumerate(paths):
        if begun[number] > 1 and this.answer(path).fault != "over":
            raise FindingError(f"{this.name}: {path!r} was begun {begun[number]} times")
    if time.monotonic() - started > 60:
        raise FindingError(f"{this.name}: {time.monotonic() - started} s")


def _judge(this: Round, outcome: AmendOutcome, early: list[str]) -> str:
    """Hold an outcome to what the worker said; return its kind."""
    path = str(outcome.path)
    answer = this.answer(path)
    fault = judge(outcome, path, this.request, this.sha256, SIZE)
    if fault:
        raise FindingError(f"{this.name}: {fault} of {path!r}: {outcome!r}")
    if answer.honest is not None and not this.crosses:
        unbegun = outcome.error is not None and "nothing was written" in str(outcome.error)
        if unbegun or "no worker for" in str(outcome.error):
            if not early:
                raise FindingError(f"{this.name}: no worker ended early: {outcome!r}")
            early.pop()
            return "unbegun"
        if not answer.is_told(outcome):
            raise FindingError(f"{this.name}: honest {answer.honest!r}, told {outcome!r}")
        return "honest"
    return "believed" if outcome.result is not None else "refused"


@contextmanager
def _impostors(this: Round, tally: Tally, begun: mmap.mmap) -> Iterator[list[str]]:
    """Have each worker be _play(); yields those that end before they are ready."""
    early: list[str] = []
    plan: list[str] = [""]

    class Impostor(worker_process.WorkerProcess):
        def __init__(self, *arguments: Any) -> None:
            tally.workers += 1
            rng = random.Random(f"{this.name} worker {tally.workers}")  # noqa: S311 - as above
            ends = rng.random() < EARLY
            plan[0] = rng.choice(("die", "no machine", "nonsense", "silent")) if ends else ""
            if plan[0]:
                early.append(plan[0])
            super().__init__(*arguments)

        def receive(self) -> bytes | None:
            answer = super().receive()
            tally.messages += answer is not None
            return answer

    def play(channel: socket.socket, *_rest: Any, **_options: Any) -> NoReturn:
        try:
            _play(this, channel, plan[0], begun)
        except BaseException:  # its parent has had enough
            os._exit(1)
        os._exit(0)

    with (
        patch.object(batch, "WorkerProcess", Impostor),
        patch.object(batch, "MARGIN", 2.0),
        patch.object(batch, "PATIENCE", 0.3),
        patch.object(worker_process, "work", play),
    ):
        yield early


def _play(this: Round, channel: socket.socket, early: str, begun: mmap.mmap) -> None:
    """Be a worker that was taken over."""
    with closing(_shed(channel)) as ours:
        if early == "die":
            os.kill(os.getpid(), 9)
        if early == "silent":
            return
        if early:
            error = b'{"error": {"kind": "HostError", "message": "no machine", "refusals": []}}'
            ours.send(error if early == "no machine" else error[:20])
            return
        ours.send(READY)
        lied = False
        while True:
            message, descriptors, _, _ = socket.recv_fds(ours, NAME_MAX, 1)
            if not descriptors:
                return
            os.close(descriptors[0])
            path = os.fsdecode(message[IMAGE.size :])
            begun[int(Path(path).name.splitlines()[0])] += not lied
            answer = this.answer(path)
            lied |= answer.honest is None
            try:
                for piece in answer.pieces():
                    ours.send(piece)
            except HangError:
                time.sleep(60)
            if isinstance(answer.honest, str) and answer.rng.random() < OVER_AFTER:
                ours.send(OVER)
                return


def run_and_print(seed: int, runs: int, seconds: float) -> int:
    """Run one job for scripts/fuzz and print what it came to; returns the number of findings."""
    try:
        tally = run(seed, runs, seconds)
    except FindingError as error:
        print(f"seed {seed}: {error}"[:4000], flush=True)
        return 1
    endings = ", ".join(f"{count} {name}" for name, count in sorted(tally.endings.items()))
    print(
        f"seed {seed}: {tally.messages} messages of {tally.workers} workers; {endings}", flush=True
    )
    return 0
