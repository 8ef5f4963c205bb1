"""Test side: a child that was taken over by its image can lie, but say nothing of another shape."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Generator, Iterator
from copy import deepcopy
from functools import partial
from pathlib import Path
from typing import Any

import pytest

import instar
from instar.vmm.base.record import to_dict
from instar.vmm.cli import check, children, info, mend
from instar.vmm.cli.report import Report
from instar.vmm.cli.shapes import FAILURE, fits, read_document
from instar.vmm.inspect.policy import Policy
from tests.hostile.catalogue import CASES
from tests.support.forge import Bitmap, Data, Feature, Image, Snapshot

pytestmark = pytest.mark.kvm

Document = dict[str, Any]
TALL = Image(
    clusters={0: Data(b"x")},
    backing_file=b"json:{'driver':'nbd','host':'x'}",
    backing_format=b"raw",
    snapshots=[Snapshot(name=b"s")],
    bitmaps=[Bitmap(name=b"b")],
    incompatible_features=1 << 40,
    feature_name_table=[Feature(0, 40, b"frobnication")],
    dirty=True,
)
DAMAGED = Image(clusters={0: Data(b"x"), 1: Data(b"y")}, refcounts={9: 1, 4: 0}, dirty=True)
DONE = {"extent": "all", "action": "amended", "atomic": True, "bytes-written": 1, "dry-run": False}
LIES: tuple[Any, ...] = (
    *("\x1b[31m\n", "9" * 30, -1, 1 << 64, 1.5, True, None, [], {}, [[]], {"x": 1}),
    *([None], ["\x1b[31m"], [1 << 64]),
)


def tell_of(path: Path) -> Document:
    """What an honest child tells of an image."""
    found = instar.info(path)
    return {**found.to_dict(), "violations": to_dict(Policy().violations(found))}


def check_of(path: Path) -> Document:
    """What an honest child tells of a check."""
    result = instar.check(path)
    return {**result.to_dict(), "exit-status": result.exit_status}


def failure_of(path: Path, ask: Callable[[Path], Document]) -> Document:
    """What an honest child tells, if need be of a failure."""
    try:
        return ask(path)
    except instar.InstarError as error:
        return {"error": error.to_dict()}


def places(value: Any) -> Iterator[tuple[Any, ...]]:
    """The ways to all values in a document."""
    parts = value.items() if isinstance(value, dict) else enumerate(value)
    for key, part in parts:
        yield (key,)
        if isinstance(part, dict | list):
            yield from ((key, *rest) for rest in places(part))


def lies(document: Document) -> Iterator[Document]:
    """The document with one of its values replaced or left out."""
    honest = json.loads(json.dumps(document, default=to_dict))
    for *way, last in places(honest):
        for lie in (*LIES, LIES):
            changed = deepcopy(honest)
            part = changed
            for key in way:
                part = part[key]
            if lie is LIES:
                del part[last]
            else:
                part[last] = lie
            yield changed


@pytest.mark.parametrize("case", CASES[::9], ids=lambda case: case.name)
def test_what_an_honest_child_tells_has_its_shape(case: Any, tmp_path: Path) -> None:
    path = tmp_path / "t.qcow2"
    case.write(path)
    for ask, shape in ((tell_of, "info"), (check_of, "check")):
        told = json.dumps(failure_of(path, ask), default=to_dict).encode()
        assert read_document(told, shape)


@pytest.mark.parametrize("command", ["info", "check", "repair"])
def test_no_lie_can_break_or_reach_the_terminal(
    command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "t.qcow2"
    (TALL if command == "info" else DAMAGED).write(path)
    shape = "info" if command == "info" else "check"
    document = tell_of(path) if command == "info" else check_of(path)
    if command == "repair":
        document["repair"] = {**DONE, "findings": document["findings"]}
    tell = info._tell if command == "info" else partial(check._tell, quiet=False, named=True)
    refused = 0
    for lie in lies(document):
        try:
            told = read_document(json.dumps(lie).encode(), shape)
        except ValueError:
            refused += 1
            continue
        tell({**told, "filename": str(path)}, report=Report())
    assert refused > 100
    said = capsys.readouterr()
    assert all(char.isprintable() or char == "\n" for char in said.out + said.err)


def test_no_failure_that_is_a_lie_can_break_or_reach_the_terminal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "t.qcow2"
    Image(patches=[(20, b"\xff\xff\xff\xff")]).write(path)
    document = failure_of(path, tell_of)
    assert fits(json.loads(json.dumps(document)), FAILURE)
    for lie in lies(document):
        try:
            told = read_document(json.dumps(lie).encode(), "info")
        except ValueError:
            continue
        assert Report().told_error({**told, "filename": str(path)}) in (1, 2)
    said = capsys.readouterr()
    assert all(char.isprintable() or char == "\n" for char in said.err)


@pytest.mark.parametrize(
    ("way", "first", "last"),
    [
        (("snapshots", 0, "date-sec"), 0, (1 << 32) - 1),
        (("snapshots", 0, "date-nsec"), 0, (1 << 32) - 1),
        (("format-specific", "data", "refcount-bits"), 1, 64),
        (("virtual-size",), 0, (1 << 64) - 1),
    ],
)
def test_a_number_is_one_that_its_field_can_hold(
    way: tuple[str | int, ...], first: int, last: int, tmp_path: Path
) -> None:
    path = tmp_path / "t.qcow2"
    TALL.write(path)
    honest = json.loads(json.dumps(tell_of(path), default=to_dict))
    for number, is_held in ((first, True), (last, True), (first - 1, False), (last + 1, False)):
        part = deepcopy(honest)
        document, *rest = [part, *way[:-1]]
        for key in rest:
            document = document[key]
        document[way[-1]] = number
        assert is_read(part, "info") == is_held


def is_read(document: Document, shape: str) -> bool:
    """Whether a child may tell this."""
    try:
        read_document(json.dumps(document).encode(), shape)
    except ValueError:
        return False
    return True


@pytest.mark.parametrize("number", ["1e3", "NaN", "9" * 5000])
def test_a_number_that_no_document_has_is_not_read(number: str) -> None:
    told = json.dumps(DONE).replace('"bytes-written": 1', f'"bytes-written": {number}')
    with pytest.raises(ValueError, match="no honest process tells"):
        read_document(told.encode(), "repair")


@pytest.mark.parametrize("turn", [0, 1, 2])
def test_a_lying_child_of_a_repair_costs_its_image_an_error(turn: int, tmp_path: Path) -> None:
    """One of the three says text for numbers."""
    path = tmp_path / "t.qcow2"
    DAMAGED.write(path)
    asked = partial(check._look, flags={}, timeout=30.0, confine=None, shows_progress=False)
    honest, turns = mend.mend_each(asked, {"repair": "all"}, 30.0), iter(range(3))

    def lie_of(act: Callable[[str], Document]) -> Callable[[str], Document]:
        return lambda name: dict.fromkeys(act(name), "many")

    def steps(name: str) -> Generator[children.Step, Document, Document]:
        inner = honest(name)
        step = next(inner)
        while True:
            act = lie_of(step.act) if next(turns) == turn else step.act
            document = yield children.Step(act, step.shape, step.unsure)
            try:
                step = inner.send(document)
            except StopIteration as end:
                return end.value  # type: ignore[no-any-return]

    (told,) = children.carry_out([str(path)], steps, jobs=1, timeout=30.0)
    assert told["error"]["kind"] == "HostError"
    assert "without a word that makes sense" in told["error"]["message"]


@pytest.mark.parametrize(
    ("end", "told"),
    [
        (lambda: os.kill(os.getpid(), 9), "the confined process was killed (Killed)"),
        (lambda: os._exit(3), "the confined process ended without a word that makes sense"),
    ],
    ids=["killed", "ended"],
)
def test_of_a_child_that_was_killed_it_is_said_that_it_was(
    end: Callable[[], None], told: str, tmp_path: Path
) -> None:
    """The machine is short of memory then, as a rule."""

    def act(_name: str) -> Document:
        end()
        raise AssertionError

    steps = children.one_step(act, "info")
    (document,) = children.carry_out([str(tmp_path / "x")], steps, jobs=1, timeout=30.0)
    assert document["error"]["message"] == told


def test_a_filter_of_system_calls_need_not_allow_what_a_child_can_do_without(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def deny(*_: object) -> int:
        raise PermissionError(1, "Operation not permitted")

    def act(_name: str) -> Document:
        raise instar.HostError("this is heard")

    monkeypatch.setattr(children, "syscall", deny)
    monkeypatch.setattr(children, "get_limits", deny)
    steps = children.one_step(act, "info")
    (document,) = children.carry_out([str(tmp_path / "x")], steps, jobs=4, timeout=30.0)
    assert document["error"]["message"] == "this is heard"


@pytest.mark.parametrize("command", ["info", "check"])
def test_one_image_costs_no_shapes(command: str, tmp_path: Path) -> None:
    """They are for what children tell, and one image needs none."""
    path = tmp_path / "t.qcow2"
    Image().write(path)
    code = f"""
import sys
from instar.vmm.cli import main
status = main(["{command}", "{path}"])
assert "instar.vmm.cli.look" in sys.modules
assert "instar.vmm.cli.shapes" not in sys.modules
sys.exit(status)
"""
    subprocess.run([sys.executable, "-c", code], check=True)
