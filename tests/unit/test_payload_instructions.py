"""Test side: the payload holds no instruction that needs privilege or state that ring 3 lacks."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import build_guest
import pytest

from instar.vmm.machine import payload as payload_module

INSTALLED = Path(payload_module._installed_folder())

# Intel SDM vol. 2, in objdump's words. "lock" and "rep" are prefixes, which count for nothing.
FORBIDDEN = frozenset(
    (
        # Ring 0 only, or only with an I/O privilege that the guest lacks.
        *("cli", "sti", "hlt", "lgdt", "lidt", "lldt", "ltr", "lmsw", "clts", "invd", "wbinvd"),
        *("wbnoinvd", "invlpg", "invpcid", "rdmsr", "wrmsr", "rdpmc", "swapgs", "monitor", "mwait"),
        *("xsetbv", "xsaves", "xrstors", "rsm", "in", "ins", "insb", "insl", "insw", "outs"),
        *("outsb", "outsl", "outsw", "clac", "stac", "wrssd", "wrssq", "encls", "pconfig"),
        # Ways out of ring 3, for which there is nothing at the other end.
        *("int", "int1", "int3", "into", "syscall", "sysenter", "sysret", "sysretl", "sysretq"),
        *("sysexit", "iret", "iretl", "iretq", "iretw", "lcall", "ljmp", "lret", "ljmpw"),
        *("vmcall", "vmmcall", "vmlaunch", "vmresume", "vmxoff", "vmxon", "vmread", "vmwrite"),
        *("vmrun", "vmload", "vmsave", "stgi", "clgi", "skinit", "enclu", "senduipi"),
        # What tells of the host, or differs from one processor to the next.
        *("cpuid", "rdtsc", "rdtscp", "rdrand", "rdseed", "rdpid", "xgetbv", "sgdt", "sidt"),
        *("sldt", "str", "smsw", "lar", "lsl", "verr", "verw", "rdpkru", "wrpkru"),
        # Segments, flags and state that nobody sets up or resets.
        *("popf", "popfq", "rdfsbase", "rdgsbase", "wrfsbase", "wrgsbase", "xsave", "xrstor"),
        *("xsavec", "xsaveopt", "fxsave", "fxrstor", "fxsave64", "fxrstor64", "emms", "femms"),
        *("ldmxcsr", "stmxcsr", "xbegin", "xend", "xabort", "ud2", "ud1", "ud0", "(bad)"),
    )
)
REGISTERS = re.compile(r"%(?:[xyzt]?mm\d+|st\b|k[0-7]\b|[cd]r\d+|db\d+|bnd\d|[cdefgs]s\b)")
STRING_OPERANDS = re.compile(r"%es:\(%rdi\)|%ds:\(%rsi\)")
X87 = re.compile(r"f(?!lags)[a-z0-9]+")
PREFIXES = frozenset(("lock", "rep", "repz", "repnz", "notrack", "bnd", "data16", "addr32"))
OUT_OF_A_BYTE = re.compile(r"%al,(?:\(%dx\)|\$0x[0-9a-f]+)")

# One line of each kind that must be found: AT&T syntax, as gcc takes it.
SAMPLES = """\
cli; sti; hlt; lgdt (%rax); lidt (%rax); ltr %ax; lldt %ax; lmsw %ax; clts; invd; wbinvd
invlpg (%rax); rdmsr; wrmsr; rdpmc; swapgs; xsetbv; inb %dx, %al; inl $0x60, %eax; insb; insl
outsb; outsl; outl %eax, %dx; outw %ax, $0xe0; int $0x80; int3; syscall; sysenter; sysretq
iretq; lret; vmcall; vmmcall; cpuid; rdtsc; rdtscp; rdrand %rax; xgetbv; sgdt (%rax)
sidt (%rax); sldt %ax; str %ax; smsw %ax; popfq; rdfsbase %rax; wrgsbase %rax; fxsave (%rax)
ldmxcsr (%rax); ud2; mov %cr3, %rax; mov %rax, %cr0; mov %rax, %dr7; mov %ax, %ds
mov %fs:0, %rax; fld1; fldl (%rax); fwait; movss %xmm0, %xmm1; vaddps %ymm0, %ymm1, %ymm2
pxor %mm0, %mm1; emms"""
HARMLESS = """\
outb %al, %dx; outb %al, $0xf4; mov %rax, (%rbx); rep movsb; rep stosb; ret; call *%rax; jmp .
lock addl $1, (%rax); imul %rax, %rbx; cltq; movsbl %al, %eax; bswap %eax; cld; pushq %rbp"""


def is_forbidden(instruction: str) -> bool:
    """Judge one instruction in objdump's AT&T syntax."""
    words = [word for word in instruction.split("#")[0].split() if word not in PREFIXES]
    words = [word for word in words if not re.fullmatch(r"rex\.?[WRXB]*", word)]
    mnemonic = (words or [""])[0]
    operands = STRING_OPERANDS.sub("", "".join(words[1:]))
    if mnemonic in ("out", "outb", "outl", "outw"):
        return OUT_OF_A_BYTE.fullmatch(operands) is None
    return (
        mnemonic in FORBIDDEN
        or X87.fullmatch(mnemonic) is not None
        or REGISTERS.search(operands) is not None
    )


def disassemble(elf: Path) -> list[str]:
    """The instructions of a file's text, without addresses and without comments on them."""
    if shutil.which("objdump") is None:
        pytest.fail("no objdump to disassemble the payload with: as root, apt-get install binutils")
    done = subprocess.run(
        ["objdump", "-d", "--no-show-raw-insn", "-z", str(elf)],
        check=True,
        capture_output=True,
        text=True,
    )
    found = re.findall(r"^\s*[0-9a-f]+:\s+(\S.*)$", done.stdout, re.MULTILINE)
    return [re.sub(r"<.*?>", "", instruction).strip() for instruction in found]


@pytest.mark.parametrize("name", build_guest.IMAGES)
def test_no_instruction_of_the_payload_is_forbidden(name: str) -> None:
    instructions = disassemble(INSTALLED / f"{name}.elf")
    assert len(instructions) > 100
    assert [each for each in instructions if is_forbidden(each)] == []


@pytest.mark.parametrize("name", build_guest.IMAGES)
def test_the_executor_alone_writes_to_ports(name: str) -> None:
    instructions = disassemble(INSTALLED / f"{name}.elf")
    outs = [each for each in instructions if each.split()[0].startswith("out")]
    assert bool(outs) == (name == "core")


def assemble(lines: str, folder: Path) -> list[str]:
    source = folder / "sample.S"
    instructions = [each.strip() for each in lines.replace("\n", ";").split(";")]
    source.write_text("\n".join(instructions) + "\n", encoding="ascii")
    command = [*build_guest.compiler(build_guest.ZIG_HOST), "-c", str(source)]
    build_guest.run_compiler(command, folder / "sample.o")
    listed = disassemble(folder / "sample.o")
    assert len(listed) == len(instructions)
    return listed


def test_what_is_forbidden_is_found(tmp_path: Path) -> None:
    assert [each for each in assemble(SAMPLES, tmp_path) if not is_forbidden(each)] == []


def test_what_is_harmless_is_let_through(tmp_path: Path) -> None:
    assert [each for each in assemble(HARMLESS, tmp_path) if is_forbidden(each)] == []
