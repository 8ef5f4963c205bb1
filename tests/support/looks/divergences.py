"""The registry of deliberate differences from qemu-img's info and check. Test side.

A test that finds a difference looks it up here; what is not here is a defect. The tables in
docs/info.md and docs/check.md are made of it: `python -m tests.support.looks.divergences` prints
them.
"""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatch


@dataclass(frozen=True)
class Divergence:
    """One way in which instar differs from qemu-img, on purpose."""

    name: str
    qemu: str
    """What qemu-img does."""
    instar: str
    """What instar does."""
    why: str
    symptoms: tuple[str, ...]
    """What information.findings() says of it, with wildcards."""
    problems: tuple[str, ...] = ()
    """Instar must name one of these problems then, if there are any."""


OTHERS = ("vmdk", "vpc", "vhdx", "vdi", "qed", "qcow", "luks", "parallels", "bochs", "cloop", "dmg")
LEFT_OUT = ("virtual-size", "cluster-size", "encrypted", "format-specific")

INFO = (
    Divergence(
        "header_must_be_whole",
        "reads a header that is cut off, or in which a name lies over fields, as it comes",
        "refuses it, by the reason's name",
        "no writer makes such a header, and two readers need not see the same in it",
        (
            "instar refuses: the file ends within the header*",
            "instar refuses: the header length *",
            "instar refuses: the backing file name, * is too long or not in the header cluster*",
        ),
    ),
    Divergence(
        "tables_outside_the_file",
        "lists snapshots and bitmaps that are not in the file, as if it went on with zeros",
        "lists those that are there, and says that their table is not",
        "what is not in the file is not in the image",
        ("/snapshots*", "more: snapshots", "/format-specific/data/bitmaps*"),
        ("snapshot_table", "bitmaps"),
    ),
    Divergence(
        "long_lists_are_cut",
        "lists all snapshots, of which there can be 65536",
        "lists the first 384 KiB of them, and says so (`cut`)",
        "what the guest may say is bounded",
        ("/snapshots: cut off",),
    ),
    Divergence(
        "data_file_not_measured",
        "counts the blocks of an external data file too, in some versions",
        "counts those of the image",
        "no file that an image names is looked at",
        ("/actual-size, data file:*",),
    ),
    Divergence(
        "info_follows_no_table",
        "refuses an image with a bitmap whose table names what cannot be",
        "describes it; `instar check` follows tables",
        "info reads what stands at the start of an image, whatever the size of the rest",
        (
            "qemu-img refuses (Could not read bitmap_table table from image for bitmap *), "
            "and instar sees no problem",
        ),
    ),
    Divergence(
        "names_as_bytes",
        "replaces bytes of names that are not UTF-8 by U+FFFD",
        "keeps them, as surrogate escapes (PEP 383)",
        "a name must lead to the file that it names",
        ("*\ufffd*",),
    ),
    Divergence(
        "formats_not_looked_into",
        "opens images of other formats than qcow2, and the files that a VMDK names",
        "tells which format it is, and what the file takes on its file system",
        "each format would be one more parser of hostile bytes",
        (
            *(f"{form}/{key}: * is left out" for form in OTHERS for key in LEFT_OUT),
            *("vmdk/children: *", "vmdk/actual-size: *"),
        ),
    ),
    Divergence(
        "formats_that_no_probe_sees",
        "takes for raw: a fixed VHD, LUKS 2, a DMG whose name does not end so",
        "tells them by their signatures, wherever those are",
        "whoever names the format opens them as that",
        tuple(f"{form}/format: 'raw', not '{form}'" for form in ("vpc", "luks", "dmg")),
    ),
)


CHECK = (
    Divergence(
        "overlaps_are_corruptions",
        "takes an image for sound whose structures lie in one cluster, if its refcount counts both",
        "names each such cluster (`overlaps`), and ends with status 2",
        "whatever is written to the one changes the other",
        ("status: 0, not 2", "status: 3, not 2"),
        ("overlap",),
    ),
    Divergence(
        "check_needs_sound_tables",
        "counts a table of the header that is out of place as one error, and goes on without it",
        "refuses the image, by the reason's name, with status 1",
        "what remains could be checked, but says nothing of the image",
        ("instar refuses: the *", "instar refuses: snapshot *"),
        ("refcount_table", "l1_table", "snapshot_table", "snapshot_extra_data", "bitmaps"),
    ),
    Divergence(
        "header_must_be_whole",
        "reads a header that is cut off, or in which a name lies over fields, as it comes",
        "refuses it, by the reason's name",
        "no writer makes such a header, and two readers need not see the same in it",
        ("instar refuses: the *",),
        ("truncated_header", "header_length", "backing_file"),
    ),
    Divergence(
        "header_is_bounded",
        "takes header extensions anywhere in the header cluster",
        "refuses those that reach beyond 64 KiB (`header_too_large`)",
        "memory is bounded; no program writes such headers",
        ("instar refuses: the header's extensions or names reach to byte *",),
        ("header_too_large",),
    ),
    Divergence(
        "check_goes_on",
        "gives up where it cannot read a table that lies beyond all files",
        "names the table, checks the rest, and ends with status 2",
        "the rest of the image can be checked",
        ("qemu-img refuses: Check failed: *",),
        ("region_outside",),
    ),
    Divergence(
        "check_is_bounded",
        "follows tables for as long as it takes, which can be hours",
        "refuses an image that asks for more work than what it stores explains (`work_limit`)",
        "a verdict must come in bounded time",
        ("instar refuses: following the image's tables takes more work*",),
    ),
    Divergence(
        "check_needs_nothing_else",
        "opens the backing file and the data file, and needs the key of an encrypted image",
        "needs none of them",
        "refcounts are about none of them",
        (
            "qemu-img refuses: *: No such file or directory",
            "qemu-img refuses: Parameter 'encrypt.key-secret' is required*",
            "qemu-img refuses: *backing*",
            "qemu-img refuses: 'data-file' is required for this image*",
        ),
    ),
    Divergence(
        "bitmaps_are_counted",
        "refuses to open an image with a bitmap that cannot be, or gives up its check",
        "counts what its table names, says what is wrong with it, and ends with status 2",
        "the rest of the image can be checked",
        (
            "qemu-img refuses: Bitmap '*' doesn't satisfy the constraints",
            "qemu-img refuses: Bitmap already exists: *",
            "qemu-img refuses: Could not read bitmap '*' from image: Invalid argument",
            "qemu-img refuses: Could not read bitmap_table table from image for bitmap *",
            "qemu-img refuses: Check failed: Invalid argument",
        ),
        ("bitmap", "bitmap_table", "bitmap_name", "bitmap_entry"),
    ),
)

REPAIR = (
    Divergence(
        "repair_refuses_to_guess",
        "drops or keeps what cannot be, and frees what unknown extensions name",
        "refuses such a repair by name, and touches nothing",
        "each would lose something that somebody may want back",
        (),
    ),
    Divergence(
        "repair_of_leaks_leaves_the_rest",
        "`-r leaks` fails where a refcount is 0 that must not be",
        "lets the leaks go, and ends with status 2 for what is left",
        "to let go of a leak is safe, whatever else is wrong",
        (),
    ),
    Divergence(
        "repair_counts_flags",
        "counts a flag as fixed if it contradicts the refcount that was mended first",
        "counts each flag that contradicted the refcount as it was",
        "`corruptions-fixed` is by how much the number of errors fell",
        (),
    ),
    Divergence(
        "repair_leaves_snapshots",
        "completes the entries of snapshots that version 3 wants longer",
        "leaves them as they are, and ends with status 2 for them",
        "nothing is lost by it; `-o compat=1.1` completes those of version 2",
        (),
    ),
    Divergence(
        "repair_keeps_snapshots",
        "writes a header without snapshots into an image that has bitmaps too, and frees them",
        "keeps them",
        "no repair may lose what was not damaged",
        (),
    ),
)
"""What tests/repair shows; no finding of a look is one of these."""


def explain(
    finding: str, problems: tuple[str, ...], registry: tuple[Divergence, ...] = INFO
) -> str | None:
    """The divergence that a finding is, by its name; None for a defect."""
    for one in registry:
        shown = any(fnmatch(finding, pattern.replace("[", "[[]")) for pattern in one.symptoms)
        if shown and (not one.problems or {*one.problems} & {*problems}):
            return one.name
    return None


def table(registry: tuple[Divergence, ...] = INFO) -> str:
    """The registry as a table in Markdown."""
    rows = [f"| `{one.name}` | {one.qemu} | {one.instar} | {one.why} |" for one in registry]
    return "\n".join(["| name | qemu-img | instar | why |", "|---|---|---|---|", *rows])


if __name__ == "__main__":
    print(table(), table(CHECK), table(REPAIR), sep="\n\n")
