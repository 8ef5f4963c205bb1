"""Test side: an amend of several steps leaves what as many amends leave, or nothing at all."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import instar
from instar.vmm import amend as amend_module
from instar.vmm.amend import amend_image, chain, known
from instar.vmm.amend.chain import combine
from instar.vmm.amend.result import AmendStep, ByteRange
from instar.vmm.base.errors import GuestFault, HostError
from instar.vmm.base.reasons import REASONS
from instar.vmm.contract import judge as judge_module
from instar.vmm.image import commit as commit_module
from instar.vmm.image.image_file import ImageFile
from instar.vmm.image.view import ImageView
from instar.vmm.request import AmendRequest
from instar.vmm.request.keywords import Isolation
from instar.vmm.request.options import BY_KEY
from tests.support.chain import UP_AND_DOWN, amend_in_steps, request_of
from tests.support.forge import Compressed, Data, Image, Snapshot, Zero, ZeroAllocated
from tests.support.process import run
from tests.support.table_images import MIXED

pytestmark = pytest.mark.kvm

DOWN_AND_UP = UP_AND_DOWN[::-1]
BACKED: dict[str, Any] = {"backing_file": b"base", "clusters": dict.fromkeys(range(40), Zero())}
INCOMPLETE = Image(
    version=2,
    cluster_bits=9,
    size=1 << 14,
    clusters={0: Data(b"a"), 1: Compressed(b"b")},
    snapshots=[Snapshot(name=b"n" * 60, extra_data_size=0), Snapshot(name=b"s")],
)
"""Its snapshots lack what version 3 has of them."""
CHAINS: dict[str, tuple[Image, tuple[str, ...]]] = {
    "plain": (Image(version=2, clusters={0: Data(b"x")}), UP_AND_DOWN),
    "snapshots that lack extra data": (
        INCOMPLETE,
        UP_AND_DOWN,
    ),
    "zero clusters": (Image(clusters=MIXED), DOWN_AND_UP),
    "names": (
        Image(data_file=b"a", data_file_raw=True),
        ("data_file=b", f"data_file={'c' * 600},lazy_refcounts=on", "data_file_raw=off"),
    ),
    "zero clusters that are filled": (
        Image(cluster_bits=9, size=40 << 9, **BACKED),
        (*DOWN_AND_UP, "lazy_refcounts=on", "compat=0.10,lazy_refcounts=off"),
    ),
    "a file that grows twice": (
        Image(
            cluster_bits=9,
            size=700 << 9,
            backing_file=b"base",
            clusters={**dict.fromkeys(range(700), Zero()), 5: ZeroAllocated(b"\x01")},
            snapshots=[Snapshot(name=b"n" * 60, extra_data_size=0)],
        ),
        DOWN_AND_UP,
    ),
    "a width, and a downgrade": (
        Image(cluster_bits=9, size=40 << 9, refcount_order=3, **BACKED),
        ("refcount_bits=16", "compat=0.10"),
    ),
    "an upgrade, and a disk with another L1 table": (
        INCOMPLETE,
        ("compat=1.1,lazy_refcounts=on", "size=8388608"),
    ),
    "a larger disk, and a downgrade": (
        Image(cluster_bits=9, size=1 << 14, clusters={3: Zero(), 4: Data(b"a")}),
        ("size=8388608", "compat=0.10"),
    ),
    "a disk larger by many tables, and a downgrade that fills them": (
        Image(cluster_bits=9, size=1 << 14, backing_file=b"base"),
        ("size=83886080", "compat=0.10"),
    ),
    "steps that find the image as asked": (
        Image(clusters={0: Data(b"x")}),
        ("compat=1.1", "lazy_refcounts=on", "lazy_refcounts=on"),
    ),
}


def requests(steps: tuple[str, ...], **keywords: Any) -> list[AmendRequest]:
    return [request_of(text, **keywords) for text in steps]


def state(path: Path) -> tuple[bytes, int]:
    return path.read_bytes(), path.stat().st_mtime_ns


@pytest.fixture
def untouched(path: Path) -> Callable[[Image], Callable[[], None]]:
    """Write an image, and get a function that sees that it is as it was."""

    def write(image: Image) -> Callable[[], None]:
        image.write(path)
        os.utime(path, ns=(1, 1))
        before = state(path)

        def check() -> None:
            assert state(path) == before

        return check

    return write


@pytest.mark.parametrize("name", CHAINS)
@pytest.mark.parametrize("cut", [0, 100], ids=["whole", "cut"])
def test_steps_in_one_amend_leave_what_as_many_amends_leave(
    path: Path, tmp_path: Path, name: str, cut: int
) -> None:
    image, steps = CHAINS[name]
    single = tmp_path / "single.qcow2"
    for file in (path, single):
        image.write(file)
        os.truncate(file, file.stat().st_size - cut)
    results = [instar.amend_many([single], **keywords(text)) for text in steps]
    ones = [next(outcomes).unwrap() for outcomes in results]
    result = amend_in_steps(path, requests(steps))
    assert path.read_bytes() == single.read_bytes()
    for step, one in zip(result.steps, ones, strict=True):
        assert (step.action, step.atomic) == (one.action, one.atomic)
        assert (step.changes, step.ranges) == (one.changes, one.ranges)
        assert (step.bytes_written, step.more_ranges) == (one.bytes_written, 0)
    assert result.options == ones[-1].options
    assert result.vm_exits == sum(one.vm_exits for one in ones)
    assert result.bytes_written == sum(one.bytes_written for one in ones)
    assert result.ranges == tuple(part for one in ones for part in one.ranges)
    assert [step.asked for step in result.steps] == [r.told() for r in requests(steps)]


def keywords(text: str) -> dict[str, Any]:
    """What -o says, as keywords."""
    request = request_of(text)
    return dict(request.told())


def test_a_version_2_image_goes_up_and_down(path: Path) -> None:
    Image(version=2, clusters={0: Data(b"x")}, backing_file=b"base").write(path)
    result = amend_in_steps(path, requests(UP_AND_DOWN))
    assert (result.action, result.compat, result.atomic) == ("amended", "0.10", False)
    assert [step.atomic for step in result.steps] == [True, True]
    assert {change.field for change in result.changes} <= {"backing_file_offset"}
    assert [c.after for step in result.steps for c in step.changes if c.field == "version"] == [
        3,
        2,
    ]


def test_what_one_step_of_two_changes_is_as_atomic_as_that_step(path: Path) -> None:
    Image().write(path)
    result = amend_in_steps(path, requests(("compat=1.1", "lazy_refcounts=on")))
    assert [step.action for step in result.steps] == ["noop", "amended"]
    assert result.atomic


def test_a_dry_run_of_steps_says_the_same_and_writes_nothing(
    path: Path, untouched: Callable[[Image], Callable[[], None]]
) -> None:
    image, steps = CHAINS["a file that grows twice"]
    check = untouched(image)
    dry = amend_in_steps(path, requests(steps, dry_run=True))
    check()
    wet = amend_in_steps(path, requests(steps))
    assert vars(dry) == {**vars(wet), "dry_run": True}


def test_a_step_that_is_refused_leaves_nothing_written(
    path: Path, untouched: Callable[[Image], Callable[[], None]]
) -> None:
    check = untouched(Image(version=2))
    steps = requests(("compat=1.1", "compat=0.10,lazy_refcounts=on"))
    with pytest.raises(instar.ImageRejected) as caught:
        amend_in_steps(path, steps)
    assert [refusal.name for refusal in caught.value.refusals] == ["lazy_needs_v3"]
    check()


class TestAStepThatSomeImagesNeedInTwo:
    """An upgrade that moves the snapshot table, and refcounts of another width."""

    BOTH = "compat=1.1,lazy_refcounts=on,refcount_bits=8"
    PARTS = ("compat=1.1,lazy_refcounts=on", "refcount_bits=8")

    def test_is_done_in_two_where_the_image_needs_it(self, path: Path, tmp_path: Path) -> None:
        single = tmp_path / "single.qcow2"
        for file in (path, single):
            INCOMPLETE.write(file)
        for part in self.PARTS:
            instar.amend(single, **keywords(part))
        result = instar.amend(path, **keywords(self.BOTH))
        assert path.read_bytes() == single.read_bytes()
        assert [step.asked for step in result.steps] == [keywords(part) for part in self.PARTS]
        assert [step.atomic for step in result.steps] == [True, True]

    def test_is_one_switch_where_it_can_be(self, path: Path) -> None:
        Image(version=2, clusters={0: Data(b"x")}, snapshots=[Snapshot(name=b"s")]).write(path)
        result = instar.amend(path, **keywords(self.BOTH))
        assert (result.atomic, result.steps) == (True, ())

    def test_is_no_reason_to_refuse_but_what_else_is_wrong_with_it(
        self, path: Path, untouched: Callable[[Image], Callable[[], None]]
    ) -> None:
        check = untouched(INCOMPLETE)
        asked = {**keywords(self.BOTH), "backing_file": "b", "refcount_bits": 1, "size": 512}
        with pytest.raises(instar.ImageRejected) as caught:
            instar.amend(path, **asked)
        names = [refusal.name for refusal in caught.value.refusals]
        assert names == ["backing_change", "shrink_not_allowed"]
        check()

    @pytest.mark.parametrize("isolation", [None, "process"])
    def test_is_told_alike_by_whoever_carries_it_out(
        self, path: Path, isolation: Isolation | None
    ) -> None:
        INCOMPLETE.write(path)
        result = instar.amend(path, **keywords(self.BOTH), isolation=isolation)
        assert len(result.steps) == 2
        INCOMPLETE.write(path)
        assert next(instar.amend_many([path], **keywords(self.BOTH))).unwrap() == result

    def test_is_done_by_the_command_too(self, path: Path) -> None:
        INCOMPLETE.write(path)
        done = run("amend", "--output", "json", "-o", self.BOTH, str(path))
        assert (done.returncode, done.stderr) == (0, "")
        assert [step["action"] for step in json.loads(done.stdout)["steps"]] == ["amended"] * 2


class TestAllReasonsAreNamedAtOnce:
    """Of a chain of steps, as far as they hold whatever the refused steps would have done."""

    @pytest.mark.parametrize(
        ("image", "asked", "names"),
        [
            (
                Image(size=1 << 20),
                {"backing_file": "b", "size": 512},
                ["backing_change", "shrink_not_allowed"],
            ),
            (
                Image(size=1 << 20, data_file=b"d"),
                {"data_file_raw": True, "size": 1 << 21, "compat": "0.10"},
                ["size_data_file", "data_file_raw", "downgrade_data_file"],
            ),
            (
                INCOMPLETE,
                {"compat": "1.1", "lazy_refcounts": True, "data_file": "d", "size": 1 << 20},
                ["no_data_file"],  # and once it is upgraded it can be resized
            ),
            (
                Image(size=1 << 20, refcount_order=6, refcounts={0: 1 << 16}),
                {"refcount_bits": 16, "compat": "0.10"},
                ["refcount_overflow"],
            ),
            (
                Image(size=1 << 20, snapshots=[Snapshot(name=b"s", disk_size=1 << 21)]),
                {"size": 512, "compat": "0.10", "lazy_refcounts": True},
                ["shrink_not_allowed", "lazy_needs_v3"],
            ),
        ],
        ids=["header", "all steps", "curable by compat", "curable by a width", "by a size"],
    )
    def test_of_all_steps(
        self,
        path: Path,
        untouched: Callable[[Image], Callable[[], None]],
        image: Image,
        asked: dict[str, Any],
        names: list[str],
    ) -> None:
        check = untouched(image)
        with pytest.raises(instar.ImageRejected) as caught:
            instar.amend(path, **asked)
        assert [refusal.name for refusal in caught.value.refusals] == names
        check()

    def test_and_each_once(
        self, path: Path, untouched: Callable[[Image], Callable[[], None]]
    ) -> None:
        check = untouched(Image(size=1 << 20, incompatible_features=1 << 20))
        with pytest.raises(instar.ImageRejected) as caught:
            instar.amend(path, lazy_refcounts=True, size=1 << 21, compat="1.1")
        names = [refusal.name for refusal in caught.value.refusals]
        assert names == ["unknown_incompatible_features"]
        check()

    def test_what_an_earlier_step_could_cure_is_said_of_reasons_that_there_are(self) -> None:
        names = {name for name, _, _ in REASONS.values()}
        assert names >= known._CURES.keys()
        curing = {key for cures in known._CURES.values() for key in cures}
        assert {*BY_KEY, known._REPAIR} >= curing


def test_a_chain_that_undoes_what_it_was_asked_for_is_refused_and_leaves_nothing_written(
    path: Path,
    untouched: Callable[[Image], Callable[[], None]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    check = untouched(Image(version=2, size=1 << 20))
    both = request_of("compat=1.1,size=2097152")
    again = request_of("compat=0.10")
    steps = both.steps()
    assert len(steps) == 2
    monkeypatch.setattr(AmendRequest, "steps", lambda _: (*steps, again))
    with pytest.raises(GuestFault, match="all together"):
        amend_image(path, both)
    check()


def test_a_step_that_is_not_believed_leaves_nothing_written(
    path: Path,
    untouched: Callable[[Image], Callable[[], None]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    judged = []
    judge = judge_module.judge

    def doubt(*arguments: Any) -> Any:
        judged.append(arguments)
        if len(judged) == 2:
            raise GuestFault("no")
        return judge(*arguments)

    check = untouched(Image(version=2))
    monkeypatch.setattr(amend_module, "judge", doubt)
    with pytest.raises(GuestFault, match=r"^no$"):
        amend_in_steps(path, requests(UP_AND_DOWN))
    check()


class TestWhatAllStepsShare:
    def test_the_time_limit(
        self,
        path: Path,
        untouched: Callable[[Image], Callable[[], None]],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        times = iter((100.0, 100.0, 141.0))
        monkeypatch.setattr(chain, "monotonic", lambda: next(times))
        check = untouched(Image(version=2))
        with pytest.raises(GuestFault, match="did not finish within 40 s"):
            amend_in_steps(path, requests(UP_AND_DOWN, timeout=40))
        check()

    def test_the_growth(self, path: Path, untouched: Callable[[Image], Callable[[], None]]) -> None:
        image, steps = CHAINS["a file that grows twice"]
        check = untouched(image)
        size = path.stat().st_size
        amend_in_steps(path, requests(steps))
        grown = path.stat().st_size - size
        check = untouched(image)
        assert amend_in_steps(path, requests(steps, max_growth=grown)).action == "amended"
        check = untouched(image)
        with pytest.raises(instar.ImageRejected) as caught:
            amend_in_steps(path, requests(steps, max_growth=grown - 512))
        assert "growth" in caught.value.refusals[0].name
        check()

    def test_the_work(
        self,
        path: Path,
        untouched: Callable[[Image], Callable[[], None]],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        image, steps = CHAINS["zero clusters"]
        budgets, works = [], []
        lay = ImageView.lay

        def note(view: ImageView, *arguments: Any) -> None:
            lay(view, *arguments)
            budgets.append(view.work_max)
            works.append(arguments[1])

        monkeypatch.setattr(ImageView, "lay", note)
        untouched(image)
        amend_in_steps(path, requests(steps))
        whole = ImageFile.open(os.fspath(path), writable=False).work_max
        assert whole > budgets[0] > budgets[1] > 0
        assert works[0] > 0  # a downgrade that is judged by the image's tables

    @pytest.mark.parametrize("left", [0, 1, 4095, 4096, 5119])
    def test_a_step_is_refused_if_those_before_left_less_than_the_head_takes(
        self,
        path: Path,
        untouched: Callable[[Image], Callable[[], None]],
        monkeypatch: pytest.MonkeyPatch,
        left: int,
    ) -> None:
        lay = ImageView.lay

        def spend(view: ImageView, *arguments: Any) -> None:
            lay(view, *arguments)
            view.work_max = left

        monkeypatch.setattr(ImageView, "lay", spend)
        check = untouched(Image())
        with pytest.raises(instar.ImageRejected) as caught:
            instar.amend(path, size=1 << 20, shrink=True, compat="0.10")
        assert [refusal.name for refusal in caught.value.refusals] == ["work_limit"]
        check()

    def test_the_progress(self, path: Path) -> None:
        image, steps = CHAINS["zero clusters that are filled"]
        image.write(path)
        told: list[tuple[int, int]] = []
        amend_in_steps(path, requests(steps), progress=lambda *step: told.append(step))
        shares = [done / total for done, total in told]
        assert shares == sorted(shares)
        assert shares[-1] == 1
        assert min(shares) < 1 / len(steps)


class TestACommitThatFails:
    FAULT = "could not write: no"

    def fail(self, monkeypatch: pytest.MonkeyPatch, number: int, phase: int) -> None:
        """Have a step's commit fail in a phase."""
        count = -1
        commit = commit_module.commit

        def counted(*arguments: Any, **flags: Any) -> None:
            nonlocal count
            count += 1
            commit(*arguments, **flags)

        write = commit_module._write

        def failing(image: ImageFile, staged: Any, at: int) -> None:
            if (count, at) == (number, phase):
                raise HostError(self.FAULT)
            write(image, staged, at)

        monkeypatch.setattr(chain, "commit", counted)
        monkeypatch.setattr(commit_module, "_write", failing)

    def test_in_the_second_step_says_what_is_done(
        self, path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        image, steps = CHAINS["a file that grows twice"]
        first = tmp_path / "first.qcow2"
        for file in (path, first):
            image.write(file)
        instar.amend(first, compat="0.10")
        self.fail(monkeypatch, 1, 0)
        with pytest.raises(HostError) as caught:
            amend_in_steps(path, requests(steps[:2]))
        assert str(caught.value) == (
            f"{self.FAULT}; the image reads as before, but may have leaked clusters, see instar "
            "check -r leaks; this was step 2 of 2, compat=1.1; steps done: compat=0.10"
        )
        assert path.read_bytes() == first.read_bytes()

    def test_in_the_first_step_leaves_the_image_as_it_was(
        self, path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        image, steps = CHAINS["snapshots that lack extra data"]
        image.write(path)
        before = path.read_bytes()
        self.fail(monkeypatch, 0, 0)
        with pytest.raises(
            HostError, match=r"; this was step 1 of 2, compat=1\.1; steps done: none"
        ):
            amend_in_steps(path, requests(steps))
        assert path.read_bytes() == before

    def test_a_file_size_limit_is_seen_before_the_first_step(
        self,
        path: Path,
        untouched: Callable[[Image], Callable[[], None]],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        image, steps = CHAINS["a file that grows twice"]
        image.write(path)
        instar.amend(path, compat="0.10")
        first = path.stat().st_size
        check = untouched(image)
        real = ImageFile.check_limit

        def limited(image: ImageFile, end: int, **state: str) -> None:
            monkeypatch.setattr(image, "size_limit", first)
            real(image, end, **state)

        monkeypatch.setattr(ImageFile, "check_limit", limited)
        with pytest.raises(HostError, match=r"file size limit .*; nothing was written$"):
            amend_in_steps(path, requests(steps))
        check()


class TestAKeptMachine:
    @pytest.fixture
    def in_steps(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Have every change of version go up first, and then down."""
        steps = tuple(requests(UP_AND_DOWN))

        def split(request: AmendRequest) -> tuple[AmendRequest, ...]:
            return steps if dict(request.options) == {"compat": 2} else (request,)

        monkeypatch.setattr(AmendRequest, "steps", split)

    @pytest.mark.usefixtures("in_steps")
    def test_takes_steps_and_single_amends_in_turn(self, path: Path) -> None:
        with instar.Sandbox() as sandbox:
            for _ in range(3):
                Image(version=2).write(path)
                assert len(sandbox.amend(path, compat="0.10").steps) == 2
                assert sandbox.amend(path, compat="1.1").steps == ()
                with pytest.raises(instar.ImageRejected):
                    sandbox.amend(path, compat="0.10", lazy_refcounts=True)
                assert sandbox.is_ready(AmendRequest())


STEPS: dict[str, Any] = {"lazy_refcounts": True, "size": 1 << 27}
"""What is asked for in two steps by anybody."""


@pytest.mark.parametrize("isolation", [None, "process"])
def test_a_request_of_two_steps_comes_to_the_same_in_a_child(
    path: Path, isolation: Isolation | None
) -> None:
    Image(version=3, clusters={0: Data(b"x")}).write(path)
    dry = instar.amend(path, **STEPS, dry_run=True, isolation=isolation)
    result = instar.amend(path, **STEPS, isolation=isolation)
    assert [dict(step.asked) for step in result.steps] == [
        {"lazy_refcounts": True},
        {"size": 1 << 27},
    ]
    assert dry.steps == result.steps
    assert {key: result.options[key] for key in STEPS} == STEPS
    assert instar.amend(path, **STEPS, isolation=isolation).action == "noop"


@pytest.mark.parametrize("isolation", [None, "process"])
def test_a_refusal_of_the_last_step_is_the_same_in_a_child(
    path: Path, untouched: Callable[[Image], Callable[[], None]], isolation: Isolation | None
) -> None:
    check = untouched(Image(version=3, clusters={0: Data(b"x")}))
    with pytest.raises(instar.ImageRejected) as caught:
        instar.amend(path, lazy_refcounts=True, size=512, isolation=isolation)
    assert [refusal.name for refusal in caught.value.refusals] == ["shrink_not_allowed"]
    check()


def test_workers_tell_the_steps_and_carry_them_out_confined(tmp_path: Path) -> None:
    images = [tmp_path / f"image {number}" for number in range(5)]
    for image in images:
        Image(version=2, clusters={0: Data(b"x")}).write(image)
    (tmp_path / "image 2").write_bytes(b"none")
    flags = ("--output=json", "--require-confinement", "-o", "compat=1.1,size=128M")
    done = run("amend", "-j2", *flags, *images)
    told = {d["filename"]: d for d in map(json.loads, done.stdout.splitlines())}
    bad = told.pop(str(images[2]))
    assert bad["error"]["kind"] == "ImageRejected"
    for document in told.values():
        assert [step["action"] for step in document["steps"]] == ["amended", "amended"]
        alone = run("amend", *flags, document["filename"])
        assert alone.returncode == 0
        assert json.loads(alone.stdout)["action"] == "noop"


def test_people_read_what_each_step_changes(path: Path) -> None:
    Image(version=2, size=1 << 20).write(path)
    done = run("amend", "--dry-run", "-o", "compat=1.1,size=16M", path)
    lines = done.stdout.splitlines()
    state = "compat 1.1, lazy_refcounts off, size 16777216"
    assert lines[0] == f"{path}: would become {state} (not atomic)"
    assert lines[1:3] == ["  step 1 of 2: compat=1.1 (atomic)", "    version: 2 -> 3"]
    assert lines[-3:] == [
        "  step 2 of 2: size=16777216 (atomic)",
        "    size: 1048576 -> 16777216",
        "    the switch: 512 bytes at 0x0",
    ]


def test_people_read_that_a_step_is_the_repair(path: Path) -> None:
    Image(dirty=True).write(path)
    done = run("amend", "--dry-run", "--repair", "-o", "compat=0.10", path)
    lines = done.stdout.splitlines()
    assert [line for line in lines if line.startswith("  step")] == [
        "  step 1 of 2: repair (atomic)",
        "  step 2 of 2: compat=0.10 (atomic)",
    ]


@pytest.mark.parametrize(
    ("steps", "end"),
    [
        ([(4096, 512)], 4096),
        ([(4096, 512), (None, 4096)], 4096),
        ([(4096, 512), (None, 4608)], None),
        ([(4096, 512), (None, 8192), (6144, 512)], 6144),
        ([(None, 512), (None, 512)], None),
    ],
)
def test_the_end_of_the_file_is_that_after_all_steps(
    steps: list[tuple[int | None, int]], end: int | None
) -> None:
    made = tuple(
        AmendStep({}, "amended", True, 512, (), (ByteRange(3, last - 512, 512, False),), 0, cut)
        for cut, last in steps
    )
    assert combine(made)["file_end"] == end
