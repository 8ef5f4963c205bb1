"""Test side: every example in README and docs/ runs, or stands in a table with the reason why not.

An example is a fenced block that is marked python, sh or ini. The commands of a sh block run one by
one, each on fresh images. A command without a fence is a fault of the page.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import build_guest
import pytest

import instar
from tests.support.forge import Bitmap, Data, Image

ROOT = build_guest.ROOT
PAGES = (ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")))

pytestmark = pytest.mark.kvm

# What a command that cannot run here begins with, and why.
NOT_RUN = {
    "make demo": "takes the network; tests/contract/test_makefile.py has its beginning",
    "make test": "is what runs this",
    "make pythons": "is what runs this, on other Pythons",
    "make check": "takes a minute; continuous integration runs it before the tests",
    "make site": "takes the network; continuous integration runs it",
    "make bench": "takes minutes; tests/sandbox/test_costs.py calls its parts",
    "scripts/differential_fuzz": "takes minutes; tests/differential runs a sample",
    "scripts/generate_baselines": "writes into the tree; tests/baselines records a sample",
    "pipx install": "changes the user's account; tests/contract/test_packaging.py installs",
    "uv tool install": "changes the user's account; tests/contract/test_packaging.py installs",
    "share=$(pipx": "changes the user's account; tests/contract/test_manual.py tries completions",
    "instar amend --object": "takes an encrypted image; tests/keys/test_words.py has its like",
    "make mutants": "takes long; tests/mutants tries the script",
    "podman ": "takes a container engine; tests/contract/test_containerfile.py has the steps",
    "docker ": "takes a container engine; tests/contract/test_containerfile.py has the steps",
}
# What looks like a command and is the title of a table.
TITLES = ("    instar amend --jobs 2 against the number of images",)
AMEND_PAGE = "docs/amend.md"
LANGUAGES = {"python", "sh", "ini", "json", "text", ""}
COMMANDS = r"(?:instar|make|find|scripts/\w+|pip|pipx|uv|python3?|podman|docker|apt-get) \S"


@dataclass(frozen=True)
class Example:
    """One block, or one command of it."""

    page: str
    line: int
    language: str
    text: str

    @property
    def reason(self) -> str | None:
        """Why it does not run, if it does not."""
        if self.language == "sh":
            for start, reason in NOT_RUN.items():
                if self.text.startswith(start):
                    return reason
        return None


def read_examples(page: Path) -> list[Example]:
    """All fenced blocks of a page, those in sh cut into commands."""
    name, examples = page.relative_to(ROOT).as_posix(), []
    pattern = r"^```(\w*)\n(.*?)^```$"
    text = page.read_text("utf-8")
    for block in re.finditer(pattern, text, re.DOTALL | re.MULTILINE):
        language, body = block.groups()
        line = text.count("\n", 0, block.start()) + 2
        parts = re.split(r"(?<![|\\])\n(?!\s)", body.rstrip("\n")) if language == "sh" else [body]
        examples += [Example(name, line, language, part) for part in parts]
    return examples


EXAMPLES = [example for page in PAGES for example in read_examples(page)]


def of(language: str) -> pytest.MarkDecorator:
    found = [e for e in EXAMPLES if e.language == language and e.reason is None]
    return pytest.mark.parametrize("example", found, ids=lambda e: f"{e.page}:{e.text[:50]!r}")


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A folder with images that may be amended in every way, and more of them in images/."""
    folder = tmp_path / "images"
    folder.mkdir()
    names = ("disk.qcow2", "one.qcow2", "two.qcow2", "images/a.qcow2", "images/b.qcow2")
    for path in (tmp_path / name for name in names):
        Image(clusters={0: Data(b"\x05")}).write(path)
    return tmp_path


def run(command: list[str], place: Path) -> str:
    """Run a command with `instar` on the PATH; it must succeed, and report no fault on stderr."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path}
    done = subprocess.run(
        command,
        check=False,
        cwd=place,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
    )
    summary = re.fullmatch(
        r"(instar: \d+ images?: [^\n]*, 0 failed\n)?(INFO:instar:[^\n]*\n)*", done.stderr
    )
    assert done.returncode == 0, done.stderr
    assert summary, done.stderr
    return done.stdout


@of("sh")
def test_command(example: Example, place: Path) -> None:
    run(
        ["bash", "-euo", "pipefail", "-c", example.text.replace("/images", str(place / "images"))],
        place,
    )


@of("python")
def test_program(example: Example, place: Path, scheduler: str) -> None:
    program = example.text.replace('"/images"', repr(str(place / "images")))
    program = program.replace("scheduler:8786", scheduler)
    (place / "program.py").write_text(PRELUDE + program, "utf-8")
    run([sys.executable, "-W", "error", "program.py"], place)


PRELUDE = "import instar\npaths = ['images/a.qcow2', 'images/b.qcow2']\n"

UPLOADS = {
    "a backing file": Image(backing_file=b"/etc/passwd", backing_format=b"raw"),
    "a refcount that is too low": Image(clusters={0: Data(b"\x05")}, refcounts={3: 0}),
    "a leak": Image(clusters={0: Data(b"\x05")}, refcounts={3: 2}),
    "a bitmap twice": Image(bitmaps=[Bitmap(name=b"one"), Bitmap(name=b"one")]),
}


@pytest.mark.parametrize("language", ["sh", "python"])
@pytest.mark.parametrize("upload", UPLOADS)
def test_the_recipe_accepts_no_upload_that_is_not_sound(
    upload: str, language: str, place: Path
) -> None:
    """The one in docs/check.md; that it accepts a sound one is seen above."""
    recipe = next(
        example.text
        for example in EXAMPLES
        if (example.page, example.language) == ("docs/check.md", language)
        and ("accepted" in example.text or "def accept" in example.text)
    )
    UPLOADS[upload].write(place / "disk.qcow2")
    command = ["bash", "-c", recipe] if language == "sh" else [sys.executable, "-c", recipe]
    with pytest.raises(AssertionError):
        run(command, place)
    assert (place / "disk.qcow2").exists()
    lines = [line for line in recipe.splitlines() if line]
    assert len(lines) <= {"sh": 3, "python": 15}[language]


@pytest.fixture
def scheduler(example: Example) -> Iterator[str]:
    """The address of a dask cluster, for the example that needs one."""
    if "dask" not in example.text:
        yield ""
        return
    from distributed import LocalCluster

    with LocalCluster(  # type: ignore[no-untyped-call]
        n_workers=1, threads_per_worker=1, dashboard_address=":0"
    ) as cluster:
        yield cluster.scheduler_address


@of("ini")
def test_unit_is_sound_and_tight(example: Example, tmp_path: Path) -> None:
    unit = tmp_path / "instar@.service"
    unit.write_text(example.text.replace("/usr/local/bin/instar", sys.executable), "utf-8")
    if analyze := shutil.which("systemd-analyze"):
        instance = unit.with_name("instar@disk.qcow2.service")
        done = subprocess.run(
            [analyze, "verify", instance], check=False, capture_output=True, text=True
        )
        assert (done.returncode, done.stderr) == (0, "")
        command = [analyze, "security", "--offline=true", "--threshold=15", str(unit)]
        done = subprocess.run(command, check=False, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout[-2000:]
    for setting in ("ProtectSystem=strict", "DeviceAllow=/dev/kvm rw", "NoNewPrivileges=yes"):
        assert setting in example.text


def test_every_reason_not_to_run_one_is_needed() -> None:
    used = {example.reason for example in EXAMPLES} - {None}
    assert used == set(NOT_RUN.values())


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_no_example_escapes(page: Path) -> None:
    assert {example.language for example in read_examples(page)} <= LANGUAGES
    outside = re.sub(r"^```.*?^```$", "", page.read_text("utf-8"), flags=re.DOTALL | re.MULTILINE)
    indented = re.findall(rf"^(?: {{4}}|\t){COMMANDS}.*$", outside, re.MULTILINE)
    assert [line for line in indented if line not in TITLES] == []
    for example in read_examples(page):
        if example.language in ("text", ""):  # a form, an output or a drawing, not a command
            lines = re.findall(rf"^{COMMANDS}.*$", example.text, re.MULTILINE)
            assert all("[" in line for line in lines), lines


def shape(value: object) -> object:
    """The keys of a document at all depths, without what they hold."""
    if isinstance(value, dict):
        return {key: shape(part) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [shape(value[0])] if value else []
    return None


def test_the_documents_that_amend_md_shows_have_the_keys_of_real_ones(tmp_path: Path) -> None:
    shown = [json.loads(e.text) for e in EXAMPLES if (e.page, e.language) == (AMEND_PAGE, "json")]
    result, error = shown
    image = tmp_path / "disk.qcow2"
    Image().write(image)
    assert shape(result) == shape(instar.amend(image, lazy_refcounts=True).to_dict())
    Image(incompatible_features=0x20).write(image)
    with pytest.raises(instar.ImageRejected) as caught:
        instar.amend(image, lazy_refcounts=True)
    told = json.loads(json.dumps(caught.value.to_dict()))
    assert shape(error["error"]) == shape(told)
    assert error["error"]["refusals"] == told["refusals"]
