"""Test side: what all tests share: the rule for tests that need KVM, and fixtures."""

from __future__ import annotations

import os
from typing import Any

import pytest

# Before anything imports them: checks that tests share explain their failures as tests do.
pytest.register_assert_rewrite(
    *("tests.oracle.agreement", "tests.support.verdicts"),
    *("tests.support.planner_checks", "tests.support.planner"),
)

from tests.support import qemu as oracle  # noqa: E402
from tests.support.project import compile_package, load_planner  # noqa: E402


def why_no_kvm(device: str = "/dev/kvm") -> str | None:
    """Why no guest can run on this machine, or None if one can."""
    try:
        os.close(os.open(device, os.O_RDWR | os.O_CLOEXEC))
    except OSError as error:
        return f"{device}: {error.strerror}"
    return None


def pytest_sessionstart(session: pytest.Session) -> None:
    """Have the package's bytecode there, and fresh: without it, more is imported and listed."""
    if not hasattr(session.config, "workerinput"):  # once for all of xdist's workers
        compile_package()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what is marked kvm where no guest can run, and nothing else anywhere."""
    reason = why_no_kvm()
    if reason is not None:
        for item in items:
            if item.get_closest_marker("kvm"):
                item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture(scope="session")
def planner() -> Any:
    """See load_planner."""
    return load_planner()


@pytest.fixture(scope="session")
def qemu_versions() -> tuple[oracle.Qemu, ...]:
    """All versions of qemu at hand, oldest first; never none."""
    versions = oracle.all_versions()
    if not versions:
        pytest.fail(oracle.NONE_FETCHED, pytrace=False)
    return versions


@pytest.fixture(scope="session")
def qemu(qemu_versions: tuple[oracle.Qemu, ...]) -> oracle.Qemu:
    """The newest version of qemu at hand."""
    return qemu_versions[-1]


@pytest.fixture(scope="session")
def oldest_qemu(qemu_versions: tuple[oracle.Qemu, ...]) -> oracle.Qemu:
    """The oldest version of qemu at hand."""
    return qemu_versions[0]


@pytest.fixture(
    scope="session",
    params=oracle.all_versions() or (None,),
    ids=lambda version: version.version if version else "none",
)
def each_qemu(
    request: pytest.FixtureRequest, qemu_versions: tuple[oracle.Qemu, ...]
) -> oracle.Qemu:
    """A version of qemu: a test that asks for it runs once for each version at hand."""
    assert request.param in qemu_versions
    version: oracle.Qemu = request.param
    return version
