"""Host side: arguments are read as getopt_long reads them."""

from __future__ import annotations

import pytest

from instar.vmm.base.errors import UsageError
from instar.vmm.cli.arguments import OPERAND, Flag, format_flags, scan
from instar.vmm.cli.flags import AMEND

FLAGS = (
    Flag("quiet", "say less", short="q"),
    Flag("progress", "say more", short="p"),
    Flag("options", "what to do", short="o", metavar="OPTIONS"),
    Flag("object", "what with", metavar="OBJDEF"),
    Flag("force", "do it"),
    Flag("force-share", "do it together"),
)

READ = {
    "short": (["-q"], [("quiet", "")]),
    "long": (["--quiet"], [("quiet", "")]),
    "cluster": (["-pq"], [("progress", ""), ("quiet", "")]),
    "value apart": (["-o", "a=b"], [("options", "a=b")]),
    "value attached": (["-oa=b"], [("options", "a=b")]),
    "value attached to a cluster": (["-qoa"], [("quiet", ""), ("options", "a")]),
    "value after a cluster": (["-qo", "a"], [("quiet", ""), ("options", "a")]),
    "value of a long flag": (["--options", "a=b"], [("options", "a=b")]),
    "value after an equals sign": (["--options=a=b"], [("options", "a=b")]),
    "empty value": (["--options=", "-o", ""], [("options", ""), ("options", "")]),
    "value that looks like a flag": (
        ["-o", "-q", "--options", "--"],
        [
            ("options", "-q"),
            ("options", "--"),
        ],
    ),
    "operand before a flag": (["disk", "-q"], [(OPERAND, "disk"), ("quiet", "")]),
    "two dashes end the flags": (
        ["-q", "--", "-p", "--"],
        [
            ("quiet", ""),
            (OPERAND, "-p"),
            (OPERAND, "--"),
        ],
    ),
    "one dash is an operand": (["-"], [(OPERAND, "-")]),
    "empty operand": ([""], [(OPERAND, "")]),
    "repeated": (["-oa", "-ob"], [("options", "a"), ("options", "b")]),
    "abbreviation": (["--op", "a", "--q"], [("options", "a"), ("quiet", "")]),
    "abbreviation with a value": (["--ob=a"], [("object", "a")]),
    "exact name that is also an abbreviation": (["--force"], [("force", "")]),
    "abbreviation of the longer": (["--force-"], [("force-share", "")]),
    "nothing": ([], []),
}

FAULTS = {
    "unknown short": (["-Z"], "invalid option -- 'Z'"),
    "unknown in a cluster": (["-qZ"], "invalid option -- 'Z'"),
    "a number": (
        ["-1M", "-q"],
        "invalid option -- '1'; a size that begins with '-' goes last, after '--'",
    ),
    "short with an equals sign": (["-q=1"], "invalid option -- '='"),
    "unknown long": (["--foo"], "unrecognized option '--foo'"),
    "unknown long with a value": (["--foo=1"], "unrecognized option '--foo'"),
    "short names are not long ones": (["--Q"], "unrecognized option '--Q'"),
    "ambiguous": (["--o=1"], "option '--o' is ambiguous; possibilities: '--options' '--object'"),
    "missing value": (["-o"], "option requires an argument -- 'o'"),
    "missing value after a cluster": (["-qo"], "option requires an argument -- 'o'"),
    "missing value of a long flag": (["--opt"], "option '--options' requires an argument"),
    "value that is not wanted": (["--qu=1"], "option '--quiet' doesn't allow an argument"),
}


@pytest.mark.parametrize(("arguments", "expected"), READ.values(), ids=READ)
def test_reads(arguments: list[str], expected: list[tuple[str, str]]) -> None:
    assert list(scan(arguments, FLAGS, "instar verb")) == expected


@pytest.mark.parametrize(("arguments", "message"), FAULTS.values(), ids=FAULTS)
def test_refuses(arguments: list[str], message: str) -> None:
    with pytest.raises(UsageError) as caught:
        list(scan(arguments, FLAGS, "instar verb"))
    assert str(caught.value) == f"{message}; see 'instar verb --help'"


def test_what_comes_before_a_fault_is_read() -> None:
    seen = scan(["-q", "--foo"], FLAGS, "instar verb")
    assert next(seen) == ("quiet", "")
    with pytest.raises(UsageError):
        next(seen)


@pytest.mark.parametrize(
    ("abbreviation", "name"),
    [
        ("--h", "help"),
        ("--q", "quiet"),
        ("--p", "progress"),
        ("--c=x", "cache"),
        ("--i", "image-opts"),
        ("--fom=x", None),
        ("--forc", "force"),
        ("--form=x", "format"),
        ("--op=x", "options"),
        ("--ob=x", "object"),
    ],
)
def test_our_own_flags_leave_qemu_img_its_abbreviations(
    abbreviation: str, name: str | None
) -> None:
    if name is None:
        with pytest.raises(UsageError):
            list(scan([abbreviation], AMEND.flags, "instar amend"))
    else:
        assert [found for found, _value in scan([abbreviation], AMEND.flags, "")] == [name]


def test_help_spells_every_flag() -> None:
    text = format_flags(FLAGS)
    assert "  -o, --options OPTIONS\n      what to do\n" in text
    assert "  --force\n      do it\n" in text
    assert text.count("--") == len(FLAGS)
