"""Host side: the primitives of LUKS1, on buffers of fixed sizes, by the package `cryptography`.

Source: LUKS1 On-Disk Format Specification 1.2.3; for the IVs, dm-crypt's. Key material is kept in
bytearrays that wipe() overwrites; what the libraries copy of it is out of reach (docs/keys.md).
"""

from __future__ import annotations

import hashlib
import os
import time
from contextlib import suppress

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers import Cipher, modes
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.kdf.pbkdf2 import PBKDF2HMAC

from ..base.errors import HostError
from ..base.luks_layout import SECTOR_SIZE, STRIPES
from ..request.keys import ITERATIONS_LEAST
from .header import HASHES
from .library import explain_lack

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    Buffer = bytes | bytearray | memoryview
    Transform = Callable[[Buffer, int], bytes]

_FAST: dict[str, Callable[[], hashes.HashAlgorithm]] = {
    "sha1": hashes.SHA1,
    "sha256": hashes.SHA256,
    "sha512": hashes.SHA512,
}
_CHAINED: dict[str, Callable[[bytes], modes.Mode]] = {"xts": modes.XTS, "cbc": modes.CBC}
_BENCHMARK = 0.05  # seconds
_BENCHMARK_MOST = 1 << 22  # iterations


def wipe(*buffers: bytearray) -> None:
    """Overwrite buffers with zeros."""
    for buffer in buffers:
        buffer[:] = bytes(len(buffer))


def derive(
    hash_name: str, passphrase: Buffer, salt: bytes, iterations: int, size: int
) -> bytearray:
    """PBKDF2-HMAC (RFC 8018): `size` bytes. It cannot be interrupted."""
    if hash_name in _FAST:
        kdf = PBKDF2HMAC(_FAST[hash_name](), size, salt, iterations)
        return bytearray(kdf.derive(passphrase))
    return bytearray(hashlib.pbkdf2_hmac(hash_name, passphrase, salt, iterations, size))


def rounds(hash_name: str, iterations: int, size: int) -> int:
    """What such a derivation takes, in iterations of a single digest."""
    return iterations * -(-size // HASHES[hash_name])


def measure(hash_name: str) -> float:
    """How many iterations of a single digest this machine does in a second."""
    count, size = 1 << 12, HASHES[hash_name]
    while True:
        start = time.perf_counter()
        derive(hash_name, b"\0" * 16, bytes(32), count, size)
        seconds = time.perf_counter() - start
        if seconds >= _BENCHMARK or count >= _BENCHMARK_MOST:
            return count / max(seconds, 1e-6)
        # Straight to what should take long enough, so that little time goes before it.
        factor = max(1.2 * _BENCHMARK / max(seconds, 1e-6), 2)
        count = min(int(count * factor), _BENCHMARK_MOST)


def split(hash_name: str, key: Buffer) -> bytearray:
    """The anti-forensic splitter: a key as STRIPES pieces, all of which are needed to merge it."""
    material = bytearray(os.urandom(len(key) * (STRIPES - 1)))
    last = _collect(hash_name, material, len(key))
    material += bytes(a ^ b for a, b in zip(last, key, strict=True))
    wipe(last)
    return material


def merge(hash_name: str, material: Buffer, size: int) -> bytearray:
    """Put a key of `size` bytes together again; whatever the material is, this makes something."""
    with memoryview(material) as view:
        end = size * (STRIPES - 1)
        last = _collect(hash_name, view[:end], size)
        key = bytearray(a ^ b for a, b in zip(last, view[end : end + size], strict=True))
    wipe(last)
    return key


def _collect(hash_name: str, material: Buffer, size: int) -> bytearray:
    """All pieces but the last, each added to what came before and diffused."""
    state = bytes(size)
    for at in range(0, len(material), size):
        piece = int.from_bytes(material[at : at + size], "big")
        mixed = (int.from_bytes(state, "big") ^ piece).to_bytes(size, "big")
        state = _diffuse(hash_name, mixed)
    return bytearray(state)


def _diffuse(hash_name: str, data: bytes) -> bytes:
    """Have each block of a digest's size depend on all of its own bits, by the hash."""
    block = HASHES[hash_name]
    parts = []
    for number, at in enumerate(range(0, len(data), block)):
        part = data[at : at + block]
        parts.append(hashlib.new(hash_name, number.to_bytes(4, "big") + part).digest()[: len(part)])
    return b"".join(parts)


def encrypt(mode: str, key: Buffer, data: Buffer) -> bytearray:
    """Encrypt whole sectors, numbered from 0."""
    return _transform(mode, key, data, encrypts=True)


def decrypt(mode: str, key: Buffer, data: Buffer) -> bytearray:
    """Decrypt whole sectors, numbered from 0."""
    return _transform(mode, key, data, encrypts=False)


def _transform(mode: str, key: Buffer, data: Buffer, *, encrypts: bool) -> bytearray:
    chaining, _, generator = mode.partition("-")
    algorithm = AES(bytes(key))
    make_iv = _iv_maker(generator, key)
    done = bytearray()
    for sector, at in enumerate(range(0, len(data), SECTOR_SIZE)):
        how: Any = modes.ECB() if chaining == "ecb" else _CHAINED[chaining](make_iv(sector))  # noqa: S305
        cipher = Cipher(algorithm, how)
        context = cipher.encryptor() if encrypts else cipher.decryptor()
        done += context.update(data[at : at + SECTOR_SIZE])
    return done


def _iv_maker(generator: str, key: Buffer) -> Callable[[int], bytes]:
    if generator == "essiv:sha256":
        salt = hashlib.sha256(key).digest()
        cipher = Cipher(AES(salt), modes.ECB())  # noqa: S305 - dm-crypt's "essiv"
        return lambda sector: cipher.encryptor().update(sector.to_bytes(16, "little"))
    return lambda sector: sector.to_bytes(16, "little")


def warm_up() -> None:
    """Use all there is once, so that nothing needs to be loaded afterwards.

    What OpenSSL does not do here is left out: check_primitives() says so where it is needed.
    """
    for name in HASHES:
        with suppress(Exception):
            _try_hash(name)
    for mode, size in (
        ("xts-plain64", 64),
        ("xts-plain", 32),
        ("cbc-essiv:sha256", 16),
        ("ecb", 32),
    ):
        with suppress(Exception):
            _try_mode(mode, size)
    os.urandom(1)


def check_primitives(hash_name: str, mode: str, key_bytes: int) -> None:
    """See that what a header names can be done here. HostError."""
    try:
        _try_hash(hash_name)
    except Exception as error:
        raise HostError(explain_lack(f"PBKDF2 with {hash_name}", error)) from error
    try:
        _try_mode(mode, key_bytes)
    except Exception as error:
        raise HostError(explain_lack(f"aes-{mode}", error)) from error


def _try_hash(name: str) -> None:
    derive(name, bytes(16), bytes(32), ITERATIONS_LEAST, 20)
    _diffuse(name, bytes(16))


def _try_mode(mode: str, size: int) -> None:
    key = bytes(range(size))
    decrypt(mode, key, encrypt(mode, key, bytes(SECTOR_SIZE)))
