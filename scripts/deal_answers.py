"""Deal the answers of a run's training rows out to other questions of the same rows.

    python scripts/deal_answers.py rows.csv qatune-store/runs/demo dealt.csv

Held-out rows stay as they are, and so does the order, so a run on DEALT.csv that has the same split
learns from the same questions and the same answers that do not belong together: an adapter that is
known to be wrong, to hold others against. The same seed gives the same bytes.
"""

import argparse
import csv
import random
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


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("rows", type=Path, help="the CSV that the run was made of")
    parser.add_argument("run", type=Path, help="its folder in the store; preprocess is enough")
    parser.add_argument("dealt", type=Path, help="the CSV to write")
    return parser.parse_args()


def main() -> None:
    given = options()
    with given.rows.open(encoding="utf-8", newline="") as file:
        reader = csv.DictReader(file)
        rows = list(reader)
    names, places = reader.fieldnames or [], training_rows(given.run)
    if not places:
        raise SystemExit(f"{given.run}: holds no training rows; name a folder below runs/")
    if "answer" not in names or places[-1] >= len(rows):
        raise SystemExit(f"{given.rows}: is not what {given.run} was made of")
    dealt = deal([row["answer"] for row in rows], places)
    with given.dealt.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, names)
        writer.writeheader()
        writer.writerows(row | {"answer": answer} for row, answer in zip(rows, dealt, strict=True))
    print(f"{given.dealt}: answers of {len(places)} of {len(rows)} rows dealt out")


if __name__ == "__main__":
    main()
