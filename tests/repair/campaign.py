"""Repairs the images of writers that were killed, of many seeds. Test side."""

from __future__ import annotations

import shutil
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import instar
from tests.repair.crashed import crash_a_writer
from tests.repair.repairing import losses
from tests.support import qemu as oracle
from tests.support.scratch import scratch


def repair_seed(seed: int) -> tuple[int, str, list[str]]:
    """What a seed's image was, and what is wrong with it after a repair."""
    versions = oracle.all_versions()
    with scratch("repair") as folder:
        image = crash_a_writer(seed, Path(folder), versions[seed % len(versions)])
        original = image.with_name("original.qcow2")
        shutil.copyfile(image, original)
        place = image.read_bytes()[48:60]
        try:
            if not _repair(image, by_check=seed % 3 == 0):
                return seed, "nothing to repair", []
        except instar.ImageRejected as error:
            return seed, f"refused: {error.refusals[0].name}", []
        anew = image.read_bytes()[48:60] != place
        kind = "refcounts written anew" if anew else "mended in place"
        return seed, kind, losses(original, image, (versions[0], versions[-1]))


def _repair(image: Path, *, by_check: bool) -> bool:
    """Repair an image in one of two ways; whether there was anything to be repaired."""
    before = image.read_bytes()
    if by_check:
        instar.check(image, repair="all")
    else:
        instar.amend(image, repair=True)
    return image.read_bytes() != before


def run_and_print(seed: int, count: int, jobs: int) -> int:
    """Repair `count` images; 1 if something is wrong with one of them afterwards."""
    kinds, bad = Counter[str](), 0
    with ProcessPoolExecutor(jobs) as pool:
        for number, kind, found in pool.map(repair_seed, range(seed, seed + count), chunksize=4):
            kinds[kind] += 1
            bad += bool(found)
            for one in found:
                print(f"seed {number}: {one}", flush=True)
    print(f"{count} images: {dict(kinds)}, {bad} of them not as they should be")
    return 1 if bad else 0
