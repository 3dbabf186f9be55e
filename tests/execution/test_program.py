import pytest

from qatune.execution.program import code_of

RIGHT = "def double(number):\n    return 2 * number\n"


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        (RIGHT, RIGHT),
        (f"Sure!\n```python\n{RIGHT}```\nThat is all.", RIGHT),
        (f"```\n{RIGHT}```", RIGHT),
        (f"```py\r\n{RIGHT}```", RIGHT),
        (f"Install it:\n```bash\npip install x\n```\nThen:\n```python\n{RIGHT}```", RIGHT),
        (f"```python\nthis is no Python\n```\n```Python\n{RIGHT}```\n```\nx = 2\n```", RIGHT),
        ("```python\nwrong(\n```\n```js\nx\n```", "wrong(\n"),  # the first block says what is wrong
        (f"Here:\n```python\n{RIGHT}", RIGHT),  # cut off at the limit
        ("```bash\nls\n```", "ls\n"),
        ("Use ```x``` for it", "Use ```x``` for it"),
        ("", ""),
        ("```python\n```", ""),
        ("```python\nx = '\\d'\n```", "x = '\\d'\n"),  # a warning is no error
        ("```python\n" + "-" * 100_000 + "1\n```", "-" * 100_000 + "1\n"),
        ("```python\nx = '\0'\n```", "x = '\0'\n"),
    ],
)
def test_the_code_of_an_answer(answer, code):
    assert code_of(answer) == code
