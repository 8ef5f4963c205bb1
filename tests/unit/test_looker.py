"""Test side: what a guest that looks at an image is told of what it is to say and may spend."""

from __future__ import annotations

from struct import Struct
from types import SimpleNamespace
from typing import Any, cast

import pytest

from instar import abi
from instar.vmm.inspect.looker import Looker

CONFIG = Struct(abi.InspectConfig_FORMAT)


def say_nothing(_text: str) -> None:
    """Take text of the guest."""


@pytest.mark.parametrize("work_max", [None, 0, 7])
@pytest.mark.parametrize("debug", [None, say_nothing])
@pytest.mark.parametrize("progress", [False, True])
def test_it_tells_progress_and_text_where_they_are_wanted(
    progress: bool, debug: Any, work_max: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran: list[Any] = []
    machine = SimpleNamespace(
        run=lambda *words, **how: ran.append((words, how)), vm_exits=5, is_kept=False
    )
    looker = Looker("check")
    monkeypatch.setattr(looker, "_machine", machine)
    image: Any = SimpleNamespace(size=4096, work_max=99)
    looker.look(
        *(image, cast("Any", print), 3.0), progress=progress, debug=debug, work_max=work_max
    )
    ((given, config, *rest), how), *_ = ran
    flags = abi.INSPECT_FLAG_PROGRESS * progress | abi.INSPECT_FLAG_QUIET * (debug is None)
    spent = 99 if work_max is None else work_max
    assert CONFIG.unpack(config) == (abi.INSPECT_CONFIG_MAGIC, flags, 4096, spent, 0)
    assert (given, rest, how) == (image, [3.0, print, debug], {"read_only": True})
    assert looker.vm_exits == 5
