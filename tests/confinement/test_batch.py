"""Host side: `instar amend` with many images: names, reports, the exit status, interrupts."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import pty
import signal
import struct
import subprocess
import sys
import termios
import time
from pathlib import Path
from typing import Any

import pytest

import instar
from tests.confinement.scenes import HANG, LAZY
from tests.confinement.test_worker import outcomes, write, write_some
from tests.support.forge import Data, Image, parse_header
from tests.support.process import command, run

pytestmark = pytest.mark.kvm


def test_people_hear_of_failures_and_get_a_summary(tmp_path: Path) -> None:
    images = write_some(tmp_path, 3)
    dirty = write(tmp_path / "dirty", dirty=True)
    done = run("amend", *LAZY, *images, dirty, tmp_path / "missing", images[0])
    assert (done.returncode, done.stdout) == (1, "")
    assert sorted(done.stderr.splitlines()) == [
        f"instar: '{dirty}': the image is marked dirty, as it was not closed cleanly; instar amend "
        "--repair repairs it",
        "instar: 6 images: 3 amended, 1 as asked, 2 failed",
        f"instar: could not open '{tmp_path / 'missing'}': No such file or directory",
    ]
    done = run("amend", "-q", *LAZY, *images)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_the_summary_of_a_dry_run_says_what_would_be(tmp_path: Path) -> None:
    done = run("amend", "--dry-run", *LAZY, *write_some(tmp_path, 2))
    assert done.stderr == "instar: 2 images: 2 would be amended, 0 as asked, 0 failed\n"


@pytest.mark.parametrize("source", ["arguments", "list"])
@pytest.mark.parametrize("options", [("lazy_refcounts=on",), ("compat=0.10,refcount_bits=16",)])
def test_a_dry_run_counts_an_image_that_is_listed_twice_as_the_real_run_does(
    tmp_path: Path, source: str, options: tuple[str, ...]
) -> None:
    image = write(tmp_path / "a")
    (tmp_path / "list").write_text(f"{image}\n" * 2)
    names = [image, image] if source == "arguments" else ["--files-from", tmp_path / "list"]
    dry = run("amend", "--dry-run", "-o", *options, *names)
    state = "nothing to change (compat"
    assert [state in line for line in dry.stdout.splitlines() if line[0] != " "] == [False, True]
    assert dry.stderr == "instar: 2 images: 1 would be amended, 1 as asked, 0 failed\n"
    done = run("amend", "-o", *options, *names)
    assert done.stderr == dry.stderr.replace("would be amended", "amended")


@pytest.mark.parametrize("jobs", ["1", "2"])
@pytest.mark.parametrize("size", ["+1G", "-512K"])
def test_an_image_that_is_listed_twice_grows_or_shrinks_once(
    tmp_path: Path, size: str, jobs: str
) -> None:
    image, link = write(tmp_path / "a"), tmp_path / "link"
    link.symlink_to(image)
    before = instar.info(image).virtual_size or 0
    words = ("resize", "--shrink", "-j", jobs, image, image, link, size)
    dry = run(words[0], "--dry-run", *words[1:])
    done = run(*words)
    assert (dry.returncode, done.returncode) == (1, 1)
    *told, summary = done.stderr.splitlines()
    assert summary == "instar: 3 images: 1 amended, 0 as asked, 2 failed"
    assert sorted(told) == [
        f"instar: '{image}' is listed twice, and would be changed twice; list it once",
        f"instar: '{link}' is the same image as '{image}', listed before it, and would be changed "
        "twice; list it once",
    ]
    assert dry.stderr == done.stderr.replace("1 amended", "1 would be amended")
    change = (1 << 30) if size == "+1G" else -(512 << 10)
    assert instar.info(image).virtual_size == before + change


def test_of_many_images_that_are_resized_none_has_a_line_of_its_own(tmp_path: Path) -> None:
    first, *others = write_some(tmp_path, 3)
    assert run("resize", first, "2G").stdout == "Image resized.\n"
    done = run("resize", first, *others, "2G")
    assert (done.stdout, done.stderr) == (
        "",
        "instar: 3 images: 2 amended, 1 as asked, 0 failed\n",
    )


def test_an_image_that_is_called_like_a_size_can_be_resized_among_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    images = [write(tmp_path / name) for name in ("a", "1G")]
    done = run("resize", *(image.name for image in images), "2G")
    assert done.stderr == "instar: 2 images: 2 amended, 0 as asked, 0 failed\n"


@pytest.mark.parametrize("options", [(), LAZY])
def test_dirty_images_are_repaired_by_the_workers(options: tuple[str, ...], tmp_path: Path) -> None:
    images = [write(tmp_path / f"{number}.qcow2", dirty=True) for number in range(3)]
    done = run("amend", "--repair", "-j2", *options, *images)
    assert done.stderr == "instar: 3 images: 3 amended, 0 as asked, 0 failed\n"
    assert run("check", "--quiet", *images).returncode == 0


@pytest.mark.parametrize(
    "words",
    [
        "amend -j2 -o lazy_refcounts=on",
        "amend -o lazy_refcounts=on",
        "check",
        "info",
        "check -r all",
    ],
)
def test_the_longest_timeout_is_one_that_can_be_waited_for(tmp_path: Path, words: str) -> None:
    images = write_some(tmp_path, 2)
    for some in (images, images[:1]):
        done = run(*words.split(), "--timeout=999999", *some)
        assert (done.returncode, "error" in done.stderr) == (0, False)
    look = getattr(instar, words.split()[0])
    asked: dict[str, Any] = {"compat": "1.1"} if words.startswith("amend") else {}
    look(images[0], isolation="process", timeout=999999, **asked)


def test_json_is_a_line_for_each_image(tmp_path: Path) -> None:
    images = [*write_some(tmp_path, 3), tmp_path]
    done = run("amend", "--output=json", "-j2", *LAZY, *images)
    alone = json.loads(run("amend", "--output=json", *LAZY, images[0]).stdout)
    assert len(done.stdout.splitlines()) == 4
    documents = {d["filename"]: d for d in map(json.loads, done.stdout.splitlines())}
    assert documents.keys() == {str(image) for image in images}
    assert documents[str(images[0])].keys() == alone.keys()
    assert documents[str(tmp_path)]["error"]["kind"] == "HostError"


@pytest.mark.parametrize("option", ["compat=0.10", "size=64T", "refcount_bits=64"])
def test_the_outcome_is_the_same_however_many_work(tmp_path: Path, option: str) -> None:
    contents = []
    for jobs in (1, 3):
        folder = tmp_path / str(jobs)
        folder.mkdir()
        images = write_some(folder, 20)
        done = run("amend", "-j", str(jobs), "-o", option, *images)
        assert done.stderr == "instar: 20 images: 20 amended, 0 as asked, 0 failed\n"
        contents.append([image.read_bytes() for image in images])
    assert contents[0] == contents[1]


@pytest.mark.parametrize("null", [True, False])
@pytest.mark.parametrize("source", ["-", "list"])
def test_names_come_from_a_file_too(tmp_path: Path, null: bool, source: str) -> None:
    end = b"\0" if null else b"\n"
    strange = b"a\nb" if null else b" a b\xff"
    names = [os.fsencode(tmp_path) + b"/" + name for name in (b"first", strange, b"", b"last")]
    images = [write(Path(os.fsdecode(name))) for name in names if not name.endswith(b"/")]
    listed = end.join([*names[:2], b"", *names[3:]])
    (tmp_path / "list").write_bytes(listed)
    where = source if source == "-" else str(tmp_path / source)
    flags = ["--null"] if null else []
    done = subprocess.run(
        command("amend", "--output=json", *LAZY, *flags, "--files-from", where, tmp_path / "arg"),
        input=listed,
        capture_output=True,
        check=False,
    )
    told = outcomes(done.stdout.decode())
    assert told.pop("arg")[0] == "HostError"
    assert told == {image.name: "amended" for image in images}


def test_a_list_that_cannot_be_read_is_one_error(tmp_path: Path) -> None:
    done = run("amend", *LAZY, "--files-from", tmp_path / "missing")
    assert done.returncode == 1
    assert done.stderr == (
        f"instar: could not read '{tmp_path / 'missing'}': No such file or directory\n"
    )


def test_no_names_are_no_failure(tmp_path: Path) -> None:
    done = run("amend", *LAZY, "--files-from", os.devnull)
    assert (done.returncode, done.stderr) == (
        0,
        "instar: 0 images: 0 amended, 0 as asked, 0 failed\n",
    )


def test_one_image_of_a_list_is_one(tmp_path: Path) -> None:
    (image,) = write_some(tmp_path, 1)
    (tmp_path / "list").write_text(f"{image}\0")
    done = run("amend", *LAZY, "--null", "--files-from", tmp_path / "list")
    assert done.stderr == "instar: 1 image: 1 amended, 0 as asked, 0 failed\n"


def on_a_terminal(*arguments: str | Path, patch: str = "", status: int = 0) -> str:
    """What the command shows on a terminal."""
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("4H", 24, 80, 0, 0))
    process = subprocess.Popen(
        command(*arguments, patch=patch), stdout=slave, stderr=slave, stdin=slave
    )
    os.close(slave)
    shown = b""
    while True:
        try:
            shown += os.read(master, 1 << 16)
        except OSError:
            break
    os.close(master)
    assert process.wait() == status
    return shown.decode()


def test_a_terminal_shows_a_bar_where_tqdm_is_installed(tmp_path: Path) -> None:
    images = write_some(tmp_path)
    assert "/6 [" in on_a_terminal("amend", *LAZY, "-j2", *images)
    assert on_a_terminal("amend", "-q", *LAZY, *images) == ""


WITHOUT_TQDM = "import instar.vmm.cli.counter as c; c.PAUSE = 0; sys.modules['tqdm'] = None"


def test_a_terminal_shows_a_plain_counter_where_it_is_not(tmp_path: Path) -> None:
    images = write_some(tmp_path)
    shown = on_a_terminal("amend", *LAZY, *images, patch=WITHOUT_TQDM)
    *states, last = shown.split("\r", shown.count("(") * 2)
    assert [state for state in states if state.strip()] == [
        f"    ({done}/6 images)" for done in range(7)
    ]
    assert last == "instar: 6 images: 6 amended, 0 as asked, 0 failed\r\n"
    assert "\r" + " " * 16 + "\r" + last in shown  # nothing of it is left
    dirty = write(tmp_path / "dirty", dirty=True)
    shown = on_a_terminal("amend", *LAZY, dirty, patch=WITHOUT_TQDM, status=1)
    assert "(" not in shown
    shown = on_a_terminal("amend", *LAZY, dirty, *images, patch=WITHOUT_TQDM, status=1)
    assert "\r" + " " * 16 + f"\rinstar: '{dirty}': " in shown
    listed = ("--files-from", tmp_path / "list")
    listed[1].write_text(f"{dirty}\n")
    shown = on_a_terminal("amend", "-q", *LAZY, *listed, patch=WITHOUT_TQDM, status=1)
    assert "(" not in shown
    shown = on_a_terminal("amend", *LAZY, *listed, patch=WITHOUT_TQDM, status=1)
    assert shown.startswith("    (0 images)\r")


def test_progress_shows_a_counter_on_stdout_for_whoever_reads_it(tmp_path: Path) -> None:
    images = write_some(tmp_path)
    patch = "import instar.vmm.cli.counter as c; c.PAUSE = 0"
    shown = run("amend", "-p", *LAZY, *images, patch=patch).stdout
    states = [f"    ({done}/6 images)\n" for done in (*range(7), 6)]
    assert shown == "".join(states)  # "\r" and "\r\n", as they are read
    done = run("amend", "-p", "--output=json", *LAZY, *images)
    assert len(outcomes(done.stdout)) == 6
    assert run("amend", "-p", "-q", *LAZY, *images).stdout == ""
    assert run("amend", "-p", *LAZY, *images).stdout.count("(") < 5  # not each of many


def test_nothing_of_a_bar_is_imported_without_a_terminal(tmp_path: Path) -> None:
    patch = "sys.modules['tqdm'] = None"
    done = run("amend", *LAZY, *write_some(tmp_path, 2), patch=patch)
    assert done.stderr == "instar: 2 images: 2 amended, 0 as asked, 0 failed\n"


def processes_of(pid: int) -> list[int]:
    return [
        int(path.name)
        for path in Path("/proc").iterdir()
        if path.name.isdigit() and f"\nPPid:\t{pid}\n" in _read(path / "status")
    ]


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""


def wait_for(condition: Any) -> None:
    end = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_an_interrupt_ends_workers_that_hang_names_their_images_and_touches_no_other(
    tmp_path: Path,
) -> None:
    images = write_some(tmp_path)
    before = [image.read_bytes() for image in images]
    process = subprocess.Popen(
        command("amend", *LAZY, "-j2", *images, patch=HANG), stderr=subprocess.PIPE, text=True
    )
    wait_for(lambda: len(processes_of(process.pid)) == 2)
    workers = processes_of(process.pid)
    wait_for(lambda: all("Seccomp:\t2" in _read(Path(f"/proc/{n}/status")) for n in workers))
    started = time.monotonic()
    process.send_signal(signal.SIGINT)
    *failed, summary, end = process.communicate(timeout=20)[1].splitlines()
    assert summary == "instar: 2 images: 0 amended, 0 as asked, 2 failed; the rest is untouched"
    assert end == "instar: interrupted; no image is left half-changed"
    assert len(failed) == 2
    for line in failed:
        assert "did not come to an end and was killed; the image is the old one or" in line
    assert time.monotonic() - started < 10
    assert process.returncode == 1
    assert not any("State" in _read(Path(f"/proc/{n}/status")) for n in workers)
    assert [image.read_bytes() for image in images] == before


def test_a_terminals_interrupt_lets_the_image_at_hand_come_to_its_end(tmp_path: Path) -> None:
    images = write_some(tmp_path, 40)
    process = subprocess.Popen(
        command("amend", *LAZY, "-j1", *images),
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    wait_for(lambda: images[3].read_bytes()[87] == 1 or process.poll() is not None)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal sends it: to the workers too
    said = process.communicate(timeout=20)[1]
    lazy = [parse_header(image.read_bytes()).compatible_features for image in images]
    assert lazy == sorted(lazy, reverse=True)
    done = sum(lazy)
    if done < len(images):  # else it ended before
        assert said == (
            f"instar: {done} images: {done} amended, 0 as asked, 0 failed; the rest is untouched\n"
            "instar: interrupted; no image is left half-changed\n"
        )


def test_memory_does_not_grow_with_the_number_of_images(tmp_path: Path) -> None:
    write_some(tmp_path, 4)
    code = """
import resource, sys
from tests.support.peak import peak
from instar.vmm.fleet.batch import amend_batch
from instar.vmm.request.keywords import make_request
request = make_request({"lazy_refcounts": True, "dry_run": True, "timeout": 10})
peaks = []
for count in (50, 400):
    paths = (sys.argv[1 + n % 4] for n in range(count))
    assert all(o.result or o.error for o in amend_batch(paths, request, jobs=1, required=False))
    peaks.append(peak() >> 10)  # ru_maxrss would be no less than the tests' own process has
    peaks.append(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
print(*peaks)
"""
    images = [str(tmp_path / f"image {n}\n") for n in range(4)]
    done = subprocess.run(
        [sys.executable, "-c", code, *images], capture_output=True, text=True, check=True
    )
    own, workers, own_later, workers_later = map(int, done.stdout.split())
    assert own_later < own + 1024  # KiB
    assert workers_later < workers + 1024


def test_one_image_under_several_names_is_never_in_use_by_another_process(tmp_path: Path) -> None:
    names: list[Path] = []
    for number, image in enumerate(write_some(tmp_path, 8)):
        hard, soft = tmp_path / f"hard {number}", tmp_path / f"soft {number}"
        hard.hardlink_to(image)
        soft.symlink_to(image)
        names += [image, hard, soft]
    done = run("amend", "--jobs=4", "--output=json", *LAZY, *names)
    documents = [json.loads(text) for text in done.stdout.splitlines()]
    assert done.returncode == 0, done.stderr
    assert done.stderr.endswith("instar: 24 images: 8 amended, 16 as asked, 0 failed\n")
    for document in documents:
        told = [f"'{document['filename']}' is the same image as" in w for w in document["warnings"]]
        assert told == ([] if document["action"] == "amended" else [True])


def test_an_error_of_this_machine_names_its_image(tmp_path: Path) -> None:
    images = [write(tmp_path / name) for name in "ab"]
    limited = ["prlimit", "--fsize=1024", "--", *command("amend", *LAZY, *images)]
    done = subprocess.run(limited, capture_output=True, text=True, check=False)
    assert sorted(done.stderr.splitlines())[1:] == sorted(
        f"instar: the file size limit of 1024 bytes (ulimit -f) is too low for '{image}'; "
        "nothing was written"
        for image in images
    )


@pytest.mark.parametrize("many", [False, True], ids=["one", "many"])
def test_a_limit_of_file_sizes_within_the_image_is_met_before_anything_is_written(
    tmp_path: Path, many: bool
) -> None:
    image = Image(size=1 << 30, clusters={n: Data(b"a") for n in (0, 9, 9000)})
    block = image.regions()["refcount_block[0]"].start
    paths = [tmp_path / name for name in ("ab" if many else "a")]
    for path in paths:
        image.write(path)
    shrink = command("resize", "--shrink", *paths, "512M")
    for limit in (block - 4096, block + 1):  # the last within a refcount
        line = ["prlimit", f"--fsize={limit}:", "--", *shrink]
        done = subprocess.run(line, capture_output=True, text=True, check=False)
        told = f"the file size limit of {limit} bytes (ulimit -f) is too low for "
        assert done.returncode == 1
        for path in paths:
            assert f"{told}'{path}'; the image reads as before" in done.stderr
        assert {path.read_bytes() for path in paths} == {image.build()}


def test_an_image_that_grows_after_its_worker_was_limited_is_not_begun(tmp_path: Path) -> None:
    small = Image(size=1 << 30)
    large = Image(size=1 << 30, clusters={n: Data(b"a") for n in (0, 9, 9000)})
    first, second = tmp_path / "a", tmp_path / "b"
    small.write(first)
    small.write(second)
    patch = f"""
from instar.vmm.fleet import worker_process
def send(self, taken, image, original=worker_process.WorkerProcess.send):
    if image.name.endswith("/b"):
        import shutil
        shutil.copyfile({str(tmp_path / "large")!r}, image.name)
    return original(self, taken, image)
worker_process.WorkerProcess.send = send
"""
    large.write(tmp_path / "large")
    done = run("resize", "--shrink", "--max-growth=0", "-j1", first, second, "512M", patch=patch)
    assert done.returncode == 1
    assert f"another program has changed the size of '{second}' meanwhile" in done.stderr
    assert "1 amended, 0 as asked, 1 failed" in done.stderr
    assert second.read_bytes() == large.build()


@pytest.mark.parametrize("most", range(5, 9))
@pytest.mark.parametrize(
    "arguments",
    [
        ["amend", *LAZY],
        ["amend", "--repair"],
        ["resize", "1G"],
        ["rebase", "-u", "-b", ""],
        ["check"],
        ["check", "-r", "all"],
        ["info"],
    ],
    ids=" ".join,
)
def test_a_command_that_gets_no_descriptor_says_what_helps(
    tmp_path: Path, arguments: list[str], most: int
) -> None:
    image = write(tmp_path / "a")
    before = image.read_bytes()
    where = -1 if arguments[0] == "resize" else len(arguments)
    words = [*arguments[:where], str(image), *arguments[where:]]
    line = ["prlimit", f"--nofile={most}:", "--", *command(*words)]
    done = subprocess.run(line, capture_output=True, text=True, check=False)
    if done.returncode:
        (error,) = done.stderr.splitlines()
        assert "raise the limit of open files (ulimit -n) to 64" in error
        assert "reinstall" not in error
        assert image.read_bytes() == before
    assert done.returncode == (0 if most == 8 and "all" not in arguments else done.returncode)


@pytest.mark.parametrize("many", [False, True], ids=["one", "many"])
@pytest.mark.parametrize("most", [5, 6])
def test_a_low_limit_of_open_files_is_one_line_that_says_so(
    tmp_path: Path, most: int, many: bool
) -> None:
    image = write(tmp_path / "a")
    before = image.read_bytes()
    where = ["--files-from", "-"] if many else [image]
    line = ["prlimit", f"--nofile={most}:", "--", *command("amend", *LAZY, *where)]
    done = subprocess.run(line, input=f"{image}\n", capture_output=True, text=True, check=False)
    errors = [e for e in done.stderr.splitlines() if " image: " not in e]
    assert done.returncode == 1
    assert len(errors) == 1
    assert "raise the limit of open files (ulimit -n) to 64" in errors[0]
    assert image.read_bytes() == before


# The kernel refuses to pass descriptors on, for the reason {error}, as {which} says.
NO_ROOM = """
import os, _socket
def socketpair(*arguments, make=_socket.socketpair, count=[0]):
    class Full(_socket.socket):
        def sendmsg(self, *arguments):
            count[0] += 1
            if {which}:
                raise OSError({error}, os.strerror({error}))
            return super().sendmsg(*arguments)
    first, second = make(*arguments)
    return Full(*arguments, 0, first.detach()), second
_socket.socketpair = socketpair
"""


@pytest.mark.parametrize("which", ["count[0] % 3 == 2", "count[0] < 50", "20 < count[0] < 70"])
@pytest.mark.parametrize("error", [errno.EAGAIN, errno.ETOOMANYREFS, errno.ENOBUFS, errno.ENOMEM])
def test_images_wait_while_the_kernel_has_no_room_for_them(
    tmp_path: Path, which: str, error: int
) -> None:
    images = write_some(tmp_path, 60)
    patch = NO_ROOM.format(which=which, error=error)
    done = run("amend", "-j2", *LAZY, *images, patch=patch)
    assert done.stderr == "instar: 60 images: 60 amended, 0 as asked, 0 failed\n"


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (
            errno.ETOOMANYREFS,
            "cannot pass '{}' to a worker: Too many references: cannot splice; raise the limit of "
            "open files (ulimit -n)",
        ),
        (errno.EPERM, "cannot pass '{}' on: Operation not permitted"),
    ],
)
def test_images_for_which_there_is_never_room_are_errors_that_say_why(
    tmp_path: Path, error: int, message: str
) -> None:
    images = [write(tmp_path / name) for name in "abc"]
    before = [image.read_bytes() for image in images]
    done = run("amend", "-j2", *LAZY, *images, patch=NO_ROOM.format(which="True", error=error))
    assert done.returncode == 1
    assert sorted(done.stderr.splitlines()) == [
        "instar: 3 images: 0 amended, 0 as asked, 3 failed",
        *(f"instar: {message.format(image)}" for image in images),
    ]
    assert [image.read_bytes() for image in images] == before


# The first worker stops, and takes nothing from its channel.
STOPPED = """
import os, signal
import instar.vmm.fleet.batch, instar.vmm.fleet.worker
instar.vmm.fleet.batch.MARGIN = 1
def confine(*arguments, original=instar.vmm.fleet.worker.confine, **options):
    if not os.path.exists({mark!r}):
        os.close(os.open({mark!r}, os.O_CREAT))
        os.kill(os.getpid(), signal.SIGSTOP)
    return original(*arguments, **options)
instar.vmm.fleet.worker.confine = confine
"""


def test_a_worker_that_stops_costs_one_image_however_long_the_paths_are(tmp_path: Path) -> None:
    folder = tmp_path
    while len(str(folder)) < 3900:
        folder /= "d" * min(200, 4000 - len(str(folder)))
        folder.mkdir()
    images = [write(folder / f"{number}") for number in range(60)]
    patch = STOPPED.format(mark=str(tmp_path / "stopped"))
    done = run("amend", "-j1", "--timeout", "1", *LAZY, *images, patch=patch)
    assert done.stderr.endswith("instar: 60 images: 59 amended, 0 as asked, 1 failed\n")
    assert f"the confined worker for '{images[0]}' did not answer within " in done.stderr


def test_a_limit_of_descriptors_on_their_way_fails_no_image(tmp_path: Path) -> None:
    images = write_some(tmp_path, 100)
    slow = "import instar.vmm.fleet.worker as w, time; w.confine = lambda *_, **__: time.sleep(1)"
    line = command("amend", "-j8", *LAZY, *images, patch=slow)
    # These capabilities would lift the limit.
    limited = [
        "setpriv",
        "--bounding-set=-sys_resource,-sys_admin",
        "prlimit",
        "--nofile=64",
        *line,
    ]
    done = subprocess.run(limited, capture_output=True, text=True, check=False, timeout=60)
    assert done.stderr == "instar: 100 images: 100 amended, 0 as asked, 0 failed\n"


def test_a_list_from_another_system_is_read(tmp_path: Path) -> None:
    images = [write(tmp_path / name) for name in "ab"]
    text = "\ufeff" + "".join(f"{image}\r\n" for image in images)
    done = subprocess.run(
        command("amend", *LAZY, "--files-from=-"),
        input=text.encode(),
        capture_output=True,
        check=False,
    )
    assert done.stderr == b"instar: 2 images: 2 amended, 0 as asked, 0 failed\n"


def test_a_standard_input_that_is_closed_is_one_line(tmp_path: Path) -> None:
    line = ["sh", "-c", 'exec "$@" <&-', "sh", *command("amend", *LAZY, "--files-from=-")]
    done = subprocess.run(line, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr == "instar: could not read standard input: it is closed\n"
