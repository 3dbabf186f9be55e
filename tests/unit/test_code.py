import pytest

from qatune.evaluation import code

PROGRAM = "def double(number):\n    return 2 * number"


def fenced(text, language="python", fence="```"):
    return f"Like this:\n{fence}{language}\n{text}\n{fence}\nThat is all."


def test_blocks_in_their_order():
    text = fenced(PROGRAM) + "\n" + fenced("ls -l", "bash", "~~~~") + "\n   ``` Py3 title=x\nx = 1"
    first, second, third = code.blocks(text)
    assert (first.language, first.text, first.closed) == ("python", PROGRAM + "\n", True)
    assert (second.language, second.text, second.closed) == ("bash", "ls -l\n", True)
    assert (third.language, third.text, third.closed) == ("py3", "x = 1", False)
    assert [block.is_python for block in (first, second, third)] == [True, False, True]


@pytest.mark.parametrize(
    "text",
    ["no code", "`inline`", "    ```\n    indented by four", "``` a`b\nnot a fence", "x ```"],
)
def test_no_blocks(text):
    assert code.blocks(text) == []


def test_a_fence_is_closed_by_one_as_long():
    (block,) = code.blocks("````\n```\ninside\n```\n````")
    assert (block.text, block.closed) == ("```\ninside\n```\n", True)


@pytest.mark.parametrize(
    ("expected", "python"),
    [
        (PROGRAM, True),
        ("import os", True),
        ("x = 1", True),
        (fenced(PROGRAM), True),
        (fenced("ls", "bash"), False),
        ("Yes", False),  # an expression, as far as Python knows
        ("Return the number of items.", False),
        ("", False),
        (None, False),
    ],
)
def test_where_python_is_expected(expected, python):
    assert code.is_python(expected) is python


@pytest.mark.parametrize(
    ("answer", "python_expected", "parses"),
    [
        (fenced(PROGRAM), False, [True]),
        (fenced("def double(:"), False, [False]),
        (fenced("ls -l", "bash"), True, []),  # another language is counted only
        (fenced(PROGRAM, ""), True, [True]),
        (fenced(PROGRAM, ""), False, []),
        (fenced(PROGRAM) + "\n" + fenced("x ="), False, [True, False]),
        (PROGRAM, True, [True]),
        (PROGRAM, False, []),
        ("def double(number):", True, [False]),
        ("I do not know.", True, [False]),
        ("", True, [False]),
        ("x = 1\x00", True, [False]),
        ("(" * 5000, True, [False]),
        (r"x = '\d'", True, [True]),  # a warning of Python's, no error
    ],
)
def test_whether_code_parses(answer, python_expected, parses):
    programs = code.programs(answer, code.blocks(answer), python_expected=python_expected)
    assert [code.parses(program) for program in programs] == parses
