"""Code in answers: fenced blocks, and whether what should be Python parses. Nothing is run."""

import ast
import re
import warnings
from collections.abc import Sequence
from dataclasses import dataclass

# CommonMark 0.31, section 4.5, without fences inside of lists.
_FENCE = re.compile(r"^ {0,3}(`{3,}|~{3,})[ \t]*([^`\n]*)$")
_PYTHON = {"python", "py", "python3", "py3"}
_STATEMENTS = (
    ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Import, ast.ImportFrom, ast.Assign,
    ast.AugAssign, ast.For, ast.While, ast.If, ast.With, ast.Try,
)  # fmt: skip


@dataclass(frozen=True)
class Block:
    """A fenced block. One that is not closed goes on to the end of the text."""

    language: str
    text: str
    closed: bool

    @property
    def is_python(self) -> bool:
        return self.language in _PYTHON


def blocks(text: str) -> list[Block]:
    """Find the fenced blocks of a text, in their order."""
    found: list[Block] = []
    fence, language, lines = "", "", list[str]()
    for line in text.split("\n"):
        mark = _FENCE.match(line)
        if not fence:
            if mark:
                words = mark[2].split()
                fence, language, lines = mark[1], words[0].lower() if words else "", []
        elif mark and not mark[2].strip() and mark[1].startswith(fence):
            found.append(Block(language, "".join(f"{each}\n" for each in lines), closed=True))
            fence = ""
        else:
            lines.append(line)
    if fence:
        found.append(Block(language, "\n".join(lines), closed=False))
    return found


def is_python(expected: str | None) -> bool:
    """Tell whether an expected answer is Python: a block that says so, or a program as a whole."""
    if expected is None:
        return False
    found = blocks(expected)
    if found:
        return any(block.is_python for block in found)
    tree = _parsed(expected)
    return tree is not None and any(isinstance(each, _STATEMENTS) for each in tree.body)


def programs(text: str, found: Sequence[Block], *, python_expected: bool) -> list[str]:
    """Return what of an answer should be Python; `found` are its blocks.

    Blocks that say so; where Python is expected also those that say nothing, else the whole text.
    """
    if not found:
        return [text] if python_expected else []
    return [
        block.text for block in found if block.is_python or (python_expected and not block.language)
    ]


def parses(program: str) -> bool:
    """Tell whether a program parses, and is one."""
    return bool(program.strip()) and _parsed(program) is not None


def _parsed(code: str) -> ast.Module | None:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of escapes that a later Python refuses
            return ast.parse(code)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None
