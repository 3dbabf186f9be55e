"""The rows of a training, as preprocess left them in the store."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from qatune.errors import BadDataError
from qatune.model import checks
from qatune.model.scoring import Row
from qatune.store.artifacts import StageRun
from qatune.store.objects import fetch

_TOKENS = {"input_ids": pa.list_(pa.int32()), "answer_start": pa.int32()}


@dataclass(frozen=True)
class TrainingRows:
    """Columns input_ids and answer_start of all training rows, and the held-out ones."""

    train: pa.Table
    first_id: str
    """Of the first training row: the others' are not kept."""
    lengths: np.ndarray
    heldout: list[Row]
    limit: int
    """Tokens of a row that are used."""


def read(stage: StageRun, model_config: Any, folder: Path) -> TrainingRows:
    """Read the rows and find what would fail later, before any weights are read."""
    train = stage.recipe.train
    checks.check_target_modules(train.lora.target_modules, checks.skeleton(model_config))
    table = _read_rows(stage, "train-", folder, {"id": pa.string()} | _TOKENS)
    heldout = _read_rows(stage, "test-", folder, _TOKENS)
    if not len(table):
        raise BadDataError("there is no row to train on: all were rejected or are held out")
    first_id, table = table["id"][0].as_py(), table.drop_columns("id")
    limit = checks.sequence_limit(train.max_length, model_config)
    if limit < train.max_length:
        stage.note(f"train.max_length {train.max_length} is capped to the model's {limit}")
    lengths = _lengths(table)
    for part in (table, heldout):
        checks.check_lengths(_lengths(part), model_config)
        checks.check_vocabulary(_largest_id(part), model_config)
    if train.completion_only_loss:
        checks.check_supervised(lengths, table["answer_start"].to_numpy(), limit)
    cut = int((lengths > limit).sum())
    stage.counters["truncated_rows"] = cut
    if cut:
        stage.note(f"{cut} rows are cut to {limit} tokens: they lose the end of their answer")
    return TrainingRows(table, first_id, lengths, _scoring_rows(heldout), limit)


def _read_rows(
    stage: StageRun, prefix: str, folder: Path, columns: dict[str, pa.DataType]
) -> pa.Table:
    """Fetch and verify the parquet parts of one side of the split."""
    refs = stage.parent("preprocess").outputs_like(".parquet", prefix)
    stage.used(refs)
    tables = [pa.schema(columns).empty_table()]
    for ref in refs:
        path = fetch(stage.store, ref, folder / "rows" / ref.key.rsplit("/", 1)[-1])
        tables.append(pq.read_table(path, columns=list(columns)).cast(pa.schema(columns)))
        path.unlink()
    return pa.concat_tables(tables)


def _lengths(table: pa.Table) -> np.ndarray:
    lengths: np.ndarray = pc.list_value_length(table["input_ids"]).to_numpy()
    return lengths


def _largest_id(table: pa.Table) -> int:
    return pc.max(pc.list_flatten(table["input_ids"])).as_py() or 0


def _scoring_rows(table: pa.Table) -> list[Row]:
    starts = table["answer_start"].to_pylist()
    return [
        (ids.values.to_numpy(), start)
        for ids, start in zip(table["input_ids"], starts, strict=True)
    ]
