"""Damaged copies of valid bytes, and what may come of reading them."""

from datetime import timedelta

from hypothesis import settings
from hypothesis import strategies as st

from qatune.errors import QatuneError, one_line

# Deterministic, so that a build which fails fails again. The deadline is there to find
# hangs: a machine that is busy with others must keep it.
FUZZED = settings(max_examples=150, derandomize=True, deadline=timedelta(seconds=20))
PROVEN = settings(max_examples=100, derandomize=True, deadline=timedelta(seconds=20))

# What readers stumble over: signs that quote, end lines or open brackets; marks of encodings.
_SPLINTERS = [
    b'"', b'""', b"'", b"\\", b",", b"\r", b"\n", b"\r\n", b"\0", b"\xef\xbb\xbf", b"\xff\xfe",
    b"\xff", b"\xed\xa0\x80", b"\\ud800", b"\xe2\x80\xa8", b"{", b"}", b"[", b"]", b":",
    b"[" * 1100, b'{"a":' * 1100, b"NaN", b"-Infinity", b"1e999", b"9" * 5000, b"null", b"true",
    b"{}", b"[]", b"0", b"-1", b'"x"', b"&a [*a]", b"*a", b"!!int x", b"<<: ", b"2001-99-99",
    b"0x" + b"f" * 4000, b"../", b"\x1b[2J",
]  # fmt: skip
_PIECES = st.one_of(st.sampled_from(_SPLINTERS), st.binary(max_size=6))
_EDITS = st.tuples(
    st.sampled_from(["insert", "replace", "delete", "repeat", "cut"]),
    st.integers(0, 2**32),
    st.integers(1, 40),
    _PIECES,
)


@st.composite
def mutated(draw, *examples):
    """Draw one of the examples, changed in one to four places."""
    data = draw(st.sampled_from(examples))
    for kind, where, length, piece in draw(st.lists(_EDITS, min_size=1, max_size=4)):
        data = _edited(data, kind, where % (len(data) + 1), length, piece)
    return data


def _edited(data, kind, at, length, piece):
    before, within, after = data[:at], data[at : at + length], data[at + length :]
    return {
        "insert": before + piece + within + after,
        "replace": before + piece + data[at + len(piece) :],
        "delete": before + after,
        "repeat": before + within + within + after,
        "cut": before,
    }[kind]


def outcome(parse):
    """Return what parsing gives; None where it refuses in one line, with an exit code of its own.

    Any other exception is the test's failure.
    """
    try:
        return parse()
    except QatuneError as error:
        assert error.exit_code != QatuneError.exit_code, error
        assert_one_line(str(error))
        return None


def assert_one_line(message):
    """Hold what the command line makes of a message against what a terminal can show."""
    line = one_line(message)
    assert line
    assert line.isprintable()
    assert line.encode()
