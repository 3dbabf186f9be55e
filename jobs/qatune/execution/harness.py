"""What runs inside: gives up everything but computing, then runs one program and says its outcome.

Its text is handed to an interpreter, so nothing of qatune can be imported here. The job comes on
stdin, the outcome goes to what is stdout at the start; what the program prints goes to stderr.
"""

import ctypes
import json
import os
import resource
import sys
from types import ModuleType, TracebackType
from typing import Any

_DEATH_SIGNAL, _DUMPABLE, _NO_NEW_PRIVILEGES, _SECCOMP = 1, 4, 38, 22
_KILL, _FILTER_MODE = 9, 2
_STACK_BYTES = 8 << 20
_MESSAGE_CHARACTERS = 400


class _Filter(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("instructions", ctypes.c_char_p))


def main() -> None:
    job = json.loads(sys.stdin.buffer.read())
    outcomes = os.dup(1)
    os.dup2(2, 1)
    # What is used after the program, which may have put something else in the modules.
    write, leave, quoted = os.write, os._exit, json.encoder.encode_basestring_ascii
    token = job["token"]
    _limit(job["seconds"], job["memory"], job["files"])
    _confine(bytes.fromhex(job["filter"]))
    write(outcomes, f"{token}\n".encode())
    outcome, message = _outcome(job["code"], job["tests"])
    said = quoted(message[:_MESSAGE_CHARACTERS])
    write(outcomes, f'{token} ["{outcome}", {said}]\n'.encode())
    leave(0)  # threads and exit handlers of the program have no say in it


def _limit(seconds: int, memory: int, files: int) -> None:
    """Bound what the kernel counts, besides the clock, which the parent holds."""
    bounds = {
        resource.RLIMIT_CPU: (seconds + 1, seconds + 2),
        resource.RLIMIT_AS: (memory, memory),
        resource.RLIMIT_STACK: (_STACK_BYTES, _STACK_BYTES),
        resource.RLIMIT_NOFILE: (files, files),
        resource.RLIMIT_FSIZE: (0, 0),
        resource.RLIMIT_CORE: (0, 0),
    }
    for what, wanted in bounds.items():
        most = resource.getrlimit(what)[1]
        bounded = most != resource.RLIM_INFINITY
        soft, hard = (min(each, most) if bounded else each for each in wanted)
        resource.setrlimit(what, (soft, hard))


def _confine(instructions: bytes) -> None:
    """Go with the parent, be closed to others of the same user, and take the filter."""
    _control(_DEATH_SIGNAL, _KILL)
    _control(_DUMPABLE, 0)
    _control(_NO_NEW_PRIVILEGES, 1)
    program = _Filter(len(instructions) // 8, instructions)
    _control(_SECCOMP, _FILTER_MODE, ctypes.byref(program))


def _control(option: int, *values: Any) -> None:
    arguments = [*values, 0, 0, 0, 0][:4]
    given = [ctypes.c_ulong(each) if isinstance(each, int) else each for each in arguments]
    library = ctypes.CDLL(None, use_errno=True)
    if library.prctl(option, *given):
        sys.exit(f"prctl {option}: {os.strerror(ctypes.get_errno())}")


def _outcome(code: str, tests: str) -> tuple[str, str]:
    module = ModuleType("answer")
    sys.modules["answer"] = module  # dataclasses look there
    try:
        for name, text in (("<answer>", code), ("<tests>", tests)):
            exec(compile(text, name, "exec", dont_inherit=True), module.__dict__)  # noqa: S102
    except MemoryError:
        return "memory", ""
    except BaseException as error:  # noqa: BLE001  # SystemExit, too: it came before the end
        return _judged(error, tests)
    return "passed", ""


def _judged(error: BaseException, tests: str) -> tuple[str, str]:
    kind = type(error).__name__
    try:
        place, line = _place(error.__traceback__)
        said = str(error)
        if isinstance(error, AssertionError) and place == "<tests>":
            return "failed", said or tests.split("\n")[line - 1].strip()
    except BaseException:  # noqa: BLE001  # what it says of itself is its own code
        return "error", kind
    return "error", f"{kind}: {said}" if said else kind


def _place(trace: TracebackType | None) -> tuple[str, int]:
    """Return file and line where it was raised."""
    place, line = "", 0
    while trace is not None:
        place, line = trace.tb_frame.f_code.co_filename, trace.tb_lineno
        trace = trace.tb_next
    return place, line


main()
