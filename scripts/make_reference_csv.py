"""Make a CSV shaped like the reference experiment's: Python questions with long answers.

136,108 usable rows, of which 24,899 are shorter than 1,024 characters in the recipe's template,
and 1,500 rows with an empty cell between them. The same seed gives the same bytes.

    python scripts/make_reference_csv.py rows.csv
"""

import argparse
import csv
import random
from collections.abc import Iterator
from pathlib import Path

USABLE, SHORT, NULLS = 136_108, 24_899, 1_500
TEMPLATE_CHARACTERS = len("### Question: \n### Answer: ")
LIMIT = 1_024

SUBJECTS = [
    "list",
    "dict",
    "set",
    "string",
    "file",
    "date",
    "matrix",
    "graph",
    "tree",
    "queue",
    "number",
    "row",
    "user",
    "order",
]
VERBS = [
    "sort",
    "filter",
    "merge",
    "parse",
    "validate",
    "group",
    "count",
    "reverse",
    "flatten",
    "cache",
    "format",
    "split",
]
DETAILS = (
    "without using any external library", "in linear time", "and handle empty input",
    "while keeping the order of the items", "using recursion", "with a single pass",
    "and raise a ValueError for bad input", "so that it works for very large inputs",
)  # fmt: skip
REASONS = (
    "The function walks over the input once and keeps what it has seen in a dictionary.",
    "Edge cases come first: an empty input is returned as it is, without further work.",
    "Looking a key up takes constant time on average, so the whole runs in linear time.",
    "Because the input is never modified, the caller may go on using it afterwards.",
    "A generator keeps memory low: only one item is held at a time.",
    "Please note that naïve solutions compare every pair, which takes quadratic time.",
)  # fmt: skip
CODE = """\
def {verb}_{subject}(items, key=None, *, limit={number}):
    \"\"\"Return the {subject} after a {verb}, at most `limit` of them.\"\"\"
    if not items:
        return []
    seen = {{}}
    for index, item in enumerate(items):
        name = key(item) if key else item
        if name in seen and seen[name] != index:
            continue  # the first one wins
        seen[name] = index
        if len(seen) >= limit:
            break
    return [items[index] for index in sorted(seen.values())]


"""


def rows(
    seed: int, usable: int = USABLE, short: int = SHORT, nulls: int = NULLS
) -> Iterator[list[str]]:
    """Yield question and answer, rows with an empty cell among them."""
    rng = random.Random(seed)
    prose, code = _corpus(rng)
    kinds = ["short"] * short + ["long"] * (usable - short) + ["null"] * nulls
    rng.shuffle(kinds)
    for number, kind in enumerate(kinds, start=1):
        question = _question(rng, number)
        if kind == "null":
            yield rng.choice([[question, ""], ["", _answer(rng, prose, code, 400)]])
            continue
        length = rng.randint(350, LIMIT - 1) if kind == "short" else rng.randint(1_100, 1_900)
        room = length - TEMPLATE_CHARACTERS - len(question)
        yield [question, _answer(rng, prose, code, room)]


def _corpus(rng: random.Random) -> tuple[str, str]:
    """Make the texts that answers are cut from: writing each word anew would take minutes."""
    prose = " ".join(rng.choice(REASONS) for _ in range(2_000))
    code = "".join(
        CODE.format(
            verb=rng.choice(VERBS), subject=rng.choice(SUBJECTS), number=rng.randint(2, 999)
        )
        for _ in range(500)
    )
    return prose, code


def _question(rng: random.Random, number: int) -> str:
    verb, subject, detail = rng.choice(VERBS), rng.choice(SUBJECTS), rng.choice(DETAILS)
    return f"How can I {verb} a {subject} of {number} items in Python, {detail}?"


def _answer(rng: random.Random, prose: str, code: str, length: int) -> str:
    """Cut an answer of exactly `length` characters: prose, then code."""
    explained = rng.randint(80, length // 2)
    head = _piece(rng, prose, explained) + "\n\n```python\n"
    tail = "\n```"
    return head + _piece(rng, code, length - len(head) - len(tail)) + tail


def _piece(rng: random.Random, text: str, length: int) -> str:
    start = text.index(" ", rng.randrange(len(text) - length - 500)) + 1
    return text[start : start + length]


def write(path: Path, seed: int = 0, **shape: int) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["question", "answer"])
        writer.writerows(rows(seed, **shape))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("path", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    write(options.path, options.seed)
    print(f"{options.path}: {USABLE:,} usable rows, {SHORT:,} of them under {LIMIT:,} characters")


if __name__ == "__main__":
    main()
