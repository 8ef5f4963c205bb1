"""Amends an image in steps that no request of the command leads to. Test side.

command() is a program that does so, with the exit status of `instar amend` and its line on stderr.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from instar.vmm.amend import carry_out, plan_steps, preload_steps
from instar.vmm.amend.result import AmendResult
from instar.vmm.base.errors import InstarError
from instar.vmm.confine import Descriptors, confine
from instar.vmm.image.image_file import ImageFile
from instar.vmm.machine import Machine
from instar.vmm.machine.payload import Payload, load_payload
from instar.vmm.request import AmendRequest
from instar.vmm.request.keywords import make_request
from instar.vmm.request.lists import parse_options
from tests.support.process import PACKAGE, ROOT

UP_AND_DOWN = ("compat=1.1", "compat=0.10")


def request_of(text: str, **keywords: Any) -> AmendRequest:
    """The request of KEY=VALUE,... as the command has them."""
    options = parse_options([text])
    assert options is not None
    return make_request({**options, **keywords})


def amend_in_steps(
    path: Path | str,
    steps: Sequence[AmendRequest],
    *,
    payload: Payload | None = None,
    before_read: Callable[[ImageFile, int, int], None] | None = None,
    **callbacks: Any,
) -> AmendResult:
    """Do what amend_image() does with a request of these steps."""
    preload_steps(steps)
    payload = payload or load_payload()
    growth = max(step.max_growth for step in steps)
    writable = not steps[0].dry_run
    with ImageFile.open(str(path), writable=writable, max_growth=growth) as image:
        warning = image.lock()
        with Machine(payload) as machine:
            machine.keep()
            if before_read:
                before_read(image, machine.prepare_vcpu(), len(steps))
            plans = plan_steps(machine, image, steps, **callbacks)
        return carry_out(image, steps[-1], plans, payload.sha256, warning)


def command(*steps: str, confined: bool = True) -> list[str]:
    """The command line of a program that does this, to which the image's path is to be added.

    One that is not confined can be looked into by whoever may trace it.
    """
    start = f"import sys; sys.path[:0] = {[str(PACKAGE), str(ROOT)]!r}; "
    code = f"from tests.support.chain import main; main(confined={confined})"
    return [sys.executable, "-c", start + code, *steps]


def main(*, confined: bool) -> NoReturn:
    """Do what the arguments say; ends the process."""
    *steps, path = sys.argv[1:]
    requests = [request_of(text) for text in steps]
    try:
        amend_in_steps(path, requests, before_read=_confine if confined else None)
    except InstarError as error:
        os.write(2, f"instar: {error}\n".encode())
        os._exit(1)
    os._exit(0)


def _confine(image: ImageFile, vcpu: int, runs: int) -> None:
    used = Descriptors(image.fd, image.size, vcpu, image.max_growth, runs=runs)
    confine(used, required=True)
