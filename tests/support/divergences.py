"""The registry of deliberate divergences from qemu-img, and the only one. Test side.

A test that finds a difference from qemu-img looks it up here by its name; what is not here is a
defect. The table in docs/amend.md is made of it: `python -m tests.support.divergences` prints that.
"""

from __future__ import annotations

from dataclasses import dataclass

ALL = "all"


@dataclass(frozen=True)
class Divergence:
    """One way in which instar differs from qemu-img, on purpose."""

    name: str
    qemu: str
    """What qemu-img does."""
    instar: str
    """What instar does."""
    why: str
    versions: str = ALL
    """Which versions of qemu-img it was observed in, of those that the tests run."""
    symptoms: tuple[str, ...] = ()
    """What the differential fuzzer sees of it, see tests/support/judge.py; with wildcards."""

    def is_in(self, version: tuple[int, ...]) -> bool:
        """Whether a version of qemu-img differs so."""
        first, _, rest = self.versions.partition(" and ")
        if first == ALL:
            return True
        limit = tuple(map(int, first.split(".")))
        return version[: len(limit)] == limit or (rest == "later" and version > limit)


DIVERGENCES = (
    Divergence(
        "no_op_writes_nothing",
        "rewrites the header whatever is requested: it adds its own feature names, reverses "
        "unknown extensions, clears unknown autoclear bits and all unused bytes",
        "leaves an image that is already as requested untouched, its bytes and its modification "
        "time",
        "a request that is already met is no reason to write",
        symptoms=("qemu writes: noop",),
    ),
    Divergence(
        "refusal_leaves_nothing",
        "may have written something before it refuses: the steps done so far, or the corrupt bit",
        "has written nothing when it refuses",
        "a refusal must not change an image",
        symptoms=("qemu writes: refused",),
    ),
    Divergence(
        "dirty_refused",
        "repairs a dirty image as it opens it, then goes on",
        "refuses (`dirty`) unless `--repair` is given",
        "a repair rewrites refcounts; the user should ask for it",
        symptoms=("instar refuses: dirty",),
    ),
    Divergence(
        "backing_file_not_opened",
        "opens the backing file, and refuses if it is missing, locked or of an unknown format",
        "never opens the backing file",
        "a name in an image that is not trusted must not decide which files are opened",
        symptoms=("qemu refuses: *backing file*",),
    ),
    Divergence(
        "data_file_not_opened",
        "opens the external data file, and refuses if it is missing",
        "never opens the external data file",
        "a name in an image that is not trusted must not decide which files are opened",
        symptoms=(
            "qemu refuses: Could not open '*': No such file or directory",
            "qemu refuses: 'data-file' is required for this image",
        ),
    ),
    Divergence(
        "no_secret_needed",
        "refuses to open an encrypted image without its secret",
        "needs none, except to change keyslots",
        "nothing else touches encrypted bytes",
        symptoms=("qemu refuses: *'encrypt.key-secret'*",),
    ),
    Divergence(
        "backing_file_confirmed",
        "changes the backing file by `backing_file` and `backing_fmt`, and warns",
        "takes them for a confirmation, as later versions do; changes it with `--change-backing`",
        "what a disk reads must not change by a request that later versions take for a question",
        versions="5.2",
        symptoms=("instar refuses: backing_change",),
    ),
    Divergence(
        "backing_file_needs_format",
        "accepts a backing file without a format, and warns",
        "refuses, as later versions do",
        "a guest can write a header into a raw disk, and name any file of the host in it",
        versions="5.2",
    ),
    Divergence(
        "backing_format_is_a_format",
        "accepts the name of a protocol, such as `file`, as a backing file's format",
        "accepts the formats of images",
        "no program that opens the image by its format could read it",
    ),
    Divergence(
        "backing_itself_refused",
        "makes an image its own backing file, which it then opens again and again",
        "refuses (`backing_itself`)",
        "the image would be of no use",
    ),
    Divergence(
        "rebase_needs_a_name",
        "removes the backing file if `rebase -u` is given no `-b`",
        "asks for `-b`, which may be empty",
        "a forgotten flag must not change what a disk reads",
    ),
    Divergence(
        "rebase_is_not_shared",
        "writes to an image that another program uses, if `rebase -u` is given `-U`",
        "refuses `-U`",
        "two programs that write to an image destroy it",
    ),
    Divergence(
        "help_needs_no_file",
        "wants a file name for `-o help` where no `-f` says the format",
        "lists the options",
        "there is one format",
    ),
    Divergence(
        "names_are_paths",
        "takes what stands before a colon in `FILENAME` for a protocol: `file:`, `nbd:`, `json:`",
        "takes every `FILENAME` for a path as it stands",
        "a name from a list must not lead to a server or to another file",
    ),
    Divergence(
        "key_alone_is_no_name",
        "takes `-o data_file` and `-o backing_file` for the name `on`",
        "asks for a value",
        "nobody means that name",
        symptoms=("instar refuses: UsageError",),
    ),
    Divergence(
        "lazy_on_with_downgrade",
        "accepts `compat=0.10,lazy_refcounts=on` where lazy refcounts are on, and drops them",
        "refuses (`lazy_needs_v3`), whatever the image says",
        "an explicit request cannot be met",
        symptoms=("instar refuses: lazy_needs_v3",),
    ),
    Divergence(
        "present_size_is_a_no_op",
        "refuses `size` for a version 2 image with snapshots, even if it is the present one",
        "has nothing to do",
        "a script can ask for the same twice",
        symptoms=("qemu refuses: Can't resize a v2 image which has snapshots",),
    ),
    Divergence(
        "backing_file_may_be_longer",
        "looks at the backing file, and lets a version 2 image grow if that is not longer",
        "refuses (`grow_over_backing_v2`), unless `--backing-size` says how long it is",
        "no file that an image names is opened",
        symptoms=("instar refuses: grow_over_backing_v2", "instar refuses: grow_head_over_backing"),
    ),
    Divergence(
        "earlier_steps_stay",
        "keeps what it has done by then when it refuses a later one of several options",
        "plans all steps before it writes, and leaves the image as it was",
        "a refusal must not change the image",
    ),
    Divergence(
        "shared_zero_clusters",
        "zeroes the host cluster of a zero cluster in place, even if a snapshot shares it: the "
        "snapshot's data is gone, and its count does not fit the flag",
        "gives the zero cluster another host cluster, or none",
        "the data of a snapshot would be lost",
        symptoms=("contents: active", "contents: snapshot", "check: corruptions"),
    ),
    Divergence(
        "encrypted_zero_clusters",
        "zeroes host clusters of an encrypted image without encrypting the zeros, so that the "
        "guest reads noise",
        "leaves the zero clusters unallocated, or refuses where there is a backing file "
        "(`downgrade_encrypted_zeroes`)",
        "the guest must read zeros, and there is no key to encrypt them with",
        symptoms=(
            "contents: active",
            "contents: snapshot",
            "instar refuses: downgrade_encrypted_zeroes",
        ),
    ),
    Divergence(
        "bitmaps_block",
        "leaves the bitmaps in the file, where version 2 cannot say whether they are valid, and "
        "the next program that writes drops them and leaks their clusters",
        "refuses (`downgrade_bitmaps`), or with `--drop-bitmaps` frees the clusters",
        "bitmaps would be lost without a word",
        symptoms=("instar refuses: downgrade_bitmaps", "check: leaks"),
    ),
    Divergence(
        "zstd_in_snapshots_blocks",
        "looks for zstd-compressed clusters in the active disk only; those of a snapshot cannot be "
        "read afterwards",
        "refuses (`downgrade_compressed_clusters`)",
        "the data of a snapshot would be lost",
        "7.2 and later",
        symptoms=("instar refuses: downgrade_compressed_clusters",),
    ),
    Divergence(
        "empty_snapshot_l1",
        "fails on a snapshot that has no L1 table, such as one of an image of size 0 (`Cannot "
        "allocate memory`, or a crash)",
        "downgrades",
        "nothing is wrong with the image",
        symptoms=(
            "qemu crashes",
            "qemu refuses: *Cannot allocate memory",
        ),
    ),
    Divergence(
        "unknown_header_fields_dropped",
        "writes unknown header fields where version 2 has its extensions: the image cannot be "
        "opened any more, or has lost its backing format",
        "drops them in a downgrade",
        "the image must stay readable",
        symptoms=(
            "qemu breaks: *",
            "info: backing-filename-format",
        ),
    ),
    Divergence(
        "feature_names_not_added",
        "adds its feature name table to version 3 where clusters are over 4 KiB, and refuses where "
        "that does not fit; puts its own in the place of another",
        "adds none, and drops it when it changes the version",
        "they only serve error messages, and the space is worth more",
        symptoms=("qemu refuses: Failed to update the image header: No space left on device",),
    ),
    Divergence(
        "extension_order_kept",
        "sorts the extensions, and reverses the unknown ones",
        "keeps the order",
        "the order means nothing, and what need not change does not",
    ),
    Divergence(
        "strings_kept",
        "cuts the backing file's name and format at a zero byte, and drops all but the last of "
        "several formats",
        "keeps them byte for byte; they read the same",
        "the backing file is not instar's to change",
        symptoms=("info: backing-filename-format",),
    ),
    Divergence(
        "virtual_size_kept",
        "rounds a virtual size down to a multiple of 512",
        "keeps it; it reads the same",
        "the size was not asked to change",
        symptoms=(
            "info: virtual-size",
            "contents: active",
        ),
    ),
    Divergence(
        "data_file_extension_kept",
        "drops a data file's name where the image has no data file",
        "keeps it; nobody reads it",
        "an extension that is ignored is harmless",
        symptoms=("info: *data-file",),
    ),
    Divergence(
        "stale_bitmaps_kept",
        "drops the bitmaps extension where its autoclear bit is unset, and leaks the clusters",
        "keeps it in version 3 and in an upgrade; it stays invalid",
        "`qemu-img check -r` needs it to tell what is leaked",
    ),
    Divergence(
        "bitmap_directory_not_read",
        "reads all bitmaps, and refuses if one is damaged",
        "follows bitmaps only where a downgrade or a change of `size` names or drops them, where "
        "a repair counts references, and where clusters that change could be theirs",
        "nothing else touches bitmaps",
        symptoms=(
            "qemu refuses: *Bitmap *",
            "qemu refuses: *bitmap*",
        ),
    ),
    Divergence(
        "refcounts_not_read",
        "refuses a downgrade if it cannot read the reference counts",
        "looks at reference counts only if clusters are to be taken or given up, and at that of "
        "the header's cluster if the version changes",
        "nothing else touches them",
    ),
    Divergence(
        "file_must_be_whole",
        "takes a header that the file's end cuts short, and tables past the end, which read as "
        "zeros, or in the header cluster",
        "refuses (`truncated_header`, `refcount_table`, `l1_table`, `l2_table`, `snapshot_table`)",
        "the file is truncated or damaged, and should be looked at first",
    ),
    Divergence(
        "header_length_unaligned",
        "takes a header length that is no multiple of 8 if what it reads there makes sense",
        "refuses (`header_length`)",
        "the specification forbids it",
    ),
    Divergence(
        "backing_name_in_header",
        "takes a backing file name that lies within the header fields",
        "refuses (`backing_file`)",
        "the header is damaged, and the new fields would overwrite the name",
    ),
    Divergence(
        "header_limit",
        "takes header extensions, and a backing file name to be replaced, anywhere in the header "
        "cluster",
        "refuses if they reach beyond 64 KiB (`header_too_large`)",
        "memory is bounded; no program writes such headers",
        symptoms=("instar refuses: header_too_large",),
    ),
    Divergence(
        "no_zstd_in_5_2",
        "was built without zstd, and cannot open such an image",
        "amends it",
        "no compressed cluster is touched",
        "5.2",
        symptoms=("qemu refuses: *unknown compression type: 1",),
    ),
    Divergence(
        "negative_size",
        "takes a virtual size so close to 2^64 that it wraps when it is rounded up",
        "refuses (`virtual_size`)",
        "no disk is that large; later versions refuse too",
        "5.2",
    ),
    Divergence(
        "failed_flush_is_an_error",
        "exits with 0 if the last flush fails, as it closes the image",
        "fails, and says that the image may be amended or not",
        "the caller must know that the outcome is uncertain",
    ),
    Divergence(
        "work_is_bounded",
        "works on a downgrade as long as it takes, over thousands of snapshots or L2 tables",
        "refuses (`work_limit`, `change_limit`)",
        "a hostile image must not occupy the host",
    ),
    Divergence(
        "metadata_kept",
        "releases, fills or overwrites clusters with the image's own tables, the LUKS header or "
        "compressed data in them, where its refcounts are wrong or count both users",
        "refuses (`overlap`, `refcount`, `l2_entry`)",
        "the image would be destroyed; it can be repaired first, or copied",
    ),
    Divergence(
        "zeroes_inside",
        "fills a zero cluster with zeros wherever its host cluster is: past the end the file "
        "grows to reach it, and cluster 0 counts as none",
        "refuses one past the end of the file (`l2_entry`)",
        "the image is damaged, and a file must not grow by more than was allowed",
        symptoms=("instar refuses: l2_entry",),
    ),
    Divergence(
        "zero_cluster_given_up",
        "refuses to fill a zero cluster that lies in the image's own tables, and marks the image "
        "corrupt",
        "gives the cluster up where its refcount says that it has other users",
        "the tables stay what they are",
    ),
    Divergence(
        "header_never_free",
        "refuses to take a new cluster where the refcount of the header's cluster is 0, and marks "
        "the image corrupt",
        "never takes the header's cluster",
        "the others are free all the same",
    ),
    Divergence(
        "reserved_refcount_bits",
        "ignores the reserved bits in an entry of the refcount table",
        "refuses a downgrade that needs the entry (`refcount_table`)",
        "the specification requires them to be 0: the table is damaged",
    ),
    Divergence(
        "growth_limited",
        "lets the file grow by as much as zero clusters over a backing file take",
        "refuses more than 1 GiB, or than `--max-growth` says (`growth`)",
        "a small image must not fill the host's disk",
        symptoms=("instar refuses: growth",),
    ),
    Divergence(
        "hidden_data_stays_hidden",
        "grows a disk by its size alone: what an earlier shrink left past its end shows again",
        "drops what hides past the end, and makes the rest of the last cluster zeros",
        "a disk that has grown must not show what it held before",
        symptoms=("contents: active",),
    ),
    Divergence(
        "hidden_clusters_released",
        "leaks what an earlier shrink left past the disk's end when it makes the disk smaller "
        "still",
        "frees it with the rest",
        "nothing would ever show or free these clusters again",
        symptoms=("check: leaks",),
    ),
    Divergence(
        "shrink_wants_asking",
        "shrinks a disk by `amend -o size` without asking",
        "refuses without `--shrink` (`shrink_not_allowed`), as `qemu-img resize` does",
        "a typing error must not lose data",
        symptoms=("instar refuses: shrink_not_allowed",),
    ),
    Divergence(
        "data_file_not_resized",
        "truncates or extends the data file that the image names",
        "refuses (`size_data_file`)",
        "a name in an image that is not trusted must not decide which files are truncated",
        symptoms=("instar refuses: size_data_file",),
    ),
    Divergence(
        "bitmaps_not_resized",
        "makes the tables of bitmaps longer or shorter, and clears bits after the disk's end",
        "refuses (`size_bitmaps`), unless the disk grows and the tables need not become longer",
        "nobody has asked for it yet; bitmaps are made anew with the next full backup",
        symptoms=("instar refuses: size_bitmaps",),
    ),
    Divergence(
        "bitmaps_bit_alone",
        "may take a table for one that lies over the bitmaps' directory, and mark the image "
        "corrupt, if the autoclear bit says that there are bitmaps and there are none",
        "amends the image",
        "there is no such directory",
        symptoms=("qemu refuses: *Input/output error",),
    ),
    Divergence(
        "snapshot_size_unknown",
        "resizes an image of version 3 with a snapshot that does not say how large its disk is, "
        "and then takes it to have the new size",
        "refuses (`resize_snapshot_size`)",
        "a snapshot must not be cut or extended by a change of the disk",
        symptoms=("instar refuses: resize_snapshot_size",),
    ),
    Divergence(
        "compressed_tail_grows",
        "refuses to let a disk grow that ends within a compressed cluster, if the image has "
        "extended L2 entries and a longer backing file",
        "lets it grow and warns that what the cluster has past the old end now shows",
        "that is what qemu-img does too where there is no such backing file",
        symptoms=("qemu refuses: Failed to zero out new clusters: Operation not supported",),
    ),
)

_BY_NAME = {divergence.name: divergence for divergence in DIVERGENCES}


def diverges(name: str) -> Divergence:
    """Look up the divergence that a test has found. AssertionError if it is not deliberate."""
    assert name in _BY_NAME, f"{name} is in no registry: a defect"
    return _BY_NAME[name]


def table() -> list[str]:
    """The lines of the table in docs/amend.md."""
    rows = (
        (f"`{entry.name}`", entry.qemu, entry.instar, entry.why, entry.versions)
        for entry in DIVERGENCES
    )
    return [
        "| name | qemu-img | instar | why | versions |",
        "|---|---|---|---|---|",
        *(f"| {' | '.join(row)} |" for row in rows),
    ]


if __name__ == "__main__":
    print("\n".join(table()))
