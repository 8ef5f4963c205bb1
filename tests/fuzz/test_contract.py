"""Test side: the contract fuzzer for a while; it notices when a rule of the judge is missing."""

from __future__ import annotations

import random
from array import array
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from dataclasses import replace
from functools import partial
from itertools import islice
from multiprocessing import get_context
from typing import Any

import pytest

from instar import abi
from instar.vmm.base.errors import GuestFault, ImageRejected
from instar.vmm.base.refusals import overlap
from instar.vmm.contract import (
    growth,
    header,
    layer,
    pending,
    roles,
    spare,
    tables,
    touched,
    version_2,
)
from instar.vmm.contract.books import Books
from instar.vmm.contract.differences import REFCOUNT_TABLE, TABLE_PLACE
from instar.vmm.contract.reader import disk, limits, refcounts, structures, widths
from instar.vmm.contract.reader.disk import Disk
from instar.vmm.contract.rules import lazy_refcounts
from instar.vmm.contract.terms import Spare
from instar.vmm.image.staging import StagedWrites
from tests.fuzz import contract, contract_images, contract_lies
from tests.fuzz.contract import Source, Tally, _alarms, _run_image, _tell, run
from tests.fuzz.contract_images import WINDOW, lying_images, strange_images
from tests.fuzz.contract_plans import deaf_cases, honest_cases, lying_cases, strange_cases
from tests.fuzz.contract_states import FindingError, errors
from tests.fuzz.limits import Limits
from tests.fuzz.other_readers import ByQemu, by_dissect, by_libqcow, first_difference
from tests.support import qemu as oracle
from tests.support.forge import Compressed, Data, Image, Snapshot, Zero
from tests.support.forge.layout import EXTENSION_CRYPTO_HEADER as LUKS
from tests.support.forge.model import Model


def test_what_the_judge_accepts_of_a_mutated_plan_damages_nothing() -> None:
    tally = run(4, Limits(1500, seconds=120))
    assert not tally.findings
    assert tally.accepted > 10
    assert tally.endings["a fault"] > 500


def _any_early_header(self: header.HeaderStates) -> None:
    fields = self.before.fields
    names = ("refcount_table_offset", "refcount_table_clusters")
    self.places = {name: fields[name] for name in names}


def test_the_fuzzer_finds_a_header_that_changes_before_the_switch(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(header.HeaderStates, "judge_prefixes", _any_early_header)
    toggle = lazy_refcounts.TOGGLE | {(REFCOUNT_TABLE, TABLE_PLACE)}
    monkeypatch.setattr(lazy_refcounts, "TOGGLE", toggle)
    assert run(5, Limits(2_000, seconds=60)).findings


def _found_in(image: str, source: Source = honest_cases) -> list[str]:
    """What is found in the mutants of one image, by its name."""
    tally = Tally()
    with _alarms():
        _run_image(image, tally, Limits(2_000, seconds=60), None, source)
    return tally.findings


def _found_without(
    monkeypatch: pytest.MonkeyPatch,
    *rules: tuple[object, str, object],
    image: str,
    source: Source = honest_cases,
) -> str:
    """What is found there once these rules of the judge are others; with them it is nothing."""
    assert _found_in(image, source) == []
    for owner, name, other in rules:
        monkeypatch.setattr(owner, name, other)
    (finding,) = _found_in(image, source)
    return finding


def test_the_fuzzer_finds_a_file_that_grows_for_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    rule = tables, "judge_growth", lambda *_: None
    assert "the file grows from" in _found_without(monkeypatch, rule, image="growth/12")


def test_the_fuzzer_finds_a_refcount_table_that_is_larger_than_qemu_takes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    finding = _found_without(
        monkeypatch,
        (limits, "REFCOUNT_TABLE_MAX", 1 << 40),
        (refcounts, "REFCOUNT_TABLE_MAX", 1 << 40),
        (growth, "_judge_table", lambda *_: None),
        image="table/1",
    )
    assert "table_moves" in finding


def _found_in_lies(seed: int, count: int) -> list[str]:
    """What is found in images with numbers that are far too large."""
    rng, tally = random.Random(seed), Tally()  # noqa: S311 - reproducible, not secret
    try:
        for _ in range(count):
            _tell(rng, tally)
    except FindingError as error:
        return [str(error)]
    return []


def _alone(work: Callable[[], list[list[str]]]) -> list[list[str]]:
    """Do it in a new process: what an old one has let go of is taken again without a new peak."""
    with ProcessPoolExecutor(1, get_context("spawn")) as executor:
        return executor.submit(work).result()


def _read_extra_data() -> list[list[str]]:
    found = [_found_in_lies(1, 60)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(structures, "SNAPSHOT_EXTRA_MAX", 1 << 40)
        patch.setattr(structures, "SNAPSHOT_TABLE_MAX", 1 << 40)
        patch.setattr(disk.Disk, "hold", lambda *_: None)
        return [*found, _found_in_lies(1, 60)]


def test_the_fuzzer_finds_extra_data_of_a_snapshot_that_is_read_without_a_bound() -> None:
    sound, (finding,) = _alone(_read_extra_data)
    assert sound == []
    assert "the judge takes" in finding


def _keep_books(*, wide: bool) -> list[list[str]]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(contract_lies, "WINDOWS", 1.0)
        if wide:
            zeros = widths.Width.zeros
            patch.setattr(widths.Width, "zeros", lambda width: array("q", zeros(width)))
            patch.setattr(disk.Disk, "hold", lambda *_: None)
        return [_found_in_lies(1, 4)]


def test_the_fuzzer_finds_books_that_take_a_multiple_of_what_is_staged() -> None:
    # Each by itself: some allocators keep what the first one let go of.
    assert _alone(partial(_keep_books, wide=False)) == [[]]
    ((finding,),) = _alone(partial(_keep_books, wide=True))
    assert "the judge takes" in finding


def test_the_fuzzer_finds_zero_clusters_that_a_downgrade_leaves(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rule = version_2.Version2, "judge_table", lambda *_, **__: None
    finding = _found_without(monkeypatch, rule, image="v2/51")
    assert "version 2, and" in finding


def test_the_fuzzer_finds_a_name_that_is_written_where_no_header_is_looked_at(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rule = pending, "header_end", lambda bits: 1 << bits
    finding = _found_without(monkeypatch, rule, image="name/16")
    assert "name: b'base'" in finding


def test_other_readers_take_an_empty_name_for_no_backing_file() -> None:
    image = Image(size=1 << 16, cluster_bits=9, clusters={3: Zero()}, backing_file=b"base")
    data = bytearray(image.build())
    data[16:20] = bytes(4)
    empty = bytes(data)
    assert by_dissect(empty) == by_libqcow(empty) == [bytes(1 << 16)]
    assert by_dissect(image.build()) != [bytes(1 << 16)]


def test_an_image_may_become_sound_and_not_damaged() -> None:
    """Snapshots that lack what version 3 requires of them are sound in version 2."""
    reader = ByQemu(oracle.newest())
    snapshots = [Snapshot(name=b"s", extra_data_size=0)]
    damaged = Image(size=1 << 16, snapshots=snapshots).build()
    sound = Image(size=1 << 16, snapshots=snapshots, version=2).build()
    assert first_difference(damaged, sound, [reader]) == ""
    assert first_difference(sound, damaged, [reader]) == "ByQemu reads something else"


def test_compressed_data_at_an_odd_offset_are_read_by_those_who_can() -> None:
    """Of version 3 alone they are zeros to libqcow, which a change of version would show."""
    even = Image(size=2 << 10, cluster_bits=10, clusters={0: Compressed(b"\1")})
    both = {0: Compressed(b"\1"), 1: Compressed(b"\2")}  # the second after 11 bytes of the first
    odd = replace(even, clusters=both)
    assert by_libqcow(even.build()) == by_dissect(even.build()) == [b"\1" * 1024 + bytes(1024)]
    assert by_libqcow(odd.build()) is None
    contents = [b"\1" * 1024 + b"\2" * 1024]
    assert by_libqcow(replace(odd, version=2).build()) == by_dissect(odd.build()) == contents


def test_a_snapshot_whose_l1_table_is_short_is_read_by_those_who_can() -> None:
    """Of what no entry is for, nothing is allocated."""
    image = Image(size=1 << 16, cluster_bits=9, snapshots=[Snapshot(name=b"s")])
    data = bytearray(image.build())
    assert by_dissect(bytes(data)) == [bytes(1 << 16)] * 2
    entry = image.regions()["snapshot_table"].start
    assert data[entry + 8 : entry + 12] == (2).to_bytes(4, "big")
    data[entry + 8 : entry + 12] = (1).to_bytes(4, "big")
    assert by_dissect(bytes(data)) is None


def test_a_snapshot_with_extra_data_of_its_own_is_read_by_those_who_can() -> None:
    image = Image(size=1 << 16, cluster_bits=9, snapshots=[Snapshot(name=b"s", extra_data_size=40)])
    assert by_dissect(image.build()) is None
    assert by_dissect(replace(image, snapshots=[Snapshot(name=b"s")]).build()) is not None


def test_extended_l2_entries_are_read_by_those_who_can() -> None:
    fields: dict[str, Any] = {"cluster_bits": 14, "size": 1 << 16, "clusters": {1: Data(b"d")}}
    assert by_dissect(Image(**fields, extended_l2=True).build()) is None
    assert by_dissect(Image(**fields).build()) is not None


def test_the_fuzzer_finds_entries_that_another_size_drops_from_the_table_at_its_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    judge_boundary = layer.Layer._judge_boundary

    def judge_little(self: layer.Layer, cut: int) -> None:
        with suppress(GuestFault):
            judge_boundary(self, cut)

    rule = layer.Layer, "_judge_boundary", judge_little
    finding = _found_without(monkeypatch, rule, image="boundary/373")
    assert "after phase 3: layers" in finding


def test_the_fuzzer_finds_that_what_a_backing_file_has_past_the_end_shows(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rule = layer.Layer, "_is_wanted", lambda *_: True
    finding = _found_without(monkeypatch, rule, image="wanted/729", source=strange_cases)
    assert "after phase 3: layers: ({2: b'\\xbb" in finding


def test_the_fuzzer_finds_a_hole_that_is_made_of_what_is_in_use(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    spare_of = spare.spare_of

    def more(disk: Disk, books: Books, staged: StagedWrites) -> Spare:
        given = spare_of(disk, books, staged)
        rows = [range(row.start, row.stop + disk.cluster_size) for row in given.ranges]
        return Spare(tuple(rows), given.end)

    rule = tables, "spare_of", more
    finding = _found_without(monkeypatch, rule, image="spare/355")
    assert "after phase 5: layers" in finding


@pytest.mark.parametrize("source", [honest_cases, strange_cases, deaf_cases, lying_cases])
def test_the_fuzzer_finds_an_image_without_faults_that_is_rejected(
    monkeypatch: pytest.MonkeyPatch, source: Source
) -> None:
    """Of strange ones the judge may find fault."""

    def reject(*_: object) -> None:
        raise ImageRejected((overlap(0),))

    monkeypatch.setattr(contract, "verdict", reject)
    words = [] if source is not honest_cases else ["an image without faults is rejected"]
    findings = _found_in("name/16", source)
    assert [finding.rpartition(": ")[2] for finding in findings] == words


def test_the_fuzzer_finds_data_in_what_a_deaf_planner_changes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rule = touched.Touched, "keep_data", lambda *_: None
    finding = _found_without(monkeypatch, rule, image="data/71", source=deaf_cases)
    assert "unreadable" in finding


def test_the_fuzzer_finds_an_entry_that_does_not_say_that_its_cluster_is_its_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rule = touched.Touched, "judge_left", lambda *_: None
    finding = _found_without(monkeypatch, rule, image="left/87", source=deaf_cases)
    assert "COPIED is missing" in finding


_keep = touched.Touched.keep


def _keep_but(*uses: int) -> Callable[..., None]:
    """What the judge does where structures of all kinds but these are kept."""

    def keep(self: touched.Touched, clusters: range, use: int, *, released: bool = False) -> None:
        if use not in uses:
            _keep(self, clusters, use, released=released)

    return keep


@pytest.mark.parametrize(
    ("rule", "image", "damage"),
    [
        ((roles, "luks_clusters", lambda *_: ()), "ly/1932", "after phase 0: extensions"),
        (
            (touched.Touched, "keep", _keep_but(abi.AMEND_USE_SNAPSHOT_TABLE)),
            *("ly/968", "after phase -1: layers"),
        ),
        (
            (
                *(touched.Touched, "keep"),
                _keep_but(abi.AMEND_USE_L1_TABLE, abi.AMEND_USE_SNAPSHOT_L1_TABLE),
            ),
            *("ly/893", "after phase 0: layers"),
        ),
        ((touched.Touched, "keep_refcount_table", lambda *_: None), "ly/1582", "refcount 0, 3"),
    ],
    ids=["luks", "snapshot_table", "l1_tables", "refcount_table"],
)
def test_the_fuzzer_finds_a_structure_that_is_free_by_its_refcount_and_is_not_looked_for(
    monkeypatch: pytest.MonkeyPatch, rule: tuple[object, str, object], image: str, damage: str
) -> None:
    assert damage in _found_without(monkeypatch, rule, image=image, source=lying_cases)


def test_refcounts_of_each_kind_of_structure_lie() -> None:
    rng, kinds = random.Random(1), Counter[str]()  # noqa: S311 - reproducible, not secret
    for data in islice(lying_images(rng), 300):
        model = Model(data)
        low = {cluster for cluster, (is_, needed) in model.wrong_refcounts.items() if is_ < needed}
        assert low
        kinds.update({use.kind for use in model.uses if use.offset >> model.bits in low})
    assert min(kinds.values()) > 2, kinds
    assert kinds.keys() >= {"header", "refcount_block", "crypto_header", "bitmap", "compressed"}


def test_strange_images_are_strange_in_each_way(monkeypatch: pytest.MonkeyPatch) -> None:
    """And sound but for leaks."""
    monkeypatch.setattr(contract_images, "_FAR", 1 / 20)
    rng, kinds = random.Random(1), Counter[str]()  # noqa: S311 - reproducible, not secret
    for data in islice(strange_images(rng), 400):
        model = Model(data)
        faults, leaks = errors(data)
        assert not faults
        end = -(-len(data) // model.cluster_size)
        kinds["leaks"] += leaks > 0
        kinds["leaks past the end"] += max(model.stored) >= end
        kinds["within a sector"] += model.size % 512 > 0
        spans = -(-model.size // (model.cluster_size << model.bits - 3 - model.extended))
        kinds["a longer L1 table"] += model.l1_size > spans
        kinds["a window's end"] += len(data) == WINDOW * model.cluster_size
        kinds["two LUKS headers"] += [kind for kind, *_ in model.extensions].count(LUKS) > 1
        kinds["shared clusters"] += max(model.counted.values()) > len(model.l1_tables)
        kinds["far"] += len(data) > 1 << 24
    assert min(kinds.values()) > 2, kinds
