"""Host side: what kinds of options and permissions there are, and what their values are.

A value has three forms: as a keyword has it ("1.1", True), as the ABI has it (3, 1), and as it is
told ("1.1", True). Nothing here does any I/O.
"""

from __future__ import annotations

from instar.abi import (
    OPTION_BYTES_MAX,
    OPTION_KIND_BYTES,
    OPTION_KIND_FLAG,
    OPTION_KIND_NUMBER,
)

from ..base.errors import UsageError
from ..base.record import record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    Value = int | bytes
    Told = str | int | None

REPAIR_STEP, KEYS_STEP, HEADER_STEP, SIZE_STEP, DOWN_STEP = range(1, 6)
"""The steps of an amend, in order; each is planned, judged and committed by itself.

Options of one step are carried out together, by one run of the guest.
"""

FLAG, NUMBER, SIZE, TEXT, CHOICE = "flag", "number", "size", "text", "choice"
"""The kinds of values."""

BOOLEANS = {
    **dict.fromkeys(("on", "yes", "true", "y"), True),
    **dict.fromkeys(("off", "no", "false", "n"), False),
}
"""The spellings of a boolean; there are no others, and case matters."""

_TOLD_MAX = 1 << 16  # characters: an image may have longer text than can be asked for

_ABI_KINDS = {
    FLAG: OPTION_KIND_FLAG,
    NUMBER: OPTION_KIND_NUMBER,
    SIZE: OPTION_KIND_NUMBER,
    TEXT: OPTION_KIND_BYTES,
    CHOICE: OPTION_KIND_NUMBER,
}


def tell_text(text: bytes) -> str | None:
    """What a result says of text: bytes that are not UTF-8 are surrogate escapes; "" is None."""
    return text.decode("utf-8", "surrogateescape") or None


@record
class Option:
    """What an image has, and can be asked to have."""

    key: str
    """In -o lists, in the keywords of Python, and in results."""
    kind: str
    """FLAG, NUMBER, SIZE, TEXT or CHOICE."""
    abi_key: int
    """OPTION_* of the ABI."""
    help: str
    """What `-o help` says, in qemu-img's words."""
    meaning: str
    """What docs/amend.md says, as sentences."""
    keyword: str
    """What the docstrings say of the keyword: a phrase, without an end."""
    since: str
    """The release of instar that has it first."""
    choices: Mapping[str, int] = {}
    """Of a CHOICE: its spellings, and the number that each stands for; the first one is told."""
    least: int = 0
    """Of a NUMBER or SIZE: the least one."""
    most: int = (1 << 63) - 1
    """Of a NUMBER or SIZE: the greatest one."""
    multiple: int = 1
    """Of a NUMBER or SIZE: what it is a multiple of."""
    numbers: tuple[int, ...] = ()
    """Of a NUMBER: all that there are, ascending, if they are few."""
    may_lack: bool = False
    """Of a FLAG: whether there are images without it, of which None is told."""
    only: bool | None = None
    """Of a FLAG: the one value that can be asked for, if there is but one."""
    fault: str = ""
    """What is said of a wrong value, which stands at {}; "" for what is said of the kind."""
    fields: tuple[str, ...] = ()
    """Header fields of which one changes whenever the option does; none if there are no such."""
    writes_tables: bool = False
    """Whether a change may write more than the header, so that the file can grow."""
    moves_header: bool = False
    """Whether a change may write where the header's cluster may have something else."""
    step: int = HEADER_STEP
    """In which step it is carried out."""
    steps: Mapping[Value, int] = {}
    """The same of values for which it is another step."""
    joins: str = ""
    """The key of an option whose step it shares where both are asked for."""
    part: Value | None = None
    """The value of `parts_from` after which it may have to be carried out in a step of its own."""
    parts_from: str = ""
    """The key of an option that, with some images, cannot be carried out in the same step."""

    @property
    def abi_kind(self) -> int:
        """OPTION_KIND_* of the ABI."""
        return _ABI_KINDS[self.kind]

    @property
    def is_repeatable(self) -> bool:
        """Whether a wrong value is forgiven that another one of the same -o lists replaces."""
        return self.kind in (CHOICE, TEXT)

    def take(self, value: Any) -> Value:
        """The ABI's form of a keyword's value. UsageError if there is none."""
        if self.kind == CHOICE:
            self._demand(type(value) is str, f"is a str, such as {[*self.choices][-2]!r}", value)
            if value not in self.choices:
                raise UsageError(self.describe_fault(repr(value)))
            return self.choices[value]
        if self.kind == FLAG:
            self._demand(value in (True, False), "is None, True or False", value)
            if self.only not in (None, value):
                raise UsageError(self.describe_fault("'on'" if value else "'off'"))
            return bool(value)
        if self.kind == TEXT:
            return self._take_text(value)
        self._demand(type(value) is int, "is a number" + " of bytes" * (self.kind == SIZE), value)
        is_one = value in self.numbers if self.numbers else self.least <= value <= self.most
        if not is_one or value % self.multiple:
            raise UsageError(self.describe_fault(f"'{value}'"))
        return int(value)

    def _take_text(self, value: Any) -> bytes:
        self._demand(isinstance(value, str | bytes), "is a str or bytes", value)
        try:
            raw = value.encode("utf-8", "surrogateescape") if isinstance(value, str) else value
        except UnicodeEncodeError:
            raise UsageError(f"{self.key} has characters that no text can have") from None
        if 0 in raw:
            raise UsageError(f"{self.key} holds a NUL byte")
        if len(raw) > min(self.most, OPTION_BYTES_MAX):
            limit = min(self.most, OPTION_BYTES_MAX)
            raise UsageError(f"{self.key} has {len(raw)} bytes, and can have {limit}")
        return bytes(raw)

    def _demand(self, condition: bool, what: str, value: object) -> None:
        if not condition:
            raise UsageError(f"{self.key} {what}, not {value!r:.60}")

    def describe_fault(self, quoted: str) -> str:
        """Say that a value is wrong, which is given in quotes."""
        if self.fault:
            return self.fault.format(quoted)
        expected = {FLAG: "'on' or 'off'", SIZE: "a size such as 512M or 1.5G"}.get(self.kind)
        if self.kind == FLAG and self.only is not None:
            expected = "'on'" if self.only else "'off'"
        if self.kind == NUMBER:
            expected = f"a number from {self.least} to {self.most}"
        of = f", a multiple of {self.multiple}" if self.multiple > 1 else ""
        return f"Parameter '{self.key}' expects {expected}{of}, not {quoted}"

    def tell(self, value: Value | None) -> Told:
        """What a result says of the ABI's form; text that is empty is none."""
        if value is None:
            return None
        if isinstance(value, bytes):
            return tell_text(value)
        if self.kind == CHOICE:
            return next(name for name, number in self.choices.items() if number == value)
        return bool(value) if self.kind == FLAG else value

    def is_told(self, told: object) -> bool:
        """Whether a result may say this."""
        if self.kind == CHOICE:
            number = self.choices.get(told) if type(told) is str else None
            return number is not None and self.tell(number) == told  # several names may mean one
        if self.kind == FLAG:
            return type(told) is bool or (self.may_lack and told is None)
        if self.kind == TEXT:
            return told is None or (type(told) is str and 0 < len(told) <= _TOLD_MAX)
        if self.numbers:
            return type(told) is int and told in self.numbers
        return type(told) is int and 0 <= told < 1 << 64

    def spell(self, told: Told) -> str:
        """What is told, as -o has it."""
        if self.kind == FLAG:
            return "on" if told else "off"
        return str("" if told is None else told)


def take_flag(name: str, value: object) -> bool:
    """The value of a keyword that is on or off. UsageError if it is neither."""
    if value not in (True, False):
        raise UsageError(f"{name} is True or False, not {value!r:.60}")
    return bool(value)


@record
class Permission:
    """What an amend may do besides to carry out what it is asked for: a flag of the command."""

    key: str
    """In the keywords of Python; the command has dashes in it."""
    kind: str
    """FLAG, or SIZE: up to so many bytes."""
    flag: int
    """AMEND_FLAG_* of the ABI; 0 if it has a field of AmendConfig."""
    help: str
    """What --help says."""
    meaning: str
    """What docs/amend.md says, as sentences."""
    keyword: str
    """What the docstrings say of the keyword: a phrase, without an end."""
    since: str
    """The release of instar that has it first."""
    default: int = 0
    """Of a SIZE: what it is where it is not said."""
    absent: int = 0
    """What it is in a request that does not even hold the default."""

    @property
    def name(self) -> str:
        """The name of the command's flag."""
        return self.key.replace("_", "-")

    @property
    def initial(self) -> bool | None:
        """The default of the keyword."""
        return False if self.kind == FLAG else None

    def take(self, value: Any) -> int:
        """The value, or what stands for it. UsageError if it is none."""
        if self.kind == FLAG:
            return take_flag(self.key, value)
        if value is None:
            return self.default
        if type(value) is not int or not 0 <= value < 1 << 63:
            raise UsageError(f"{self.key} is a number of bytes, not {value!r}")
        return value
