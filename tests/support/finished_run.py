"""A finished run without a model: real manifests, made-up rows."""

import io
import json
import math
from dataclasses import asdict

import pyarrow as pa
from pyarrow import parquet

from qatune.config import Data, Generate, Model, Recipe
from qatune.data.records import Answer, AnsweredRow, FailedRow
from qatune.data.shards import Shard
from qatune.stages import evaluate
from qatune.store.artifacts import StageRun
from qatune.store.memory import MemoryStore

RUN = "finished"
HOSTILE = (
    "</script><script>alert(1)</script><!-- <script> <b>bold</b> 🙂 שלום \u2028 \u2029 \x00 {{ 7 }}"
)
CODE = "def double(number):\n\tif number is None:\n\t\treturn None\n\n\treturn 2 * number"


def answered(count=240, adapter=True, expected=True):
    """Make rows: every 5th worse under the adapter, every 40th empty, some cut off.

    The base is cut off at every 3rd, the adapter at every 7th.
    """
    return [_answered(number, adapter, expected) for number in range(1, count + 1)]


def _answered(number, adapter, expected):
    loss = 2.1 + math.sin(number) / 3
    better = loss + (0.2 if number % 5 == 0 else -0.4)
    right = f"Return the value of item {number}, or None where there is none. " * (number % 4 + 1)
    text = {3: HOSTILE + "x" * 3000, 4: CODE, 6: CODE * 12}.get(number)
    if text is None:
        text = "" if number % 40 == 0 else f"It returns item {number}."
    base = Answer(
        f"I think item {number} is a thing. " * 3,
        24,
        "stop" if number % 3 else "length",
        loss if expected else None,
    )
    ours = Answer(text, 9, "stop" if number % 7 else "length", better if expected else None)
    return AnsweredRow(
        str(number),
        f"What does function_{number} do?",
        right if expected else None,
        12 * (number % 4 + 1) if expected else None,
        9,
        base,
        ours if adapter else None,
    )


FAILED = [FailedRow("900", "A question <too> long", "too_long", "fills the whole context")]


def recipe(adapter=True, source="models/base", questions=None, source_of_adapter=None):
    generate = Generate(
        adapter=source_of_adapter or ("train" if adapter else "none"), input=questions
    )
    return Recipe(model=Model(source=source), data=Data(source="rows.csv"), generate=generate)


def lines(rows):
    # Escaped: a lone surrogate has no bytes of its own.
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def answers_only(store, rows, failed=(), *, adapter=True, training=(), name=RUN, **fields):
    """Complete every stage before evaluate, and open that one.

    `training` has id, question and answer of rows that were learned.
    """
    ours = recipe(adapter, **fields)
    _preprocess(StageRun.open(store, name, "preprocess", ours), training)
    if ours.generate.adapter == "train":
        _train(StageRun.open(store, name, "train", ours))
    stage = StageRun.open(store, name, "generate", ours)
    parts = [[*failed, *rows[:64]], *(rows[at : at + 64] for at in range(64, len(rows), 64))]
    for number, part in enumerate(parts):
        stage.create(Shard().part(number), lines(map(asdict, part)))
    if failed:
        stage.create(Shard().errors(0), lines(map(asdict, failed)))
    stage.counters = {"rows": len(rows) + len(failed), "answers": len(rows), "errors": len(failed)}
    stage.finish()
    return StageRun.open(store, name, "evaluate", ours)


def finished(rows=None, failed=FAILED, *, store=None, adapter=True, **fields):
    """Complete all stages, in memory unless a store is given; return the store."""
    store = store or MemoryStore()
    rows = answered(adapter=adapter) if rows is None else rows
    evaluate.run(answers_only(store, rows, failed, adapter=adapter, **fields))
    return store


def _preprocess(stage, training):
    if training:
        columns = dict(zip(("id", "question", "answer"), zip(*training, strict=True), strict=True))
        file = io.BytesIO()
        parquet.write_table(
            pa.table({name: list(column) for name, column in columns.items()}), file
        )
        stage.create("train-00000.parquet", file.getvalue())
    edges = list(range(0, 1225, 25))
    counts = [int(900 * math.exp(-(((edge - 260) / 170) ** 2))) for edge in edges[:-1]]
    shown = {"edges": edges, "counts": counts, "rows": sum(counts)}
    shown |= {"min": 12, "max": 1190, "mean": 271.2, "p50": 262, "p90": 480, "p99": 700}
    lengths = {"unit": "tokens", "limit": 1024, "tokens": shown, "characters": shown}
    stage.create("lengths.json", json.dumps(lengths).encode())
    stage.counters = {
        "rows_read": 5000,
        "rows_kept": 4990,
        "rejected_null": 4,
        "rejected_too_long": 6,
    }
    stage.seconds["working"] = 12.3
    stage.finish()


def _train(stage):
    steps = []
    for step in range(121):
        if step % 30 == 0:
            steps.append(
                {"step": step, "heldout_loss": 1.7 + 0.4 * 0.96**step, "heldout_tokens": 900}
            )
        if step:
            rate = 1e-4 * (1 + math.cos(step / 120 * math.pi))
            loss = 1.6 + 0.6 * 0.97**step + 0.08 * math.sin(step * 9)
            norm = 0.2 + 4 * 0.9**step + 0.1 * math.sin(step * 7)
            steps.append({"step": step, "epoch": step / 120, "loss": loss, "tokens": 700,
                          "learning_rate": rate, "grad_norm": norm})  # fmt: skip
    stage.create("metrics.jsonl", lines(steps))
    stage.counters = {"steps": 120, "heldout_loss_before": 2.1, "heldout_loss_after": 1.703,
                      "tokens_per_second": 1234.4, "padding_share": 0.1234,
                      "peak_share": 0.412}  # fmt: skip
    stage.note("paged_adamw_32bit needs a GPU: adamw_torch_fused is used")
    stage.finish()
