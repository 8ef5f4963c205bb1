"""Host side: the table of options: what an amend can be asked for, and what it may be allowed.

An option is a row here, a key in abi/instar_abi.h, and a file each in shared/amend/options/ and in
vmm/contract/rules/ (docs/adding-an-option.md). From the rows follow the -o parser and its help, the
keywords of instar.amend(), the records in the config page, the flags of the command, the options in
a result, and the tables of docs/amend.md.
"""

from __future__ import annotations

from instar.abi import (
    AMEND_FLAG_CHANGE_BACKING,
    AMEND_FLAG_DROP_BITMAPS,
    AMEND_FLAG_REPAIR,
    AMEND_FLAG_SHRINK,
    BACKING_SIZE_UNKNOWN,
    OPTION_BACKING_FILE,
    OPTION_BACKING_FMT,
    OPTION_COMPAT,
    OPTION_DATA_FILE,
    OPTION_DATA_FILE_RAW,
    OPTION_LAZY_REFCOUNTS,
    OPTION_REFCOUNT_BITS,
    OPTION_SIZE,
)

from .kinds import CHOICE, DOWN_STEP, FLAG, NUMBER, SIZE, SIZE_STEP, TEXT, Option, Permission

TYPE_CHECKING = False

COMPAT_LEVELS = {"0.10": 2, "v2": 2, "1.1": 3, "v3": 3}
"""The values of compat and the header version that each stands for."""

REFCOUNT_BITS = (1, 2, 4, 8, 16, 32, 64)
"""How wide refcounts can be: each by its refcount_order; in version 2 they have 16 bits."""

OPTIONS = (
    Option(
        key="compat",
        kind=CHOICE,
        abi_key=OPTION_COMPAT,
        help="Compatibility level (v2 [0.10] or v3 [1.1])",
        meaning="The compatibility level: the version of the header.",
        keyword='the compatibility level, "0.10" ("v2") or "1.1" ("v3")',
        since="0.1",
        choices=COMPAT_LEVELS,
        fault="Unknown compatibility level {}: use 0.10 (v2) or 1.1 (v3)",
        fields=("version",),
        writes_tables=True,
        steps={2: DOWN_STEP},
    ),
    Option(
        key="lazy_refcounts",
        kind=FLAG,
        abi_key=OPTION_LAZY_REFCOUNTS,
        help="Postpone refcount updates",
        meaning="Whether updates of reference counts may be postponed. Needs compat 1.1.",
        keyword="whether refcount updates may be postponed",
        since="0.1",
        fields=("compatible_features",),
        joins="compat",
    ),
    Option(
        key="backing_file",
        kind=TEXT,
        abi_key=OPTION_BACKING_FILE,
        help="File name of a base image",
        meaning="The backing file's name, up to 1023 bytes. It must be the image's own, unless "
        "`--change-backing` lets it change; then an empty one removes it. The file is never looked "
        "at.",
        keyword="the backing file's name, as text or bytes; it must be the image's own, unless "
        "change_backing lets it change, and then '' removes it",
        since="0.1",
        most=1023,
        fields=("backing_file", "backing_fmt"),
        moves_header=True,
        joins="compat",
    ),
    Option(
        key="backing_fmt",
        kind=TEXT,
        abi_key=OPTION_BACKING_FMT,
        help="Image format of the base image",
        meaning="The backing file's format. It must be the image's own, unless `--change-backing` "
        "lets it change; an image with a backing file always gets one.",
        keyword="the backing file's format; it must be the image's own, unless change_backing "
        "lets it change",
        since="0.1",
        most=15,
        fields=("backing_fmt",),
        moves_header=True,
        joins="compat",
    ),
    Option(
        key="data_file",
        kind=TEXT,
        abi_key=OPTION_DATA_FILE,
        help="File name of an external data file",
        meaning="The name of the external data file, up to 2048 bytes, of an image that has one; "
        "an empty one removes it, and programs then have to know it. No file is looked at.",
        keyword="the name of the external data file, '' for none, of an image that has such a file",
        since="0.1",
        fields=("data_file",),
        moves_header=True,
        joins="compat",
    ),
    Option(
        key="data_file_raw",
        kind=FLAG,
        abi_key=OPTION_DATA_FILE_RAW,
        help="The external data file must stay valid as a raw image",
        meaning="Whether the external data file is at the same time a raw image of the disk. It "
        "can be switched off, after which the file may become something else, but not on.",
        keyword="whether the external data file stays a raw image of the disk; True only confirms "
        "that",
        since="0.1",
        may_lack=True,
        fields=("autoclear_features",),
        joins="compat",
    ),
    Option(
        key="refcount_bits",
        kind=NUMBER,
        abi_key=OPTION_REFCOUNT_BITS,
        help="Width of a reference count entry in bits",
        meaning="The width of reference counts: 1, 2, 4, 8, 16, 32 or 64 bits. Any but 16 needs "
        "compat 1.1, and the new width must hold the largest count in the image.",
        keyword="how many bits a reference count has: 1, 2, 4, 8, 16, 32 or 64",
        since="0.1",
        numbers=REFCOUNT_BITS,
        fault="Refcount width must be a power of two and may not exceed 64 bits, not {}",
        fields=("refcount_order",),
        writes_tables=True,
        parts_from="compat",
        part=3,
    ),
    Option(
        key="size",
        kind=SIZE,
        abi_key=OPTION_SIZE,
        help="Virtual disk size",
        meaning="The size of the disk, a multiple of 512 bytes. The new part of a larger disk "
        "reads as zeros; a smaller disk needs `--shrink`. Snapshots keep their own size.",
        keyword="the size of the disk in bytes, a multiple of 512",
        since="0.1",
        least=512,
        most=(1 << 63) - 512,
        multiple=512,
        fault="Parameter 'size' expects a size such as 512M or 1.5G, a positive multiple "
        "of 512, and less than 8 EiB, not {}",
        fields=("size",),
        writes_tables=True,
        step=SIZE_STEP,
    ),
)
"""In the order in which results and rules have them."""

PERMISSIONS = (
    Permission(
        key="drop_bitmaps",
        kind=FLAG,
        flag=AMEND_FLAG_DROP_BITMAPS,
        help="let a downgrade, or a size that they do not fit, remove persistent bitmaps",
        meaning="Let persistent bitmaps be removed by a downgrade, as version 2 lacks them, or by "
        "a `size` that they do not fit; their clusters are freed. Without it they prevent the "
        "amend.",
        keyword="whether persistent bitmaps are removed by a downgrade, as version 2 lacks them, "
        "or by a size that they do not fit; else they prevent it",
        since="0.1",
    ),
    Permission(
        key="max_growth",
        kind=SIZE,
        flag=0,
        help="how far the file may grow, by default 1G",
        meaning="By how much the file may grow for new clusters: bytes, or a number with a suffix "
        "k, M, G, T, P or E (powers of 1024); 1G by default. A block device does not grow.",
        keyword="by how many bytes the file may grow for new clusters; None stands for 1 GiB. A "
        "block device does not grow",
        since="0.1",
        default=1 << 30,
    ),
    Permission(
        key="change_backing",
        kind=FLAG,
        flag=AMEND_FLAG_CHANGE_BACKING,
        help="let backing_file and backing_fmt be others than the image's",
        meaning="Let `backing_file` and `backing_fmt` change the image's backing file. Without it "
        "they only confirm it. No backing file is looked at: what a guest reads from the disk "
        "changes wherever the old and the new one differ.",
        keyword="whether backing_file and backing_fmt may be others than the image's; else they "
        "confirm them",
        since="0.1",
    ),
    Permission(
        key="shrink",
        kind=FLAG,
        flag=AMEND_FLAG_SHRINK,
        help="let the disk become smaller, and lose what is past its new end",
        meaning="Let the disk become smaller. What it has past its new end is lost.",
        keyword="whether the disk may become smaller, and lose what it has past its new end",
        since="0.1",
    ),
    Permission(
        key="backing_size",
        kind=SIZE,
        flag=0,
        help="how large the backing file is at most, which makes growing cheaper",
        meaning="How large the disk of the backing file is at most. A disk that grows over a "
        "backing file hides what that has past the old end. instar does not open it, and so hides "
        "all of the new part unless it is told.",
        keyword="how many bytes the backing file's disk has at most, for a disk that grows; None "
        "stands for any number",
        since="0.1",
        default=BACKING_SIZE_UNKNOWN,
        absent=BACKING_SIZE_UNKNOWN,
    ),
    Permission(
        key="repair",
        kind=FLAG,
        flag=AMEND_FLAG_REPAIR,
        help="first repair an image that is marked dirty",
        meaning="First repair an image that is marked dirty: count all references, and correct "
        "refcounts and flags accordingly. What could only be repaired by guessing is refused. An "
        "image that is not dirty is amended as it is. May be given without an option.",
        keyword="whether an image that is marked dirty is repaired first; else it is refused",
        since="0.1",
    ),
)

BY_KEY = {option.key: option for option in OPTIONS}
PERMITTED = {permission.key: permission for permission in PERMISSIONS}

if TYPE_CHECKING:
    from typing import Literal, TypeAlias

    from typing_extensions import TypedDict

    from .keys import AddKey, EraseKey

    Compat: TypeAlias = Literal["0.10", "v2", "1.1", "v3"]
    Cache: TypeAlias = Literal["none", "off", "writeback", "writethrough", "directsync", "unsafe"]
else:  # typing would cost the command more than its amend
    Compat = Cache = str
    AddKey = EraseKey = object

    class TypedDict:
        """Stands in for the one of typing, for its annotations."""

        def __init_subclass__(cls, *, total: bool) -> None:
            """Take what type checkers go by."""


class Keywords(TypedDict, total=False):
    """The keywords of instar.amend() and the like that make up a request, as type checkers see."""

    compat: Compat | None
    lazy_refcounts: bool | None
    backing_file: str | bytes | None
    backing_fmt: str | bytes | None
    data_file: str | bytes | None
    data_file_raw: bool | None
    refcount_bits: int | None
    size: int | None
    keys: AddKey | EraseKey | None
    format: str | None
    dry_run: bool
    cache: Cache
    timeout: float
    drop_bitmaps: bool
    max_growth: int | None
    change_backing: bool
    shrink: bool
    backing_size: int | None
    repair: bool
