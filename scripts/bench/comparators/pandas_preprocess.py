"""Preprocess as a notebook does: pandas, and the tokenizer row by row.

    python scripts/bench/comparators/pandas_preprocess.py TOKENIZER ROWS.csv

Prints one JSON line: seconds without imports and without loading the tokenizer, rows read.
"""

import json
import sys
import tempfile
import time
from pathlib import Path

import pandas as pd
from datasets import Dataset
from transformers import AutoTokenizer


def main(tokenizer_folder: str, source: str, output: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tokenizer_folder)
    began = time.perf_counter()
    table = pd.read_csv(source)
    rows = len(table)
    table = table.dropna()
    table["text"] = table.apply(
        lambda row: f"### Question: {row['question']}\n### Answer: {row['answer']}", axis=1
    )
    table["input_ids"] = table["text"].apply(
        lambda text: tokenizer(text)["input_ids"] + [tokenizer.eos_token_id]
    )
    table = table[table["input_ids"].apply(len) <= 1024]  # noqa: PLR2004 - the recipe's limit
    sides = Dataset.from_pandas(table, preserve_index=False).train_test_split(0.2, seed=42)
    for name, side in sides.items():
        side.to_parquet(output / f"{name}.parquet")
    seconds = time.perf_counter() - began
    print(json.dumps({"seconds": seconds, "rows": rows, "rows_per_second": rows / seconds}))


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as output:
        main(sys.argv[1], sys.argv[2], Path(output))
