"""Test side: compiles payloads that break the rules, and runs them in the place of the operation.

A payload is one C file in payloads/ that is named after what it does; it is compiled and linked as
guest/amend is. `Rogues.run` amends an image with it, and sees to it that nothing but the outcome is
left: no byte of the image is changed, nor its time, and no descriptor stays open; and that it has
cost no more memory and processor time than it may.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from time import process_time
from typing import TYPE_CHECKING, Any

import build_guest

import instar
from instar.vmm.machine import payload as payload_module
from instar.vmm.machine.payload import Payload, load_payload
from tests.support.forge import Extension, Image
from tests.support.peak import forget_peak, peak
from tests.support.speed import takes_longer

if TYPE_CHECKING:
    from collections.abc import Callable

FOLDER = Path(__file__).parent / "payloads"
LIARS = "liars"
"""The folder of payloads that are the planner itself, but for what they write (liar.h)."""
SCRIPT = build_guest.linker_script("amend")

DESCRIPTION: dict[str, Any] = {
    "backing_file": b"base",
    "backing_format": b"qcow2",
    "extensions": (Extension(0x11111111, b"unknown!"),),
}

TOGGLE: dict[str, Any] = {"lazy_refcounts": True}
UPGRADE: dict[str, Any] = {"compat": "1.1"}


@dataclass(frozen=True)
class Set:
    """An image and what is asked of it."""

    image: Image = field(default_factory=lambda: Image(**DESCRIPTION))
    request: dict[str, Any] = field(default_factory=lambda: TOGGLE)


TOGGLED = Set()
UPGRADED = Set(Image(version=2, **DESCRIPTION), UPGRADE)
LARGE = Set(Image(version=2, extensions=(Extension(0x11111111, bytes(600)),)), UPGRADE)
"""The old header reaches into the second sector."""


def open_descriptors() -> dict[str, str]:
    """The open descriptors of this process, with what each is."""
    folder = Path("/proc/self/fd")
    return {path.name: str(path.readlink()) for path in folder.iterdir() if path.is_symlink()}


MEMORY = 64 << 20
"""By how many bytes a payload may have this process grow, its guest memory included."""
SECONDS = 2.0
"""Of processor time that it may cost, its own included."""


class Rogues:
    """The payloads by name, each compiled on its first use."""

    def __init__(self, folder: Path) -> None:
        """Compile into an empty folder."""
        self.folder = folder
        self._loaded: dict[str, Payload] = {}
        self._objects: list[Path] = []
        core = os.path.join(payload_module._installed_folder(), "core.elf")  # noqa: PTH118
        (folder / "core.elf").symlink_to(core)

    def payload(self, name: str) -> Payload:
        """The executor and NAME.c, in whichever folder of payloads/ it is."""
        if name not in self._loaded:
            (source,) = FOLDER.rglob(f"{name}.c")
            image = self.folder / f"{source.stem}.elf"
            objects = self._planner() if source.parent.name == LIARS else []
            build_guest.link_image([source], SCRIPT, image, objects=objects)
            self._loaded[name] = load_payload(source.stem, str(self.folder))
        return self._loaded[name]

    def _planner(self) -> list[Path]:
        """All of guest/amend, compiled, but for the file that a liar stands in for."""
        if not self._objects:
            sources = build_guest.image_sources("amend")
            kept = [source for source in sources if source.name != "blocks.c"]
            self._objects = build_guest.compile_sources(kept, self.folder)
        return self._objects

    def run(self, name: str, path: Path, set_: Set = TOGGLED, **options: Any) -> instar.InstarError:
        """Amend an image at `path` with a payload that must fail; returns what it ended in."""
        keywords = {"timeout": 10, **set_.request, **options}
        outcome = self.look(name, path, set_.image, instar.amend, **keywords)
        assert isinstance(outcome, instar.InstarError), "the amend succeeded"
        return outcome

    def look(
        self, name: str, path: Path, image: Image, call: Callable[..., Any], **keywords: Any
    ) -> Any:
        """Call it with an image at `path` and a payload; returns its result, or what it raised.

        The image must not be changed by it.
        """
        payload = self.payload(name)
        image.write(path)
        os.utime(path, ns=(1, 1))
        contents, descriptors = path.read_bytes(), open_descriptors()
        size, start = forget_peak(), process_time()
        try:
            outcome = call(path, payload=payload, **keywords)
        except instar.InstarError as caught:
            outcome = caught
        # Whatever it tried: for an endless guest its time limit comes on top.
        assert not takes_longer(process_time() - start, SECONDS + keywords.get("timeout", 0))
        assert peak() - size < MEMORY
        assert path.read_bytes() == contents
        assert path.stat().st_mtime_ns == 1
        assert open_descriptors() == descriptors
        return outcome
