"""How a command ends: by a signal that no stage watches for, and as one of several processes."""

import os
import signal
import sys

INTERRUPTED_BY_HAND = 130
"""What a shell says of a command that Ctrl-C ended."""
TERMINATED = 143
"""And SIGTERM."""
_AGAIN_SECONDS = 0.05


class TerminatedError(BaseException):
    """SIGTERM where no stage watches for it. No handler of errors may take it for one."""


def heed_signals() -> None:
    """Raise TerminatedError at SIGTERM, and again where Python drops what a signal raises.

    It does while an object is destroyed, and a command that is at its imports destroys many.
    """
    signal.signal(signal.SIGTERM, _terminate)
    dropped = sys.unraisablehook

    def hook(lost: "sys.UnraisableHookArgs") -> None:
        number = {TerminatedError: signal.SIGTERM, KeyboardInterrupt: signal.SIGINT}.get(
            lost.exc_type
        )
        if number is None:
            dropped(lost)
            return
        signal.signal(signal.SIGALRM, lambda *_: signal.raise_signal(number))
        signal.setitimer(signal.ITIMER_REAL, _AGAIN_SECONDS)

    sys.unraisablehook = hook


def _terminate(*_: object) -> None:
    raise TerminatedError


def leave(code: int) -> None:
    """End this process; at once after a signal, and as one of a group.

    An orderly end frees all of torch, which takes seconds; that of a group may wait for ever.
    """
    distributed = sys.modules.get("torch.distributed")
    grouped = distributed and distributed.is_available() and distributed.is_initialized()
    if grouped or code in {INTERRUPTED_BY_HAND, TERMINATED}:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)
