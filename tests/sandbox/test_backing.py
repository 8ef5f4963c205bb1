"""Test side: names in an image are changed like all else, and no file that they name is touched."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

import instar
from instar.vmm.request.options import BY_KEY
from tests.support.forge import (
    Data,
    Extension,
    Image,
    Zero,
    layout,
    parse_extensions,
    parse_header,
)

pytestmark = [pytest.mark.kvm, pytest.mark.any_python]

OLD, NEW = "old-name.img", "new-name.img"
BACKED: dict[str, Any] = {"backing_file": OLD.encode(), "backing_format": b"qcow2"}
EXTERNAL: dict[str, Any] = {"data_file": OLD.encode(), "data_file_raw": True}
CHANGE: dict[str, Any] = {"change_backing": True, "backing_fmt": "raw"}

REQUESTS: dict[str, tuple[Image, dict[str, Any]]] = {
    "confirm": (Image(**BACKED), {"backing_file": OLD, "backing_fmt": "qcow2"}),
    "confirm another": (Image(**BACKED), {"backing_file": NEW, "backing_fmt": "qcow2"}),
    "format": (Image(**BACKED), CHANGE),
    "remove": (Image(**BACKED), {"backing_file": "", "change_backing": True}),
    "data file": (Image(**EXTERNAL), {"data_file": NEW}),
    "no data file": (Image(**EXTERNAL), {"data_file": ""}),
    "raw off": (Image(**EXTERNAL), {"data_file_raw": False}),
    "raw on": (Image(**EXTERNAL), {"data_file_raw": True}),
    "down": (Image(clusters={0: Zero()}, **BACKED), {"compat": "0.10"}),
    "up": (Image(version=2, **BACKED), {"compat": "1.1", "lazy_refcounts": True}),
    "width": (Image(**BACKED), {"refcount_bits": 64}),
    "width with a data file": (Image(**EXTERNAL), {"refcount_bits": 8}),
    "larger": (Image(**BACKED), {"size": 1 << 40, "max_growth": "1T"}),
    "larger with a data file": (Image(**EXTERNAL), {"size": 1 << 40}),
    "smaller": (Image(**BACKED), {"size": 512, "shrink": True}),
    "smaller with a data file": (Image(**EXTERNAL), {"size": 512, "shrink": True}),
    "steps": (Image(version=2, **BACKED), {"compat": "1.1", "size": 512, "shrink": True}),
}


def command(options: dict[str, Any]) -> list[str]:
    """The arguments of the command for these keywords."""
    given = {key: value for key, value in options.items() if key not in BY_KEY}
    flags = [f"--{key.replace('_', '-')}" for key, value in given.items() if value is True]
    flags += [f"--max-growth={given['max_growth']}"] if "max_growth" in given else []
    told = {key: value for key, value in options.items() if key in BY_KEY}
    words = {True: "on", False: "off"}
    text = ",".join(
        f"{key}={words[value] if isinstance(value, bool) else value}" for key, value in told.items()
    )
    return ["amend", *flags, "-o", text]


@pytest.mark.parametrize(
    ("length", "atomic"), [(112, True), (504, True), (512, False), (520, False), (4096, False)]
)
@pytest.mark.parametrize("key", ["backing_file", "data_file"])
def test_a_header_whose_fields_fill_the_first_sector_is_switched_in_one_go(
    path: Path, key: str, length: int, *, atomic: bool
) -> None:
    fields = b"\xab" * (length - 112)
    image = Image(header_length=length, unknown_header_fields=fields, **BACKED, data_file=b"d")
    image.write(path)
    more = CHANGE if key == "backing_file" else {}
    result = instar.amend(path, **{key: NEW, **more})
    assert (result.action, result.atomic) == ("amended", atomic)
    names = {name: result.options[name] for name in ("backing_file", "data_file")}
    assert names == {"backing_file": OLD, "data_file": "d"} | {key: NEW}
    assert path.read_bytes()[112:length] == fields


def test_every_option_is_asked_for() -> None:
    assert {key for _, options in REQUESTS.values() for key in options} >= BY_KEY.keys()


NAMED = Image(size=1 << 20, clusters={0: Data(b"x")}, **BACKED)
DATA_ELSEWHERE = Image(size=1 << 20, data_file=OLD.encode())
COMMANDS: dict[str, tuple[Image, list[str]]] = {
    **{name: (image, command(options)) for name, (image, options) in REQUESTS.items()},
    "resize": (NAMED, ["resize", "--backing-size=1M"]),
    "resize with a data file": (DATA_ELSEWHERE, ["resize"]),
    "shrink": (NAMED, ["resize", "--shrink"]),
    "rebase": (NAMED, ["rebase", "-u", "-b", NEW, "-F", "raw"]),
    "rebase to nothing": (NAMED, ["rebase", "-u", "-b", ""]),
}
SIZES = {"resize": ["2M"], "resize with a data file": ["2M"], "shrink": ["512k"]}


@pytest.mark.skipif(not shutil.which("strace"), reason="strace is not installed")
@pytest.mark.parametrize("name", COMMANDS)
def test_nothing_that_an_image_names_is_even_looked_at(tmp_path: Path, name: str) -> None:
    image, words = COMMANDS[name]
    image.write(tmp_path / "t.qcow2")
    for file in (OLD, NEW):
        (tmp_path / file).write_bytes(b"untouched")
    before = [(tmp_path / file).stat() for file in (OLD, NEW)]
    trace = tmp_path / "trace"
    run = [sys.executable, "-m", "instar", *words, "t.qcow2", *SIZES.get(name, [])]
    strace = ["strace", "-f", "-s", "4096", "-e", "trace=file", "-o", str(trace)]
    subprocess.run([*strace, *run], cwd=tmp_path, check=False, capture_output=True)
    calls = [line for line in trace.read_text().splitlines() if "execve(" not in line]
    assert any("t.qcow2" in call for call in calls)
    if name == "rebase":  # whoever asks names it, and it must not be the image itself
        calls = [call for call in calls if not re.search(rf"stat\w*\(.*{NEW}", call)]
    assert not [call for call in calls if re.search(rf"{OLD}|{NEW}", call)]
    assert [(tmp_path / file).stat() for file in (OLD, NEW)] == before


def by_amend(path: Path, **options: Any) -> instar.AmendResult:
    return instar.amend(path, **options)


def by_child(path: Path, **options: Any) -> instar.AmendResult:
    return instar.amend(path, isolation="process", **options)


def by_sandbox(path: Path, **options: Any) -> instar.AmendResult:
    with instar.Sandbox() as sandbox:
        return sandbox.amend(path, **options)


def by_many(path: Path, **options: Any) -> instar.AmendResult:
    with ThreadPoolExecutor(1) as executor:
        (outcome,) = instar.amend_many([path], executor=executor, **options)
    return outcome.unwrap()


def by_rebase(path: Path, **options: Any) -> instar.AmendResult:
    options.pop("change_backing")
    return instar.rebase_unsafe(path, options.pop("backing_file"), options.pop("backing_fmt"))


WAYS = [by_amend, by_child, by_sandbox, by_many]


@pytest.mark.parametrize("way", [*WAYS, by_rebase])
def test_every_way_to_amend_changes_names(
    path: Path, way: Callable[..., instar.AmendResult]
) -> None:
    Image(size=1 << 20, clusters={0: Data(b"x")}, **BACKED).write(path)
    result = way(path, backing_file=b"\xff,b", **CHANGE)
    assert (result.action, result.atomic) == ("amended", True)
    assert result.options["backing_file"] == "\udcff,b"
    assert result.options["backing_fmt"] == "raw"
    assert instar.Change("backing_file", OLD, "\udcff,b") in result.changes
    data = path.read_bytes()
    fields = parse_header(data)
    start = fields["backing_file_offset"]
    assert data[start : start + fields["backing_file_size"]] == b"\xff,b"
    assert b"raw" in [extension.data for extension in parse_extensions(data)]
    before = path.stat()
    assert way(path, backing_file=b"\xff,b", **CHANGE).action == "noop"
    assert path.stat() == before


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", ["{0}", "../{1}/{0}", "file:{0}", "link", "{2}"])
def test_an_image_is_not_its_own_backing_file(
    path: Path, way: Callable[..., instar.AmendResult], name: str
) -> None:
    Image(**BACKED).write(path)
    (path.parent / "link").symlink_to(path.name)
    before = path.stat()
    with pytest.raises(instar.ImageRejected) as caught:
        way(path, backing_file=name.format(path.name, path.parent.name, path), **CHANGE)
    assert [refusal.name for refusal in caught.value.refusals] == ["backing_itself"]
    assert path.stat() == before


@pytest.mark.parametrize("name", ["nbd:{0}", "json:{{}}", "{0}.x", "missing/{0}", "n" * 1023])
def test_another_file_than_the_image_may_be_missing(path: Path, name: str) -> None:
    Image(**BACKED).write(path)
    name = name.format(path.name)
    assert instar.amend(path, backing_file=name, **CHANGE).options["backing_file"] == name


@pytest.mark.parametrize("way", WAYS)
def test_what_an_image_lacks_is_none(path: Path, way: Callable[..., instar.AmendResult]) -> None:
    Image().write(path)
    options = way(path, data_file_raw=False).options
    names = ("backing_file", "backing_fmt", "data_file", "data_file_raw")
    assert [options[name] for name in names] == [None] * 4


def test_a_name_in_an_image_that_is_longer_than_one_can_ask_for_is_told(path: Path) -> None:
    Image(extensions=[Extension(layout.EXTENSION_DATA_FILE, b"d" * 60000)]).write(path)
    result = by_child(path, lazy_refcounts=True)
    assert result.options["data_file"] == "d" * 60000


def test_a_rebase_in_a_child_takes_the_backing_file_away(path: Path) -> None:
    Image(**BACKED).write(path)
    result = instar.rebase_unsafe(path, "", "raw", isolation="process")
    assert (result.options["backing_file"], result.options["backing_fmt"]) == (None, None)
    assert parse_header(path.read_bytes())["backing_file_offset"] == 0


def test_the_command_rebases_many_images(tmp_path: Path) -> None:
    paths = [tmp_path / f"{number}.qcow2" for number in range(5)]
    for path in paths:
        Image(**BACKED).write(path)
    (tmp_path / "new").symlink_to(paths[3])
    run = [sys.executable, "-m", "instar", "rebase", "-u", "-b", "new", "-F", "raw", "-j", "2"]
    done = subprocess.run([*run, *paths], check=False, capture_output=True, text=True)
    assert done.returncode == 1
    assert "3.qcow2': the backing file is the image itself" in done.stderr
    assert "5 images: 4 amended, 0 as asked, 1 failed" in done.stderr
    assert [b"new" in path.read_bytes()[:512] for path in paths] == [True] * 3 + [False, True]
