"""Test side: the library in a program: its examples, threads, asyncio, the log and audit events."""

from __future__ import annotations

import asyncio
import json
import logging
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

import instar
from instar.vmm.machine.payload import load_payload
from instar.vmm.request.keywords import Isolation
from tests.support.forge import Data, Image, parse_header
from tests.support.process import run

pytestmark = pytest.mark.kvm

ROOT = Path(__file__).resolve().parents[2]
SHA256 = load_payload().sha256


def examples() -> list[Any]:
    """The Python of README and of docs/library.md."""
    return [
        pytest.param(code, id=f"{name} {number}")
        for name in ("README.md", "docs/library.md")
        for number, code in enumerate(
            re.findall(r"```python\n(.*?)```", (ROOT / name).read_text(), re.DOTALL)
        )
    ]


def write(path: Path, **fields: Any) -> Path:
    Image(**{"version": 2, "size": 1 << 20, "clusters": {0: Data(b"\x05")}, **fields}).write(path)
    return path


@pytest.mark.parametrize("code", examples())
def test_an_example_runs(tmp_path: Path, code: str) -> None:
    for name in ("disk", "one", "two"):
        write(tmp_path / f"{name}.qcow2", version=3 if "lazy_refcounts=True" in code else 2)
    (tmp_path / "example.py").write_text(code)
    line = [sys.executable, "-W", "error", "example.py"]
    done = subprocess.run(line, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, "Traceback" in done.stderr) == (0, False), done.stderr
    assert "Failed" not in done.stdout
    versions = {parse_header(path.read_bytes()).version for path in tmp_path.glob("*.qcow2")}
    assert 3 in versions or "dry_run=True" in code


@pytest.mark.any_python
@pytest.mark.parametrize("checker", ["mypy", "basedpyright"])
def test_the_examples_pass_type_checkers_in_strict_mode(tmp_path: Path, checker: str) -> None:
    for example in examples():  # all at once, as a checker takes longest to start
        name = re.sub(r"\W+", "_", str(example.id))
        (tmp_path / f"{name}.py").write_text(str(example.values[0]))
    settings = {"typeCheckingMode": "strict", "include": ["."]}
    (tmp_path / "pyrightconfig.json").write_text(json.dumps(settings))
    files = sorted(path.name for path in tmp_path.glob("*.py"))
    assert len(files) == len(examples()) > 5
    flags = ["--strict", "--cache-dir", ROOT / ".mypy_cache" / "examples", *files]
    python = ["--pythonpath", sys.executable, "-p", "."]
    line = [sys.executable, "-m", checker, *(flags if checker == "mypy" else python)]
    done = subprocess.run(line, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("options", [{}, {"dry_run": True}, {"compat": "0.10"}])
def test_a_results_dict_is_the_commands_document(tmp_path: Path, options: dict[str, Any]) -> None:
    one, two = (write(tmp_path / name, snapshots=()) for name in ("one", "two"))
    flags = ["--dry-run"] if options.get("dry_run") else []
    request: dict[str, Any] = {"compat": "1.1", **options}
    document = run("amend", "--output=json", *flags, "-o", f"compat={request['compat']}", one)
    result = instar.amend(two, **request)
    assert json.loads(document.stdout) == {**result.to_dict(), "filename": str(one)}
    assert json.dumps(result.to_dict(), indent=2).replace(str(two), str(one)) + "\n" == (
        document.stdout
    )


def test_an_outcomes_dict_is_the_commands_document(tmp_path: Path) -> None:
    paths = [write(tmp_path / "dirty", version=3, dirty=True), tmp_path / "missing"]
    done = run("amend", "--output=json", "-o", "compat=0.10", *paths)
    lines = {d["filename"]: d for d in map(json.loads, done.stdout.splitlines())}
    for outcome in instar.amend_many(paths, compat="0.10"):
        assert json.loads(json.dumps(outcome.to_dict())) == lines[str(outcome.path)]
        assert outcome.error is not None
        assert outcome.error.to_dict() == lines[str(outcome.path)]["error"]
        with pytest.raises(type(outcome.error)) as caught:
            outcome.unwrap()
        assert caught.value is outcome.error


def test_threads_amend_at_once(tmp_path: Path) -> None:
    paths = [write(tmp_path / str(number)) for number in range(24)]
    with ThreadPoolExecutor(6) as pool:
        results = list(pool.map(lambda path: instar.amend(path, compat="1.1"), paths))
    assert [result.filename for result in results] == list(map(str, paths))
    assert {result.action for result in results} == {"amended"}
    assert {parse_header(path.read_bytes()).version for path in paths} == {3}


@pytest.mark.parametrize("isolation", [None, "process"])
def test_asyncio_goes_on_while_a_thread_amends(tmp_path: Path, isolation: Isolation | None) -> None:
    paths = [write(tmp_path / str(number)) for number in range(4)]

    async def main() -> tuple[list[instar.AmendResult], int]:
        turns = 0

        async def count() -> None:
            nonlocal turns
            while True:
                turns += 1
                await asyncio.sleep(0)

        counter = asyncio.create_task(count())
        amends = (
            asyncio.to_thread(instar.amend, path, compat="1.1", isolation=isolation)
            for path in paths
        )
        results = await asyncio.gather(*amends)
        counter.cancel()
        return results, turns

    results, turns = asyncio.run(main())
    assert [result.action for result in results] == ["amended"] * 4
    assert turns > 10


WAYS: dict[str, Any] = {
    "amend": instar.amend,
    "child": lambda path, **options: instar.amend(path, isolation="process", **options),
    "sandbox": lambda path, **options: instar.Sandbox().amend(path, **options),
    "many": lambda path, **options: next(iter(instar.amend_many([path], **options))).unwrap(),
}


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
def test_each_amend_leaves_one_record(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, way: Any
) -> None:
    caplog.set_level(logging.INFO, "instar")
    path, dirty = write(tmp_path / "one"), write(tmp_path / "dirty", version=3, dirty=True)
    results = [
        way(path, compat="1.1", dry_run=True),
        way(path, compat="1.1", lazy_refcounts=True),
        way(str(path), compat="1.1"),
    ]
    for bad in (dirty, tmp_path / "missing"):
        with pytest.raises(instar.InstarError):
            way(bad, lazy_refcounts=True)
    records: list[Any] = caplog.records
    assert [(r.levelname, r.image, r.request, r.verdict, r.bytes_written) for r in records] == [
        ("INFO", str(path), "compat=1.1", "dry run, amended", 0),
        ("INFO", str(path), "compat=1.1,lazy_refcounts=on", "amended", results[1].bytes_written),
        ("INFO", str(path), "compat=1.1", "noop", 0),
        ("WARNING", str(dirty), "lazy_refcounts=on", "ImageRejected (dirty)", 0),
        ("WARNING", str(tmp_path / "missing"), "lazy_refcounts=on", "HostError", 0),
    ]
    assert {r.payload_sha256 for r in records} == {SHA256}
    assert {r.name for r in records} == {"instar"}
    assert caplog.messages[2] == (
        f"amend {str(path)!r}, compat=1.1: noop, 0 bytes written, payload {SHA256}"
    )


def python(code: str, *arguments: Path) -> str:
    line = [sys.executable, "-c", code, *map(str, arguments)]
    done = subprocess.run(line, capture_output=True, text=True, check=True)
    return done.stdout + done.stderr


def test_no_log_is_begun_and_none_shown_unasked(tmp_path: Path) -> None:
    dirty = write(tmp_path / "dirty", version=3, dirty=True)
    amend = """
try:
    instar.amend(sys.argv[1], lazy_refcounts=True)
except instar.ImageRejected:
    print("logging" in sys.modules, "instar.vmm.amend.audit" in sys.modules)
"""
    assert python("import sys, instar" + amend, dirty) == "False False\n"
    assert python("import logging, sys, instar" + amend, dirty) == "True True\n"


WATCH = """
import sys
def watch(event, arguments):
    if event == "instar.amend":
        print(arguments, file=sys.stderr, flush=True)
        if object: raise PermissionError("not this one")
sys.addaudithook(watch)
"""


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("objects", [False, True])
def test_each_amend_is_an_audit_event_that_a_hook_may_object_to(
    tmp_path: Path, way: str, objects: bool
) -> None:
    path = write(tmp_path / "image")
    before = path.read_bytes()
    code = WATCH.replace("object:", f"{objects}:") + (
        "import instar; from tests.sandbox.test_library import WAYS\n"
        "try:\n"
        f"    WAYS[{way!r}](sys.argv[1], compat='1.1')\n"
        "except PermissionError: print('prevented')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, path], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert done.stderr == f"({str(path)!r}, 3, None, False, {{'compat': '1.1'}})\n"
    assert done.stdout == ("prevented\n" if objects else "")
    assert (path.read_bytes() == before) == objects


@pytest.mark.parametrize("flags", [(), ("-j1",)])
def test_the_commands_amends_are_audit_events_too(tmp_path: Path, flags: tuple[str, ...]) -> None:
    path = write(tmp_path / "image")
    patch = WATCH.replace("object:", "False:")
    done = run("amend", *flags, "-o", "lazy_refcounts=off", "--dry-run", path, patch=patch)
    event = f"({str(path)!r}, None, False, True, {{'lazy_refcounts': False}})"
    assert event in done.stderr.splitlines()


def test_the_options_of_an_audit_event_are_what_the_results_have(tmp_path: Path) -> None:
    path = write(tmp_path / "image", version=3)
    events: list[tuple[object, ...]] = []
    sys.addaudithook(lambda name, told: events.append(told) if name == "instar.amend" else None)
    result = instar.amend(path, compat="0.10", lazy_refcounts=False)
    assert events[0][4] == {key: result.options[key] for key in ("compat", "lazy_refcounts")}


@pytest.mark.parametrize("flags", [(), ("-j1",)])
def test_verbose_says_what_was_done(tmp_path: Path, flags: tuple[str, ...]) -> None:
    path = write(tmp_path / "image\n")
    shown = rf"instar: '{tmp_path}/image\n': "
    options = "compat=1.1,lazy_refcounts=off"
    state = f"({options}), {{}} bytes written, payload {SHA256}"
    dry = run("amend", "-v", *flags, "--dry-run", "-o", "compat=1.1", path)
    assert dry.stderr.splitlines()[0] == f"{shown}dry run, amended {state.format(0)}"
    done = run("amend", "--verbose", *flags, "-o", "compat=1.1", path)
    assert done.stderr.splitlines()[0] == f"{shown}amended {state.format(512)}"
    done = run("amend", "-v", "-q", *flags, "-o", "compat=1.1", path)
    assert done.stderr == ""
