"""Compares info and check with qemu-img on the images of many seeds. Test side."""

from __future__ import annotations

from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

from tests.differential.generate import case_of
from tests.inspect import checking, information
from tests.inspect.divergences import CHECK, explain
from tests.support import qemu as oracle
from tests.support.recipe import working_directory
from tests.support.scratch import scratch


def look_at_seed(seed: int, version: str) -> tuple[int, list[str]]:
    """How instar differs from a version of qemu-img on a seed's image, but for what is listed."""
    versions = oracle.all_versions()
    qemu = next(one for one in versions if one.version == version)
    with scratch("inspect") as folder:
        program = case_of(seed, tuple(one.version for one in versions)).program
        image = program.make(Path(folder), versions)
        if image is None:
            return seed, []
        # qemu looks for data files where it is, not where the image is.
        with working_directory(Path(folder)):
            name = Path(image.name)
            found, names = checking.differences(qemu, name)
            check = [f"check: {one}" for one in found if explain(one, names, CHECK) is None]
            return seed, [f"info: {one}" for one in information.unexplained(qemu, name)] + check


def run_and_print(seed: int, count: int, jobs: int, version: str | None) -> int:
    """Look at `count` images; 1 if something was found that is not listed."""
    chosen = version or oracle.newest().version
    total, kinds = 0, Counter[str]()
    with ProcessPoolExecutor(jobs) as pool:
        look = partial(look_at_seed, version=chosen)
        for number, findings in pool.map(look, range(seed, seed + count), chunksize=8):
            total += 1
            kinds.update(one.partition(":")[0] for one in findings)
            for one in findings:
                print(f"seed {number}: {one}", flush=True)
    print(f"{total} images beside qemu-img {chosen}: {dict(kinds) or 'nothing found'}")
    return 1 if kinds else 0
