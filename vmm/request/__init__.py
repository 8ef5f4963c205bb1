"""Host side: what is asked of an image: the one record, and the table of what can be asked."""

from __future__ import annotations

from instar.abi import INSTAR_RAM_SIZE, INSTAR_STAGED_MAX

from ..base.errors import ImageRejected
from ..base.record import FrozenDict, record
from .kinds import FLAG, KEYS_STEP, REPAIR_STEP, TEXT
from .options import BY_KEY, PERMITTED

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from .keys import Keys
    from .kinds import Option, Permission, Told, Value

SIZE_UNIT = 512
"""What the size of a disk is a multiple of, in bytes."""
TIMEOUT = 30.0
"""How long a guest may run by default, in seconds."""


@record
class AmendRequest:
    """What is asked of one image, or alike of many; checked (make_request), and never changed.

    Each option and each permission of the tables is an attribute as well: an option that is not
    asked for, and stays as it is, is None; a permission that is not given is False or 0.
    """

    options: FrozenDict[str, Value] = FrozenDict()
    """What shall hold, by the keys of OPTIONS, in the ABI's form; what is not in it stays."""
    permissions: FrozenDict[str, int] = FrozenDict()
    """What is allowed besides, by the keys of PERMISSIONS."""
    dry_run: bool = False
    """Whether the commit is left out."""
    flush: bool = True
    """Whether the commit is on the disk when the amend returns."""
    timeout: float = TIMEOUT
    """How long the guest may run, in seconds."""
    ram_size: int = INSTAR_RAM_SIZE
    """What the guest needs, in bytes: a multiple of INSTAR_RAM_SIZE up to INSTAR_RAM_MAX."""
    fixed_size: bool = False
    """Whether the image is on a block device, which cannot grow."""
    relative: int = 0
    """1 or -1 where `size` is by how much the disk grows or shrinks, else 0."""
    mends: str = ""
    """"leaks" or "all": what `instar check -r` repairs, whether the image is dirty or not."""
    keys: Keys | None = None
    """What is to become of keyslots, if anything."""
    format: str = "qcow2"
    """What the file must be: "qcow2", or with `keys` and no option "luks"."""

    @classmethod
    def of(cls, **values: Any) -> AmendRequest:
        """Make one of values by their names: options in the ABI's form, permissions, fields."""
        values = {name: value for name, value in values.items() if value is not None}
        options = {key: values.pop(key) for key in BY_KEY if key in values}
        permissions = {key: values.pop(key) for key in PERMITTED if key in values}
        return cls(FrozenDict(options), FrozenDict(permissions), **values)

    if TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any: ...

    def asked(self) -> tuple[tuple[Option, Value], ...]:
        """The options that are asked for, in the order of the table, each with its value."""
        options = self.options
        kept = vars(options)  # with them, as this is looked at all the time
        if "asked" not in kept:
            rows = [(row, options[key]) for key, row in BY_KEY.items() if key in options]
            kept["asked"] = tuple(rows)
        return kept["asked"]  # type: ignore[no-any-return]

    @property
    def settles(self) -> bool:
        """Whether an image that was amended so is as asked; it can grow, or get a key, again."""
        return not self.relative and self.keys is None

    @property
    def repairs(self) -> bool:
        """Whether refcounts and flags are repaired; in a step, which then has no options."""
        return bool(self.repair or self.mends)

    @property
    def leaves_errors(self) -> bool:
        """Whether a repair does nothing about refcounts that are too low."""
        return self.mends == "leaks"

    @property
    def writes_tables(self) -> bool:
        """Whether more than the header may have to be written."""
        return self.repairs or any(option.writes_tables for option, _ in self.asked())

    @property
    def moves_header(self) -> bool:
        """Whether parts of the header may get another place."""
        return any(option.moves_header for option, _ in self.asked())

    def for_disk(self, size: int) -> AmendRequest:
        """The request as it is for a disk of so many bytes. ImageRejected if none fits."""
        if not self.relative:
            return self
        new = size + self.relative * self.size
        if not 0 < new < 1 << 63 or new % SIZE_UNIT:
            # Imported here, as hardly anybody asks for a size that no disk has.
            from ..base.refusals import size_difference

            raise ImageRejected((size_difference(size, self.size, shrinks=self.relative < 0),))
        options = FrozenDict({**self.options, "size": new})
        return AmendRequest(**{**vars(self), "options": options, "relative": 0})

    @property
    def tables_max(self) -> int:
        """How many bytes of new tables may be needed for what is asked, whatever the image is."""
        return 0 if self.size is None else min(self.max_growth, INSTAR_STAGED_MAX)

    def tables_for(self, size: int, cluster_size: int) -> int:
        """The same for an image with a disk of so many bytes, and clusters of so many."""
        # Of a disk that grows, each cluster may need an entry of 16 bytes.
        grown = max((self.size or 0) - size, 0) * 16 // max(cluster_size, 512)
        return min(self.tables_max, grown + cluster_size)

    def steps(self) -> tuple[AmendRequest, ...]:
        """What is to be done one after the other, each as a request of its own; often but one."""
        steps: dict[int, dict[str, Value]] = {REPAIR_STEP: {}} if self.repairs else {}
        if self.keys is not None:
            steps[KEYS_STEP] = {}
        for option, value in self.asked():
            steps.setdefault(self._step_of(option), {})[option.key] = value
        if len(steps) < 2:
            return (self,)
        found = (self._only(step, options) for step, options in sorted(steps.items()))
        return tuple(step if step.writes_tables else step.within(0) for step in found)

    def parts(self) -> tuple[AmendRequest, ...]:
        """The two steps that a step has to be with some images; none if it can always be one.

        To upgrade such an image moves its snapshot table, and refcounts that are written anew count
        what is where it was.
        """
        apart = {
            row.key: value
            for row, value in self.asked()
            if row.parts_from and self.options.get(row.parts_from) == row.part
        }
        if not apart:
            return ()
        rest = {key: value for key, value in self.options.items() if key not in apart}
        return (
            self._with(options=FrozenDict(rest)),
            self._with(options=FrozenDict(apart)),
        )

    @property
    def needs_guest(self) -> bool:
        """Whether a guest takes part; it has no part in a LUKS file."""
        return self.format == "qcow2"

    @property
    def runs(self) -> int:
        """How often the guest runs for an image, at most."""
        if not self.needs_guest:
            return 0
        steps = self.steps()
        return len(steps) + sum(len(step.parts()) for step in steps)

    def _only(self, step: int, options: dict[str, Value]) -> AmendRequest:
        """One step of the request."""
        keys = self.keys if step == KEYS_STEP else None
        request = self._with(options=FrozenDict(options), keys=keys)
        if step == REPAIR_STEP or not self.repairs:
            return request
        kept = {key: value for key, value in self.permissions.items() if key != "repair"}
        return request._with(permissions=FrozenDict(kept), mends="")

    def _step_of(self, option: Option) -> int:
        """In which step an option that is asked for is carried out."""
        leader = BY_KEY[option.joins] if option.joins in self.options else option
        return leader.steps.get(self.options[leader.key], leader.step)

    def told(self) -> FrozenDict[str, Told]:
        """What is asked for, as results have it, by the keys of OPTIONS."""
        return FrozenDict({row.key: row.tell(value) for row, value in self.asked()})

    def told_keys(self) -> dict[str, Told]:
        """What is asked of keyslots, by the keys of -o; no passphrase is in it."""
        if self.keys is None:
            return {}
        from .keys import tell_keys

        return tell_keys(self.keys, self.format)

    def told_all(self) -> FrozenDict[str, Told]:
        """All that is asked for, as the steps of results have it."""
        return FrozenDict({**self.told_keys(), **self.told()})

    def spell(self) -> str:
        """The options as -o has them, without passphrases."""
        spelled = [f"{row.key}={row.spell(row.tell(value))}" for row, value in self.asked()]
        spelled += [f"{key}={value}" for key, value in self.told_keys().items()]
        words = ["repair"] if self.repairs else []
        return ",".join([*words, *spelled]) or "nothing"

    def fit(self, is_device: bool) -> AmendRequest:
        """The request as it can be for this file: a block device does not grow."""
        return self.within(0)._with(fixed_size=True) if is_device else self

    def within(self, max_growth: int) -> AmendRequest:
        """The request with no more than so many bytes of growth."""
        if self.max_growth <= max_growth:
            return self
        return self._with(permissions=FrozenDict({**self.permissions, "max_growth": max_growth}))

    def _with(self, **fields: Any) -> AmendRequest:
        return AmendRequest(**{**vars(self), **fields})

    def to_document(self) -> dict[str, Any]:
        """What another process of ours is told: plain values, as JSON has them.

        Passphrases are among them, so that this goes by a pipe, and nowhere else.
        """
        texts = {
            key: value.decode("utf-8", "surrogateescape") if isinstance(value, bytes) else value
            for key, value in self.options.items()
        }
        document = {**vars(self), "options": texts, "permissions": self.permissions}
        if self.keys is not None:
            from .keys import keys_to_document

            document["keys"] = keys_to_document(self.keys)
        return document

    @classmethod
    def from_document(cls, document: Mapping[str, Any]) -> AmendRequest:
        """Make it of what to_document() returned."""
        options = {
            key: value.encode("utf-8", "surrogateescape") if BY_KEY[key].kind == TEXT else value
            for key, value in document["options"].items()
        }
        permissions = FrozenDict(document["permissions"])
        fields = {**document, "options": FrozenDict(options), "permissions": permissions}
        if fields.get("keys") is not None:
            from .keys import keys_from_document

            fields["keys"] = keys_from_document(fields["keys"])
        return cls(**fields)


def _option(key: str) -> property:
    return property(lambda request: request.options.get(key))


def _permission(row: Permission) -> property:
    absent = False if row.kind == FLAG else row.absent
    return property(lambda request: request.permissions.get(row.key, absent))


for _key in BY_KEY:
    setattr(AmendRequest, _key, _option(_key))
for _row in PERMITTED.values():
    setattr(AmendRequest, _row.key, _permission(_row))
