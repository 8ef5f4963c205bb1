"""Test side: the KVM binding's structs and numbers are those that C reads in linux/kvm.h."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator

import build_guest
import pytest

from instar.vmm.kvm import exits, ioctls, structs

# The C name of each mirror; of a part of a struct, the member too.
MIRRORS = {
    structs.KvmUserspaceMemoryRegion: ("struct kvm_userspace_memory_region", ""),
    structs.KvmRegs: ("struct kvm_regs", ""),
    structs.KvmSegment: ("struct kvm_segment", ""),
    structs.KvmDtable: ("struct kvm_dtable", ""),
    structs.KvmSregs: ("struct kvm_sregs", ""),
    structs.KvmRunIo: ("struct kvm_run", "io."),
    structs.KvmRunMmio: ("struct kvm_run", "mmio."),
}
WHOLE = [mirror for mirror, (_, member) in MIRRORS.items() if not member]

HEAD_FIELDS = (
    *("request_interrupt_window", "immediate_exit", "padding1", "exit_reason"),
    *("ready_for_interrupt_injection", "if_flag", "flags", "cr8", "apic_base"),
)

IOCTLS = {name: value for name, value in vars(ioctls).items() if name.startswith("KVM_")}
EXITS = {name: value for name, value in vars(exits).items() if name.startswith("KVM_EXIT_")}
NAMED_EXITS = {exits.Other(number).name: number for number in range(64)}

MISSING = (
    "no C compiler, or no linux/kvm.h for it, to compare the KVM binding with: "
    "as root, apt-get install gcc libc6-dev"
)


def expressions() -> Iterator[tuple[str, int]]:
    """C expressions, each with the value that Python has for it."""
    for mirror in WHOLE:
        yield f"sizeof({MIRRORS[mirror][0]})", mirror.extent
    union = structs.KvmRunHead.extent
    for mirror, (c_name, member) in MIRRORS.items():
        base = union if member else 0
        for field in mirror._fields_:
            offset, size = mirror.field(field[0]).offset, mirror.field(field[0]).size
            yield f"offsetof({c_name}, {member}{field[0]})", base + offset
            yield f"sizeof((({c_name} *)0)->{member}{field[0]})", size
    for name in HEAD_FIELDS:
        descriptor = structs.KvmRunHead.field(name)
        yield f"offsetof(struct kvm_run, {name})", descriptor.offset
        yield f"sizeof(((struct kvm_run *)0)->{name})", descriptor.size
    yield "offsetof(struct kvm_signal_mask, len)", structs.KvmSignalMask.field("len").offset
    yield "offsetof(struct kvm_signal_mask, sigset)", structs.KvmSignalMask.field("sigset").offset
    yield "sizeof(struct kvm_signal_mask)", structs.KvmSignalMask.field("sigset").offset
    yield from IOCTLS.items()
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


def test_every_mirror_is_compared() -> None:
    defined = {
        value
        for value in vars(structs).values()
        if isinstance(value, type)
        and issubclass(value, structs.Mirror)
        and value is not structs.Mirror
    }
    assert defined == {*MIRRORS, structs.KvmRunHead, structs.KvmSignalMask}
    assert tuple(field[0] for field in structs.KvmRunHead._fields_) == HEAD_FIELDS


def test_every_number_is_compared() -> None:
    numbers = {name for name, value in vars(ioctls).items() if name[0] != "_" and name.isupper()}
    assert numbers == set(IOCTLS)
    assert len(EXITS) == 5
    assert len([name for name in NAMED_EXITS if name.startswith("KVM_EXIT_")]) == 7


@pytest.mark.parametrize(
    ("text", "value"), [pytest.param(*pair, id=pair[0]) for pair in expressions()]
)
def test_python_and_c_agree(c_values: dict[str, int], text: str, value: int) -> None:
    assert c_values[text] == value


def test_the_signal_set_is_the_kernels() -> None:
    # asm/signal.h: 64 signals, one bit each; KVM takes no other length.
    assert structs.KvmSignalMask.field("sigset").size == 8
    assert structs.KvmSignalMask.extent == 12


@pytest.mark.parametrize("number", [2, 3, 18, 1000])
def test_an_exit_without_a_name_goes_by_its_number(number: int) -> None:
    assert exits.Other(number).name == f"exit reason {number}"
