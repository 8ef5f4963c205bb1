"""Host side: the limits that a process sets itself before a guest runs are those of the docs."""

from __future__ import annotations

import os
import resource
from pathlib import Path

import pytest

from instar import abi
from instar.vmm import confine
from instar.vmm.confine import Descriptors
from instar.vmm.image.budgets import staging_budget

MIB = 1 << 20
USED = 100 * MIB


@pytest.fixture
def streams(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[int, os.stat_result]:
    """What stdout and stderr are: a pipe each, until a test says otherwise."""
    fds = os.pipe()
    found = dict.fromkeys((1, 2), os.fstat(fds[0]))
    for fd in fds:
        os.close(fd)
    monkeypatch.setattr(confine, "fstat", lambda fd: found[fd])
    monkeypatch.setattr(confine, "_address_space", lambda: USED)
    return found


def log_of(path: Path, size: int) -> os.stat_result:
    path.touch()
    os.truncate(path, size)
    return path.stat()


def limits(monkeypatch: pytest.MonkeyPatch, descriptors: Descriptors) -> dict[int, int]:
    """What would be set, by resource."""
    found: dict[int, int] = {}
    monkeypatch.setattr(confine, "_lower", found.__setitem__)
    confine._limit_resources(descriptors)
    return found


@pytest.mark.parametrize("runs", [0, 1, 3])
@pytest.mark.parametrize(("size", "growth"), [(0, 0), (511, 512), (512, 7 * MIB), (1 << 40, 0)])
def test_a_run_writes_no_further_than_the_image_may_grow_and_takes_room_for_what_it_stages(
    streams: dict[int, os.stat_result],
    monkeypatch: pytest.MonkeyPatch,
    size: int,
    growth: int,
    runs: int,
) -> None:
    assert streams
    found = limits(monkeypatch, Descriptors(3, size, 4, growth, 100, runs=runs))
    staged = min(staging_budget(size, growth, 100) * (runs or 1), abi.INSTAR_STAGED_MAX)
    assert found == {
        resource.RLIMIT_FSIZE: -(-size // 512) * 512 + growth,
        resource.RLIMIT_CORE: 0,
        resource.RLIMIT_NPROC: 0,
        resource.RLIMIT_AS: USED + 64 * MIB + 4 * staged,
    }


@pytest.mark.parametrize("stream", [1, 2])
@pytest.mark.parametrize(("read_only", "more"), [(False, MIB), (True, 16 * MIB)])
def test_a_log_may_grow_by_one_mib_and_by_sixteen_where_an_image_is_only_read(
    streams: dict[int, os.stat_result],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    stream: int,
    read_only: bool,
    more: int,
) -> None:
    streams[stream] = log_of(tmp_path / "log", 10_000)
    used = Descriptors(3, 512, 4, 0, 0, read_only=read_only)
    assert limits(monkeypatch, used)[resource.RLIMIT_FSIZE] == 10_000 + more
    streams[stream] = log_of(tmp_path / "log", 0)
    if not read_only:
        used = Descriptors(3, 5 * MIB, 4, 0, 0)
        assert limits(monkeypatch, used)[resource.RLIMIT_FSIZE] == 5 * MIB


def test_no_file_is_larger_than_a_signed_limit_can_say(
    streams: dict[int, os.stat_result], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert streams
    found = limits(monkeypatch, Descriptors(3, 1 << 61, 4, (1 << 62) - 512, 0))
    assert found[resource.RLIMIT_FSIZE] == 1 << 62
