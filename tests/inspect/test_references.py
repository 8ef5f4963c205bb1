"""Test side: names in images lead where qemu goes by them, and are taken apart as qemu does it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import instar
from tests.support.forge import Image
from tests.support.looks.information import unexplained
from tests.support.qemu import Qemu

pytestmark = pytest.mark.kvm

IMAGE = Path("sub/t.qcow2")


@pytest.fixture(autouse=True)
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Work in a folder, with the image in one below it."""
    monkeypatch.chdir(tmp_path)
    IMAGE.parent.mkdir()


@pytest.mark.parametrize("place", [".", "sub"])
@pytest.mark.parametrize("name", ["b.raw", "./b.raw", "file:b.raw", "file:sub/b.raw", "../b.raw"])
def test_a_backing_file_is_where_qemu_finds_it(name: str, place: str, each_qemu: Qemu) -> None:
    (Path(place) / "b.raw").write_bytes(bytes(512))
    Image(backing_file=name.encode(), backing_format=b"raw").write(IMAGE)
    (reference,) = instar.info(IMAGE).references
    assert reference.resolved is not None
    found = each_qemu.img("info", "--backing-chain", str(IMAGE), accept=(0, 1)).ok
    assert Path(reference.resolved).exists() == found


@pytest.mark.parametrize("place", [".", "sub"])
def test_a_data_file_is_where_qemu_finds_it(place: str, each_qemu: Qemu) -> None:
    Image(data_file=b"d.raw").write(IMAGE)
    (Path(place) / "d.raw").write_bytes(bytes(1 << 20))
    (reference,) = instar.info(IMAGE).references
    assert reference.resolved is not None
    compare = each_qemu.img("compare", str(IMAGE), str(IMAGE), accept=(0, 1, 2))
    assert Path(reference.resolved).exists() == compare.ok


@pytest.mark.parametrize(
    "name", [":b", "file:", "json:", "a:b/c", "a/b:c", "//b", "nbd:x", "fuse:x"]
)
def test_a_backing_file_is_named_in_full_as_qemu_names_it(name: str, each_qemu: Qemu) -> None:
    Image(backing_file=name.encode(), backing_format=b"raw").write(IMAGE)
    assert unexplained(each_qemu, IMAGE) == []


@pytest.mark.parametrize(
    "text",
    [
        """{'driver':'raw','file':{'driver':'file','filename':'b.raw'}}""",
        """{"driver":'raw',"file":{'driver':"file",'filename':"b.raw"}}""",
        """{"driver":"raw","file.driver":"file","file.filename":"b\\u002eraw"}""",
    ],
)
def test_json_is_read_as_qemu_reads_it(text: str, qemu: Qemu) -> None:
    Path("b.raw").write_bytes(bytes(512))
    Image(backing_file=f"json:{text}".encode(), backing_format=b"raw").write(IMAGE)
    (reference,) = instar.info(IMAGE).references
    assert (reference.drivers, reference.names) == (("raw", "file"), ("b.raw",))
    qemu.img("info", "--backing-chain", str(IMAGE))


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("""{'filename':'b"c'}""", 'b"c'),
        (r"""{'filename':'b\'c'}""", "b'c"),
        (r"""{"filename":"b\'c"}""", "b'c"),
        (r"""{'filename':'b\\'}""", "b\\"),
        (r"""{'filename':'b\"c'}""", 'b"c'),
        ("""{"filename":"'b'"}""", "'b'"),
    ],
)
def test_quotes_in_json_stand_for_themselves(text: str, name: str, qemu: Qemu) -> None:
    Image(backing_file=f"json:{text}".encode(), backing_format=b"raw").write(IMAGE)
    (reference,) = instar.info(IMAGE).references
    assert reference.names == (name,)
    asked = text.replace("{", "{'driver':'file',", 1)
    opened = qemu.img("info", f"json:{asked}", accept=(1,))
    assert f"Could not open '{name}'" in opened.stderr


@pytest.mark.parametrize("text", ["", "{", "'", "{'driver':'raw", "{'driver':'raw\\", "[" * 900])
def test_malformed_json_names_nothing(text: str) -> None:
    Image(backing_file=f"json:{text}".encode(), backing_format=b"raw").write(IMAGE)
    (reference,) = instar.info(IMAGE).references
    assert (reference.protocol, reference.drivers, reference.names) == ("json", (), ())


@pytest.mark.parametrize("text", ['{"a" 1}', '{"a', '{"a": 1 "b": 2}', "{1: 2}", "[1,]"])
def test_the_command_shows_malformed_json_as_a_name(text: str) -> None:
    # It has not imported json, unlike the process that this test is in. Python 3.12 and later then
    # look for json.decoder, in vain where nothing may be opened.
    Image(backing_file=f"json:{text}".encode(), backing_format=b"raw").write(IMAGE)
    for jobs in ((), ("--jobs=1",)):
        line = [sys.executable, "-m", "instar", "info", "--require-confinement", *jobs, IMAGE]
        done = subprocess.run(line, capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr) == (0, "")
        assert f"backing file: json:{text}" in done.stdout
