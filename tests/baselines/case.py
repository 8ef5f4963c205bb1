"""What a baseline is about: an image that is made without qemu, and one amend. Test side.

An image comes from the forge, or from a fixture: the files that a recipe of tests/oracle made once,
in tests/baselines/records/NAME/files.tar.xz. What every version of qemu-img makes of it is recorded
beside that, see record.py.
"""

from __future__ import annotations

import io
import lzma
import tarfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from tests.support.forge import Image
from tests.support.qemu import Qemu
from tests.support.recipe import IMAGE, make

FOLDER = Path(__file__).parent / "records"
FIXTURE = "files.tar.xz"
FAILING_FLUSH = "flush"
_LEFT_OUT = {"r.img"}
"""What recipes leave behind, but nothing refers to."""


def label(options: str) -> str:
    """Options as part of a name."""
    return options.replace("=", "-").replace("_", "-").replace(".", "")


@dataclass(frozen=True, kw_only=True)
class Case:
    """An image, under the name t.qcow2, and what is asked of it."""

    name: str
    options: str
    """Behind -o."""
    image: Image | None = None
    """Of the forge, if it is from there."""
    files: Mapping[str, bytes | Image | Path] = field(default_factory=dict)
    """What lies beside it: raw disks as they are, images, and files that were packed with xz."""
    recipe: str = ""
    """Where the fixture came from, if the case has one."""
    secret: bool = False
    """Whether qemu is given the secret of an encrypted image."""
    fault: str = ""
    """FAILING_FLUSH: no flush of the file succeeds."""

    @property
    def folder(self) -> Path:
        """Where the records are."""
        return FOLDER / self.name

    def make(self, folder: Path) -> Path:
        """Make the files in a folder, without qemu; returns the image."""
        if self.image is not None:
            self.image.write(folder / IMAGE)
        if self.recipe:
            with tarfile.open(self.folder / FIXTURE) as archive:
                for member in archive:
                    _extract(archive, member, folder)
        for name, content in self.files.items():
            if isinstance(content, Image):
                content.write(folder / name)
            elif isinstance(content, Path):
                (folder / name).write_bytes(lzma.decompress(content.read_bytes()))
            else:
                (folder / name).write_bytes(content)
        return folder / IMAGE

    def make_fixture(self, qemu: Qemu, scratch: Path) -> None:
        """Have qemu make the files in an empty folder, and keep them."""
        make(qemu, scratch, self.recipe)
        self.folder.mkdir(exist_ok=True)
        paths = sorted(path for path in scratch.rglob("*") if path.is_file())
        with tarfile.open(self.folder / FIXTURE, "w:xz", preset=9) as archive:
            for path in paths:
                if path.name not in _LEFT_OUT:
                    content = path.read_bytes()
                    # Nothing but name and size: no dates, no owner.
                    member = tarfile.TarInfo(str(path.relative_to(scratch)))
                    member.size = len(content)
                    archive.addfile(member, io.BytesIO(content))


def _extract(archive: tarfile.TarFile, member: tarfile.TarInfo, folder: Path) -> None:
    source = archive.extractfile(member)
    assert source is not None
    path = folder / member.name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(source.read())
