"""Test side: what is shipped, that it is the same wherever it is built."""

from __future__ import annotations

import email.message
import fcntl
import os
import re
import shutil
import subprocess
import sys
import tarfile
import venv
import zipfile
from collections.abc import Callable, Collection
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import build_guest
import build_manual
import hatch_build
import pytest

from instar import abi

ROOT = build_guest.ROOT
PAYLOAD = {f"instar/guest/{name}.elf" for name in build_guest.IMAGES}
SHIPPED = ("vmm", "abi", "shared", "guest", "bin", "tests", "scripts", "docs")
COPIED = (
    *(*SHIPPED, ".gitignore", "CHANGELOG.md", "Containerfile", "LICENSE", "Makefile", "README.md"),
    *("CONTRIBUTING.md", "SECURITY.md", "mkdocs.yml", "pyproject.toml"),
)
# What a publisher might enter into pyproject.toml.
SITE, TREE = "https://docs.invalid/instar", "https://code.invalid/instar"
# Below the prefix of an installation.
SHARED = {build_manual.MANUAL, *build_manual.COMPLETIONS.values()}


def run(*command: str | Path, cwd: Path) -> str:
    """Run a command that must succeed, away from this process's Python settings."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [str(part) for part in command],
        check=False,
        cwd=cwd,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


def copy_tree(destination: Path, *, without: Collection[str] = ()) -> Path:
    """The sources alone, as a fresh clone has them, but for some of the folders."""
    destination.mkdir(parents=True)
    for name in set(COPIED).difference(without):
        source = ROOT / name
        if source.is_dir():
            ignored = shutil.ignore_patterns("__pycache__", ".*_cache")
            shutil.copytree(source, destination / name, ignore=ignored)
        else:
            shutil.copy(source, destination / name)
    return destination


def contents(wheel: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(wheel) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def read_metadata(wheel: Path) -> tuple[str, email.message.Message]:
    """The METADATA of a wheel, as text and taken apart."""
    (data,) = (data for name, data in contents(wheel).items() if name.endswith("/METADATA"))
    return data.decode("utf-8"), email.message_from_bytes(data)


def contents_of_manual(wheel: Path) -> bytes:
    (page,) = (data for name, data in contents(wheel).items() if name.endswith(".1"))
    return page


def once_for_all(factory: pytest.TempPathFactory, name: str, build: Callable[[Path], None]) -> Path:
    """The folder of this name that one of the workers of this run builds."""
    base = factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        base = base.parent
    folder = base / name
    with (base / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / "complete").exists():
            shutil.rmtree(folder, ignore_errors=True)
            build(folder)
            (folder / "complete").touch()
    return folder


@pytest.fixture(scope="session")
def distributions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the sdist of a copy of the tree, and the wheel that is built of the sdist."""

    def build(folder: Path) -> None:
        tree = copy_tree(folder / "tree")
        options = ("--installer", "uv", "--outdir", folder / "dist")
        run(sys.executable, "-m", "build", *options, cwd=tree)

    return once_for_all(tmp_path_factory, "distributions", build) / "dist"


@pytest.fixture(scope="session")
def other_wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel that is built of a copy of the tree, in a folder with a longer name."""

    def build(folder: Path) -> None:
        tree = copy_tree(folder / "a-folder-with-a-longer-name" / "tree")
        options = ("--wheel", "--no-isolation", "--outdir", folder / "dist")
        run(sys.executable, "-m", "build", *options, cwd=tree)

    (found,) = (once_for_all(tmp_path_factory, "another", build) / "dist").glob("*.whl")
    return found


@pytest.fixture(scope="session")
def wheel(distributions: Path) -> Path:
    """The wheel that is built of the sdist."""
    (found,) = distributions.glob("*.whl")
    return found


@pytest.fixture(scope="session")
def sdist(distributions: Path) -> Path:
    """The sdist."""
    (found,) = distributions.glob("*.tar.gz")
    return found


def test_nothing_that_users_read_names_an_address_of_a_reserved_domain() -> None:
    reserved = re.compile(r"(://|@)[\w.-]*\.(example|invalid|test)\b")
    users = [ROOT / name for name in COPIED if name not in ("tests", ".gitignore")]
    files = [path for place in users for path in ([place, *place.rglob("*")])]
    texts = {path: path.read_bytes().decode("latin-1") for path in files if path.is_file()}
    assert len(texts) > 300
    assert not {path for path, text in texts.items() if reserved.search(text)}


@pytest.mark.slow
class TestDistributions:
    def test_the_wheel_holds_the_package_and_nothing_else(self, wheel: Path) -> None:
        modules = {
            f"instar/{path.relative_to(ROOT).as_posix()}" for path in (ROOT / "vmm").rglob("*.py")
        }
        generated = {"instar/py.typed", "instar/abi/__init__.py"}
        moved = {source: f"instar/{name}" for name, source in hatch_build.TOP_MODULES.items()}
        names = {name for name in contents(wheel) if ".dist-info/" not in name}
        data = {name for name in names if ".data/" in name}
        modules -= {f"instar/{source}" for source in moved}
        assert names - data == modules | {*moved.values()} | generated | PAYLOAD
        assert {name.partition(".data/")[2] for name in data} == {
            "scripts/instar",
            *(f"data/{name}" for name in SHARED),
        }

    def test_the_public_names_are_those_of_public_py(self, wheel: Path) -> None:
        shipped = contents(wheel)["instar/__init__.py"]
        assert shipped == (ROOT / "vmm" / "public.py").read_bytes()

    def test_the_wheel_needs_nothing_and_is_for_one_kind_of_machine(self, wheel: Path) -> None:
        assert wheel.name.endswith("-py3-none-manylinux_2_17_x86_64.whl")
        _, fields = read_metadata(wheel)
        needs = fields.get_all("Requires-Dist")
        assert needs == ["cryptography>=42; extra == 'luks'", "tqdm; extra == 'progress'"]
        assert fields["Requires-Python"] == ">=3.10"
        assert fields["License-Expression"] == "Apache-2.0"
        assert any(name.endswith("/LICENSE") for name in contents(wheel))

    def test_the_page_of_the_package_names_no_address_that_does_not_exist(
        self, wheel: Path
    ) -> None:
        text, fields = read_metadata(wheel)
        assert not re.findall(r"\]\([^)]*\)", text), "a link that leads nowhere"
        assert "deliberate difference" in text
        assert fields.get_all("Project-URL") is None
        assert not re.search(rb"https?://", contents_of_manual(wheel))

    def test_the_page_of_the_package_describes_it(self, wheel: Path) -> None:
        _, fields = read_metadata(wheel)
        versions = [c for c in fields.get_all("Classifier", []) if ":: 3." in c]
        assert len(versions) == 5
        assert fields["Author"]

    @pytest.mark.any_python
    def test_addresses_are_taken_from_one_table(self, tmp_path: Path) -> None:
        tree = copy_tree(tmp_path / "tree")
        with (tree / "pyproject.toml").open("a") as project:
            project.write(f'[project.urls]\nDocumentation = "{SITE}"\nSource = "{TREE}/"\n')
        run(sys.executable, "-m", "build", "--wheel", "--no-isolation", cwd=tree)
        (published,) = (tree / "dist").glob("*.whl")
        text, fields = read_metadata(published)
        assert set(fields.get_all("Project-URL", [])) == {
            f"Documentation, {SITE}",
            f"Source, {TREE}/",
        }
        links = set(re.findall(r"\]\(([^)]*)\)", text))
        assert all(link.startswith((f"{SITE}/", f"{TREE}/")) for link in links), links
        anchor = "where-instar-is-safer-than-qemu-img"
        assert links >= {f"{SITE}/amend/#{anchor}", f"{SITE}/changelog/", f"{TREE}/docs/decisions/"}
        assert SITE.encode() in contents_of_manual(published).replace(b"\\-", b"-")

    @pytest.mark.any_python
    def test_the_sdist_holds_the_sources_and_nothing_that_is_built(self, sdist: Path) -> None:
        with tarfile.open(sdist) as archive:
            names = {name.partition("/")[2] for name in archive.getnames()}
        sources = {
            path.relative_to(ROOT).as_posix()
            for folder in SHIPPED
            for path in (ROOT / folder).rglob("*")
            if path.is_file() and "__pycache__" not in path.parts
        }
        generated = {"PKG-INFO", *COPIED} - set(SHIPPED)
        assert names == sources | generated

    @pytest.mark.any_python
    def test_the_tree_builds_the_same_wheel_as_the_sdist(
        self, wheel: Path, other_wheel: Path
    ) -> None:
        assert contents(other_wheel) == contents(wheel)
        assert other_wheel.read_bytes() == wheel.read_bytes()

    def test_the_wheel_runs_in_an_empty_environment(self, wheel: Path, tmp_path: Path) -> None:
        home = tmp_path / "empty"
        venv.create(home, with_pip=False)
        python = home / "bin" / "python"
        pip = (sys.executable, "-m", "pip", "--python", python)
        run(*pip, "install", "-q", "--no-index", wheel, cwd=tmp_path)
        version = wheel.name.split("-")[1]
        for command in ([home / "bin" / "instar"], [python, "-m", "instar"]):
            assert run(*command, "--version", cwd=tmp_path) == f"instar {version}\n"
        assert all((home / name).is_file() for name in SHARED)
        code = "import instar; print([getattr(instar, name) for name in instar.__all__])"
        run(python, "-W", "error", "-c", code, cwd=tmp_path)


FOREIGN = """
import shutil, subprocess, sys, tempfile, platform  # as they are here, whoever is played later
import hatchling.builders.wheel, hatchling.metadata.core
sys.platform, platform.machine = sys.argv[1], lambda: sys.argv[2]
platform.system = lambda: {"linux": "Linux", "darwin": "Darwin", "win32": "Windows"}[sys.argv[1]]
from hatchling.build import build_wheel, get_requires_for_build_wheel
print(get_requires_for_build_wheel())
build_wheel("dist")
"""


OLD = """
import platform, sys
import hatchling.builders.wheel, hatchling.metadata.core
from hatchling.build import build_wheel
sys.version_info, platform.python_version = (3, 9), lambda: "3.9.2"
build_wheel("dist")
"""


@pytest.mark.slow
@pytest.mark.any_python
def test_a_build_by_an_old_python_says_so_in_one_line(tmp_path: Path) -> None:
    tree = copy_tree(tmp_path / "tree", without=("tests",))
    done = subprocess.run(
        [sys.executable, "-c", OLD], check=False, cwd=tree, capture_output=True, text=True
    )
    line = "instar needs Python 3.10 or later, and this is 3.9.2\n"
    assert (done.returncode, done.stderr.endswith(line)) == (1, True)
    assert done.stderr.count("\n") == 1


@pytest.mark.slow
@pytest.mark.any_python
class TestOtherMachines:
    @pytest.mark.parametrize(
        ("system", "machine", "found"),
        [
            ("linux", "aarch64", "Linux on aarch64"),
            ("linux", "i686", "Linux on i686"),
            ("darwin", "arm64", "Darwin on arm64"),
            ("win32", "AMD64", "Windows on AMD64"),
        ],
    )
    @pytest.mark.parametrize("has_gcc", [True, False])
    def test_a_build_says_in_one_line_what_it_needs_and_starts_no_compiler(
        self, tmp_path: Path, system: str, machine: str, found: str, has_gcc: bool
    ) -> None:
        tree = copy_tree(tmp_path / "tree", without=("tests",))
        tools = tmp_path / "tools"
        tools.mkdir()
        if has_gcc:
            gcc = tools / "gcc"
            gcc.write_text("#!/bin/sh\necho 'unrecognized option -m64' >&2; exit 1\n", "ascii")
            gcc.chmod(0o755)
        done = subprocess.run(
            [sys.executable, "-c", FOREIGN, system, machine],
            check=False,
            cwd=tree,
            env={"PATH": str(tools)},
            capture_output=True,
            text=True,
        )
        assert (done.returncode, done.stdout) == (1, "[]\n")
        line = f"instar needs Linux on x86-64, and this is {found}\n"
        assert done.stderr.endswith(line)
        assert done.stderr.count("\n") == 1
        assert not list((tree / "dist").glob("*"))


@pytest.mark.any_python
class TestPayload:
    @pytest.mark.slow
    def test_its_bytes_do_not_depend_on_the_folder(self, wheel: Path, other_wheel: Path) -> None:
        one, other = contents(wheel), contents(other_wheel)
        for name in PAYLOAD:
            assert one[name] == other[name]
            assert b"a-folder-with-a-longer-name" not in other[name]
            assert str(other_wheel.parents[1]).encode() not in other[name]

    def test_it_is_within_its_budgets(self) -> None:
        told = run(sys.executable, "scripts/check_binary_sizes", cwd=ROOT)
        budgets = {line.split()[0]: int(line.split()[-1]) for line in told.splitlines()[1:]}
        core, amend, check, info = (budgets[name] >> 10 for name in build_guest.IMAGES)
        readme = " ".join((ROOT / "README.md").read_text("utf-8").split())
        assert f"at most {core} KiB of memory for the executor, and {amend} KiB to amend" in readme
        assert check == info
        assert f" or {check} KiB to inspect" in readme

    def test_a_budget_that_is_exceeded_is_an_error(self, tmp_path: Path) -> None:
        built, source = tmp_path / "built", tmp_path / "large.c"
        shutil.copytree(build_guest.EDITABLE_GUEST, built)
        source.write_text(
            f"static char large[{abi.INSTAR_OPERATION_LIMIT}];\n"
            "char *operation_start(void);\n"
            "char *operation_start(void) { return large; }\n",
            encoding="ascii",
        )
        script = build_guest.linker_script("amend")
        build_guest.link_image([source], script, built / "amend.elf")
        done = subprocess.run(
            [sys.executable, "scripts/check_binary_sizes", built],
            cwd=ROOT,
            check=False,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 1
        assert re.findall(r"^(\w+): \d+ bytes over its budget$", done.stdout, re.M) == ["amend"]

    @pytest.mark.parametrize("image", build_guest.IMAGES)
    def test_it_is_compiled_without_the_headers_of_a_libc(self, image: str) -> None:
        if build_guest.needs_ziglang():
            return  # its freestanding target has none: that the payload compiles is proof enough
        command = build_guest.compiler()
        own = run(*command, "-print-file-name=include", cwd=ROOT).strip()
        includes = [f"-I{folder}" for folder in build_guest.INCLUDES]
        sources = build_guest.image_sources(image)
        text = run(*command, *build_guest.CFLAGS, *includes, "-M", *sources, cwd=ROOT)
        rules = text.replace("\\\n", " ").splitlines()
        assert len(rules) == len(sources)
        for rule in rules:
            target, _, names = rule.partition(":")
            for name in names.split():
                path = Path(ROOT, name).resolve()
                inside = path.is_relative_to(ROOT) or path.is_relative_to(Path(own).resolve())
                assert inside, f"what {target} is made of includes {path}"


class TestImports:
    def test_the_contract_imports_nothing(self) -> None:
        assert abi.__file__ is not None
        assert "import" not in Path(abi.__file__).read_text(encoding="ascii")

    def test_the_package_loads_neither_a_parser_nor_what_it_does_not_use(self) -> None:
        code = "import sys, instar, instar.abi, instar.vmm.cli; print(*sys.modules)"
        loaded = run(sys.executable, "-c", code, cwd=ROOT).split()
        tops = {name.partition(".")[0] for name in loaded}
        assert tops.isdisjoint({"construct", "cffi", "_cffi_backend", "_planner"})


def test_a_compiler_that_is_not_there_is_named_in_one_line(tmp_path: Path) -> None:
    words = "^could not run the C compiler 'nosuch-cc': No such file or directory$"
    with pytest.raises(build_guest.BuildError, match=words):
        build_guest.run_compiler(["nosuch-cc"], tmp_path / "made.o")


def test_a_tree_that_cannot_be_written_is_named_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_root: Path) -> None:
        raise OSError(30, "Read-only file system", "/tree/build")

    def end(text: str) -> None:
        raise SystemExit(text)

    monkeypatch.setattr(hatch_build, "make_editable", refuse)
    app: Any = SimpleNamespace(abort=end)
    nothing: Any = None
    hook = hatch_build.PackageHook(str(tmp_path), {}, nothing, nothing, "", "wheel", app)
    words = "^instar is built in its source tree: Read-only file system /tree/build$"
    with pytest.raises(SystemExit, match=words):
        hook.initialize("editable", {})
