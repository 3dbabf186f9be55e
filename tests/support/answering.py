"""Runs of tiny models that are ready to answer: rows held out, an adapter trained."""

import json
from pathlib import Path

import pyarrow as pa
import pytest
import torch
from pyarrow import parquet

from qatune.config import Columns, Data, Generate, Lora, Model, Recipe
from qatune.data.prompts import Template
from qatune.data.records import ROWS
from qatune.data.requests import Question
from qatune.model import adapters
from qatune.model.answering import encode
from qatune.model.engines import continuous
from qatune.model.engines.static import StaticEngine
from qatune.model.loading import LoadedModel, load_model
from qatune.model.tokenizing import load_tokenizer
from qatune.report import inputs
from qatune.stages import generate as generating
from qatune.store import manifests
from qatune.store.artifacts import StageRun
from qatune.store.objects import describe_source
from qatune.store.sources import ModelFolder

RUN = "tiny"

PAIRS = [
    ("What does textwrap.dedent do?", "Remove common leading whitespace."),
    ("def add", "def add(first, second):\n    return first + second"),
    ("short", "é ü 漢"),
    ("a much longer question, " * 3, "yes"),
    ("five", "5"),
    ("six", "6"),
    ("seven", "7 " * 40),
]

# In chunks of 3: shard 0 has rows 1-3 and 10-12, shard 1 rows 4-6 and 13, shard 2 rows 7-9.
SHARDED = [(f"question {number}", f"answer {number}") for number in range(1, 14)]
SHARDED[4] = (" \t", "an empty question")


SETTINGS = {"max_new_tokens": 8, "batch_size": 4, "chunk_rows": 3}


class KilledError(BaseException):
    """As SIGKILL: nothing handles it."""


def load(folder: Path, **spec) -> LoadedModel:
    return load_model(folder, Model(source=str(folder), **{"dtype": "float32"} | spec), print)


def random_adapter(folder: Path, into: Path, quantization: str = "none") -> Path:
    """Save an adapter for the model in `folder` that changes every answer."""
    loaded = load(folder)
    model = adapters.create(loaded.model, Lora(r=8, lora_alpha=64), seed=1)
    generator = torch.Generator().manual_seed(1)
    for name, weights in model.named_parameters():
        if "lora_B" in name:
            weights.data.normal_(generator=generator)
    refs = [describe_source(path.name, path) for path in sorted(folder.iterdir())]
    digest = adapters.base_digest(refs)
    base = adapters.Base(str(folder), None, digest, quantization, loaded.dtype)
    adapters.save(model, loaded.tokenizer, base, "card", into)
    return into


def recipe(folder: Path, model: dict | None = None, **generate) -> Recipe:
    settings = SETTINGS | generate
    return Recipe(
        model=Model(source=str(folder), **{"dtype": "float32"} | (model or {})),
        data=Data(source="unused.csv", columns=Columns()),
        generate=Generate(**settings),
    )


def hold_out(store, ours: Recipe, pairs, folder: Path) -> None:
    """Complete the preprocess stage with these (question, answer) rows."""
    tokenizer, template = load_tokenizer(folder), Template.of(ours.data)
    rows = []
    for number, (question, answer) in enumerate(pairs, start=1):
        asked = Question(str(number), question, 1, expected=answer)
        row = encode(asked, tokenizer, template)
        ids = [*row.prompt_ids, *row.expected_ids]
        rows.append(
            {
                "id": str(number), "file": "unused.csv", "row": number, "question": question,
                "answer": answer, "input_ids": ids, "answer_start": len(row.prompt_ids),
            }
        )  # fmt: skip
    stage = StageRun.open(store, RUN, "preprocess", ours)
    sink = pa.BufferOutputStream()
    parquet.write_table(pa.Table.from_pylist(rows, ROWS), sink)
    stage.used(ModelFolder(folder, None, str(folder)).tokenizer_files())
    stage.create("test-00000.parquet", sink.getvalue().to_pybytes())
    stage.finish()


def train(store, ours: Recipe, adapter: Path) -> None:
    """Complete the train stage with this adapter."""
    stage = StageRun.open(store, RUN, "train", ours)
    for path in sorted(adapter.iterdir()):
        stage.create(f"adapter/{path.name}", path)
    stage.finish()


def prepared(store, folder: Path, trained: Path | None, pairs, **generate) -> StageRun:
    """Open the generate stage of a run whose earlier stages are complete."""
    ours = recipe(folder, **generate)
    hold_out(store, ours, pairs, folder)
    if trained:
        train(store, ours, trained)
    return StageRun.open(store, RUN, "generate", ours)


def run(store, folder, trained, pairs=PAIRS, **settings):
    stage = prepared(store, folder, trained, pairs, **settings)
    generating.run(stage)
    return stage


def outputs(store):
    """What the generate stage wrote, by name, less what has times in it."""
    head = f"runs/{RUN}/generate/"
    written = {key.removeprefix(head): store.read(key) for key in store.keys(head)}
    timed = ("manifest.json", "progress", "shards")
    return {name: data for name, data in written.items() if not name.startswith(timed)}


def lines(store, prefix):
    """Answers of all parts, or lines of other outputs, in the order of their names."""
    named = outputs(store)
    found = [
        json.loads(line)
        for name in sorted(named)
        if name.startswith(prefix)
        for line in named[name].splitlines()
    ]
    return [line for line in found if prefix != "parts/" or "code" not in line]


def start(stage, shard, of=3):
    """Start one shard as its pod does."""
    opened = StageRun.open(stage.store, RUN, "generate", stage.recipe)
    generating.run(opened, shard, of)
    return opened


def manifest(store):
    found = manifests.load(store, RUN, "generate")
    return found and found[0]


def rows_of(store):
    """All rows and errors in the order of the input, likelihoods as near as batches allow."""
    answered, failed = inputs.rows(store, manifest(store))
    return [
        (row.id, row.question, row.base.text, row.base.tokens, pytest.approx(row.base.nll))
        for row in answered
    ], failed


def before_batches(monkeypatch, act):
    """Let `act` hear of the requests that an engine takes in together, before it does."""

    def hook(owner, name):
        take_in = getattr(owner, name)

        def hooked(self, batch):
            if batch:
                act(batch)
            return take_in(self, batch)

        monkeypatch.setattr(owner, name, hooked)

    hook(StaticEngine, "_complete")
    hook(continuous._Table, "admit")


def killed(*_):
    raise KilledError


def dying_at(chunk):
    """Save as the stage does, and die at this chunk."""
    save = generating._save

    def saved(stage, work, number, answers):
        if number == chunk:
            raise KilledError
        save(stage, work, number, answers)

    return saved
