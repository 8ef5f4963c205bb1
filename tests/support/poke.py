"""Edits the header cluster of an image in a file, right or wrong. Test side of the trust boundary.

The edits are words, as the cases of the oracle tests write them:

    set FIELD N             a header field becomes N
    or FIELD N              bits are set in a header field
    bytes OFFSET HEX        bytes of the file, anywhere
    ext TYPE TEXT           one more header extension behind the others
    extfill TYPE N          likewise, with N bytes
    delext TYPE             the extensions of this type go
    names TYPE BIT NAME     the feature name table becomes this one entry
    hdr104                  the shortest header that version 3 allows
    grow N BYTE             the header becomes N bytes longer, filled with BYTE
    backing NAME            a backing file name behind the extensions; with `\\0` for a zero byte
    backing-at-end NAME     likewise, at the end of the cluster
    snapshot-extra N        every snapshot table entry gets N bytes of extra data
    snapshot N FIELD VALUE  a field of a snapshot's entry or extra data
    repeat-l1               every L1 entry names the L2 table that the first one names
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.support.forge import Extension, layout, parse_extensions, parse_header, parse_snapshots
from tests.support.forge.extensions import END

_EXTRA_FIELDS = {"large_vm_state_size": 40, "disk_size": 48}
"""Where a snapshot's extra data begin to say what 32 bits cannot."""
_ENTRY_FIELDS = {"l1_table_offset": (0, 8), "l1_size": (8, 4), "extra_data_size": (36, 4)}


def poke(path: Path, *words: str) -> None:
    """Carry out one edit."""
    verb, *arguments = words
    data = bytearray(path.read_bytes())
    if verb == "bytes":
        offset, patch = int(arguments[0], 0), bytes.fromhex(arguments[1])
        data[offset : offset + len(patch)] = patch
    elif verb == "snapshot-extra":
        data = _resize_extra_data(data, int(arguments[0], 0))
    elif verb == "repeat-l1":
        header = parse_header(bytes(data))
        start, size = header.l1_table_offset, 8 * header.l1_size
        data[start : start + size] = data[start : start + 8] * header.l1_size
    elif verb in ("set", "or"):
        _set_field(data, verb, arguments[0], int(arguments[1], 0))
    elif verb == "snapshot":
        _set_snapshot_field(data, int(arguments[0]), arguments[1], int(arguments[2], 0))
    else:
        cluster = _Header(bytes(data))
        cluster.edit(verb, arguments)
        packed = cluster.pack()
        data[: len(packed)] = packed
    path.write_bytes(data)


class _Header:
    """The parts of a header cluster; what is written is what they say, in this order."""

    def __init__(self, data: bytes) -> None:
        self.fields: dict[str, Any] = dict(parse_header(data))
        self.extensions = parse_extensions(data)
        self.unknown = bytes(self.fields.get("unknown_header_fields", b""))
        start, size = self.fields["backing_file_offset"], self.fields["backing_file_size"]
        self.name = data[start : start + size] if start else None
        self.at_end = False

    def edit(self, verb: str, arguments: list[str]) -> None:
        number = int(arguments[0], 16) if verb in ("ext", "extfill", "delext") else 0
        if verb == "ext":
            self.extensions.append(Extension(number, arguments[1].encode()))
        elif verb == "extfill":
            self.extensions.append(Extension(number, b"x" * int(arguments[1])))
        elif verb == "delext":
            self.extensions = [e for e in self.extensions if e.type != number]
        elif verb == "names":
            self._name_feature(int(arguments[0]), int(arguments[1]), arguments[2])
        elif verb == "hdr104":
            self.fields["header_length"], self.unknown = layout.HEADER_V3_LENGTH, b""
        elif verb == "grow":
            self.unknown = bytes([int(arguments[1], 0)]) * int(arguments[0])
            self.fields["header_length"] = layout.HEADER_LENGTH + len(self.unknown)
        elif verb in ("backing", "backing-at-end"):
            self.name = arguments[0].replace("\\0", "\0").encode()
            self.at_end = verb == "backing-at-end"
        else:
            raise ValueError(f"no such edit: {verb}")

    def _name_feature(self, kind: int, bit: int, name: str) -> None:
        table = layout.FeatureNameTable.build([{"type": kind, "bit": bit, "name": name.encode()}])
        number = layout.EXTENSION_FEATURE_NAME_TABLE
        self.extensions = [e for e in self.extensions if e.type != number]
        self.extensions.append(Extension(number, bytes(table)))

    def pack(self) -> bytes:
        cluster_size = 1 << self.fields["cluster_bits"]
        fixed = layout.HEADER_V2_LENGTH
        fixed = fixed if self.fields["version"] == 2 else self.fields["header_length"]
        area = b"".join(extension.pack() for extension in [*self.extensions, END])
        end = fixed + len(area)
        if self.name is not None:
            at = cluster_size - len(self.name) if self.at_end else end
            self.fields.update(backing_file_offset=at, backing_file_size=len(self.name))
            area = area.ljust(at - fixed, b"\0") + self.name
        raw = bytes(layout.HeaderV2.build(self.fields))
        if self.fields["version"] > 2:
            raw += bytes(layout.HeaderV3.build(self.fields))
            raw += bytes(layout.AdditionalFields.build(self.fields)) + self.unknown
        packed = raw[:fixed] + area
        if len(packed) > cluster_size:
            raise ValueError(f"the header takes {len(packed)} bytes of {cluster_size}")
        return packed.ljust(cluster_size, b"\0")


def _set_field(data: bytearray, verb: str, name: str, value: int) -> None:
    fields = dict(parse_header(bytes(data)))
    fields[name] = fields[name] | value if verb == "or" else value
    raw = bytes(layout.HeaderV2.build(fields))
    if "header_length" in fields:
        raw += bytes(layout.HeaderV3.build(fields))
    data[: len(raw)] = raw


def _resize_extra_data(data: bytearray, size: int) -> bytearray:
    """Write the snapshot table anew where it is, which must be at the end of the file."""
    offset = parse_header(bytes(data)).snapshots_offset
    table = b""
    for entry in parse_snapshots(bytes(data)):
        extra = bytes(layout.SnapshotExtraData.build(entry.extra_data))
        entry.extra_data = extra.ljust(size, b"\0")[:size]
        table += bytes(layout.SnapshotTableEntry.build(entry))
    cluster_size = 1 << parse_header(bytes(data)).cluster_bits
    assert len(table) <= cluster_size
    length = max(len(data), offset + len(table))
    data = data.ljust(length, b"\0")
    end = min(offset + cluster_size, len(data))
    data[offset:end] = table.ljust(end - offset, b"\0")
    return data


def _set_snapshot_field(data: bytearray, number: int, field: str, value: int) -> None:
    at = int(parse_header(bytes(data)).snapshots_offset)
    entries = parse_snapshots(bytes(data))
    assert number < len(entries)
    for entry in entries[:number]:
        extra = len(layout.SnapshotExtraData.build(entry.extra_data))
        at += 40 + extra + len(entry.id) + len(entry.name)
        at += -at % 8
    if field in _EXTRA_FIELDS:
        start, width = at + _EXTRA_FIELDS[field], 8
    else:
        start, width = at + _ENTRY_FIELDS[field][0], _ENTRY_FIELDS[field][1]
    data[start : start + width] = value.to_bytes(width, "big")
