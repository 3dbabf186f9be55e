"""Every failure that a user can meet, with the exit code that schedulers act on.

A message is one line: what happened, where, and what to do.
"""

from typing import ClassVar


def one_line(message: str) -> str:
    """Make a line of a message that may quote what stands in a file."""
    line = " ".join(message.split())
    return line if line.isprintable() else line.encode("unicode_escape").decode()


class QatuneError(Exception):
    """A failure with a message for the user. Raised as itself it means a bug (70)."""

    exit_code: ClassVar[int] = 70


class UsageError(QatuneError):
    """The command line cannot be understood."""

    exit_code = 64


class BadDataError(QatuneError):
    """The rows themselves are unusable: no retry will help."""

    exit_code = 65


class MissingInputError(QatuneError):
    """Something that must exist does not, or is not what it should be."""

    exit_code = 66


class UnavailableError(QatuneError):
    """A service or a disk did not do its part, after retries. Running again may help."""

    exit_code = 69


class InterruptedRunError(QatuneError):
    """Stopped on request with progress saved: run the same command again."""

    exit_code = 75


class NotAllowedError(QatuneError):
    """Credentials are missing, wrong, or not enough."""

    exit_code = 77


class BadRecipeError(QatuneError):
    """The recipe does not say what to do, or says what cannot be done."""

    exit_code = 78
