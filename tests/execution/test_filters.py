"""The filter, played as the kernel does, for machines that are not at hand, too."""

import errno
import struct

import pytest

from qatune.execution.filters import compute_only

ALLOW, KILL, REFUSE = 0x7FFF0000, 0x80000000, 0x00050000
AUDIT = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
# By the kernel's tables.
READ, WRITE, MMAP, FUTEX, EXIT, GETRANDOM, STATX = (
    {"x86_64": numbers[0], "aarch64": numbers[1]}
    for numbers in ((0, 63), (1, 64), (9, 222), (202, 98), (231, 94), (318, 278), (332, 291))
)
FORBIDDEN = {
    # socket connect sendmsg bind execve execveat ptrace kill tkill tgkill unlinkat mkdirat
    # renameat2 symlinkat linkat truncate fchmodat mount unshare setns bpf prctl process_vm_writev
    # pidfd_open io_uring_setup openat2 memfd_create shmget setpriority personality keyctl
    "x86_64": (41, 42, 46, 49, 59, 322, 101, 62, 200, 234, 263, 258, 316, 266, 265, 76, 268, 165,
               272, 308, 321, 157, 311, 434, 425, 437, 319, 29, 141, 135, 250),
    "aarch64": (198, 203, 211, 200, 221, 281, 117, 129, 130, 131, 35, 34, 276, 36, 37, 45, 53, 40,
                97, 268, 280, 167, 271, 434, 425, 437, 279, 194, 140, 92, 219),
}  # fmt: skip
SPECIAL = {
    "x86_64": {"openat": 257, "clone": 56, "clone3": 435, "ioctl": 16, "fcntl": 72,
               "socketpair": 53, "sendto": 44, "prlimit": 302},
    "aarch64": {"openat": 56, "clone": 220, "clone3": 435, "ioctl": 29, "fcntl": 25,
                "socketpair": 199, "sendto": 206, "prlimit": 261},
}  # fmt: skip


def verdict(machine, number, *arguments, audit=None):
    """Run the filter over one system call, as the kernel's interpreter does."""
    given = [*arguments, 0, 0, 0, 0, 0, 0][:6]
    data = struct.pack("IIQ6Q", number, audit or AUDIT[machine], 0, *given)
    program = list(struct.iter_unpack("HBBI", compute_only(machine)))
    held, place = 0, 0
    while True:
        code, yes, no, value = program[place]
        place += 1
        match code:
            case 0x20:
                (held,) = struct.unpack_from("I", data, value)
            case 0x15:
                place += yes if held == value else no
            case 0x45:
                place += yes if held & value else no
            case 0x06:
                return value


both = pytest.mark.parametrize("machine", ["x86_64", "aarch64"])


@both
def test_computing_is_allowed(machine):
    for call in (READ, WRITE, MMAP, FUTEX, EXIT, GETRANDOM, STATX):
        assert verdict(machine, call[machine]) == ALLOW


@both
def test_what_reaches_beyond_is_refused(machine):
    for number in (*FORBIDDEN[machine], 500, 2**30 + 1):
        assert verdict(machine, number) == REFUSE | errno.EPERM, number


@both
def test_a_program_for_another_machine_is_killed(machine):
    assert verdict(machine, READ[machine], audit=0x40000003) == KILL


@both
@pytest.mark.parametrize(
    ("call", "arguments", "expected"),
    [
        ("openat", (0, 0, 0), ALLOW),
        ("openat", (0, 0, 0o2000000), ALLOW),
        ("openat", (0, 0, 0o1), REFUSE | errno.EROFS),
        ("openat", (0, 0, 0o2), REFUSE | errno.EROFS),
        ("openat", (0, 0, 0o100), REFUSE | errno.EROFS),
        ("openat", (0, 0, 0o1000), REFUSE | errno.EROFS),
        ("clone", (0x3D0F00,), ALLOW),  # as the C library makes a thread
        ("clone", (17,), REFUSE | errno.EPERM),  # and a process
        ("clone3", (), REFUSE | errno.ENOSYS),
        ("ioctl", (0, 0x5421), ALLOW),
        ("ioctl", (0, 0x5412), REFUSE | errno.ENOTTY),
        ("fcntl", (0, 4), ALLOW),
        ("fcntl", (0, 8), REFUSE | errno.EPERM),
        ("socketpair", (1,), ALLOW),
        ("socketpair", (2,), REFUSE | errno.EPERM),
        ("sendto", (3, 0, 0, 0, 0), ALLOW),
        ("sendto", (3, 0, 0, 0, 1), REFUSE | errno.EPERM),
        ("sendto", (3, 0, 0, 0, 1 << 32), REFUSE | errno.EPERM),
        ("prlimit", (0,), ALLOW),
        ("prlimit", (1,), REFUSE | errno.EPERM),
    ],
)
def test_arguments_decide(machine, call, arguments, expected):
    assert verdict(machine, SPECIAL[machine][call], *arguments) == expected


def test_other_machines_have_no_filter():
    assert compute_only("riscv64") is None
