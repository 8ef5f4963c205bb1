"""Test side: a child of `instar info` or `check` that says too much costs its parent a known room.

Each case is a process of its own: what an old one has let go of is taken again without a new peak.
"""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.support.project import ROOT

CODE = """
import os, sys
from instar.vmm.cli.children import ANSWER_MAX, carry_out, one_step
from tests.support.peak import forget_peak, peak

part, end = sys.argv[1].encode(), sys.argv[2]

def say(_name):
    while not end:
        os.write(1, part * (1 << 16))
    text = b"[" + part * ((ANSWER_MAX - 16) // len(part)) + end.encode()
    while text:
        text = text[os.write(1, text) :]
    os._exit(0)

before = forget_peak()
(document,) = carry_out(["a"], one_step(say, "info"), jobs=1, timeout=30.0)
print(peak() - before, document["error"]["message"])
"""
CASES = {
    "no document, and no end": ("x", "", 24),
    "a document without an end": ("[],", "", 24),
    "the longest document of lists": ("[],", "[]]", 400),
    "the longest document of lists in lists": ("[[]],", "[]]", 400),
    "the longest document of texts": ('"abc",', '""]', 400),
}
"""What is said again and again, its end, and the MiB that it may cost."""


@pytest.mark.parametrize(("part", "end", "most"), CASES.values(), ids=CASES)
def test_an_answer_takes_no_more_memory_than_promised(part: str, end: str, most: int) -> None:
    done = subprocess.run(
        [sys.executable, "-c", CODE, part, end],
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
        timeout=60,
    )
    taken, _, message = done.stdout.partition(" ")
    assert message == "the confined process ended without a word that makes sense\n"
    assert int(taken) < most << 20
