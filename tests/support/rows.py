"""What qemu-img makes of an image and a request, and what instar does, a row each. Test side.

A row is

    NAME: OPTIONS
        RECIPE
        => QEMU | INSTAR | DIVERGENCE

OPTIONS are those of amend, behind "-f FORMAT" where that matters. RECIPE makes the image, see
recipe.py; its steps are separated by semicolons. QEMU is "changed", "unchanged", "refused" or
"refused, changed", on all versions, and behind a slash what 5.2 says instead. INSTAR is "amended",
"noop" or the names of all reasons to refuse. Unless the two agree, DIVERGENCE is the name of an
entry in tests/support/divergences.py, and behind a slash that for 5.2; "-" stands for none.
"""

from __future__ import annotations

from dataclasses import dataclass

from tests.support import rows_header, rows_names, rows_own, rows_refusals, rows_tables
from tests.support.qemu import Qemu
from tests.support.verdicts import Request


@dataclass(frozen=True)
class Row:
    """One row; of a pair, the second is for versions before 6."""

    name: str
    request: Request
    recipe: str
    qemu: tuple[str, str]
    instar: str
    divergence: tuple[str, str]

    def qemu_verdict(self, qemu: Qemu) -> str:
        """What this version makes of it."""
        return self.qemu[is_old(qemu)]

    def divergence_from(self, qemu: Qemu) -> str:
        """The name of the divergence from this version; empty if there is none."""
        return self.divergence[is_old(qemu)]


def is_old(qemu: Qemu) -> bool:
    """Whether this version is one of those that the table lists apart."""
    return qemu.number < (6,)


def _pair(words: str) -> tuple[str, str]:
    first, slash, second = (part.strip().removeprefix("-") for part in words.partition("/"))
    return first, second if slash else first


def _parse(text: str) -> list[Row]:
    rows: list[Row] = []
    for block in _blocks(text):
        head, *body = block.splitlines()
        name, options = head.split(": ")
        recipe, verdict = " ".join(map(str.strip, body)).split("=> ")
        qemu, verdict, *divergence = (part.strip() for part in verdict.split("|"))
        rows.append(
            Row(
                name=name,
                request=Request.parse(options),
                recipe="\n".join(recipe.split(";")),
                qemu=_pair(qemu),
                instar=verdict,
                divergence=_pair(divergence[0] if divergence else ""),
            )
        )
    return rows


def _blocks(text: str) -> list[str]:
    """A row begins where a line is not indented."""
    blocks: list[str] = []
    for line in text.strip().splitlines():
        if line.startswith(" "):
            blocks[-1] += "\n" + line
        else:
            blocks.append(line)
    return blocks


RECORDED = [
    row
    for module in (rows_header, rows_tables, rows_own, rows_names)
    for row in _parse(module.TEXT)
]
REFUSALS = _parse(rows_refusals.TEXT)
