"""Test side: --object and --image-opts as callers of qemu-img pass them, where no key is needed."""

from __future__ import annotations

import pytest

from instar.vmm import cli
from tests.unit.command import LAZY, FakeAmend, fail, fake_amend

KEY = "correct horse"
SECRET = f"secret,id=sec0,data={KEY}"
VALUES = "--object: the values in the JSON object are strings"
TWICE = "--object: a key is given twice in the JSON object"
FORM = "driver=qcow2,file.filename=FILE,encrypt.key-secret=ID"


@pytest.fixture
def amend(monkeypatch: pytest.MonkeyPatch) -> FakeAmend:
    return fake_amend(monkeypatch)


@pytest.mark.parametrize(
    "definition",
    [
        SECRET,
        "qom-type=secret,id=sec0,file=/nowhere",
        "secret,id=sec0,data=a,,b,format=base64,keyid=k,iv=i",
        '{"qom-type": "secret", "id": "sec0", "file": "/nowhere"}',
    ],
)
def test_a_secret_is_accepted_and_not_read(amend: FakeAmend, definition: str) -> None:
    assert cli.main(["amend", "--object", definition, *LAZY, "disk"]) == 0
    assert [path for path, _ in amend.calls] == ["disk"]


@pytest.mark.parametrize(
    ("operand", "name"),
    [
        ("driver=qcow2,file.filename=disk,encrypt.key-secret=sec0", "disk"),
        ("file.filename=disk,driver=qcow2", "disk"),
        ("file.filename=a,,b=c", "a,b=c"),
        ("data-file.filename=d,data-file.driver=file,file.filename=disk", "disk"),
    ],
)
def test_the_subset_of_image_opts_is_a_file_name(amend: FakeAmend, operand: str, name: str) -> None:
    line = ["amend", "--object", SECRET, "--image-opts", *LAZY, operand]
    assert cli.main(line) == 0
    assert [path for path, _ in amend.calls] == [name]


@pytest.mark.parametrize(
    ("definition", "message"),
    [
        ("rng-random,id=r", "--object: only secrets are accepted: secret,id=ID,..."),
        ("", "--object: only secrets are accepted: secret,id=ID,..."),
        (f"secret,data={KEY}", "--object: a secret needs an id: secret,id=ID,..."),
        ("secret,id=s", "--object: secret 's' needs one of data and file"),
        (f"secret,id=s,data={KEY},file=f", "--object: secret 's' needs one of data and file"),
        ("secret,id=s,data=x,key=" + KEY, "--object: a secret has id, data or file, and format"),
        (f"secret,id=s,data=a,{KEY}", "--object: a secret has id, data or file, and format"),
        (f"secret,id=s,data=a,{KEY}=b", "--object: a secret has id, data or file, and format"),
        ("secret,help", "--object: there is no help for its keys; see docs/amend.md"),
        (f'{{"data": "{KEY}"', "--object: this is no JSON object"),
        ("{" * 10000, "--object: this is no JSON object"),
        (f'{{"qom-type": "secret", "data": "{KEY}"}}', "--object: a secret needs an id"),
        (f'{{"qom-type": "secret", "id": 3, "data": "{KEY}"}}', VALUES),
        (f'{{"qom-type": "secret", "id": "s", "data": ["{KEY}"]}}', VALUES),
        ('{"qom-type": "secret", "id": "s", "data": 12345}', VALUES),
        ('{"qom-type": "secret", "id": "s", "data": null}', VALUES),
        ('{"qom-type": "secret", "id": "s", "data": {}}', VALUES),
        ('{"qom-type": "secret", "id": "s", "file": 5}', VALUES),
        (f'{{"qom-type": "secret", "id": "s", "data": "{KEY}", "format": 1}}', VALUES),
        (f'{{"qom-type": "secret", "id": "s", "data": "{KEY}\\ud800"}}', VALUES),
        ('{"qom-type": "secret", "id": "s", "file": "a\\udc80"}', VALUES),
        (f'{{"qom-type": "secret", "id": "s", "data": "{KEY}", "data": "b"}}', TWICE),
    ],
)
def test_another_object_is_refused_and_no_key_shown(
    capsys: pytest.CaptureFixture[str], amend: FakeAmend, definition: str, message: str
) -> None:
    status, said = fail(capsys, "amend", "--object", definition, *LAZY, "disk")
    assert (status, amend.calls) == (2, [])
    assert said.startswith(message)
    assert KEY not in said


def test_an_id_is_used_once(capsys: pytest.CaptureFixture[str]) -> None:
    _, said = fail(capsys, "amend", "--object", SECRET, "--object", SECRET, *LAZY, "disk")
    assert said == "--object: the id 'sec0' is given twice"


@pytest.mark.parametrize(
    ("operand", "message"),
    [
        ("disk", f"--image-opts: expected {FORM}, without 'disk'"),
        ("driver=qcow2", f"--image-opts: expected {FORM}, with a file name"),
        ("file.filename=", f"--image-opts: expected {FORM}, with a file name"),
        (
            "driver=raw,file.filename=d",
            "--image-opts: only driver=qcow2 and driver=luks are supported",
        ),
        ("file.filename=d,backing=x", f"--image-opts: expected {FORM}, without 'backing'"),
        (
            "file.filename=d,encrypt.key-secret=other",
            "--image-opts: no secret with id 'other'; give it with --object",
        ),
    ],
)
def test_other_image_opts_are_refused(
    capsys: pytest.CaptureFixture[str], amend: FakeAmend, operand: str, message: str
) -> None:
    line = ["amend", "--object", SECRET, "--image-opts", *LAZY, operand]
    assert fail(capsys, *line) == (2, message)
    assert amend.calls == []


def test_an_error_names_the_file_and_not_the_options(
    capsys: pytest.CaptureFixture[str],
) -> None:
    line = ["amend", "--image-opts", *LAZY, "file.filename=/nowhere/disk"]
    assert fail(capsys, *line) == (1, "could not open '/nowhere/disk': No such file or directory")
