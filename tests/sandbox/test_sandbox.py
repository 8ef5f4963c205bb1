"""Test side: instar.Sandbox: one machine for many images, until one of them misbehaves."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import instar
from instar import abi
from instar.vmm import machine as machine_module
from instar.vmm.amend import sandbox as sandbox_module
from instar.vmm.kvm.vcpu import Vcpu
from instar.vmm.machine import Machine
from instar.vmm.request import AmendRequest
from tests.sandbox.rogues import Rogues, open_descriptors
from tests.support.forge import Data, Image, parse_header

pytestmark = pytest.mark.kvm

LAZY: dict[str, Any] = {"lazy_refcounts": True}


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[Machine]:
    """The machines that sandboxes make."""
    machines: list[Machine] = []

    class Counted(Machine):
        def __init__(self, *arguments: Any) -> None:
            super().__init__(*arguments)
            machines.append(self)

    monkeypatch.setattr(sandbox_module, "Machine", Counted)
    return machines


def write(path: Path, **fields: Any) -> Path:
    Image(size=1 << 20, clusters={0: Data(b"\x05")}, **fields).write(path)
    return path


def test_one_machine_does_for_all_images_what_a_fresh_one_does_for_each(
    tmp_path: Path, made: list[Machine]
) -> None:
    kinds: list[dict[str, Any]] = [{}, {"version": 2}, {"dirty": True}, {"cluster_bits": 9}]
    requests: list[dict[str, Any]] = [LAZY, {"compat": "1.1"}, {"compat": "0.10"}]
    outcomes: list[list[object]] = []
    with instar.Sandbox() as sandbox:
        for call in (instar.amend, sandbox.amend):
            outcomes.append([])
            for number in range(24):
                path = write(tmp_path / "image", **kinds[number % 4])
                try:
                    outcomes[-1].append(call(path, **requests[number % 3]))
                except instar.ImageRejected as error:
                    outcomes[-1].append(error.refusals)
                outcomes[-1].append(path.read_bytes())
    assert outcomes[0] == outcomes[1]
    assert len(made) == 1


def test_a_scan_that_filled_the_window_leaves_the_next_image_its_result(tmp_path: Path) -> None:
    big = Image(size=1 << 34, clusters={n << 13: Data(b"\x05") for n in range(32)})
    with instar.Sandbox() as sandbox:
        for _ in range(3):
            big.write(tmp_path / "big")
            assert sandbox.amend(tmp_path / "big", compat="0.10").action == "amended"
            small = write(tmp_path / "small", version=2)
            assert sandbox.amend(small, compat="1.1").vm_exits == 1


def hang(sandbox: instar.Sandbox, path: Path) -> None:
    with pytest.raises(instar.GuestFault):
        sandbox.amend(path, timeout=0.5, **LAZY)


def test_a_guest_fault_costs_the_machine(rogues: Rogues, path: Path, made: list[Machine]) -> None:
    write(path)
    before = open_descriptors()
    with instar.Sandbox(payload=rogues.payload("endless_loop")) as sandbox:
        for _ in range(2):
            hang(sandbox, path)
            assert open_descriptors() == before
    assert len(made) == 2


def test_a_broken_contract_costs_the_machine(
    rogues: Rogues, path: Path, made: list[Machine]
) -> None:
    write(path)
    contents = path.read_bytes()
    with instar.Sandbox(payload=rogues.payload("changed_l1_table")) as sandbox:
        for _ in range(2):
            with pytest.raises(instar.GuestFault, match="header field"):
                sandbox.amend(path, **LAZY)
    assert len(made) == 2
    assert path.read_bytes() == contents


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError(5, "Input/output error")])
def test_an_interrupt_or_a_failure_of_kvm_costs_the_machine(
    path: Path, made: list[Machine], monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    write(path)

    def fail(_vcpu: Vcpu) -> None:
        raise error

    with instar.Sandbox() as sandbox:
        with monkeypatch.context() as patch:
            patch.setattr(Vcpu, "run", fail)
            with pytest.raises((KeyboardInterrupt, instar.HostError)):
                sandbox.amend(path, **LAZY)
        assert sandbox.amend(path, **LAZY).action == "amended"
    assert len(made) == 2


def test_a_reset_that_fails_costs_the_machine_before_anything_is_written(
    path: Path, made: list[Machine], monkeypatch: pytest.MonkeyPatch
) -> None:
    write(path)
    contents = path.read_bytes()

    def fail(_machine: Machine) -> None:
        raise instar.HostError("no")

    with instar.Sandbox() as sandbox:
        with monkeypatch.context() as patch:
            patch.setattr(Machine, "reset", fail)
            with pytest.raises(instar.HostError):
                sandbox.amend(path, **LAZY)
        assert path.read_bytes() == contents
        sandbox.amend(path, **LAZY)
    assert len(made) == 2


def test_neither_a_refusal_nor_a_file_that_is_no_image_costs_the_machine(
    path: Path, made: list[Machine]
) -> None:
    with instar.Sandbox() as sandbox:
        for contents in (b"KDMV", b""):
            path.write_bytes(contents)
            with pytest.raises(instar.ImageRejected):
                sandbox.amend(path, **LAZY)
        write(path, dirty=True)
        with pytest.raises(instar.ImageRejected, match="dirty"):
            sandbox.amend(path, **LAZY)
        with pytest.raises(instar.HostError):
            sandbox.amend(path / "nothing", **LAZY)
        with pytest.raises(instar.UsageError):
            sandbox.amend(path, compat="2")  # type: ignore[arg-type]
        write(path)
        assert sandbox.amend(path, **LAZY).action == "amended"
    assert len(made) == 1


def test_leaves_no_descriptor_open(path: Path) -> None:
    before = open_descriptors()
    with instar.Sandbox() as sandbox:
        sandbox.amend(write(path), **LAZY)
        assert open_descriptors() != before
    assert open_descriptors() == before


def test_a_closed_sandbox_is_a_usage_error(path: Path) -> None:
    sandbox = instar.Sandbox()
    sandbox.close()
    sandbox.close()
    with pytest.raises(instar.UsageError, match="closed"):
        sandbox.amend(write(path), **LAZY)


def test_two_threads_at_once_are_a_usage_error_and_harm_nothing(
    rogues: Rogues, path: Path, tmp_path: Path
) -> None:
    other = write(tmp_path / "other")
    contents = other.read_bytes()
    with instar.Sandbox(payload=rogues.payload("endless_loop")) as sandbox:
        running = threading.Event()
        original = Machine.run

        def run(*arguments: Any, **keywords: Any) -> Any:
            running.set()
            return original(*arguments, **keywords)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(machine_module.Machine, "run", run)
            write(path)
            thread = threading.Thread(target=hang, args=(sandbox, path))
            thread.start()
            assert running.wait(10)
            with pytest.raises(instar.UsageError, match="two threads"):
                sandbox.amend(other, **LAZY)
            with pytest.raises(instar.UsageError, match="in use"):
                sandbox.close()
            thread.join()
    assert other.read_bytes() == contents


def test_a_callback_cannot_use_the_sandbox_that_calls_it(path: Path, tmp_path: Path) -> None:
    errors = []
    with instar.Sandbox() as sandbox:

        def callback(*_: object) -> None:
            with pytest.raises(instar.UsageError) as caught:
                sandbox.amend(tmp_path / "other", **LAZY)
            errors.append(caught.value)

        sandbox.amend(write(path), debug=callback, **LAZY)
    assert len(errors) == 1


def in_child(action: Callable[[], object]) -> int:
    """Run `action` in a forked child; return its status."""
    child = os.fork()
    if child == 0:
        try:
            action()
            os._exit(0)
        except BaseException:
            os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def test_a_forked_child_gets_a_machine_of_its_own_and_the_parent_keeps_its(
    path: Path, made: list[Machine], tmp_path: Path
) -> None:
    mine = write(tmp_path / "mine")
    with instar.Sandbox() as sandbox:
        sandbox.amend(write(path), **LAZY)

        def child() -> None:
            descriptors = open_descriptors()
            sandbox.amend(mine, **LAZY)
            assert len(made) == 2
            sandbox.close()
            assert len(open_descriptors()) < len(descriptors)

        assert in_child(child) == 0
        sandbox.amend(path, lazy_refcounts=False)
    assert len(made) == 1
    for image, lazy in ((mine, 1), (path, 0)):
        assert parse_header(image.read_bytes()).compatible_features == lazy


def test_a_forked_child_is_not_stopped_by_a_thread_that_it_does_not_have(
    path: Path, tmp_path: Path
) -> None:
    other = write(tmp_path / "other")
    with instar.Sandbox() as sandbox:
        status = []

        def fork(*_: object) -> None:
            status.append(in_child(lambda: sandbox.amend(other, **LAZY)))

        sandbox.amend(write(path), debug=fork, **LAZY)
    assert status == [0]


def with_ram(ram_size: int) -> AmendRequest:
    return AmendRequest.of(lazy_refcounts=True, timeout=10, ram_size=ram_size)


def test_a_kept_machine_that_needs_more_ram_than_it_has_is_made_anew(
    path: Path, made: list[Machine]
) -> None:
    sizes = [abi.INSTAR_RAM_SIZE, abi.INSTAR_RAM_MAX, 2 * abi.INSTAR_RAM_SIZE]
    before = open_descriptors()
    with instar.Sandbox() as sandbox:
        for size in sizes:
            assert sandbox.carry_out(write(path), with_ram(size)).action == "amended"
    assert [machine.ram_size for machine in made] == sizes[:2]
    assert open_descriptors() == before


def test_a_guest_has_the_ram_that_was_asked_for_and_no_more(path: Path, rogues: Rogues) -> None:
    with instar.Sandbox(payload=rogues.payload("honest/high_buffer")) as sandbox:
        write(path)
        with pytest.raises(instar.GuestFault, match="0x3ffe00 is not in the DMA window"):
            sandbox.carry_out(path, with_ram(abi.INSTAR_RAM_SIZE))
        request = with_ram(2 * abi.INSTAR_RAM_SIZE)
        assert sandbox.carry_out(path, request).action == "amended"
    assert parse_header(path.read_bytes()).compatible_features == 1
