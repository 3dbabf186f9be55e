"""What is run of an answer. Pure."""

from dataclasses import dataclass

from qatune.evaluation import code


@dataclass(frozen=True)
class Program:
    """Code that nobody trusts, and the assertions about it."""

    code: str
    tests: str


def code_of(answer: str) -> str:
    """Take the code out of an answer.

    The first closed block of Python that can be parsed, else the first block, else all of it.
    """
    blocks = code.blocks(answer.replace("\r\n", "\n"))
    for block in blocks:
        if block.closed and (block.is_python or not block.language) and code.parses(block.text):
            return block.text
    return blocks[0].text if blocks else answer
