"""Test side: the KVM binding's structs and numbers are those that C reads in linux/kvm.h."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from struct import calcsize
from struct import error as StructError

import build_guest
import pytest

from instar.vmm.kvm import exits, ioctls, state, structs, vm

# The C name of each layout; of a part of a struct, the member too.
LAYOUTS = {
    structs.KVM_USERSPACE_MEMORY_REGION: ("struct kvm_userspace_memory_region", ""),
    structs.KVM_REGS: ("struct kvm_regs", ""),
    structs.KVM_SEGMENT: ("struct kvm_segment", ""),
    structs.KVM_DTABLE: ("struct kvm_dtable", ""),
    structs.KVM_SREGS: ("struct kvm_sregs", ""),
    structs.KVM_MSR_FILTER: ("struct kvm_msr_filter", ""),
    structs.KVM_MSR_FILTER_RANGE: ("struct kvm_msr_filter_range", ""),
    structs.KVM_RUN_IO: ("struct kvm_run", "io."),
    structs.KVM_RUN_MMIO: ("struct kvm_run", "mmio."),
}
WHOLE = [layout for layout, (_, member) in LAYOUTS.items() if not member]

HEAD_FIELDS = (
    *("request_interrupt_window", "immediate_exit", "padding1", "exit_reason"),
    *("ready_for_interrupt_injection", "if_flag", "flags", "cr8", "apic_base"),
)

SYNC_FIELDS = ("kvm_valid_regs", "kvm_dirty_regs")

NUMBERS = {name: value for name, value in vars(ioctls).items() if isinstance(value, int)}
IOCTLS = {name: value for name, value in NUMBERS.items() if name.startswith("KVM_")}
EXITS = {name: value for name, value in vars(exits).items() if name.startswith("KVM_EXIT_")}
NAMED_EXITS = {exits.Other(number).name: number for number in range(64)}

MISSING = (
    "no C compiler, or no linux/kvm.h for it, to compare the KVM binding with: "
    "as root, apt-get install gcc libc6-dev"
)


def expressions() -> Iterator[tuple[str, int]]:
    """C expressions, each with the value that Python has for it."""
    for layout in WHOLE:
        yield f"sizeof({LAYOUTS[layout][0]})", layout.extent
    for layout, (c_name, member) in LAYOUTS.items():
        base = structs.KVM_RUN_HEAD.extent if member else 0
        for field, kind in layout.kinds.items():
            if field == "hole":  # which C leaves without a name
                continue
            yield f"offsetof({c_name}, {member}{field})", base + layout.offset(field)
            yield f"sizeof((({c_name} *)0)->{member}{field})", calcsize(f"={kind}")
    end = 0
    for layout, fields in (
        (structs.KVM_RUN_HEAD, HEAD_FIELDS),
        (structs.KVM_RUN_SYNC, SYNC_FIELDS),
    ):
        for name in fields:
            yield f"offsetof(struct kvm_run, {name})", end + layout.offset(name)
            yield f"sizeof(((struct kvm_run *)0)->{name})", calcsize(f"={layout.kinds[name]}")
        end += layout.extent
    yield "offsetof(struct kvm_run, s.regs)", end
    for member, name in zip(("regs", "sregs", "events"), state.AT_ENTRY, strict=True):
        yield f"offsetof(struct kvm_run, s.regs.{member})", end
        end += state.KINDS[name][0]
    yield "offsetof(struct kvm_run, s.regs) + sizeof(struct kvm_sync_regs)", end
    yield "KVM_SYNC_X86_REGS | KVM_SYNC_X86_SREGS | KVM_SYNC_X86_EVENTS", structs.SYNC_REGS
    yield "KVM_CAP_SYNC_REGS", vm.KVM_CAP_SYNC_REGS
    yield "KVM_CAP_XSAVE2", vm.KVM_CAP_XSAVE2
    yield "KVM_CAP_X86_MSR_FILTER", vm.KVM_CAP_X86_MSR_FILTER
    yield "KVM_MSR_FILTER_DEFAULT_DENY", vm.DEFAULT_DENY
    yield "KVM_MSR_FILTER_READ | KVM_MSR_FILTER_WRITE", vm.READ_OR_WRITE
    mask = structs.KVM_SIGNAL_MASK
    yield "offsetof(struct kvm_signal_mask, len)", mask.offset("len")
    yield "offsetof(struct kvm_signal_mask, sigset)", mask.offset("sigset")
    yield "sizeof(struct kvm_signal_mask)", mask.offset("sigset")
    yield from IOCTLS.items()
    for name, (_, get, set_) in state.KINDS.items():
        yield f"KVM_GET_{name.upper()}", get
        yield f"KVM_SET_{name.upper()}", set_
    for name in ("KVM_GET_MSRS", "KVM_SET_MSRS", "KVM_GET_XSAVE2"):
        yield name, getattr(state, name)
    yield from EXITS.items()
    for name, value in NAMED_EXITS.items():
        if name.startswith("KVM_EXIT_"):
            yield name, value


@pytest.fixture(scope="module")
def c_values(tmp_path_factory: pytest.TempPathFactory) -> dict[str, int]:
    """What the compiler makes of the expressions. Never skipped: there is no other check."""
    folder = tmp_path_factory.mktemp("kvm")
    texts = [text for text, _ in expressions()]
    lines = [f'    printf("%llu\\n", (unsigned long long)({text}));' for text in texts]
    source = folder / "kvm.c"
    source.write_text(
        "#include <linux/kvm.h>\n#include <stddef.h>\n#include <stdio.h>\n"
        "int main(void)\n{\n" + "\n".join(lines) + "\n    return 0;\n}\n",
        encoding="ascii",
    )
    try:
        build_guest.run_compiler(
            [*build_guest.compiler(build_guest.ZIG_HOST), "-std=gnu11", str(source)], folder / "kvm"
        )
    except (build_guest.BuildError, OSError):
        pytest.fail(MISSING, pytrace=False)
    done = subprocess.run([str(folder / "kvm")], check=True, capture_output=True, text=True)
    return dict(zip(texts, map(int, done.stdout.split()), strict=True))


def test_every_layout_is_compared() -> None:
    defined = {value for value in vars(structs).values() if isinstance(value, structs.Layout)}
    others = {structs.KVM_RUN_HEAD, structs.KVM_RUN_SYNC, structs.KVM_SIGNAL_MASK}
    assert defined == {*LAYOUTS, *others}
    assert tuple(structs.KVM_RUN_HEAD.kinds) == HEAD_FIELDS


def test_what_is_packed_is_unpacked_and_the_rest_is_zero() -> None:
    packed = structs.KVM_DTABLE.pack({"limit": 3})
    assert packed == bytes(8) + b"\3\0" + bytes(6)
    assert structs.KVM_DTABLE.unpack(packed) == {"base": 0, "limit": 3, "padding": bytes(6)}
    with pytest.raises(StructError):
        structs.KVM_DTABLE.pack({"limits": 3})


def test_every_number_is_compared() -> None:
    assert {name for name in NUMBERS if name[0] != "_" and name.isupper()} == set(IOCTLS)
    assert len(EXITS) == 4
    assert len([name for name in NAMED_EXITS if name.startswith("KVM_EXIT_")]) == 7


@pytest.mark.parametrize(
    ("text", "value"), [pytest.param(*pair, id=pair[0]) for pair in expressions()]
)
def test_python_and_c_agree(c_values: dict[str, int], text: str, value: int) -> None:
    assert c_values[text] == value


def test_the_signal_set_is_the_kernels() -> None:
    # asm/signal.h: 64 signals, one bit each; KVM takes no other length.
    assert structs.KVM_SIGNAL_MASK.kinds["sigset"] == "Q"
    assert structs.KVM_SIGNAL_MASK.extent == 12


@pytest.mark.parametrize("number", [2, 3, 18, 1000])
def test_an_exit_without_a_name_goes_by_its_number(number: int) -> None:
    assert exits.Other(number).name == f"exit reason {number}"
