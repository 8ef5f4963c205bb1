"""Test side: instar.amend_many: an outcome for every image, in this process or by an executor."""

from __future__ import annotations

import os
import pickle
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import contextmanager
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pytest

import instar
from instar.vmm.amend.sandbox import Sandbox
from instar.vmm.base.errors import Refusal
from instar.vmm.fleet import many
from instar.vmm.request import AmendRequest
from tests.sandbox.rogues import open_descriptors
from tests.support.forge import Data, Image, parse_header

pytestmark = pytest.mark.kvm

LAZY: dict[str, Any] = {"lazy_refcounts": True}


@contextmanager
def dask() -> Iterator[Executor]:
    """A cluster of two processes, as dask.distributed has it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of other people's code
        from distributed import Client, LocalCluster

        with (
            LocalCluster(  # type: ignore[no-untyped-call]
                n_workers=2, threads_per_worker=1, dashboard_address=None
            ) as cluster,
            Client(cluster) as client,  # type: ignore[no-untyped-call]
        ):
            yield client.get_executor()


@contextmanager
def nobody() -> Iterator[None]:
    yield None


EXECUTORS: dict[str, Callable[[], Any]] = {
    "none": nobody,
    "threads": lambda: ThreadPoolExecutor(2),
    "processes": lambda: ProcessPoolExecutor(2, mp_context=get_context("spawn")),
    "dask": dask,
}


@pytest.fixture(params=EXECUTORS)
def executor(request: pytest.FixtureRequest) -> Iterator[Executor | None]:
    with EXECUTORS[request.param]() as executor:
        yield executor


def write(path: Path, **fields: Any) -> Path:
    Image(size=1 << 20, clusters={0: Data(b"\x05")}, **fields).write(path)
    return path


def test_there_is_an_outcome_for_every_image_whatever_is_wrong_with_the_others(
    tmp_path: Path, executor: Executor | None
) -> None:
    good = [write(tmp_path / f"{n}") for n in range(20)]
    wrong: dict[Any, type] = {
        write(tmp_path / "dirty", dirty=True): instar.ImageRejected,
        tmp_path / "missing": instar.HostError,
        str(tmp_path): instar.HostError,
        b"\xff": instar.HostError,
        "": instar.UsageError,
        7: instar.UsageError,
    }
    paths = [*good[:10], *wrong, *good[10:], good[0]]
    outcomes = list(instar.amend_many(iter(paths), executor=executor, chunk_size=3, **LAZY))
    assert sorted(map(repr, paths)) == sorted(repr(outcome.path) for outcome in outcomes)
    for outcome in outcomes:
        if outcome.path in wrong:
            assert type(outcome.error) is wrong[outcome.path]
            assert outcome.result is None
        else:
            assert outcome.error is None
            assert outcome.result is not None
            assert outcome.result.filename == os.fspath(outcome.path)
    (rejected,) = (outcome.error for outcome in outcomes if outcome.path == tmp_path / "dirty")
    assert isinstance(rejected, instar.ImageRejected)
    assert [refusal.name for refusal in rejected.refusals] == ["dirty"]
    actions = sorted(outcome.result.action for outcome in outcomes if outcome.result)
    assert actions == ["amended"] * 20 + ["noop"]
    assert all(parse_header(path.read_bytes()).compatible_features == 1 for path in good)


def test_outcomes_come_as_they_are_known_and_paths_are_taken_as_they_are_needed(
    tmp_path: Path,
) -> None:
    taken: list[Path] = []

    def endless() -> Iterator[Path]:
        while True:
            taken.append(write(tmp_path / f"{len(taken)}"))
            yield taken[-1]

    with ThreadPoolExecutor(2) as executor:
        outcomes = instar.amend_many(endless(), executor=executor, chunk_size=2, chunks=3, **LAZY)
        for number, _ in zip(range(20), outcomes, strict=False):
            assert len(taken) <= number + 3 * 2 + 2
        outcomes.close()  # type: ignore[attr-defined]
    done = instar.amend_many(endless(), **LAZY)
    before = len(taken)
    assert next(done).error is None
    assert len(taken) == before + 1
    done.close()  # type: ignore[attr-defined]


def test_what_would_be_done_twice_is_done_once(
    executor: Executor | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(AmendRequest, "settles", False)  # as with a keyslot that is added
    image, link = tmp_path / "a", tmp_path / "link"
    Image().write(image)
    link.symlink_to(image)
    found = list(instar.amend_many([image, link, image], executor=executor, **LAZY))
    (done,) = [outcome.result for outcome in found if outcome.result]
    assert (done.filename, done.action) == (str(image), "amended")
    errors = {str(outcome.path): str(outcome.error) for outcome in found if outcome.error}
    assert errors == {
        str(image): f"'{image}' is listed twice, and would be changed twice; list it once",
        str(link): f"'{link}' is the same image as '{image}', listed before it, and would be "
        "changed twice; list it once",
    }
    assert all(type(outcome.error) is instar.UsageError for outcome in found if outcome.error)


def test_who_stops_early_stops_what_has_not_begun(tmp_path: Path) -> None:
    images = [write(tmp_path / f"{n}") for n in range(50)]

    class Patient(ThreadPoolExecutor):
        def submit(self, function: Any, /, *arguments: Any, **options: Any) -> Future[Any]:
            futures.append(super().submit(function, *arguments, **options))
            return futures[-1]

    futures: list[Future[Any]] = []
    with Patient(1) as executor:
        outcomes = instar.amend_many(images, executor=executor, chunk_size=1, **LAZY)
        next(outcomes)
        outcomes.close()  # type: ignore[attr-defined]
    assert len(futures) == 50
    assert sum(future.cancelled() for future in futures) > 10


def test_an_image_that_is_listed_twice_is_as_asked_the_second_time(
    tmp_path: Path, executor: Executor | None
) -> None:
    image = write(tmp_path / "image")
    outcomes = instar.amend_many([image] * 9, executor=executor, chunk_size=1, **LAZY)
    results = [outcome.result.action for outcome in outcomes if outcome.result]
    assert results == ["amended"] + ["noop"] * 8


def _die(*_: object) -> None:
    os._exit(1)


def test_processes_that_die_are_an_outcome_that_says_what_is_not_known(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = [write(tmp_path / f"{n}") for n in range(4)]
    monkeypatch.setattr(many, "amend_chunk", _die)
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as executor:
        outcomes = list(instar.amend_many(images, executor=executor, chunk_size=1, **LAZY))
    assert {outcome.path for outcome in outcomes} == set(images)
    for outcome in outcomes:
        assert isinstance(outcome.error, instar.HostError)
        assert "BrokenProcessPool" in str(outcome.error)


def test_an_executor_that_was_shut_down_writes_nothing(tmp_path: Path) -> None:
    executor = ThreadPoolExecutor(1)
    executor.shutdown()
    (outcome,) = instar.amend_many([write(tmp_path / "a")], executor=executor, **LAZY)
    assert isinstance(outcome.error, instar.HostError)
    assert str(outcome.error).endswith("nothing was written")


def test_arguments_are_checked_when_it_is_called() -> None:
    wrongs: tuple[dict[str, Any], ...] = (
        {"compat": "3"},
        {"cache": ""},
        {"timeout": 0},
        {"chunk_size": 0},
        {"chunks": 0},
    )
    for wrong in wrongs:
        with pytest.raises(instar.UsageError):
            instar.amend_many([], **wrong)


@pytest.mark.parametrize("reuse", [True, False])
def test_machines_are_shared_unless_each_image_is_to_have_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reuse: bool
) -> None:
    made = []
    original = Sandbox._make

    def make(sandbox: Any, ram_size: int) -> Any:
        made.append(sandbox)
        return original(sandbox, ram_size)

    monkeypatch.setattr(Sandbox, "_make", make)
    images = [write(tmp_path / f"{n}") for n in range(3)]
    before = open_descriptors()
    assert all(outcome.result for outcome in instar.amend_many(images, reuse=reuse, **LAZY))
    assert len(made) == (1 if reuse else 3)
    assert open_descriptors() == before


ERRORS = [
    *(kind("a message") for kind in (instar.UsageError, instar.HostError, instar.ImageLocked)),
    instar.GuestFault("a message"),
    instar.ImageRejected((Refusal("dirty", 7, "DIRTY", 8, "it is dirty", {"bits": 1}),)),
]


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_results_and_errors_travel_between_processes_with_all_their_fields(
    tmp_path: Path, error: instar.InstarError
) -> None:
    result = instar.amend(write(tmp_path / "image"), **LAZY)
    outcome = instar.AmendOutcome(tmp_path, result, error)
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        copy = pickle.loads(pickle.dumps(outcome, protocol))  # noqa: S301 - its own
        assert (copy.path, copy.result) == (outcome.path, outcome.result)
        assert (type(copy.error), copy.error.args) == (type(error), error.args)
        assert copy.error.exit_status == error.exit_status
        assert getattr(copy.error, "refusals", ()) == getattr(error, "refusals", ())
