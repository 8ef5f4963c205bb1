"""Build time: hatchling's hook, which makes the parts of the package that are not in vmm/.

    instar/__init__.py     vmm/public.py, the public names
    instar/__main__.py     vmm/__main__.py, for `python -m instar`
    instar/py.typed        says that all of the package is typed
    instar/abi/            generated from abi/instar_abi.h
    instar/guest/*.elf     compiled from guest/ and shared/

For a wheel they are made below build/, and the man page and the completions of shells with them.
For an editable install they are made in .editable/instar/, where what comes from vmm/ are links, so
that an edit takes effect at once.
"""

from __future__ import annotations

import platform
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

sys.path.insert(0, str(Path(__file__).parent))  # hatchling loads this file by its path alone

from build_abi import HeaderError, write_module
from build_guest import ZIGLANG, BuildError, build_guest, needs_ziglang

# Modules of the package's top, and the files that they are in the tree.
TOP_MODULES = {"__init__.py": "vmm/public.py", "__main__.py": "vmm/__main__.py"}


class PackageHook(BuildHookInterface[Any]):
    """Fills the package, and tags the wheel for the machines that its payload is for."""

    def dependencies(self) -> list[str]:
        """Ask for a C compiler where the machine has none."""
        return [ZIGLANG] if is_supported() and needs_ziglang() else []

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Make the parts; `version` is hatchling's word for the kind of wheel."""
        if sys.version_info < (3, 10):  # noqa: UP036 - an installer looks at it later
            found = platform.python_version()
            self.app.abort(f"instar needs Python 3.10 or later, and this is {found}")
        if not is_supported():
            bits = "" if sys.maxsize > 1 << 32 else ", and Python is for 32 bits"
            found = f"{platform.system()} on {platform.machine()}{bits}"
            self.app.abort(f"instar needs Linux on x86-64, and this is {found}")
        build_data["pure_python"] = False
        # The payload is static and needs no libc, whichever compiler made it.
        build_data["tag"] = "py3-none-manylinux_2_17_x86_64"
        root = Path(self.root)
        try:
            if version == "editable":
                make_editable(root)
            else:
                docs = self.metadata.core.urls.get("Documentation", "")
                parts, shared = make_wheel_parts(root, docs)
                build_data["force_include"].update(parts)
                build_data["shared_data"].update(shared)
        except (BuildError, HeaderError) as error:
            self.app.abort(f"instar cannot be built: {error}")
        except OSError as error:
            place = f" {error.filename}" if error.filename else ""
            self.app.abort(f"instar is built in its source tree: {error.strerror}{place}")


def is_supported() -> bool:
    """Whether this Python is for the one kind of machine that instar runs on."""
    machine = platform.machine()
    return sys.platform == "linux" and machine == "x86_64" and sys.maxsize > 1 << 32


def make_wheel_parts(root: Path, docs: str) -> tuple[dict[str, str], dict[str, str]]:
    """Make the parts below build/; `docs` is where the documentation is published, or "".

    Returns:
        Where each file belongs in the wheel, and where each of the others belongs below the prefix
        of an installation.
    """
    top, prefix = root / "build" / "wheel", root / "build" / "prefix"
    for folder in (top, prefix):
        shutil.rmtree(folder, ignore_errors=True)
    package = top / "instar"
    _make_parts(package)
    script = Path(__file__).with_name("build_manual.py")
    command = [sys.executable, "-B", str(script), str(package), str(prefix), docs]
    if subprocess.run(command, check=False, stdout=subprocess.DEVNULL).returncode:
        raise BuildError("the man page and the completions could not be made")
    for name, source in TOP_MODULES.items():
        shutil.copyfile(root / source, package / name)
    return _locate_files(top), _locate_files(prefix)


def _locate_files(top: Path) -> dict[str, str]:
    files = sorted(path for path in top.rglob("*") if path.is_file())
    return {str(path): path.relative_to(top).as_posix() for path in files}


def make_editable(root: Path) -> None:
    """Make the parts in .editable/instar, with links to what is in the tree."""
    package = root / ".editable" / "instar"
    _make_parts(package)
    _link(package / "vmm", Path("..", "..", "vmm"))
    for name, source in TOP_MODULES.items():
        _link(package / name, Path("..", "..", source))


def _make_parts(package: Path) -> None:
    package.mkdir(parents=True, exist_ok=True)
    (package / "py.typed").touch()
    write_module(package / "abi" / "__init__.py")
    build_guest(package / "guest")


def _link(link: Path, target: Path) -> None:
    if not link.is_symlink() or link.readlink() != target:  # it may be in use
        link.unlink(missing_ok=True)
        link.symlink_to(target)
