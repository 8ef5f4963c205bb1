"""Test side: regular runs: what they cost, what they leave, and what a caller gets back."""

from __future__ import annotations

import pickle
import threading
import types
import typing
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import instar
from instar.vmm.machine.payload import load_payload
from tests.sandbox.rogues import open_descriptors
from tests.support.forge import Data, Extension, Image, Zero, parse_header

pytestmark = pytest.mark.kvm

BACKED: dict[str, Any] = {"backing_file": b"base.qcow2", "backing_format": b"qcow2"}
REBASED: dict[str, Any] = {"backing_fmt": "qcow2", "change_backing": True}
LONG_NAME = Image(version=2, backing_file=b"b" * 1000)

# Name: the image, what is asked of it, how often the guest stops for the host, and the phases.
# A stop each for: a read of more than the head and what was read along, a write of more than a few
# sectors, and the result, which ends the run and has all that waits go along.
COSTS: dict[str, tuple[Image, dict[str, Any], int, list[int]]] = {
    "lazy toggle": (Image(), {"lazy_refcounts": True}, 1, [3]),
    "lazy toggle, backing file": (Image(**BACKED), {"lazy_refcounts": True}, 1, [3]),
    "lazy off": (Image(lazy_refcounts=True), {"lazy_refcounts": False}, 1, [3]),
    "upgrade": (Image(version=2), {"compat": "1.1"}, 1, [3]),
    "upgrade, lazy": (Image(version=2), {"compat": "v3", "lazy_refcounts": True}, 1, [3]),
    "upgrade, the name moves in the sector": (
        Image(version=2, **BACKED),
        {"compat": "1.1"},
        1,
        [3],
    ),
    "upgrade, the name moves into slack": (LONG_NAME, {"compat": "1.1"}, 2, [0, 3]),
    "downgrade": (Image(), {"compat": "0.10"}, 2, [3]),
    "downgrade, backing file": (Image(**BACKED), {"compat": "v2"}, 2, [3]),
    "another backing file": (Image(**BACKED), {**REBASED, "backing_file": "b"}, 1, [3]),
    "another backing file, the name moves into slack": (
        Image(**BACKED),
        {**REBASED, "backing_file": "n" * 1000},
        1,
        [0, 3],
    ),
    "no backing file": (Image(**BACKED), {"backing_file": "", "change_backing": True}, 1, [3]),
    "the same backing file": (Image(**BACKED), {**REBASED, "backing_file": "base.qcow2"}, 1, []),
    "another data file": (Image(data_file=b"a"), {"data_file": "b"}, 1, [3]),
    "raw off": (Image(data_file=b"a", data_file_raw=True), {"data_file_raw": False}, 1, [3]),
    "noop": (Image(), {"compat": "1.1"}, 1, []),
}

PATIENCE = 60.0


@pytest.mark.parametrize("name", COSTS)
def test_an_amend_takes_a_handful_of_exits(path: Path, name: str) -> None:
    image, request, exits, phases = COSTS[name]
    image.write(path)
    result = instar.amend(path, **request)
    assert result.vm_exits == exits <= 5
    assert [part.phase for part in result.ranges] == phases


@pytest.mark.parametrize(("field", "exits"), [("refcount_table", 2), ("refcount_block[0]", 2)])
def test_an_upgrade_of_tables_that_moved_takes_one_exit_more(
    path: Path, field: str, exits: int
) -> None:
    image = Image(version=2, cluster_bits=12, size=1 << 20, clusters={0: Data(b"d")})
    regions, data = image.regions(), bytearray(image.build())
    moved = regions[field]
    at = len(data)
    data += data[moved.start : moved.stop]
    block = regions["refcount_block[0]"].start
    data[block + 2 * (at >> 12) : block + 2 * (at >> 12) + 2] = b"\0\1"
    name = 48 if field == "refcount_table" else regions["refcount_table"].start
    data[name : name + 8] = at.to_bytes(8, "big")
    path.write_bytes(data + bytes(4096))
    assert instar.amend(path, compat="1.1").vm_exits == exits


def test_a_downgrade_with_data_takes_one_exit_more(path: Path) -> None:
    Image(clusters={0: Data(b"\5"), 9000: Data(b"\6")}).write(path)
    assert instar.amend(path, compat="0.10").vm_exits == 3


@pytest.mark.parametrize("scattered", [1, 6])
def test_scattered_sectors_go_along_with_the_reads_of_other_tables(
    path: Path, scattered: int
) -> None:
    """64 tables, which are four reads: none of what changes in them has an exit of its own."""
    zeros = {n * 8192 + 1300 * k: Zero() for n in range(64) for k in range(scattered)}
    Image(cluster_bits=16, size=64 << 29, clusters=zeros).write(path)
    assert instar.amend(path, compat="0.10").vm_exits == 7


@pytest.mark.parametrize("version", [2, 3])
def test_a_header_costs_the_same_reads_whatever_the_cluster_size(path: Path, version: int) -> None:
    request: dict[str, Any] = {"compat": "1.1", "lazy_refcounts": True}
    costs = []
    for cluster_bits in range(9, 22):
        Image(version=version, cluster_bits=cluster_bits, size=1 << 20).write(path)
        result = instar.amend(path, **request)
        assert result.action == "amended"
        costs.append((result.bytes_read, result.bytes_written, result.vm_exits))
    reads = [cost[0] for cost in costs]
    # At most the part of the header cluster that follows its first sector, and one refcount,
    # which tells whether another structure is in there.
    assert max(reads) - min(reads) <= 4096 + 8 + 2
    assert {cost[1:] for cost in costs} == {(512, 1)}


def test_a_header_costs_the_same_reads_whatever_the_virtual_size(path: Path) -> None:
    reads = set()
    for size in (1 << 20, 1 << 30, 1 << 40):
        Image(size=size).write(path)
        reads.add(instar.amend(path, lazy_refcounts=True).bytes_read)
    assert len(reads) == 1


class TestWhatIsLeft:
    def test_only_the_ranges_of_the_result_change(self, path: Path) -> None:
        LONG_NAME.write(path)
        expected = bytearray(path.read_bytes())
        result = instar.amend(path, compat="1.1")
        after = path.read_bytes()
        for part in result.ranges:
            end = part.offset + part.length
            expected[part.offset : end] = after[part.offset : end]
        assert after == expected
        assert sum(part.length for part in result.ranges) == result.bytes_written

    @pytest.mark.parametrize("request_", [{}, {"compat": "1.1"}, {"lazy_refcounts": False}])
    def test_a_noop_leaves_bytes_and_time(self, path: Path, request_: dict[str, Any]) -> None:
        Image(autoclear_features=0x80).write(path)
        before = (path.read_bytes(), path.stat().st_mtime_ns)
        result = instar.amend(path, **request_)
        assert (result.action, result.bytes_written, result.changes) == ("noop", 0, ())
        assert (path.read_bytes(), path.stat().st_mtime_ns) == before

    def test_a_dry_run_leaves_bytes_and_time(self, path: Path) -> None:
        LONG_NAME.write(path)
        path.chmod(0o444)
        before = (path.read_bytes(), path.stat().st_mtime_ns)
        dry = instar.amend(path, compat="1.1", dry_run=True)
        assert (path.read_bytes(), path.stat().st_mtime_ns) == before
        assert dry.dry_run
        path.chmod(0o644)
        wet = instar.amend(path, compat="1.1")
        assert not wet.dry_run
        assert (dry.changes, dry.ranges, dry.bytes_written, dry.vm_exits) == (
            *(wet.changes, wet.ranges, wet.bytes_written),
            wet.vm_exits,
        )

    def test_a_refusal_leaves_bytes_and_time(self, path: Path) -> None:
        Image(dirty=True, corrupt=True).write(path)
        before = (path.read_bytes(), path.stat().st_mtime_ns)
        with pytest.raises(instar.ImageRejected) as caught:
            instar.amend(path, lazy_refcounts=True)
        assert [refusal.name for refusal in caught.value.refusals] == ["dirty", "corrupt"]
        assert (path.read_bytes(), path.stat().st_mtime_ns) == before

    def test_no_descriptor_stays_open(self, path: Path) -> None:
        Image().write(path)
        before = open_descriptors()
        for number in range(20):
            instar.amend(path, lazy_refcounts=number % 2 == 0)
            with pytest.raises(instar.ImageRejected):
                instar.amend(path, compat="0.10", lazy_refcounts=True)
        assert open_descriptors() == before  # other tests may keep machines of their own

    def test_an_upgrade_and_a_downgrade_give_the_header_back(self, path: Path) -> None:
        image = Image(extensions=[Extension(0x12345678, b"unknown")], **BACKED)
        image.write(path)
        first = parse_header(path.read_bytes())
        instar.amend(path, compat="0.10")
        assert parse_header(path.read_bytes()).version == 2
        instar.amend(path, compat="1.1")
        last = parse_header(path.read_bytes())
        moved = ("_io", "backing_file_offset")
        assert {k: v for k, v in first.items() if k not in moved} == {
            k: v for k, v in last.items() if k not in moved
        }


class TestThreads:
    def run(self, *works: Callable[[], instar.AmendResult]) -> list[Any]:
        """Run each in a thread of its own; returns results and errors."""
        outcomes: list[Any] = [None] * len(works)

        def work(number: int) -> None:
            try:
                outcomes[number] = works[number]()
            except BaseException as error:
                outcomes[number] = error

        threads = [threading.Thread(target=work, args=(number,)) for number in range(len(works))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(PATIENCE)
            assert not thread.is_alive()
        return outcomes

    def test_an_amend_may_run_in_any_thread(self, path: Path) -> None:
        Image().write(path)
        (result,) = self.run(lambda: instar.amend(path, lazy_refcounts=True))
        assert (result.action, result.vm_exits) == ("amended", 1)

    def test_two_threads_may_amend_at_the_same_time(self, tmp_path: Path) -> None:
        paths = [tmp_path / name for name in ("a", "b")]
        for path in paths:
            Image().write(path)
        together = threading.Barrier(len(paths))

        def toggle(path: Path) -> instar.AmendResult:
            together.wait(PATIENCE)
            for number in range(10):
                result = instar.amend(path, lazy_refcounts=number % 2 == 0)
                assert result.action == "amended"
                assert result.vm_exits == 1
            return result

        results = self.run(*(lambda path=path: toggle(path) for path in paths))
        assert [result.filename for result in results] == [str(path) for path in paths]


class TestResult:
    @pytest.fixture
    def result(self, path: Path) -> instar.AmendResult:
        Image().write(path)
        return instar.amend(path, lazy_refcounts=True)

    def test_it_says_what_was_done(self, path: Path, result: instar.AmendResult) -> None:
        assert (result.filename, result.format) == (str(path), "qcow2")
        assert (result.compat, result.lazy_refcounts, result.atomic) == ("1.1", True, True)
        assert result.changes == (instar.Change("compatible_features", 0, 1),)
        assert result.ranges == (instar.ByteRange(3, 0, 512),)
        assert result.bytes_written == 512
        assert result.payload_sha256 == load_payload().sha256

    def test_it_is_frozen(self, result: instar.AmendResult) -> None:
        for name in vars(result):
            with pytest.raises(AttributeError, match="immutable"):
                setattr(result, name, None)

    def test_it_travels(self, result: instar.AmendResult) -> None:
        assert pickle.loads(pickle.dumps(result)) == result  # noqa: S301 - our own bytes

    def test_every_field_has_its_type(self, result: instar.AmendResult) -> None:
        for record in (result, result.changes[0], result.ranges[0]):
            hints = typing.get_type_hints(type(record))
            assert list(hints) == list(record.__match_args__)
            for name, hint in hints.items():
                union = isinstance(hint, types.UnionType)
                kind = hint if union else typing.get_origin(hint) or hint
                assert isinstance(getattr(record, name), kind), name

    @pytest.mark.parametrize("form", [str, Path, lambda path: str(path).encode()])
    def test_the_path_may_be_of_any_kind(self, path: Path, form: Callable[[Path], Any]) -> None:
        Image().write(path)
        assert instar.amend(form(path), lazy_refcounts=True).filename == str(path)
