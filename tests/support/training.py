"""Runs of tiny models that are ready to train: an easy task, rows already tokenized."""

from pathlib import Path

import pyarrow as pa
from pyarrow import parquet

from qatune.config import Data, Lora, Model, Recipe, Train
from qatune.data.records import ROWS
from qatune.store.artifacts import StageRun
from qatune.store.sources import ModelFolder

RUN = "tiny"


def recipe(folder: Path, model: dict | None = None, **train) -> Recipe:
    """A recipe of 2 epochs of 6 steps; `train` changes its fields."""
    settings = {
        "lora": Lora(r=8, lora_dropout=0.1),
        "learning_rate": 0.01,
        "per_device_train_batch_size": 2,
        "gradient_accumulation_steps": 2,
        "num_train_epochs": 2,
        "save_steps": 2,
        "eval_steps": 5,
        "logging_steps": 3,
    }
    return Recipe(
        model=Model(source=str(folder), **{"dtype": "float32"} | (model or {})),
        data=Data(source="unused.csv"),
        train=Train(**settings | train),
    )


def easy_rows(count: int, eos: int) -> list[tuple[list[int], int]]:
    """Rows whose answer is always the same, after questions of several lengths."""
    return [
        ([5 + (number * 7 + place) % 90 for place in range(4 + number % 9)] + [101, 102, 103, eos],
         4 + number % 9)
        for number in range(count)
    ]  # fmt: skip


def prepared(store, ours: Recipe, eos: int = 1, rows=None, heldout=None) -> StageRun:
    """Complete preprocess with these rows, unless it is complete, and open the train stage."""
    stage = StageRun.open(store, RUN, "preprocess", ours)
    if store.stat(stage.key("manifest.json")) is None:
        for name, part in (
            ("train-00000.parquet", rows if rows is not None else easy_rows(23, eos)),
            ("test-00000.parquet", heldout if heldout is not None else easy_rows(6, eos)),
        ):
            stage.create(name, _parquet(part))
        stage.used(ModelFolder(Path(ours.model.source), None, ours.model.source).tokenizer_files())
        stage.finish()
    return StageRun.open(store, RUN, "train", ours)


def _parquet(rows) -> bytes:
    records = [
        {"id": str(number), "file": "unused.csv", "row": number, "question": "q", "answer": "a",
         "input_ids": ids, "answer_start": start}
        for number, (ids, start) in enumerate(rows, start=1)
    ]  # fmt: skip
    sink = pa.BufferOutputStream()
    parquet.write_table(pa.Table.from_pylist(records, ROWS), sink)
    return sink.getvalue().to_pybytes()
