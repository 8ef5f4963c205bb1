"""Host side: amend(isolation="process") ends as amend() does, and leaves its caller as it was."""

from __future__ import annotations

import os
import resource
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import instar
from instar.vmm.amend import amend_image
from instar.vmm.fleet import isolation, look
from instar.vmm.machine.payload import load_payload
from instar.vmm.repair import make_repair
from instar.vmm.request import AmendRequest
from instar.vmm.request.keywords import Isolation
from tests.support.forge import Data, Image, Snapshot
from tests.support.process import ALL, lacking

SAMPLE = Image(
    size=1 << 20,
    clusters={0: Data(b"\x05")},
    snapshots=[Snapshot(name=b"a", clusters={1: Data(b"\x04")})],
)


def both(path: Path, **options: Any) -> list[Any]:
    """What two copies of an image and the two kinds of amend lead to, results or errors."""
    copy = path.with_name("copy")
    shutil.copy(path, copy)
    outcomes: list[Any] = []
    runs: tuple[tuple[Path, Isolation | None], ...] = ((path, None), (copy, "process"))
    for image, how in runs:
        try:
            result = instar.amend(image, isolation=how, **options)
            outcomes.append({**vars(result), "filename": ""})
            assert result.filename == str(image)
        except instar.ImageRejected as error:
            outcomes.append(error.refusals)
        except instar.InstarError as error:
            outcomes.append((type(error), str(error).replace(str(image), "")))
    assert path.read_bytes() == copy.read_bytes()
    return outcomes


@pytest.mark.kvm
@pytest.mark.parametrize("name", ALL)
def test_a_barrier_that_the_kernel_lacks_keeps_no_child_from_its_work(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str
) -> None:
    path = tmp_path / "image"
    SAMPLE.write(path)
    monkeypatch.setattr(isolation, "CHILD_CODE", lacking(name) + isolation.CHILD_CODE)
    monkeypatch.setattr(look, "LOOK_CODE", lacking(name) + look.LOOK_CODE)
    assert instar.amend(path, lazy_refcounts=True, isolation="process").action == "amended"
    assert instar.info(path, isolation="process").virtual_size == SAMPLE.size
    assert instar.check(path, isolation="process").exit_status == 0


@pytest.mark.kvm
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"lazy_refcounts": True},
        {"lazy_refcounts": False},
        {"compat": "0.10"},
        {"compat": "v3", "lazy_refcounts": True, "format": "qcow2"},
        {"compat": "v2", "dry_run": True, "cache": "unsafe"},
        {"compat": "v2", "lazy_refcounts": True},
        {"compat": "v2", "timeout": 1e-4},
        {"lazy_refcounts": True, "format": "raw"},
        {"compat": "1,lazy_refcounts=on"},
        {"cache": "no such mode"},
        {"timeout": 0},
    ],
)
def test_the_outcome_is_that_of_this_process(tmp_path: Path, options: dict[str, Any]) -> None:
    path = tmp_path / "image"
    SAMPLE.write(path)
    inside, outside = both(path, **options)
    assert inside == outside


@pytest.mark.kvm
@pytest.mark.parametrize(
    "image",
    [
        Image(dirty=True),
        Image(dirty=True, corrupt=True, incompatible_features=1 << 60),
        Image(patches=[(0, b"KDMV")]),
    ],
)
def test_refusals_come_with_all_that_they_hold(tmp_path: Path, image: Image) -> None:
    path = tmp_path / "image"
    image.write(path)
    inside, outside = both(path, lazy_refcounts=True)
    assert inside == outside
    assert all(type(refusal) is instar.Refusal for refusal in outside)


@pytest.mark.kvm
@pytest.mark.parametrize(
    "name", [b"-o", b"--", b"--help", b"a b", b"\xff\xfe", b"a,b=c", b"a\nb", "\u202e".encode()]
)
def test_every_file_name_is_taken_for_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: bytes
) -> None:
    monkeypatch.chdir(tmp_path)
    SAMPLE.write(Path(os.fsdecode(name)))
    result = instar.amend(name, lazy_refcounts=True, isolation="process")
    assert (result.filename, result.action) == (os.fsdecode(name), "amended")


@pytest.mark.kvm
@pytest.mark.parametrize("options", [{}, {"lazy_refcounts": True}, {"dry_run": True}])
def test_what_a_repair_does_is_believed(tmp_path: Path, options: dict[str, Any]) -> None:
    path = tmp_path / "image"
    replace(SAMPLE, snapshots=(), dirty=True).write(path)
    inside, outside = both(path, repair=True, **options)
    assert inside == outside
    assert inside["action"] == "amended"


@pytest.mark.kvm
@pytest.mark.parametrize("extent", ["leaks", "all"])
def test_what_a_repair_of_leaks_does_is_believed(extent: str, tmp_path: Path) -> None:
    path = tmp_path / "image"
    replace(SAMPLE, snapshots=(), refcounts={3: 2}).write(path)
    result = isolation.amend_in_child(path, make_repair(extent))
    assert (result.action, result.atomic) == ("amended", True)
    assert instar.check(path).exit_status == 0


@pytest.mark.parametrize(
    ("path", "error"),
    [
        ("", instar.UsageError),
        ("a\0b", instar.UsageError),
        ("\ud800", instar.UsageError),
        ("/no/such/file", instar.HostError),
        ("/dev/null", instar.HostError),
    ],
)
def test_a_bad_path_is_an_error_of_its_own(path: str, error: type[instar.InstarError]) -> None:
    with pytest.raises(error):
        instar.amend(path, lazy_refcounts=True, isolation="process")


@pytest.mark.parametrize(
    "options",
    [
        {"isolation": "thread"},
        {"isolation": ""},
        {"isolation": True},
        {"isolation": "process", "progress": print},
        {"isolation": "process", "debug": print},
        {"isolation": "process", "payload": load_payload()},
    ],
)
def test_what_cannot_be_isolated_is_a_usage_error(options: dict[str, Any]) -> None:
    with pytest.raises(instar.UsageError, match="isolation"):
        instar.amend("/no/such/file", lazy_refcounts=True, **options)


def rights() -> tuple[object, ...]:
    """What confinement would take from this process."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    kept = [line for line in lines if line.startswith(("Cap", "NoNewPrivs", "Seccomp:"))]
    names = ("AS", "FSIZE", "CORE", "NPROC", "NOFILE")
    limits = [resource.getrlimit(getattr(resource, f"RLIMIT_{name}")) for name in names]
    return kept, limits, len([*Path("/proc/self/fd").iterdir()]), set(os.environ.items())


@pytest.mark.kvm
@pytest.mark.parametrize("how", [None, "process"])
def test_the_caller_keeps_its_rights(tmp_path: Path, how: Isolation | None) -> None:
    path = tmp_path / "image"
    SAMPLE.write(path)
    before = rights()
    instar.amend(path, lazy_refcounts=True, isolation=how)
    assert rights() == before


@pytest.mark.kvm
def test_the_child_is_confined(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "image"
    SAMPLE.write(path)
    patch = "import os; os.preadv = lambda *_: open('/dev/null'); "
    monkeypatch.setattr(isolation, "_START", isolation._START + patch)
    with pytest.raises(instar.HostError, match=r"could not read .*: Function not implemented"):
        instar.amend(path, lazy_refcounts=True, isolation="process")


@pytest.mark.kvm
def test_the_child_takes_this_package_and_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for folder in (tmp_path / "instar", tmp_path / "json"):
        folder.mkdir()
        (folder / "__init__.py").write_text("raise SystemExit(3)", encoding="ascii")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    SAMPLE.write(tmp_path / "image")
    result = instar.amend("image", lazy_refcounts=True, isolation="process")
    assert result.action == "amended"


@pytest.mark.kvm
def test_before_read_may_end_the_amend(tmp_path: Path) -> None:
    path = tmp_path / "image"
    SAMPLE.write(path)

    def refuse(image: Any, vcpu: int, _runs: int) -> None:
        assert (image.size, image.bytes_read) == (path.stat().st_size, 0)
        assert vcpu > image.fd
        raise instar.HostError("no")

    before = path.stat()
    with pytest.raises(instar.HostError, match="no"):
        amend_image(path, AmendRequest.of(lazy_refcounts=True), before_read=refuse)
    assert path.stat() == before
