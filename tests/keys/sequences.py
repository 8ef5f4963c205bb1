"""A random sequence of adds and erases, by both programs in turn, beside a model. Test side."""

from __future__ import annotations

import random
from pathlib import Path

import instar
from tests.support import qemu as oracle
from tests.support.luks import WORDS, Volume, make_by_qemu

STEPS = 8


def run_sequence(path: Path, form: str, seed: int, *, by_qemu: float = 0.2) -> int:
    """Do it; returns how many changes were made. AssertionError if a passphrase opens wrongly."""
    generator = random.Random(f"{form} {seed}")  # noqa: S311 - the same in every run
    volume = make_by_qemu(path, form)
    slots: dict[int, str] = {0: "one"}
    done = 0
    for _ in range(STEPS):
        change = _choose(generator, slots)
        made = _apply(volume, slots, *change, qemu=generator.random() < by_qemu)
        if made:
            slots, done = made, done + 1
        found = volume.opened(generator.choice(oracle.all_versions()), WORDS)
        assert found == {*slots.values()}, (form, seed, change)
    return done


Step = tuple[str, str, int | None]


def _choose(generator: random.Random, slots: dict[int, str]) -> Step:
    word = generator.choice(WORDS)
    slot = generator.choice([None, *range(8)])
    return generator.choice(["add", "add", "erase", "erase secret", "force"]), word, slot


def _apply(
    volume: Volume, slots: dict[int, str], what: str, word: str, slot: int | None, *, qemu: bool
) -> dict[int, str] | None:
    """Make a change; the slots as they must be then, or None where it must be refused."""
    free = [n for n in range(8) if n not in slots]
    unlock = slots[min(slots)]
    if what in ("add", "force"):
        place = (free[0] if free else None) if slot is None else slot
        taken = place in slots
        fine = place is not None and (not taken or what == "force")
        only = taken and len(slots) == 1
        if fine and only and place in (6, 7):
            fine, qemu = False, False  # qemu does what a crash makes fatal
        options = {"state": "active", "new_secret": word, "iter_time": "1"}
        expected = {**slots, place: word} if fine and place is not None else None
    elif what == "erase":
        place = slot if slot is not None else min(slots)
        fine = place in slots and len(slots) > 1
        options = {"state": "inactive"}
        expected = {n: held for n, held in slots.items() if n != place} if fine else None
        slot = place
    else:
        hit = [n for n, held in slots.items() if held == word]
        fine = 0 < len(hit) < len(slots)
        options = {"state": "inactive", "old_secret": word}
        expected = {n: held for n, held in slots.items() if n not in hit} if fine else None
        slot = None
    if slot is not None:
        options["keyslot"] = str(slot)
    force = what == "force"
    if qemu:
        ran = volume.amend(oracle.newest(), unlock, *(["--force"] if force else []), **options)
        assert ran.ok == fine, ran
    else:
        assert _by_instar(volume, unlock, options, force=force) == fine, options
    return expected


def _by_instar(volume: Volume, unlock: str, options: dict[str, str], *, force: bool) -> bool:
    slot = int(options["keyslot"]) if "keyslot" in options else None
    keys: instar.AddKey | instar.EraseKey
    if options["state"] == "active":
        new = options["new_secret"].encode()
        keys = instar.AddKey(unlock.encode(), new, slot, iter_time=0, force=force)
    else:
        old = options.get("old_secret")
        keys = instar.EraseKey(slot, old.encode() if old else None)
    try:
        instar.amend(volume.path, keys=keys, format=volume.form)
    except instar.ImageRejected:
        return False
    return True
