"""Encrypted images, by whoever makes them, and which passphrases open them. Test side."""

from __future__ import annotations

import atexit
import os
import shutil
import subprocess
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory, mkdtemp

from tests.support import qemu as oracle
from tests.support.qemu import Qemu

SIZE = 1 << 20
DATA = "-P 0x5a 64k 128k"
"""What is in each image, as qemu-io has it."""


@dataclass(frozen=True)
class Volume:
    """An encrypted image: a qcow2 image, or a LUKS file."""

    path: Path
    form: str
    """"qcow2" or "luks"."""

    def flags(self, secret: str) -> list[str]:
        """How qemu's programs are told the image and a passphrase."""
        if self.form == "qcow2":
            options = f"driver=qcow2,encrypt.key-secret=s,file.filename={self.path}"
        else:
            options = f"driver=luks,key-secret=s,file.filename={self.path}"
        return ["--object", f"secret,id=s,data={secret}", "--image-opts", options]

    def opens(self, qemu: Qemu, secret: str) -> bool:
        """Whether a passphrase opens the image, and its data is there."""
        command = ["-c", f"read {DATA}", *self.flags(secret)]
        run = qemu.run("qemu-io", *command, accept=(0, 1))
        assert run.ok or "Invalid password" in run.stderr, run
        return run.ok

    def opened(self, qemu: Qemu, secrets: Iterable[str]) -> set[str]:
        """Those of some passphrases that open it."""
        return {secret for secret in secrets if self.opens(qemu, secret)}

    def amend(self, qemu: Qemu, unlock: str, *flags: str, **options: str) -> oracle.Run:
        """Have qemu-img change the keys; the secrets "one" to "four" are there by these names."""
        prefix = "encrypt." if self.form == "qcow2" else ""
        asked = ",".join(f"{prefix}{key.replace('_', '-')}={options[key]}" for key in options)
        given = [part for word in WORDS for part in secret_flag(word)]
        command = ["amend", *self.flags(unlock), *given, "-o", asked, *flags]
        return qemu.img(*command, accept=(0, 1), preload=quick_clock())


WORDS = ("one", "two", "three", "four")
"""The passphrases of these tests, which are the ids of their secrets too."""


def secret_flag(word: str) -> list[str]:
    """How a command is told a passphrase, by its own name."""
    return ["--object", f"secret,id={word},data={word}"]


@cache
def quick_clock() -> Path | None:
    """A library that spares qemu-img the seconds in which it measures how fast the machine is.

    None without a compiler, where all just takes longer.
    """
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        return None
    folder = Path(mkdtemp(prefix="instar-clock-"))
    atexit.register(shutil.rmtree, folder)
    source, library = Path(__file__).with_name("quick_clock.c"), folder / "quick_clock.so"
    subprocess.run([compiler, "-shared", "-fPIC", "-o", library, source], check=True)
    return library


def make_by_qemu(
    path: Path, form: str, *, qemu: Qemu | None = None, options: Mapping[str, str] | None = None
) -> Volume:
    """An image made by qemu-img, or the newest; options as "cipher_alg", without their prefix.

    Its passphrase is "one".
    """
    path.write_bytes(_made_by_qemu(qemu or oracle.newest(), form, tuple((options or {}).items())))
    return Volume(path, form)


@cache
def _made_by_qemu(qemu: Qemu, form: str, options: tuple[tuple[str, str], ...]) -> bytes:
    with TemporaryDirectory() as folder:
        path = Path(folder, "image")
        _create(qemu, path, form, dict(options))
        return path.read_bytes()


def _create(qemu: Qemu, path: Path, form: str, options: Mapping[str, str]) -> None:
    prefix, secret = "encrypt." if form == "qcow2" else "", "one"
    all_options: Mapping[str, str] = {"iter_time": "1", **options}
    asked = {f"{prefix}{key.replace('_', '-')}": value for key, value in all_options.items()}
    asked[f"{prefix}key-secret"] = secret
    if form == "qcow2":
        asked["encrypt.format"] = "luks"
    pairs = ",".join(f"{key}={value}" for key, value in asked.items())
    command = ("create", "-q", "-f", form, *secret_flag(secret), "-o", pairs, str(path), str(SIZE))
    qemu.img(*command, preload=quick_clock())
    qemu.run("qemu-io", "-c", f"write {DATA}", *Volume(path, form).flags(secret))


def make_by_cryptsetup(path: Path, word: str = "one", *flags: str) -> Volume:
    """A LUKS file made by cryptsetup, on noise."""
    path.write_bytes(bytes(range(256)) * ((SIZE + (4 << 20)) // 256))
    cryptsetup("luksFormat", "--type", "luks1", *QUICK, *flags, str(path), word=word)
    return Volume(path, "luks")


QUICK = ("--batch-mode", "--pbkdf-force-iterations", "1000", "--disable-locks")


def cryptsetup(*arguments: str, word: str, accept: tuple[int, ...] = (0,)) -> int:
    """Run cryptsetup with a passphrase on its stdin; return the exit status."""
    done = subprocess.run(
        ["cryptsetup", *arguments, "--key-file", "-"],
        input=word.encode(),
        capture_output=True,
        check=False,
        timeout=120,
        env={**os.environ, "PATH": f"{os.environ['PATH']}:/usr/sbin:/sbin"},
    )
    assert done.returncode in accept, done.stderr
    return done.returncode


def slots_in_use(path: Path) -> set[int]:
    """The keyslots of an image that are in use, by the header's bytes, wherever it is."""
    data = path.read_bytes()
    start = data.index(b"LUKS\xba\xbe\0\1")
    states = {n: data[start + 208 + 48 * n :][:4] for n in range(8)}
    assert set(states.values()) <= {b"\0\xac\x71\xf3", b"\0\0\xde\xad"}
    return {n for n, state in states.items() if state == b"\0\xac\x71\xf3"}


def cryptsetup_opens(path: Path, word: str) -> bool:
    """Whether a passphrase opens a LUKS file, by cryptsetup."""
    command = ("open", "--test-passphrase", "--disable-locks", str(path))
    return cryptsetup(*command, word=word, accept=(0, 2)) == 0
