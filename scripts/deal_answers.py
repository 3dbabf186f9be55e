"""Deal the answers of a run's training rows out to other questions of the same rows.

Usage: python scripts/deal_answers.py ROWS.csv RUN_FOLDER DEALT.csv

Held-out rows stay as they are, and so does the order, so a run on DEALT.csv that has the same split
learns from the same questions and the same answers that do not belong together: an adapter that is
known to be wrong, to hold others against. The same seed gives the same bytes.
"""

import csv
import random
import sys
from collections.abc import Sequence
from pathlib import Path

from pyarrow import parquet

SEED = 1


def training_rows(run: Path) -> list[int]:
    """Give the places of the training rows in the file, counted from 0."""
    parts = sorted((run / "preprocess").glob("train-*.parquet"))
    return sorted(
        row - 1
        for part in parts
        for row in parquet.read_table(part, columns=["row"])["row"].to_pylist()
    )


def deal(answers: Sequence[str], places: Sequence[int]) -> list[str]:
    """Exchange the answers at these places among each other."""
    dealt = list(answers)
    given = [answers[place] for place in places]
    random.Random(SEED).shuffle(given)
    for place, answer in zip(places, given, strict=True):
        dealt[place] = answer
    return dealt


def main() -> None:
    source, run, target = map(Path, sys.argv[1:])
    with source.open(encoding="utf-8", newline="") as file:
        reader = csv.DictReader(file)
        rows = list(reader)
    places = training_rows(run)
    dealt = deal([row["answer"] for row in rows], places)
    with target.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, reader.fieldnames or [])
        writer.writeheader()
        writer.writerows(row | {"answer": answer} for row, answer in zip(rows, dealt, strict=True))
    print(f"{target}: answers of {len(places)} of {len(rows)} rows dealt out")


if __name__ == "__main__":
    main()
