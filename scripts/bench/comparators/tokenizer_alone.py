"""Encode texts that are in memory already: what tokenizing takes at least.

    python scripts/bench/comparators/tokenizer_alone.py TOKENIZER ROWS.csv library|batches

`library` spreads each batch over the library's threads; `batches` gives a batch to each thread, as
qatune does. Prints one JSON line: seconds without loading and reading, rows.
"""

import json
import os
import sys
import time
from collections.abc import Iterable
from pathlib import Path

from qatune.config import Columns, Data
from qatune.data.ahead import mapped_ahead
from qatune.data.prompts import Template
from qatune.data.readers import read_rows
from qatune.data.records import SourceRow
from qatune.data.selection import batched
from qatune.model.tokenizing import RowTokenizer, load_tokenizer

Texts = list[tuple[list[str], list[str]]]
"""Prompts and completions, batch by batch."""


def read(file: Path) -> Texts:
    """Return the prompts and completions of `file`, in the batches of the stage."""
    template, texts = Template.of(Data(source="-")), []
    with file.open("rb") as raw:
        for batch in batched(read_rows(raw, file.name, file.name, Columns())):
            rows = [row for row in batch if isinstance(row, SourceRow)]
            prompts = [template.prompt(row.question) for row in rows]
            texts.append((prompts, [template.completion(row.answer) for row in rows]))
    return texts


def encoded(tokenizer: RowTokenizer, texts: Texts, how: str) -> Iterable[object]:
    if how == "library":
        os.environ["TOKENIZERS_PARALLELISM"] = "true"
        return (tokenizer.encode(*pair) for pair in texts)
    return mapped_ahead(lambda pair: tokenizer.encode(*pair), texts)


def main(folder: str, source: str, how: str) -> None:
    tokenizer, texts = RowTokenizer(load_tokenizer(Path(folder))), read(Path(source))
    began = time.perf_counter()
    for _ in encoded(tokenizer, texts, how):
        pass
    seconds = time.perf_counter() - began
    rows = sum(len(prompts) for prompts, _ in texts)
    print(json.dumps({"seconds": seconds, "rows": rows, "rows_per_second": rows / seconds}))


if __name__ == "__main__":
    main(*sys.argv[1:])
