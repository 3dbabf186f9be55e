"""The script that makes an adapter wrong on purpose: docs/reference.md measures one."""

import csv
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pyarrow as pa
from pyarrow import parquet
from tests.support.tiny import tiny_gpt2

from qatune import recipe
from qatune.stages import preprocess
from qatune.store import artifacts
from qatune.store.folder import FolderStore

SCRIPT = Path(__file__).parents[2] / "scripts" / "deal_answers.py"
ROWS = [[f"What is {n}?", f"It is\n“{n + 1}”."] for n in range(60)]


def written(path, rows):
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([["question", "answer"], *rows])
    return path


def preprocessed(store, run, model, source):
    fields = {"model": {"source": str(model)}, "data": {"source": str(source)}}
    preprocess.run(artifacts.StageRun.open(store, run, "preprocess", recipe.validate(fields)))
    return {
        side: [
            (row["question"], row["answer"])
            for key in sorted(store.keys(f"runs/{run}/preprocess/{side}-"))
            for row in parquet.read_table(pa.BufferReader(store.read(key))).to_pylist()
        ]
        for side in ("train", "test")
    }


def deal(*arguments):
    command = [sys.executable, SCRIPT, *arguments]
    return subprocess.run(command, check=False, capture_output=True, text=True, timeout=60)


def test_training_rows_exchange_their_answers_and_no_other_row_changes(tmp_path):
    model = tiny_gpt2(tmp_path / "gpt2")
    # The first row is rejected, so that places in the file and among the kept rows differ.
    source = written(tmp_path / "rows.csv", [["", "no question"], *ROWS])
    store = FolderStore(str(tmp_path / "store"))
    right = preprocessed(store, "right", model, source)
    dealt = tmp_path / "dealt.csv"
    run = tmp_path / "store" / "runs" / "right"
    done = deal(source, run, dealt)
    assert (done.returncode, done.stderr) == (0, "")
    wrong = preprocessed(store, "wrong", model, dealt)
    assert wrong["test"] == right["test"]
    questions, answers = zip(*right["train"], strict=True)
    others, given = zip(*wrong["train"], strict=True)
    assert others == questions
    assert Counter(given) == Counter(answers)
    assert sum(one == other for one, other in zip(answers, given, strict=True)) <= 5
    short = written(tmp_path / "short.csv", ROWS[:3])
    elsewhere = tmp_path / "elsewhere.csv"
    for arguments, said in (
        ((source, tmp_path / "store", elsewhere), "holds no training rows; name a folder below"),
        ((short, run, elsewhere), f"{short}: is not what {run} was made of"),
    ):
        refused = deal(*arguments)
        assert (refused.returncode, refused.stderr.count("\n")) == (1, 1)
        assert said in refused.stderr
    assert not elsewhere.exists()
