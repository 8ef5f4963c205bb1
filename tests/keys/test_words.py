"""What is refused of keyslots is refused as qemu-img refuses it, and nothing moves. Test side."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.luks import WORDS, Volume, make_by_qemu, secret_flag
from tests.support.process import PACKAGE
from tests.support.qemu import Qemu

NOT_LAST = "erase all the data in the image irreversibly - refusing operation"
# Options as keywords, with "_" for "-"; the passphrase that unlocks; what both say.
REFUSED: dict[str, tuple[dict[str, str], str, str]] = {
    "no state": ({"new_secret": "two"}, "one", "state' is missing"),
    "bad state": ({"state": "on"}, "one", "does not accept value 'on'"),
    "add without a secret": (
        {"state": "active"},
        "one",
        "'new-secret' is required to activate a keyslot",
    ),
    "add with an old secret": (
        {"state": "active", "new_secret": "two", "old_secret": "one"},
        "one",
        "'old-secret' must not be given when activating keyslots",
    ),
    "slot out of range": (
        {"state": "active", "new_secret": "two", "keyslot": "8"},
        "one",
        "Invalid keyslot 8 specified, must be between 0 and 7",
    ),
    "slot in use": (
        {"state": "active", "new_secret": "two", "keyslot": "0"},
        "one",
        "Refusing to overwrite active keyslot 0 - please erase it first",
    ),
    "unknown secret": (
        {"state": "active", "new_secret": "nope"},
        "one",
        "No secret with id 'nope'",
    ),
    "erase nothing": (
        {"state": "inactive"},
        "one",
        "To erase keyslot(s), either explicit keyslot index or the password currently contained "
        "in them must be given",
    ),
    "erase with a new secret": (
        {"state": "inactive", "new_secret": "two"},
        "one",
        "'new-secret' must not be given when erasing keyslots",
    ),
    "erase with a time": (
        {"state": "inactive", "keyslot": "1", "iter_time": "5"},
        "one",
        "'iter-time' must not be given when erasing keyslots",
    ),
    "wrong passphrase": (
        {"state": "active", "new_secret": "two"},
        "three",
        "Invalid password, cannot unlock any keyslot",
    ),
    "iter-time too large": (
        {"state": "active", "new_secret": "two", "iter_time": "1000000000000"},
        "one",
        "PBKDF iterations ",  # and how many; then each in its own words
    ),
    "erase what is not in use": (
        {"state": "inactive", "keyslot": "3"},
        "one",
        "Given keyslot 3 is already erased (inactive)",
    ),
    "erase another passphrase's": (
        {"state": "inactive", "keyslot": "0", "old_secret": "two"},
        "one",
        "Given keyslot 0 doesn't contain the given old password for erase operation",
    ),
    "erase what nothing matches": (
        {"state": "inactive", "old_secret": "three"},
        "one",
        "No keyslots match given (old) password for erase operation",
    ),
    "erase the last slot": (
        {"state": "inactive", "keyslot": "0"},
        "one",
        f"Attempt to erase the only active keyslot 0 which will {NOT_LAST}",
    ),
    "erase all that match": (
        {"state": "inactive", "old_secret": "one"},
        "one",
        "All the active keyslots match the (old) password that was given and erasing them will "
        f"{NOT_LAST}",
    ),
}


def command(volume: Volume, options: dict[str, str], unlock: str, *flags: str) -> list[str]:
    prefix = "encrypt." if volume.form == "qcow2" else ""
    asked = ",".join(f"{prefix}{key.replace('_', '-')}={value}" for key, value in options.items())
    secrets = [part for word in WORDS for part in secret_flag(word)]
    given = ["-f", volume.form, *secrets, "--key-secret", unlock, "-o", asked, *flags]
    return ["amend", *given, str(volume.path)]


def run(arguments: list[str]) -> subprocess.CompletedProcess[str]:
    code = f"import sys; sys.path.insert(0, {str(PACKAGE)!r}); from instar.__main__ import main"
    program = [sys.executable, "-c", f"{code}; main()", *arguments]
    return subprocess.run(program, capture_output=True, text=True, check=False, timeout=60)


def refused_by_all(
    versions: tuple[Qemu, ...], volume: Volume, options: dict[str, str], unlock: str, *said: str
) -> None:
    """See that instar refuses it with the first of these texts, every qemu with any of them.

    What instar says is one line, and the image stays as it is.
    """
    before, stat = volume.path.read_bytes(), volume.path.stat()
    ours = run(command(volume, options, unlock))
    assert ours.returncode in (1, 2), ours
    assert said[0] in ours.stderr, ours
    assert ours.stderr.count("\n") == 1
    assert ours.stdout == ""
    assert volume.path.read_bytes() == before
    assert volume.path.stat().st_mtime_ns == stat.st_mtime_ns
    for qemu in versions:
        theirs = volume.amend(qemu, unlock, **options)
        assert theirs.status == 1
        assert any(text in theirs.stderr for text in said), theirs
        assert volume.path.read_bytes() == before, qemu


@pytest.mark.kvm
@pytest.mark.parametrize("form", ["qcow2", "luks"])
@pytest.mark.parametrize("name", REFUSED)
def test_it_is_refused_in_the_words_of_every_qemu_and_nothing_moves(
    tmp_path: Path, qemu_versions: tuple[Qemu, ...], name: str, form: str
) -> None:
    options, unlock, said = REFUSED[name]
    # 5.2 says of a value that it does not know no more than that.
    words = (said, "Invalid parameter 'on'") if name == "bad state" else (said,)
    refused_by_all(qemu_versions, make_by_qemu(tmp_path / "i", form), options, unlock, *words)


@pytest.fixture(scope="session")
def all_in_use(tmp_path_factory: pytest.TempPathFactory, qemu: Qemu) -> dict[str, bytes]:
    """By format, an image with all keyslots in use."""
    images = {}
    for form in ("qcow2", "luks"):
        volume = make_by_qemu(tmp_path_factory.mktemp("full") / "i", form)
        for _ in range(7):
            options = {"state": "active", "new_secret": "two", "iter_time": "1"}
            assert volume.amend(qemu, "one", **options).ok
        images[form] = volume.path.read_bytes()
    return images


@pytest.mark.kvm
@pytest.mark.parametrize("form", ["qcow2", "luks"])
def test_an_add_where_all_keyslots_are_in_use_is_refused_in_their_words(
    tmp_path: Path, qemu_versions: tuple[Qemu, ...], all_in_use: dict[str, bytes], form: str
) -> None:
    volume = Volume(tmp_path / "i", form)
    volume.path.write_bytes(all_in_use[form])
    said = "Can't add a keyslot - all keyslots are in use"
    options = {"state": "active", "new_secret": "three"}
    refused_by_all(qemu_versions, volume, options, "one", said)


@pytest.mark.kvm
@pytest.mark.parametrize(
    ("recipe", "said"),
    [
        ("plain", "Can't amend encryption options - encryption not present"),
        ("aes", "Only LUKS encryption options can be amended"),
    ],
)
@pytest.mark.parametrize(
    "options",
    [{"state": "active", "new_secret": "two"}, {"state": "inactive", "keyslot": "0"}],
    ids=["add", "erase"],
)
def test_an_image_without_luks_is_refused_in_their_words(
    tmp_path: Path,
    qemu_versions: tuple[Qemu, ...],
    recipe: str,
    said: str,
    options: dict[str, str],
) -> None:
    path = tmp_path / "i"
    secret = [*secret_flag("one"), "-o", "encrypt.format=aes,encrypt.key-secret=one"]
    qemu_versions[0].create(path, "1M", *(secret if recipe == "aes" else []))
    refused_by_all(qemu_versions, Volume(path, "qcow2"), options, "one", said)


@pytest.mark.kvm
def test_the_command_adds_and_erases_confined(tmp_path: Path, qemu: Qemu) -> None:
    volume = make_by_qemu(tmp_path / "i", "qcow2")
    for options, unlock in (
        ({"state": "active", "new_secret": "two", "iter_time": "0"}, "one"),
        ({"state": "inactive", "old_secret": "one"}, "two"),
    ):
        done = run(command(volume, options, unlock, "--require-confinement"))
        assert (done.returncode, done.stdout, done.stderr) == (0, "", ""), done
    assert volume.opened(qemu, WORDS) == {"two"}


@pytest.mark.kvm
def test_the_command_takes_the_image_options_of_qemu(tmp_path: Path, qemu: Qemu) -> None:
    volume = make_by_qemu(tmp_path / "i", "qcow2")
    secrets = [part for word in WORDS for part in secret_flag(word)]
    asked = "encrypt.state=active,encrypt.new-secret=two,encrypt.iter-time=0"
    image = f"driver=qcow2,encrypt.key-secret=one,file.filename={volume.path}"
    done = run(["amend", *secrets, "-o", asked, "--image-opts", image])
    assert (done.returncode, done.stderr) == (0, ""), done
    assert volume.opened(qemu, WORDS) == {"one", "two"}


@pytest.mark.kvm
def test_a_secret_comes_from_a_file_and_in_base64(tmp_path: Path, qemu: Qemu) -> None:
    volume = make_by_qemu(tmp_path / "i", "qcow2")
    (tmp_path / "one").write_text("b25l\n")
    (tmp_path / "two").write_text("two")
    secrets = [
        *("--object", f"secret,id=a,file={tmp_path / 'one'},format=base64"),
        *("--object", f"secret,id=b,file={tmp_path / 'two'}"),
    ]
    asked = "encrypt.state=active,encrypt.new-secret=b,encrypt.iter-time=0"
    done = run(["amend", *secrets, "-o", asked, "--key-secret", "a", str(volume.path)])
    assert (done.returncode, done.stderr) == (0, ""), done
    assert volume.opened(qemu, WORDS) == {"one", "two"}


@pytest.mark.kvm
def test_iterations_beyond_the_timeout_are_refused_before_they_begin(tmp_path: Path) -> None:
    volume = make_by_qemu(tmp_path / "i", "luks")
    data = bytearray(volume.path.read_bytes())
    data[208 + 4 : 208 + 8] = b"\xff" * 4
    volume.path.write_bytes(data)
    done = run(command(volume, {"state": "active", "new_secret": "two"}, "one", "--timeout", "5"))
    assert done.returncode == 1
    assert "raise it" in done.stderr
    assert "--timeout" in done.stderr
