"""Test side: names, reports and requests under the write contract, each rule of them broken."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from instar.vmm.amend.result import SWITCH
from instar.vmm.contract.terms import Claim
from instar.vmm.qcow2.header_view import view_header
from instar.vmm.request import AmendRequest
from tests.support.forge import Bitmap, Data, Extension, Image
from tests.support.planning import (
    ALL,
    DESCRIPTION,
    Case,
    downgrade,
    fault_of,
    noop,
    plan,
    plan_request,
    toggle,
    upgrade,
)

NAME = "the guest changes the backing file name"
MISREPORTED = "the guest reports another version or feature word than it wrote"
FORBIDDEN = "the guest amends an image whose features forbid it"
INEXPRESSIBLE = (
    "the guest downgrades an image with bitmaps",
    "the guest downgrades an image with another refcount width",
)
MALFORMED = "the guest accepted or made a malformed header: "
WORDS = ("version", "incompatible_features", "compatible_features", "autoclear_features")


class TestNames:
    @pytest.mark.parametrize("make", ALL.values(), ids=ALL)
    def test_a_changed_name(self, make: Callable[[], Case]) -> None:
        case = make()
        place = int.from_bytes(case.amended()[8:16], "big")
        case.put(place, b"BASE")
        assert fault_of(case) == NAME

    @pytest.mark.parametrize("make", [upgrade, downgrade])
    def test_an_offset_of_something_else(self, make: Callable[[], Case]) -> None:
        case = make()
        case.number(8, 400)
        assert fault_of(case) == NAME

    @pytest.mark.parametrize("make", [upgrade, downgrade])
    def test_a_dropped_name(self, make: Callable[[], Case]) -> None:
        case = make()
        case.number(8, 0)
        assert fault_of(case) == NAME

    @pytest.mark.parametrize("version", [2, 3])
    def test_an_added_name(self, version: int) -> None:
        image = Image(version=version, header={"backing_file_size": 11})
        case = plan(image.build(), 5 - version)
        case.put(400, b"/etc/shadow")
        case.number(8, 400)
        assert fault_of(case) == NAME

    def test_an_added_name_of_no_bytes(self) -> None:
        case = plan(Image(version=2).build(), 3)
        case.number(8, 400)
        assert fault_of(case) == NAME

    def test_a_name_may_move_with_its_bytes(self) -> None:
        case = upgrade()
        place = int.from_bytes(case.phases[SWITCH][0][8:16], "big")
        case.put(place, bytes(4))
        case.put(400, b"base")
        case.number(8, 400)
        case.judge()
        case.put(place, b"base")  # it is nobody's there
        assert fault_of(case) == "the guest fills sector 0 with what nobody names"


class TestReports:
    @pytest.mark.parametrize("make", [*ALL.values(), noop], ids=[*ALL, "noop"])
    @pytest.mark.parametrize("word", WORDS)
    def test_a_word_that_is_not_there(self, make: Callable[[], Case], word: str) -> None:
        case = make()
        case.says(word, case.claim.fields[word] ^ 4)
        assert fault_of(case) == MISREPORTED

    def test_a_noop_with_writes(self) -> None:
        case = toggle()
        case.claims(amended=False)
        assert fault_of(case) == "the guest reports a no-op, yet wrote"

    def test_a_noop_with_writes_that_change_nothing(self) -> None:
        case = noop()
        case.stage({0: case.data[:512]})
        assert fault_of(case) == "the guest reports a no-op, yet wrote"

    @pytest.mark.parametrize("make", ALL.values(), ids=ALL)
    def test_a_noop_though_something_is_to_be_done(self, make: Callable[[], Case]) -> None:
        case = make()
        case.stage()
        before = plan(case.data).claim
        case.claim = Claim(False, True, before.fields)
        expected = "the guest reports a no-op, yet the image is not as asked"
        assert fault_of(case) == expected


class TestRequests:
    """A success means that the image is as asked, and that it was not before."""

    @pytest.mark.parametrize("version", [2, None])
    def test_lazy_refcounts_that_version_2_cannot_have(self, version: int | None) -> None:
        case = downgrade() if version else plan(Image(version=2).build(), 2)
        if version is None:
            case.stage({0: case.data[:512]})
            case.claims(amended=True)
        case.request = AmendRequest.of(compat=version, lazy_refcounts=True)
        assert fault_of(case) == "the guest reports lazy refcounts in a version 2 image"

    @pytest.mark.parametrize("lazy", [False, None])
    def test_an_image_that_was_as_asked_before(self, lazy: bool | None) -> None:
        case = plan(Image().build(), 3, lazy)
        assert not case.claim.amended
        case.stage({0: case.data[:512]})
        case.claims(amended=True)
        assert fault_of(case) == "the guest reports success, yet the image was as asked before"

    @pytest.mark.parametrize(
        "image",
        [
            Image(dirty=True),
            Image(corrupt=True),
            Image(data_file=b"data"),
            Image(extended_l2=True),
            Image(incompatible_features=1 << 40),
            Image(refcount_order=3),
            Image(refcount_order=6),
            Image(bitmaps=[Bitmap(name=b"bitmap")]),
        ],
        ids=[
            *("dirty", "corrupt", "data file", "extended L2", "unknown"),
            *("8-bit refcounts", "64-bit refcounts", "bitmaps"),
        ],
    )
    def test_a_downgrade_of_what_the_header_says_version_2_cannot_be(self, image: Image) -> None:
        case = plan(Image().build(), 2)
        case.data = image.build()
        assert image.regions()["extensions"].stop < 400
        # As a downgrade is: the extensions move to where the header of version 2 ends.
        header = case.data[:4] + (2).to_bytes(4, "big") + case.data[8:72] + case.data[112:400]
        case.stage({0: header.ljust(512, b"\0")})
        assert fault_of(case) in (FORBIDDEN, *INEXPRESSIBLE)

    def toggled(self, image: Image) -> Case:
        """What a guest stages that turns lazy refcounts on, whatever else the header says."""
        case = toggle()
        case.data = image.build()
        case.stage({0: case.data[:87] + b"\1" + case.data[88:512]})
        features = int.from_bytes(case.data[72:80], "big")
        case.says("incompatible_features", features)
        case.says("autoclear_features", int.from_bytes(case.data[88:96], "big"))
        return case

    @pytest.mark.parametrize(
        "image", [Image(dirty=True), Image(corrupt=True), Image(incompatible_features=1 << 40)]
    )
    def test_a_toggle_of_what_must_not_be_written(self, image: Image) -> None:
        assert fault_of(self.toggled(image)) == FORBIDDEN

    @pytest.mark.parametrize(
        "image",
        [
            Image(),
            Image(data_file=b"data", data_file_raw=True),
            Image(compression_type=1),
            Image(extended_l2=True),
            Image(refcount_order=3),
            Image(bitmaps=[Bitmap(name=b"bitmap")]),
        ],
    )
    def test_a_toggle_of_what_version_2_cannot_be_is_good(self, image: Image) -> None:
        (change,) = self.toggled(image).judge()
        assert (change.field, change.after) == ("compatible_features", 1)


class TestMalformedHeaders:
    @pytest.mark.parametrize(
        ("make", "at"), [(upgrade, 112), (downgrade, 72)], ids=["upgrade", "downgrade"]
    )
    def test_an_extension_that_leaves_the_header(self, make: Callable[[], Case], at: int) -> None:
        case = make()
        case.number(at + 4, 0xFFFFFFFF, 4)
        assert fault_of(case) == MALFORMED + "extension reaches beyond its limit"

    @pytest.mark.parametrize("make", [upgrade, downgrade])
    def test_an_end_marker_with_a_length(self, make: Callable[[], Case]) -> None:
        # qemu looks at the length before it looks at the type, and opens no such image.
        case = make()
        amended = case.amended()
        marker = len(view_header(lambda at, size: amended[at : at + size]).raw) - 8
        assert amended[marker : marker + 8] == bytes(8)
        case.number(marker + 4, 0xFFFFFFFF, 4)
        assert fault_of(case).startswith(MALFORMED)

    @pytest.mark.parametrize("version", [2, 3])
    def test_an_end_marker_that_reaches_into_the_name(self, version: int) -> None:
        # As above: to qemu the marker leaves the extension area.
        case = plan(Image(version=5 - version, backing_file=b"base").build(), version)
        at = 72 if version == 2 else 112
        case.put(at, bytes(4) + b"base")
        case.number(8, at + 4)
        assert fault_of(case).startswith(MALFORMED)

    def test_a_cluster_size_out_of_range(self) -> None:
        case = toggle()
        case.number(20, 22, 4)
        assert fault_of(case) == MALFORMED + "version, cluster_bits or header_length"

    @pytest.mark.parametrize("order", [7, 32, (1 << 32) - 1])
    def test_refcounts_that_are_wider_than_any(self, order: int) -> None:
        image = Image(cluster_bits=9, size=1 << 16, clusters={0: Data(b"d")})
        case = plan_request(image.build(), AmendRequest.of(size=1 << 20, max_growth=1 << 20))
        case.judge()
        field = order.to_bytes(4, "big")
        case.data = case.data[:96] + field + case.data[100:]
        for phase in filter(None, case.phases):
            if header := phase.get(0):
                phase[0] = header[:96] + field + header[100:]
        assert fault_of(case) == MALFORMED + "refcount_order"

    @pytest.mark.parametrize("amended", [True, False])
    def test_an_image_that_no_planner_accepts(self, amended: bool) -> None:
        case = toggle()
        broken = bytearray(case.data)
        broken[100:104] = (64).to_bytes(4, "big")
        case.data = bytes(broken)
        case.claims(amended=amended)
        if not amended:
            case.stage()
        assert fault_of(case).startswith(MALFORMED)

    def test_a_file_that_ends_within_the_header_cluster_does_not_grow(self) -> None:
        case = toggle()
        case.data = case.data[:1000]
        case.phases[0] = {1: case.data[512:].ljust(512, b"X")}
        expected = "the guest reports success, yet wrote nothing or outside the header"
        assert fault_of(case) == expected

    def test_a_file_of_less_than_a_sector(self) -> None:
        case = toggle()
        case.data = case.data[:511]
        assert fault_of(case) == MALFORMED + "short header"

    def test_extensions_behind_the_limit(self) -> None:
        large = Extension(1, bytes(1 << 16))
        image = Image(cluster_bits=21, extensions=[large])
        case = toggle()
        case.data = image.build()
        case.stage({0: case.data[:512]})
        assert fault_of(case) == MALFORMED + "header larger than its limit"


def test_the_description_of_these_tests_fits_one_sector() -> None:
    assert Image(**DESCRIPTION).regions()["backing_file"].stop < 400
