"""Every cluster size, transition and kind of image: the same image as qemu-img makes. Test side."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

import pytest

from tests.oracle.sweep import CLUSTER_BITS, TORN, TRANSITIONS, VARIANTS, Case, cases
from tests.support.planner import read_cluster
from tests.support.planner_checks import fits_beside
from tests.support.qemu import Qemu
from tests.support.recipe import make, working_directory
from tests.support.verdicts import amend, amend_by_qemu, ask_instar, copy

CASES = tuple(cases())
VERSIONS = tuple(Qemu(f"{number}.0", Path()) for number in (5, 7, 8, 9, 10, 11, 12))


@pytest.mark.kvm
@pytest.mark.parametrize("case", CASES, ids=str)
def test_the_image_is_as_qemu_makes_it(
    case: Case, tmp_path: Path, qemu_versions: tuple[Qemu, ...]
) -> None:
    versions = case.versions(qemu_versions)
    image = make(versions[0], tmp_path, case.recipe)
    ours = copy(image, "ours.qcow2")
    result = amend(ours, case.transition.request)
    assert result.action == case.transition.action
    assert result.atomic == fits_in_one_sector(case, image)
    assert ask_instar(ours, case.transition.request) == "noop"
    for version in versions:
        theirs = copy(image, "theirs.qcow2")
        with working_directory(tmp_path):
            assert amend_by_qemu(version, theirs, case.transition.request).ok
            assert version.info(ours) == version.info(theirs)
            assert version.check(ours).clean
            assert version.compare(ours, image)
            if case.variant.name == "snapshot":
                assert version.compare_snapshot(ours, image, "first")
                assert version.compare_snapshot(ours, image, "second")


def fits_in_one_sector(case: Case, image: Path) -> bool:
    """All changes do, but upgrades of a header that is too full for both layouts."""
    if not case.transition.name.startswith("upgrade"):
        return True
    with image.open("rb") as file:
        fits = fits_beside(read_cluster(file.read(1 << case.bits)))
    assert fits == ((case.bits, case.variant.name) not in TORN)
    return fits


def test_every_size_meets_every_transition_and_every_variant() -> None:
    for bits in CLUSTER_BITS:
        met = [case for case in CASES if case.bits == bits]
        assert {case.transition for case in met} == set(TRANSITIONS)
        assert {case.variant for case in met} == {v for v in VARIANTS if bits >= v.from_bits}


def test_every_variant_meets_every_transition_that_it_can() -> None:
    met = defaultdict(set)
    for case in CASES:
        met[case.variant.name].add(case.transition.name)
    for variant in VARIANTS:
        assert len(met[variant.name]) == (4 if variant.version_3_only else 9)


def test_every_version_meets_every_size_with_every_transition() -> None:
    met = {
        (version, case.bits, case.transition.name)
        for case in CASES
        for version in case.versions(VERSIONS)
    }
    assert len(met) == len(VERSIONS) * len(CLUSTER_BITS) * len(TRANSITIONS)
