"""Host side: the command as a process: what it imports, its streams, its signals."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from instar.vmm import cli
from tests.unit.command import LAZY, FakeAmend, fake_amend


@pytest.fixture
def amend(monkeypatch: pytest.MonkeyPatch) -> FakeAmend:
    """Put a fake where the command looks for amend_image()."""
    return fake_amend(monkeypatch)


@pytest.mark.parametrize(("previous", "kept"), [(signal.SIG_IGN, True), (signal.SIG_DFL, False)])
def test_signals_are_the_callers_again_afterwards(
    amend: FakeAmend, monkeypatch: pytest.MonkeyPatch, previous: signal.Handlers, kept: bool
) -> None:
    during = []
    original = signal.signal(signal.SIGTERM, previous)
    monkeypatch.setattr(
        "instar.vmm.cli.amend.show_debug",
        lambda _text: during.append(signal.getsignal(signal.SIGTERM)),
    )
    try:
        assert cli.main(["amend", "--debug", *LAZY, "d"]) == 0
        assert signal.getsignal(signal.SIGTERM) == previous
        assert (during == [previous]) is kept
    finally:
        signal.signal(signal.SIGTERM, original)


# The driver avoids imports that the command must avoid.
DRIVER = """
import sys
loaded = set(sys.modules)
import os
import instar.vmm

# Its own front door is the amend, whose place the fake takes.
module = type(sys)("instar.vmm.amend")
module.__path__ = [os.path.join(*instar.vmm.__path__, "amend")]
sys.modules["instar.vmm.amend"] = module
from instar.vmm.base.record import FrozenDict
from instar.vmm.contract.terms import Change
from instar.vmm.amend.result import AmendResult, ByteRange
from instar.vmm.request.options import OPTIONS

def finish(path, request, **_options):
    options = FrozenDict(dict.fromkeys((row.key for row in OPTIONS), None),
        compat="1.1", lazy_refcounts=True)
    return AmendResult(
        filename=path, format="qcow2", action="amended", options=options, atomic=True,
        dry_run=request.dry_run, bytes_read=0, bytes_written=0, vm_exits=0, payload_sha256="",
        changes=(Change("version", 2, 3),), ranges=(ByteRange(1, 0, 512),))

{body}

module.amend_image = amend
from instar.vmm.cli import main
status = main(sys.argv[1:])
{after}
sys.exit(status)
"""


def run(
    body: str, *arguments: str, redirect: str = "", after: str = "", **environment: str
) -> subprocess.CompletedProcess[bytes]:
    """Run the command in a process with `body` as its amend()."""
    return subprocess.run(
        [
            *("sh", "-c", f'exec "$0" "$@" {redirect}'),
            *(sys.executable, "-c", DRIVER.format(body=body, after=after)),
            *arguments,
        ],
        capture_output=True,
        timeout=60,
        check=False,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), **environment},
    )


AMEND = "amend = finish"


def test_a_plain_amend_imports_nothing_that_is_not_loaded_anyhow() -> None:
    after = "print(*sorted(set(sys.modules) - loaded), file=sys.stderr)"
    done = run(AMEND, "amend", "-t", "none", *LAZY, "--dry-run", "-p", "d", after=after)
    assert done.returncode == 0
    imported = {name for name in done.stderr.decode().split() if not name.startswith("instar")}
    assert imported <= {"__future__", "_signal", "gc"}


AUDITED = """
seen = []
sys.addaudithook(
    lambda event, _: seen.append(event) if WATCHING and event in ("import", "open") else None)
WATCHING = False

def amend(path, request, **options):
    global WATCHING
    WATCHING = True
    from instar.vmm.base.errors import HostError, ImageRejected, Refusal
    if options["progress"]:
        options["progress"](1, 2)
    if path == "host":
        raise HostError("no")
    if path == "rejected":
        raise ImageRejected((Refusal("a", 1, "B", 2, "c", {"d": 3}),))
    if path == "interrupt":
        raise KeyboardInterrupt
    if path == "bug":
        raise ZeroDivisionError
    return finish(path, request, **options)
"""


@pytest.mark.parametrize("path", ["fine", "host", "rejected", "interrupt", "bug", "\udcff"])
@pytest.mark.parametrize("flags", [["--dry-run"], ["--output=json"], ["-p", "--debug"]])
@pytest.mark.parametrize("encoding", ["utf-8", "ascii", "iso8859-15"])
def test_nothing_is_imported_or_opened_once_the_process_may_be_confined(
    path: str, flags: list[str], encoding: str
) -> None:
    after = "WATCHING = False\nassert not seen, seen"
    done = run(
        AUDITED, "amend", *flags, *LAZY, path, after=after, PYTHONIOENCODING=f"{encoding}:strict"
    )
    assert done.returncode == (0 if path in ("fine", "\udcff") else 1), done.stderr
    assert b"Error" not in done.stderr.replace(b"ZeroDivisionError", b"")


@pytest.mark.parametrize(
    ("encoding", "name"), [("ascii", b"\\xe9\\xff\\x80"), ("utf-8", b"\xc3\xa9\\xff\\x80")]
)
def test_a_name_that_stdout_cannot_hold_is_escaped(encoding: str, name: bytes) -> None:
    path = "\u00e9\udcff\udc80"
    done = run(AMEND, "amend", "--dry-run", *LAZY, path, PYTHONIOENCODING=f"{encoding}:strict")
    assert done.stdout.startswith(name + b": would become")


@pytest.mark.parametrize("redirect", [">&-", ">/dev/full"])
@pytest.mark.parametrize(
    ("flags", "status", "said"),
    [
        ([], 0, b""),
        (["-p"], 0, b""),
        (["--dry-run"], 1, b"instar: the result was not written"),
        (["--output=json"], 0, b"instar: warning: the result was not written"),
    ],
)
def test_a_stdout_that_is_closed_or_full_makes_no_amend_fail_that_writes(
    redirect: str, flags: list[str], status: int, said: bytes
) -> None:
    done = run(AMEND, "amend", *flags, *LAZY, "d", redirect=redirect)
    assert done.returncode == status
    assert done.stderr.partition(b": stdout is closed")[0] == said


@pytest.mark.parametrize("redirect", ["2>&-", "2>/dev/full", "<&- >&- 2>&-"])
def test_a_stderr_that_is_closed_or_full_does_not_change_the_exit_status(redirect: str) -> None:
    body = "def amend(path, request, **options): raise KeyboardInterrupt"
    done = run(body, "amend", *LAZY, "d", redirect=redirect)
    assert (done.returncode, done.stdout) == (1, b"")


@pytest.mark.parametrize("redirect", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_an_image_never_gets_the_number_of_a_standard_stream(tmp_path: Path, redirect: str) -> None:
    body = f"""
def amend(path, request, **options):
    number = os.open({str(tmp_path / "image")!r}, os.O_RDWR | os.O_CREAT)
    os.write(number, str(number).encode())
    return finish(path, request, **options)
"""
    done = run(body, "amend", "-p", *LAZY, "d", redirect=redirect)
    assert done.returncode == 0
    assert int((tmp_path / "image").read_bytes()) > 2


@pytest.mark.parametrize("first", ["SIGINT", "SIGTERM"])
@pytest.mark.parametrize("second", ["SIGINT", "SIGTERM"])
def test_signals_end_in_one_line_even_two_of_them(first: str, second: str) -> None:
    body = f"""
import signal

def amend(path, request, **options):
    try:
        os.kill(os.getpid(), signal.{first})
        for _ in range(1000000):
            pass
    finally:
        os.kill(os.getpid(), signal.{second})
        for _ in range(1000):
            pass
"""
    done = run(body, "amend", *LAZY, "d")
    assert done.returncode == 1
    assert done.stdout == b""
    assert done.stderr == b"instar: interrupted; no image is left half-changed\n"


def test_an_interrupt_is_json_too() -> None:
    body = "def amend(path, request, **options): raise KeyboardInterrupt"
    done = run(body, "amend", "--output=json", *LAZY, "d")
    error = json.loads(done.stdout)["error"]
    assert (error["kind"], error["exit_status"]) == ("KeyboardInterrupt", done.returncode)


def test_works_in_a_thread(amend: FakeAmend) -> None:
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(1) as executor:
        assert executor.submit(cli.main, ["amend", *LAZY, "d"]).result() == 0


def test_python_m_is_the_command() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "instar", "amend"],
        capture_output=True,
        check=False,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert done.returncode == 2
    assert done.stderr.startswith(b"instar: Must specify options (-o)")


# An interrupt while the script imports the package.
EARLY = """
import os, signal, sys
signal.signal(signal.SIGINT, {handler})
instar, vmm = type(sys)("instar"), type(sys)("instar.vmm")
vmm.import_by_name = lambda: os.kill(os.getpid(), signal.SIGINT)
sys.modules.update({{"instar": instar, "instar.vmm": vmm}})
exec(open(sys.argv[1], encoding="utf-8").read().partition("from instar.vmm.cli")[0])
print("went on")
"""
SCRIPT = Path(__file__).parent.parent.parent / "bin" / "instar"


@pytest.mark.parametrize(
    ("handler", "status", "output"),
    [
        ("signal.default_int_handler", -signal.SIGINT, ""),
        ("signal.SIG_IGN", 0, "went on\n"),  # as nohup and shells' background jobs have it
    ],
    ids=["usually", "ignored"],
)
def test_an_interrupt_before_the_command_begins_leaves_no_traceback(
    handler: str, status: int, output: str
) -> None:
    done = subprocess.run(
        [sys.executable, "-c", EARLY.format(handler=handler), str(SCRIPT)],
        check=False,
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stdout, done.stderr) == (status, output, "")
