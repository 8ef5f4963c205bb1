"""Host side: the images that a command line names, and what it may say of many of them.

Imported where there are many, or where images are only looked at.
"""

from __future__ import annotations

from ..base.errors import UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

JOBS_MAX = 4096


def check_files(files: Sequence[str], flags: Mapping[str, str]) -> None:
    """UsageError if no image is named, or --null is about nothing."""
    if "null" in flags and "files-from" not in flags:
        raise UsageError("--null is about the names of --files-from")
    if not files and "files-from" not in flags:
        raise UsageError("Expecting one image file name or more")


def check_many(flags: Mapping[str, str]) -> None:
    """UsageError for a flag that many images do not allow."""
    if "debug" in flags:
        raise UsageError("--debug shows the text of one sandbox; name one image, without --jobs")


def names_of(files: Sequence[str], flags: Mapping[str, str]) -> Iterator[str]:
    """The files, and those that --files-from names."""
    yield from files
    if "files-from" in flags:
        from .name_list import read_names

        yield from read_names(flags["files-from"], null="null" in flags)


def read_jobs(flags: Mapping[str, str]) -> int:
    """The value of --jobs. UsageError if it is none."""
    text = flags.get("jobs", "1")
    if not (text.isascii() and text.isdigit() and 1 <= int(text[:9]) <= JOBS_MAX):
        raise UsageError(f"--jobs: expected a number from 1 to {JOBS_MAX}, not '{text}'")
    return int(text)
