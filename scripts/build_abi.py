"""Build time: turns abi/instar_abi.h into instar.abi, the host's plain Python view of the contract.

The generated module holds, for each `#define NAME literal`, NAME; and for each `struct Name`:

* Name_SIZE, in bytes;
* Name_FORMAT, for the struct module, little-endian and without padding;
* Name_FIELDS, a name for each value that unpacking yields. A byte array is one value; an array of
  wider integers is one value for each element, named field_0, field_1 and so on.

It imports nothing and annotates nothing, so that the command pays for nothing: C is parsed here,
never at run time.
"""

from __future__ import annotations

import argparse
import re
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cffi import FFI

ROOT = Path(__file__).resolve().parent.parent
HEADER = ROOT / "abi" / "instar_abi.h"
EDITABLE_MODULE = ROOT / ".editable" / "instar" / "abi" / "__init__.py"

_DEFINE = re.compile(r"#\s*define\s+(\w+)\s+(\S.*)")
_LITERAL = re.compile(r"(0[xX][0-9a-fA-F]+|0|[1-9][0-9]*)[uUlL]*")
_FORMAT_CODES = {"uint8_t": "B", "uint16_t": "H", "uint32_t": "I", "uint64_t": "Q"}


class HeaderError(Exception):
    """The header says something that has no place in the contract."""


@dataclass(frozen=True)
class Struct:
    """One struct of the contract."""

    name: str
    size: int
    format: str
    fields: tuple[str, ...]


@dataclass(frozen=True)
class Abi:
    """All that the header says."""

    constants: dict[str, str]
    """Each constant's literal, as it is written in the header but for a C suffix."""
    structs: tuple[Struct, ...]


def cdef_source(text: str) -> str:
    """A C header as cffi's cdef takes it: no comments, conditionals, includes or assertions.

    Args:
        text: a header whose conditionals are its include guard only.

    Returns:
        The declarations and the `#define`s that have a value.
    """
    text = re.sub(r"/\*.*?\*/|//[^\n]*", " ", text, flags=re.DOTALL)
    text = re.sub(r"_Static_assert\s*\(.*?\)\s*;", "", text, flags=re.DOTALL)
    kept = []
    for line in text.splitlines():
        if not line.lstrip().startswith("#"):
            kept.append(line)
        elif definition := _DEFINE.match(line.strip()):
            name, value = definition.groups()
            literal = _LITERAL.fullmatch(value.strip())
            if literal is None:
                raise HeaderError(f"{name} is not an integer literal: {value.strip()}")
            kept.append(f"#define {name} {literal[1]}")
    return "\n".join(line.rstrip() for line in kept if line.strip()) + "\n"


def read_header(header: Path = HEADER) -> Abi:
    """Parse the contract.

    Raises:
        HeaderError: if it holds anything but integer literals and structs of unsigned fixed-width
            fields without padding.
    """
    source = cdef_source(header.read_text(encoding="ascii"))
    constants = dict(re.findall(r"^#define (\w+) (\w+)$", source, flags=re.MULTILINE))
    names = re.findall(r"^\s*struct\s+(\w+)\s*\{", source, flags=re.MULTILINE)
    ffi = FFI()
    ffi.cdef(source)
    return Abi(constants, tuple(_read_struct(ffi, name) for name in names))


def _read_struct(ffi: Any, name: str) -> Struct:
    codes: list[str] = []
    fields: list[str] = []
    for field, declared in ffi.typeof(f"struct {name}").fields:
        if declared.offset != struct.calcsize("<" + "".join(codes)) or declared.bitsize != -1:
            raise HeaderError(f"padding or a bit field at {name}.{field}")
        code, names = _read_field(f"{name}.{field}", field, declared.type)
        codes.append(code)
        fields.extend(names)
    form = "<" + "".join(codes)
    size = ffi.sizeof(f"struct {name}")
    if struct.calcsize(form) != size:
        raise HeaderError(f"padding at the end of {name}")
    return Struct(name, size, form, tuple(fields))


def _read_field(where: str, field: str, declared: Any) -> tuple[str, list[str]]:
    count = declared.length if declared.kind == "array" else None
    element = declared.cname if count is None else declared.item.cname
    code = _FORMAT_CODES.get(element)
    if code is None:
        raise HeaderError(f"{where} is no unsigned fixed-width integer: {declared.cname}")
    if count is None:
        return code, [field]
    if code == "B":
        return f"{count}s", [field]
    return f"{count}{code}", [f"{field}_{index}" for index in range(count)]


def render(abi: Abi) -> str:
    """The source text of the module instar.abi."""
    lines = [
        '"""Host side: the contract\'s numbers. Generated from abi/instar_abi.h; do not edit."""',
        "",
        *(f"{name} = {literal}" for name, literal in abi.constants.items()),
    ]
    for declared in abi.structs:
        lines += [
            "",
            f"{declared.name}_SIZE = {declared.size}",
            f'{declared.name}_FORMAT = "{declared.format}"',
            f"{declared.name}_FIELDS = (",
            *(f'    "{field}",' for field in declared.fields),
            ")",
        ]
    return "\n".join(lines) + "\n"


def write_module(module: Path) -> Path:
    """Generate instar.abi as the file `module`, and return it."""
    module.parent.mkdir(parents=True, exist_ok=True)
    text = render(read_header())
    if not module.exists() or module.read_text(encoding="ascii") != text:
        module.write_text(text, encoding="ascii")
    return module


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Write instar.abi as a module.")
    parser.add_argument("module", nargs="?", type=Path, default=EDITABLE_MODULE)
    print(write_module(parser.parse_args().module))
