"""A random sequence of adds and erases, by all programs in turn, beside a model. Test side."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import instar
from tests.keys.files import holders
from tests.support import qemu as oracle
from tests.support.luks import (
    QUICK,
    WORDS,
    Volume,
    cryptsetup,
    cryptsetup_opens,
    make_by_qemu,
    slots_in_use,
)

STEPS = 8
SORTS: tuple[dict[str, str], ...] = (
    {"cipher_alg": "aes-128", "hash_alg": "sha1"},
    {"cipher_alg": "aes-128", "hash_alg": "sha512"},
    {},
    {"cipher_alg": "aes-128", "cipher_mode": "cbc", "hash_alg": "ripemd160"},
    {"cipher_mode": "cbc", "ivgen_alg": "essiv", "ivgen_hash_alg": "sha256"},
)
"""How images are encrypted that all programs open."""
PROGRAMS = {"qcow2": ("instar", "instar", "qemu"), "luks": ("instar", "qemu", "cryptsetup")}
"""Who changes keys, of each format."""


@dataclass(frozen=True)
class Step:
    """What is asked of one of the programs."""

    program: str
    what: str
    """"add", "force", "erase" or "erase secret"."""
    word: str
    slot: int | None


def run_sequence(path: Path, form: str, seed: int) -> Counter[str]:
    """Do it; returns how many changes each made. AssertionError if a passphrase opens wrongly.

    After each change the slots in use are the expected ones, and another program than the one that
    made it tries two passphrases; in the end all of them try all. What is refused moves no byte.
    """
    generator = random.Random(f"{form} {seed}")  # noqa: S311 - the same in every run
    volume = make_by_qemu(path, form, options=generator.choice(SORTS))
    slots: dict[int, str] = {0: "one"}
    done: Counter[str] = Counter()
    for number in range(STEPS):
        step = _choose(generator, form, slots)
        case = form, seed, number, step
        made, before = _expect(slots, step), path.read_bytes()
        assert _apply(volume, slots, step) == (made is not None), case
        if made is None:
            assert path.read_bytes() == before, case
            continue
        slots = made
        done[step.program] += 1
        assert slots_in_use(path) == {*slots}, case
        some = generator.sample(WORDS, 2)
        found = _opened(volume, generator, some, but=step.program)
        assert found == {*slots.values()} & {*some}, case
    for program in PROGRAMS[form][-2:]:
        assert _opened(volume, generator, WORDS, but=program) == {*slots.values()}, (form, seed)
    if form == "luks":
        data = path.read_bytes()
        held = {word: {n for n in slots if slots[n] == word} for word in WORDS}
        assert {word: holders(data, word.encode()) for word in WORDS} == held, (form, seed)
    return done


def _opened(
    volume: Volume, generator: random.Random, words: list[str] | tuple[str, ...], *, but: str
) -> set[str]:
    """Which passphrases open the image, by another program than instar and that one."""
    if volume.form == "luks" and (but == "qemu" or (but == "instar" and generator.random() < 0.5)):
        return {word for word in words if cryptsetup_opens(volume.path, word)}
    return volume.opened(generator.choice(oracle.all_versions()), words)


def _choose(generator: random.Random, form: str, slots: dict[int, str]) -> Step:
    program = generator.choice(PROGRAMS[form])
    what = generator.choice(("add", "add", "erase", "erase secret", "force"))
    slot = generator.choice((None, *range(8)))
    step = Step(program, what, generator.choice(WORDS), slot)
    if program == "cryptsetup" and what == "erase":  # it would erase the last one
        return step if len(slots) > 1 else Step("instar", what, step.word, slot)
    if program == "cryptsetup" and what != "add":  # it has no such thing
        return Step("instar", what, step.word, slot)
    if program == "qemu" and what == "force" and slot in slots and len(slots) == 1:
        return Step("instar", what, step.word, slot)  # a crash of qemu's would be fatal
    return step


def _expect(slots: dict[int, str], step: Step) -> dict[int, str] | None:
    """The slots as they must be after a step, or None where it must be refused."""
    place = _place(slots, step)
    if step.what in ("add", "force"):
        only = {*slots} == {place} and place == 6  # which lies across two sectors
        if place is None or only or (place in slots and step.what == "add"):
            return None
        return {**slots, place: step.word}
    hit = [n for n in slots if (slots[n] == step.word if place is None else n == place)]
    left = {n: slots[n] for n in slots if n not in hit}
    return left if hit and left else None


def _place(slots: dict[int, str], step: Step) -> int | None:
    """The slot that a step is about; None for an erasure by a passphrase, and if all are taken."""
    if step.what == "erase secret":
        return None
    if step.what == "erase" and step.slot is None:
        return min(slots)
    return (
        step.slot if step.slot is not None else next((n for n in range(8) if n not in slots), None)
    )


def _apply(volume: Volume, slots: dict[int, str], step: Step) -> bool:
    """Have a program do a step; whether it did."""
    slot = _place(slots, step) if step.what == "erase" or step.slot is not None else None
    # cryptsetup wants to know another one than it erases
    unlock = slots[min(n for n in slots if n != slot or len(slots) == 1)]
    by = {"instar": _by_instar, "qemu": _by_qemu, "cryptsetup": _by_cryptsetup}[step.program]
    return by(volume, unlock, step, slot)


def _by_instar(volume: Volume, unlock: str, step: Step, slot: int | None) -> bool:
    keys: instar.AddKey | instar.EraseKey
    if step.what in ("add", "force"):
        forced = step.what == "force"
        keys = instar.AddKey(unlock.encode(), step.word.encode(), slot, iter_time=0, force=forced)
    else:
        keys = instar.EraseKey(slot, step.word.encode() if step.what == "erase secret" else None)
    try:
        instar.amend(volume.path, keys=keys, format=volume.form)
    except instar.ImageRejected:
        return False
    return True


def _by_qemu(volume: Volume, unlock: str, step: Step, slot: int | None) -> bool:
    options = {} if slot is None else {"keyslot": str(slot)}
    if step.what in ("add", "force"):
        options |= {"state": "active", "new_secret": step.word, "iter_time": "1"}
    else:
        options |= {"state": "inactive"}
        options |= {"old_secret": step.word} if step.what == "erase secret" else {}
    force = ["--force"] if step.what == "force" else []
    return volume.amend(oracle.newest(), unlock, *force, **options).ok


def _by_cryptsetup(volume: Volume, unlock: str, step: Step, slot: int | None) -> bool:
    path = str(volume.path)
    if step.what == "erase":
        command = ("luksKillSlot", "--batch-mode", "--disable-locks", path, str(slot))
        return cryptsetup(*command, word=unlock, accept=(0, 1, 2)) == 0
    place = () if slot is None else ("--key-slot", str(slot))
    with TemporaryDirectory() as folder:
        new = Path(folder, "new")
        new.write_text(step.word)
        command = ("luksAddKey", *QUICK, *place, path, str(new))
        return cryptsetup(*command, word=unlock, accept=(0, 1, 2)) == 0
