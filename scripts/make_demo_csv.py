"""Write a CSV of questions and answers made from the docstrings of Python's standard library.

Usage: python scripts/make_demo_csv.py FILE

The sources are parsed, never imported: importing a standard library has side effects.
"""

import ast
import csv
import inspect
import re
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

SKIPPED = {"idlelib", "lib2to3", "pydoc_data", "site-packages", "test", "tests", "turtledemo"}
SHORTEST, LONGEST = 30, 600  # characters of an answer: below it says nothing, above it rambles
Documented = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef


class Entry(NamedTuple):
    id: str
    question: str
    answer: str


def modules(root: Path) -> Iterator[tuple[str, Path]]:
    """Yield name and file of every public module below `root`, in a fixed order."""
    for path in sorted(root.rglob("*.py")):
        parts = path.relative_to(root).with_suffix("").parts
        if parts[-1] == "__init__":
            parts = parts[:-1]
        if not any(part in SKIPPED or part.startswith("_") or "-" in part for part in parts):
            yield ".".join(parts), path


def entries(name: str, tree: ast.Module) -> Iterator[Entry]:
    """Yield a question for the module and for each public name in it."""
    yield from _entry(name, f"What is the Python module {name} for?", ast.get_docstring(tree))
    for node in tree.body:
        if isinstance(node, Documented) and not node.name.startswith("_"):
            yield from _definition(f"{name}.{node.name}", node)


def _definition(name: str, node: Documented) -> Iterator[Entry]:
    kind = "What is" if isinstance(node, ast.ClassDef) else "What does"
    tail = "in Python?" if isinstance(node, ast.ClassDef) else "do?"
    yield from _entry(name, f"{kind} {name} {tail}", ast.get_docstring(node))
    if isinstance(node, ast.ClassDef):
        for child in node.body:
            if isinstance(child, Documented) and not child.name.startswith("_"):
                yield from _definition(f"{name}.{child.name}", child)


def _entry(name: str, question: str, docstring: str | None) -> Iterator[Entry]:
    answer = first_paragraph(docstring or "")
    if SHORTEST <= len(answer) <= LONGEST:
        yield Entry(name, question, answer)


def first_paragraph(docstring: str) -> str:
    """Return the docstring's summary on one line; a signature above it is no summary."""
    for paragraph in re.split(r"\n\s*\n", inspect.cleandoc(docstring)):
        text = " ".join(paragraph.split())
        if not re.fullmatch(r"[\w.]+\(.*\)(\s*->.*)?", text):
            return text
    return ""


def main() -> None:
    target = Path(sys.argv[1])
    target.parent.mkdir(parents=True, exist_ok=True)
    rows: dict[str, Entry] = {}
    for name, path in modules(Path(sysconfig.get_path("stdlib"))):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        rows.update((entry.id, entry) for entry in entries(name, tree))
    with target.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(Entry._fields)
        writer.writerows(rows.values())
    print(f"{target}: {len(rows):,} questions and answers from Python {sys.version.split()[0]}")


if __name__ == "__main__":
    main()
