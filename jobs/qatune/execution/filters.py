"""What the kernel lets a program do: it may compute, and read what it sees. Pure.

A seccomp filter is a list of allowed system calls, so one that nobody thought of is refused. It
needs no privilege, no namespace and no policy, so it holds in every sandbox alike: no process but
its own, no signal to another, no socket, no file that is written.
"""

import errno
import struct
from collections.abc import Sequence
from dataclasses import dataclass

_LOAD, _EQUAL, _ANY_BIT, _RETURN = 0x20, 0x15, 0x45, 0x06
_ALLOW, _KILL, _REFUSE = 0x7FFF0000, 0x80000000, 0x00050000
_NUMBER, _ARCH, _ARGUMENTS = 0, 4, 16
_THREAD = 0x00010000
_WRITES = 0o1 | 0o2 | 0o100 | 0o1000
"""O_WRONLY, O_RDWR, O_CREAT and O_TRUNC, which are the same on both machines."""
_NONBLOCKING = 0x5421
_UNIX_SOCKET = 1
_DESCRIPTOR_COMMANDS = (0, 1, 2, 3, 4, 1030)
"""F_DUPFD, F_GETFD, F_SETFD, F_GETFL, F_SETFL, F_DUPFD_CLOEXEC; not F_SETOWN, which signals."""

Instruction = tuple[int, int, int, int]


@dataclass(frozen=True)
class _Machine:
    """A kind of processor: the kernel's name for it, and its numbers of system calls."""

    audit: int
    plain: Sequence[int]
    """Allowed whatever the arguments."""
    openat: int
    clone: int
    clone3: int
    ioctl: int
    fcntl: int
    socketpair: int
    sendto: int
    prlimit: int


# In this order: files (read write close lseek pread readv writev fstat newfstatat statx getdents
# readlinkat faccessat faccessat2 getcwd chdir dup dup3 pipe2 close_range fadvise), memory (mmap
# mprotect munmap mremap madvise brk), signals of its own (rt_sigaction rt_sigprocmask rt_sigreturn
# rt_sigpending rt_sigtimedwait sigaltstack restart_syscall), time (nanosleep clock_nanosleep
# clock_gettime clock_getres gettimeofday times getitimer setitimer), threads (futex gettid
# set_tid_address set_robust_list rseq membarrier sched_yield sched_getaffinity getcpu), what it is
# (getpid getppid getuid geteuid getgid getegid getgroups uname sysinfo getrlimit getrusage),
# waiting (epoll_create1 epoll_ctl epoll_pwait pselect6 ppoll eventfd2), recvfrom, getrandom, exit,
# exit_group.
_X86_64 = _Machine(
    audit=0xC000003E,
    plain=(
        0, 1, 3, 8, 17, 19, 20, 5, 262, 332, 217, 267, 269, 439, 79, 80, 32, 292, 293, 436, 221,
        9, 10, 11, 25, 28, 12, 13, 14, 15, 127, 128, 131, 219,
        35, 230, 228, 229, 96, 100, 36, 38, 202, 186, 218, 273, 334, 324, 24, 204, 309,
        39, 110, 102, 107, 104, 108, 115, 63, 99, 97, 98, 291, 233, 281, 270, 271, 290,
        45, 318, 60, 231,
        # Older forms: stat lstat access readlink pipe dup2 poll select epoll_wait alarm pause time
        # getpgrp arch_prctl.
        4, 6, 21, 89, 22, 33, 7, 23, 232, 37, 34, 201, 111, 158,
    ),
    openat=257, clone=56, clone3=435, ioctl=16, fcntl=72, socketpair=53, sendto=44, prlimit=302,
)  # fmt: skip
_AARCH64 = _Machine(
    audit=0xC00000B7,
    plain=(
        63, 64, 57, 62, 67, 65, 66, 80, 79, 291, 61, 78, 48, 439, 17, 49, 23, 24, 59, 436, 223,
        222, 226, 215, 216, 233, 214, 134, 135, 139, 136, 137, 132, 128,
        101, 115, 113, 114, 169, 153, 102, 103, 98, 178, 96, 99, 293, 283, 124, 123, 168,
        172, 173, 174, 175, 176, 177, 158, 160, 179, 163, 165, 20, 21, 22, 72, 73, 19,
        207, 278, 93, 94,
    ),
    openat=56, clone=220, clone3=435, ioctl=29, fcntl=25, socketpair=199, sendto=206, prlimit=261,
)  # fmt: skip
_MACHINES = {"x86_64": _X86_64, "aarch64": _AARCH64}


def compute_only(machine: str) -> bytes | None:
    """Return the filter for `platform.machine()`, as the kernel takes it; None for another kind."""
    known = _MACHINES.get(machine)
    if known is None:
        return None
    return b"".join(struct.pack("HBBI", *each) for each in _instructions(known))


def _instructions(machine: _Machine) -> list[Instruction]:
    made = [
        _load(_ARCH),
        (_EQUAL, 1, 0, machine.audit),
        _end(_KILL),  # a program of another kind has other numbers
        _load(_NUMBER),
    ]
    for number in machine.plain:
        made += _rule(number, [_end(_ALLOW)])
    made += _rule(machine.clone, _if(_ANY_BIT, 0, (_THREAD,), errno.EPERM))
    made += _rule(machine.clone3, [_refuse(errno.ENOSYS)])  # the C library goes back to clone
    made += _rule(machine.openat, _unless_writing())
    made += _rule(machine.ioctl, _if(_EQUAL, 1, (_NONBLOCKING,), errno.ENOTTY))
    made += _rule(machine.fcntl, _if(_EQUAL, 1, _DESCRIPTOR_COMMANDS, errno.EPERM))
    made += _rule(machine.socketpair, _if(_EQUAL, 0, (_UNIX_SOCKET,), errno.EPERM))
    made += _rule(machine.sendto, _if_null(4))  # to the other end, not to an address
    made += _rule(machine.prlimit, _if(_EQUAL, 0, (0,), errno.EPERM))  # its own limits
    return [*made, _refuse(errno.EPERM)]


def _load(offset: int) -> Instruction:
    return (_LOAD, 0, 0, offset)


def _end(verdict: int) -> Instruction:
    return (_RETURN, 0, 0, verdict)


def _refuse(code: int) -> Instruction:
    return _end(_REFUSE | code)


def _rule(number: int, body: Sequence[Instruction]) -> list[Instruction]:
    """Decide on one system call; the body ends, so what follows still has the number at hand."""
    return [(_EQUAL, 0, len(body), number), *body]


def _low(argument: int) -> Instruction:
    return _load(_ARGUMENTS + 8 * argument)


def _if(test: int, argument: int, values: Sequence[int], code: int) -> list[Instruction]:
    """Allow if the argument passes the test for one of the values, else refuse with the code."""
    tests = [(test, len(values) - place, 0, value) for place, value in enumerate(values)]
    return [_low(argument), *tests, _refuse(code), _end(_ALLOW)]


def _unless_writing() -> list[Instruction]:
    return [_low(2), (_ANY_BIT, 0, 1, _WRITES), _refuse(errno.EROFS), _end(_ALLOW)]


def _if_null(argument: int) -> list[Instruction]:
    high = _load(_ARGUMENTS + 8 * argument + 4)
    refuse = _refuse(errno.EPERM)
    return [_low(argument), (_EQUAL, 0, 2, 0), high, (_EQUAL, 1, 0, 0), refuse, _end(_ALLOW)]
