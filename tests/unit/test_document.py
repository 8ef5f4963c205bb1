"""Test side: of what a confined process says, nothing is believed that this process can judge."""

from __future__ import annotations

import json
import tracemalloc
from pathlib import Path
from typing import Any

import pytest

import instar
from instar.vmm.amend.result import RANGES_MAX
from instar.vmm.base.errors import Refusal, error_fields
from instar.vmm.base.lean_json import dump_line
from instar.vmm.base.refusals import Circumstances, not_qcow2, overlap, translate
from instar.vmm.fleet.document import ANSWER_MAX, Expected, describe_unsure, read_outcome
from instar.vmm.request.keywords import make_request
from tests.support.documents import NAME, NOOP, REFUSAL, RESULT, SHA256
from tests.support.forge import Data, Image, Snapshot, Zero, ZeroAllocated
from tests.support.options import told

REQUEST = make_request({"compat": "1.1", "lazy_refcounts": True, "timeout": 30})
EXPECTED = Expected(NAME, REQUEST, SHA256, 1 << 20)


STEPS: list[dict[str, Any]] = [
    {
        "asked": {"compat": "1.1"},
        "action": "amended",
        "atomic": True,
        "bytes_written": 1024,
        "changes": RESULT["changes"],
        "ranges": RESULT["ranges"],
        "more_ranges": 0,
        "file_end": None,
    },
    {
        "asked": {"lazy_refcounts": True},
        "action": "amended",
        "atomic": True,
        "bytes_written": 512,
        "changes": [{"field": "compatible_features", "before": 1, "after": 3}],
        "ranges": [RESULT["ranges"][-1]],
        "more_ranges": 0,
        "file_end": None,
    },
]


def read(document: Any, expected: Expected = EXPECTED) -> Any:
    return read_outcome(json.dumps(document).encode(), expected)


def changed(where: str, /, **values: Any) -> dict[str, Any]:
    """RESULT with one of its ranges or changes, at the place given, changed."""
    name, _, place = where.partition(" ")
    parts = [dict(part) for part in RESULT[name]]
    parts[int(place)].update(values)
    return {**RESULT, name: parts}


@pytest.mark.parametrize("document", [RESULT, NOOP, {"result": RESULT}, {"result": NOOP}])
def test_an_honest_result_is_read(document: Any) -> None:
    assert isinstance(read(document), instar.AmendResult)


LIES: dict[str, list[Any]] = {
    "filename": ["/images/b.qcow2", "", None, 1],
    "format": ["raw", "\x1b[31mqcow2", None],
    "action": ["noop", "", "\n", None, ["amended"]],
    "options": [
        *(told(compat=level) for level in ("0.10", "1.2", "v3", None, 3)),
        *(told(lazy_refcounts=lazy) for lazy in (False, 1, None, "on")),
        dict(reversed(told().items())),
        {"compat": "1.1"},
        told(unknown=1),
        *(None, [], "compat", 7),
    ],
    "atomic": [False, 1, None],
    "dry_run": [True, 0, None],
    "bytes_read": [-1, 1 << 63, True, "1", None],
    "bytes_written": [0, -512, 512, 1023, 2048, 10**18, True, None],
    "vm_exits": [-1, 1 << 64, False],
    "payload_sha256": ["0" * 64, SHA256.upper(), "\x1b]0;x\x07", None],
    "changes": [[], {}, None, 5, "ab", RESULT["changes"][::-1], RESULT["changes"] * 2],
    "ranges": [[], {}, None, 5, "ab", RESULT["ranges"][::-1], RESULT["ranges"] * 2],
    "more_ranges": [-1, 1, 1 << 40, True, None],
    "file_end": [0, -1, 4096, True, "0"],
    "warnings": [None, 5, [1], [None], ["w"] * 9, ["w" * 100_000]],
    "steps": [None, 5, {}, [1], [STEPS[0]], STEPS],
}


def test_every_field_of_a_result_has_its_lies() -> None:
    assert LIES.keys() == RESULT.keys() == instar.AmendResult.__annotations__.keys()


@pytest.mark.parametrize(
    ("field", "value"),
    [(field, value) for field, values in LIES.items() for value in values],
    ids=lambda value: repr(value)[:40],
)
def test_a_lie_about_a_field_is_no_outcome(field: str, value: Any) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - its subclasses are none of ours
        read({**RESULT, field: value})


@pytest.mark.parametrize(
    "document",
    [
        *({name: RESULT[name] for name in RESULT if name != gone} for gone in RESULT),
        {**RESULT, "unknown": 1},
        *(changed("ranges 0", phase=phase) for phase in (-1, 1, 4, 6, 77, True, "0", None)),
        *(changed("ranges 2", phase=phase) for phase in (2, 4, 6, 77)),
        *(changed("ranges 0", offset=offset) for offset in (-512, 100, 1 << 20, 1 << 63)),
        *(changed("ranges 0", length=length) for length in (0, -512, 100, 1 << 20, 1 << 63)),
        *(changed("ranges 2", zeroes=zeroes) for zeroes in (True, 0, None)),
        changed("ranges 1", zeroes=True),
        changed("ranges 1", length=1024),
        changed("changes 0", field="magic"),
        changed("changes 0", field="\n\x1b[1m"),
        changed("changes 0", field=None),
        changed("changes 0", after=2),
        changed("changes 0", before=3),
        changed("changes 1", after=-1),
        changed("changes 1", after=1 << 64),
        changed("changes 1", after="1"),
        {**RESULT, "changes": [{"field": "size", "before": 1, "after": 2}]},
        {**NOOP, "changes": RESULT["changes"]},
        {**NOOP, "ranges": RESULT["ranges"]},
        {**NOOP, "bytes_written": 512},
        {**NOOP, "more_ranges": 1},
    ],
    ids=lambda document: json.dumps(document)[-60:],
)
def test_a_result_at_odds_with_itself_is_no_outcome(document: Any) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - see above
        read(document)


def test_a_range_may_reach_to_the_end_of_a_short_last_sector() -> None:
    end = Expected(NAME, REQUEST, SHA256, 8192 - 100)
    assert read(RESULT, end).ranges[0].offset + 4096 == 8192
    with pytest.raises(ValueError, match="not what an amend"):
        read(RESULT, Expected(NAME, REQUEST, SHA256, 8192 - 512))


def test_a_list_of_ranges_is_cut_off_only_where_it_is_full() -> None:
    last = {"phase": 3, "offset": 0, "length": 512, "zeroes": False}
    several = [
        {"phase": 0, "offset": 1024 * n, "length": 512, "zeroes": False}
        for n in range(1, RANGES_MAX)
    ]
    full = {**RESULT, "ranges": [*several, last], "more_ranges": 7, "bytes_written": 1 << 22}
    expected = Expected(NAME, REQUEST, SHA256, 1 << 30)
    assert read(full, expected).more_ranges == 7
    with pytest.raises(ValueError, match="not what an amend"):
        read({**full, "ranges": several}, expected)
    assert len(json.dumps(full, indent=2)) < ANSWER_MAX


SHRUNK = Expected(NAME, make_request({"size": 1 << 20, "shrink": True}), SHA256, 1 << 20)
GIVEN_BACK: dict[str, Any] = {
    **RESULT,
    "changes": [{"field": "size", "before": 1 << 21, "after": 1 << 20}],
    "options": told(size=1 << 20),
    "ranges": [*RESULT["ranges"], {"phase": 6, "offset": 8192, "length": 4096, "zeroes": True}],
    "file_end": 16384,
}


def test_a_change_of_the_size_gives_room_back() -> None:
    assert read(GIVEN_BACK, SHRUNK).file_end == 16384


@pytest.mark.parametrize(
    "lie",
    [
        *({"file_end": end} for end in (0, -1, 1 << 20, 1 << 40)),
        {"ranges": [*RESULT["ranges"], {**GIVEN_BACK["ranges"][-1], "zeroes": False}]},
        {"ranges": [GIVEN_BACK["ranges"][-1], *RESULT["ranges"]]},
        {"ranges": [*RESULT["ranges"], {**GIVEN_BACK["ranges"][-1], "offset": 1 << 20}]},
    ],
    ids=str,
)
def test_a_lie_about_room_that_is_given_back_is_no_outcome(lie: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="not what an amend"):
        read({**GIVEN_BACK, **lie}, SHRUNK)


ABOUT = Circumstances(
    snapshots={2: (b"\x1b", b"tag \xff")},
    size=1 << 20,
    header={"cluster_bits": 16, "nb_snapshots": 3},
)
HONEST_ERRORS = [
    instar.HostError(f"could not read '{NAME}': Input/output error"),
    instar.ImageLocked(f"Could not open '{NAME}': Is another process using the image [{NAME}]?"),
    instar.GuestFault("the guest faulted"),
    instar.ImageRejected((overlap(4096, 1), not_qcow2("a vmdk image", "no"))),
    instar.ImageRejected(translate(((28, 3, 2, 0, 0),), Circumstances((b"one", b"two\n\xff")))),
    instar.ImageRejected(translate(((7, 8, 0, 0, 0),))),
    instar.ImageRejected(translate(((29, 3, 2, 1, 3),), ABOUT)),
    instar.ImageRejected(translate(((26, 3, 0, 0, 0), (11, 7, 1 << 30, 1, 1 << 20)), ABOUT)),
]


@pytest.mark.parametrize("error", HONEST_ERRORS, ids=str)
def test_an_honest_error_comes_through_as_it_is(error: instar.InstarError) -> None:
    text = dump_line({"error": error_fields(error)})
    outcome = read_outcome(text.encode(), EXPECTED)
    assert type(outcome) is type(error)
    assert outcome.args == error.args
    assert getattr(outcome, "refusals", ()) == getattr(error, "refusals", ())


ERROR = {"kind": "ImageRejected", "message": "x", "refusals": [REFUSAL]}
NO_DETAILS: tuple[Any, ...] = (None, [], {}, {"a": {"b": ["c"]}})
NO_KINDS: tuple[Any, ...] = (None, 1, [], {})
BAD_REFUSALS: list[Any] = [
    *({**REFUSAL, "name": name} for name in ("\x1b[2J", "dirty", "", None, 1)),
    *({**REFUSAL, "names": names} for names in (["x"], [1], ["\ud800"], None, 7, ["x"] * 4096)),
    *({**REFUSAL, "number": number} for number in (-5, 0, 7, 1 << 40, True, None)),
    *({**REFUSAL, "code": code} for code in ("x", "DIRTY", None)),
    *({**REFUSAL, "code_number": number} for number in (-1, 8, 99, None)),
    *({**REFUSAL, "message": text} for text in ("boo\x1b[31m\n", "", None, ["x"])),
    *({**REFUSAL, "detail": {**REFUSAL["detail"], "offset": n}} for n in (-1, 1 << 64, 5, "4096")),
    *({**REFUSAL, "detail": detail} for detail in NO_DETAILS),
    {**REFUSAL, "unknown": 1},
    *(1, None, "x", []),
]


@pytest.mark.parametrize("refusal", BAD_REFUSALS, ids=lambda value: repr(value)[-60:])
def test_a_refusal_that_is_none_of_ours_is_no_outcome(refusal: Any) -> None:
    assert isinstance(read({"error": ERROR}), instar.ImageRejected)
    with pytest.raises(ValueError):  # noqa: PT011 - see above
        read({"error": {**ERROR, "refusals": [refusal]}})


@pytest.mark.parametrize(
    "error",
    [
        *(1, None, "x", [1], {}, {"kind": "HostError"}, {"message": "x"}),
        *({"kind": kind, "message": "x"} for kind in NO_KINDS),
        *({"kind": "HostError", "message": text} for text in (None, 1, ["x"], "x" * 100_000)),
        *({**ERROR, "refusals": several} for several in ([], 5, "ab", None, [REFUSAL] * 65)),
    ],
    ids=lambda value: repr(value)[:60],
)
def test_an_error_that_is_none_is_no_outcome(error: Any) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - see above
        read({"error": error})


def test_words_cannot_reach_a_terminal_as_anything_but_words() -> None:
    words = f"\x1b[31m\n\udc00\ud800 {NAME} \u202e"
    error = read({"error": {"kind": "HostError", "message": words}})
    assert str(error) == rf"\x1b[31m\n\udc00\ud800 {NAME} \u202e"
    assert read({**RESULT, "warnings": [words]}).warnings == (str(error),)
    for kind in ("\x1b", "ZeroDivisionError", "UsageError"):  # there is none for it to find
        error = read({"error": {"kind": kind, "message": "m"}})
        assert type(error) is instar.HostError
        assert str(error) == f"the confined process failed at '{NAME}': m"


@pytest.mark.parametrize(
    "text",
    [
        *("", "{", "null", "[]", "1", '"x"', "{}", "NaN", '{"result": NaN}', '{"error": 1.5}'),
        "[" * 200_000,
        '{"result":' + "[" * 200_000 + "]" * 200_000 + "}",
        '{"result": {"changes": [], "ranges": [], "warnings": [], "x":' + "9" * 10_000 + "}}",
        '{"error": {"kind": "HostError", "message": "x", "more":' + "9" * 1_000_000 + "}}",
        "\udc00",
    ],
    ids=lambda text: text[:40],
)
def test_what_is_no_document_is_no_outcome(text: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - see above
        read_outcome(text.encode("utf-8", "surrogatepass"), EXPECTED)


@pytest.mark.parametrize("part", ["[],", "{},", '"\\udc00",', "1,", "[[[]]],", '{"a":1},'])
def test_the_most_hostile_document_takes_little_memory(part: str) -> None:
    text = f"[{part * (ANSWER_MAX // len(part) - 2)}[]]".encode()
    assert len(text) <= ANSWER_MAX
    tracemalloc.start()
    with pytest.raises(ValueError):  # noqa: PT011 - see above
        read_outcome(text, EXPECTED)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 64 << 20


IMAGES = {
    "plain": (Image(version=2), REQUEST),
    "as asked": (Image(lazy_refcounts=True), REQUEST),
    "downgraded": (
        Image(
            size=1 << 20,
            backing_file=b"base",
            clusters={0: Zero(), 1: ZeroAllocated(b"x"), 2: Data(b"a")},
            snapshots=[Snapshot(name=b"a", clusters={0: Data(b"b")})],
        ),
        make_request({"compat": "0.10", "timeout": 30}),
    ),
    "dry": (Image(), make_request({"lazy_refcounts": True, "dry_run": True, "timeout": 30})),
}


@pytest.mark.kvm
@pytest.mark.parametrize(("image", "request_"), IMAGES.values(), ids=IMAGES)
def test_what_an_amend_really_comes_to_is_believed(
    tmp_path: Path, image: Image, request_: Any
) -> None:
    path = tmp_path / "image"
    image.write(path)
    end = path.stat().st_size + request_.max_growth
    with instar.Sandbox() as sandbox:
        result = sandbox.carry_out(path, request_)
    text = dump_line({"result": result}).encode()
    assert read_outcome(text, Expected(str(path), request_, SHA256, end)) == result


IN_STEPS: dict[str, Any] = {
    **RESULT,
    "atomic": False,
    "bytes_written": 1536,
    "changes": [RESULT["changes"][0], {"field": "compatible_features", "before": None, "after": 3}],
    "ranges": [*RESULT["ranges"], RESULT["ranges"][-1]],
    "steps": STEPS,
}
DONE_ALREADY = {**STEPS[1], "action": "noop", "bytes_written": 0, "changes": [], "ranges": []}
ONE_AMENDED = {**RESULT, "steps": [STEPS[0], DONE_ALREADY]}


@pytest.fixture
def two_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have what is asked for take two steps."""
    steps = tuple(make_request(part) for part in ({"compat": "1.1"}, {"lazy_refcounts": True}))
    monkeypatch.setattr(type(REQUEST), "steps", lambda _request: steps)


def with_step(number: int, /, **values: Any) -> dict[str, Any]:
    """IN_STEPS with one of its steps changed."""
    steps = [{**step, **values} if at == number else step for at, step in enumerate(STEPS)]
    return {**IN_STEPS, "steps": steps}


@pytest.mark.usefixtures("two_steps")
class TestSteps:
    @pytest.mark.parametrize("document", [IN_STEPS, ONE_AMENDED], ids=["both", "one"])
    def test_honest_ones_are_read(self, document: Any) -> None:
        result = read(document)
        assert [dict(step.asked) for step in result.steps] == [step["asked"] for step in STEPS]
        assert json.loads(json.dumps(result.to_dict()))["steps"] == document["steps"]

    @pytest.mark.parametrize(
        "document",
        [
            RESULT,
            *({**IN_STEPS, "steps": steps} for steps in (STEPS[:1], STEPS[::-1], STEPS * 2)),
            *({**IN_STEPS, name: RESULT[name]} for name in ("atomic", "bytes_written", "changes")),
            {**IN_STEPS, "ranges": RESULT["ranges"]},
            {**IN_STEPS, "action": "noop"},
            {**IN_STEPS, "more_ranges": 1},
            {**ONE_AMENDED, "atomic": False},
            with_step(0, asked={"compat": "0.10"}),
            with_step(0, asked={"compat": "1.1", "lazy_refcounts": True}),
            with_step(0, bytes_written=512),
            with_step(0, atomic=False),
            with_step(0, changes=[]),
            with_step(1, action="noop"),
            with_step(1, ranges=[{**RESULT["ranges"][-1], "offset": 1 << 20}]),
            with_step(1, more_ranges=1),
            with_step(1, more_ranges=True),
            with_step(1, unknown=1),
            with_step(1, changes=[{"field": "size", "before": 1, "after": 2}]),
        ],
    )
    def test_lies_about_them_are_no_outcome(self, document: Any) -> None:
        with pytest.raises(ValueError):  # noqa: PT011 - its subclasses are none of ours
            read(document)


def test_is_known_tells_refusals_apart() -> None:
    from instar.vmm.base.refusals import is_known

    assert is_known(overlap(4096, 1))
    assert not is_known(Refusal("overlap", 47, "DIRTY", 8, "x", {}))


def test_what_is_said_of_an_image_where_no_document_came() -> None:
    one, two = make_request({"compat": "1.1"}), make_request({"compat": "1.1", "size": 512})
    assert describe_unsure(one).startswith("the image is the old one or the amended one")
    assert describe_unsure(two).startswith("none, some or all steps are done")
