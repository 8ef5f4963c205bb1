"""Host side: `instar doctor`: can this machine run the sandbox, and if not, what is there to do?

Every check runs, whatever the others found, up to one that hangs.
"""

from __future__ import annotations

import platform
from errno import ENOSYS
from os import devnull

from instar import __version__

from ..base.errors import (
    NO_DESCRIPTOR,
    RAISE_FILES,
    RAISE_PROCESSES,
    HostError,
    InstarError,
    UsageError,
    explain,
)
from ..base.escape import escape
from ..base.record import record
from ..base.streams import MAKE_NULL
from .arguments import OPERAND, scan
from .commands import DOCTOR, format_help
from .doctor_checks import CHECKS, REPORT, CheckError, HangError
from .report import Report, check_told, tell, write

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable


@record
class Diagnosis:
    """What one check found."""

    check: str
    """The check's name."""
    ok: bool
    """Whether the sandbox can do with what was found."""
    message: str
    """What was found, in one line."""
    advice: str
    """What to do about it; empty if there is nothing to do."""


def run(arguments: list[str], report: Report) -> int:
    """Carry out `instar doctor`; return the exit status."""
    for name, value in scan(arguments, DOCTOR.flags, "instar doctor"):
        if name == OPERAND:
            raise UsageError(f"unexpected argument '{value}'; see 'instar doctor --help'")
        if name == "help":
            tell(format_help(DOCTOR))
            return 0
        report.use(value)
    diagnoses = _examine_all()
    ok = all(diagnosis.ok for diagnosis in diagnoses)
    python = platform.python_version()
    report.document({"version": __version__, "python": python, "ok": ok, "checks": diagnoses})
    if not report.is_json:
        lines = [f"instar {__version__}, Python {python}", *map(_describe, diagnoses)]
        write("stdout", "\n".join(lines) + "\n")
    check_told()
    return 0 if ok else HostError.exit_status


def _examine_all() -> list[Diagnosis]:
    diagnoses = []
    for name, check in CHECKS:
        try:
            diagnoses.append(_examine(name, check))
        except HangError as failure:
            message, advice = str(failure), failure.advice
            diagnoses.append(Diagnosis(name, ok=False, message=message, advice=advice))
            break
    return diagnoses


def _examine(name: str, check: Callable[[], str]) -> Diagnosis:
    try:
        return Diagnosis(name, ok=True, message=check(), advice="")
    except HangError:
        raise
    except CheckError as failure:
        message = _without_doctor(str(failure))
        return Diagnosis(name, ok=failure.ok, message=message, advice=failure.advice)
    except InstarError as error:
        message = f"{name}: {_without_doctor(str(error))}"
        return Diagnosis(name, ok=False, message=message, advice="see the lines above")
    except Exception as error:
        message, advice = _explain(error)
        return Diagnosis(name, ok=False, message=f"{name}: {message}", advice=advice)


def _explain(error: Exception) -> tuple[str, str]:
    """What is wrong where a check could not be made, and what to do about it."""
    if isinstance(error, FileNotFoundError) and "temporary directory" in str(error):
        advice = "set TMPDIR to one, mount a tmpfs on /tmp, or raise the limit of file sizes"
        return "no writable temporary directory", f"{advice} (ulimit -f)"
    if isinstance(error, FileNotFoundError) and error.filename == devnull:
        return f"cannot open {devnull}: {error.strerror}", MAKE_NULL
    if isinstance(error, OSError) and error.errno in NO_DESCRIPTOR:
        return str(error.strerror), RAISE_FILES
    if isinstance(error, BlockingIOError):
        return str(error.strerror), RAISE_PROCESSES
    if isinstance(error, PermissionError) or getattr(error, "errno", 0) == ENOSYS:
        return str(error), "allow this where a filter of system calls or a policy denies it"
    if isinstance(error, MemoryError):
        return explain(error)[0], "see getrlimit(2)"
    return f"{type(error).__name__}: {error}", REPORT


def _without_doctor(message: str) -> str:
    """What an amend says, but for the advice to ask the doctor, who is speaking."""
    return message.removesuffix("see instar doctor").removesuffix("; ").removesuffix(", and ")


def _describe(diagnosis: Diagnosis) -> str:
    if not diagnosis.advice:
        return f"ok   {escape(diagnosis.message)}"
    verdict = "warn" if diagnosis.ok else "FAIL"
    return f"{verdict} {escape(diagnosis.message)}: {escape(diagnosis.advice)}"
