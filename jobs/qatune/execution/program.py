"""What is run of an answer. Pure."""

import ast
import re
import warnings
from dataclasses import dataclass

_FENCE = re.compile(r"^```([^\n`]*)\n(.*?)(^```|\Z)", re.MULTILINE | re.DOTALL)
_PYTHON = {"", "python", "python3", "py"}


@dataclass(frozen=True)
class Program:
    """Code that nobody trusts, and the assertions about it."""

    code: str
    tests: str


def code_of(answer: str) -> str:
    """Take the code out of an answer.

    The first closed block of Python that can be parsed, else the first block, else all of it.
    """
    blocks = [(match[1].strip().lower(), match[2], bool(match[3])) for match in _blocks(answer)]
    for language, code, closed in blocks:
        if closed and language in _PYTHON and code.strip() and _parses(code):
            return code
    return blocks[0][1] if blocks else answer


def _blocks(answer: str) -> list[re.Match[str]]:
    return list(_FENCE.finditer(answer.replace("\r\n", "\n")))


def _parses(code: str) -> bool:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # an answer's odd escapes are its own affair
            ast.parse(code)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    return True
