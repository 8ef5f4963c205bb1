"""What the planner says of the region of a LUKS header, of whose bytes it reads none. Test side."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from instar.vmm.request import AmendRequest
from instar.vmm.request.keys import EraseKey
from tests.support.forge import Data, Extension, Image
from tests.support.planner import ask

SIZE = 1 << 16
KEYS = AmendRequest.of(keys=EraseKey(0, force=True))
MOST = 64 << 20
IMAGE = Image(
    size=16 * SIZE, crypt_method=2, crypto_header=b"k" * 2 * SIZE, clusters={0: Data(b"d")}
)
REGION = IMAGE.regions()["crypto_header"]
END = -(-len(IMAGE.build()) // SIZE) * SIZE


def placed(offset: int, length: int) -> bytes:
    """The image with another region, of which the last counts."""
    data = offset.to_bytes(8, "big") + length.to_bytes(8, "big")
    return replace(IMAGE, extensions=(Extension(0x0537BE77, data),)).build()


@pytest.mark.parametrize("length", [1, SIZE, 2 * SIZE])
def test_a_region_inside_the_image_is_taken_and_nothing_staged(planner: Any, length: int) -> None:
    answer = ask(planner, placed(REGION.start, length), KEYS)
    assert (answer.planned, answer.amended) == (True, False)
    assert (answer.refusals, answer.writes) == ((), ())


@pytest.mark.parametrize(
    ("offset", "length"),
    [
        (REGION.start, 0),
        (REGION.start, END - REGION.start + 1),
        (END - SIZE, SIZE + 1),
        (END, 1),
        (END, SIZE),
        (1 << 62, SIZE),
        (REGION.start, MOST),
        (REGION.start, MOST + 1),
        (REGION.start, (1 << 64) - REGION.start),
        (REGION.start, (1 << 64) - 1),
    ],
)
def test_a_region_that_is_empty_or_not_in_the_image_is_refused(
    planner: Any, offset: int, length: int
) -> None:
    image = placed(offset, length)
    answer = ask(planner, image, KEYS)
    assert (answer.refusals, answer.writes) == (("luks_region",), ())
    assert answer.details == {"offset": offset, "length": length, "image_size": len(image)}


def test_a_region_is_no_longer_than_the_host_looks_even_in_a_file_that_has_it(
    planner: Any,
) -> None:
    for length, refusals in ((MOST, False), (MOST + 1, True)):
        image = placed(REGION.start, length)
        answer = ask(planner, image + bytes(REGION.start + MOST + SIZE - len(image)), KEYS)
        assert (answer.refusals == ("luks_region",)) == refusals


def test_where_no_keys_change_the_region_is_no_matter(planner: Any) -> None:
    answer = ask(planner, placed(REGION.start, 0), AmendRequest.of(lazy_refcounts=True))
    assert (answer.refusals, answer.amended) == ((), True)


@pytest.mark.parametrize(("method", "name"), [(0, "not_encrypted"), (1, "not_luks")])
def test_what_luks_does_not_encrypt_is_refused_by_name(
    planner: Any, method: int, name: str
) -> None:
    image = Image(size=SIZE, crypt_method=method)
    assert ask(planner, image.build(), KEYS).refusals == (name,)
