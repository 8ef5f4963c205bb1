"""Compares info and check with qemu-img on the images of many seeds. Test side.

Every second image is damaged. What seeds give depends on the versions of qemu-img at hand, which
make some of the images.
"""

from __future__ import annotations

from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

from tests.differential.generate import case_of
from tests.support import qemu as oracle
from tests.support.looks import checking, information
from tests.support.looks.damage import damage
from tests.support.looks.divergences import CHECK, explain
from tests.support.recipe import working_directory
from tests.support.scratch import scratch


def look_at_seed(seed: int, version: str) -> tuple[str, list[str]]:
    """Say what a seed's image is, and how instar differs on it from a version of qemu-img.

    It is "none", "sound" or "damaged"; differences that are listed are left out.
    """
    versions = oracle.all_versions()
    qemu = next(one for one in versions if one.version == version)
    with scratch("inspect") as folder:
        program = case_of(seed, tuple(one.version for one in versions)).program
        image = program.make(Path(folder), versions)
        if image is None:
            return "none", []
        kind = "damaged" if seed % 2 and damage(image, seed) else "sound"
        # qemu looks for data files where it is, not where the image is.
        with working_directory(Path(folder)):
            name = Path(image.name)
            found, names = checking.differences(qemu, name)
            check = [f"check: {one}" for one in found if explain(one, names, CHECK) is None]
            return kind, [f"info: {one}" for one in information.unexplained(qemu, name)] + check


def run_and_print(seed: int, count: int, jobs: int, version: str | None) -> int:
    """Look at `count` images; 1 if something was found that is not listed."""
    chosen = version or oracle.newest().version
    kinds, found = Counter[str](), Counter[str]()
    with ProcessPoolExecutor(jobs) as pool:
        look = partial(look_at_seed, version=chosen)
        seeds = range(seed, seed + count)
        for number, (kind, findings) in zip(seeds, pool.map(look, seeds, chunksize=8), strict=True):
            kinds.update([kind])
            found.update(one.partition(":")[0] for one in findings)
            for one in findings:
                print(f"seed {number}, {kind}: {one}", flush=True)
    print(f"{dict(kinds)} beside qemu-img {chosen}: {dict(found) or 'nothing found'}")
    return 1 if found else 0
