"""Measure the engines on a model with an adapter: answers a second, and how many are equal.

    python scripts/bench/generation.py MODEL QUESTIONS.csv [--rows 32] [--tokens 64]

CPU seconds are counted beside wall seconds: on a machine with other work only they compare.
"""

import argparse
import csv
import tempfile
import time
from pathlib import Path

import torch

from qatune.config import Data, Generate, Lora, Model, Recipe
from qatune.data.prompts import Template
from qatune.model import adapters
from qatune.model.engines import ctranslate2
from qatune.model.engines.continuous import ContinuousEngine
from qatune.model.engines.protocol import Engine, Request
from qatune.model.engines.static import StaticEngine
from qatune.model.opening import FoundModel
from qatune.store.objects import describe_source
from qatune.store.sources import ModelFolder


def make_adapter(base: ModelFolder, recipe: Recipe, folder: Path) -> FoundModel:
    """Save an adapter that changes the answers a little."""
    bare = FoundModel(base, base.files(), None, ())
    loaded = bare.load(recipe.model, print)
    model = adapters.create(loaded.model, Lora(), seed=1)
    generator = torch.Generator().manual_seed(1)
    for name, weights in model.named_parameters():
        if "lora_B" in name:
            weights.data.normal_(std=0.005, generator=generator)
    owner = adapters.Base(
        base.source, None, adapters.base_digest(bare.base_files), "none", loaded.dtype
    )
    files = adapters.save(model, loaded.tokenizer, owner, "card", folder)
    return FoundModel(
        base, bare.base_files, folder, [describe_source(str(path), path) for path in files]
    )


def ask(path: Path, template: Template, tokenizer: object, rows: int, tokens: int) -> list[Request]:
    with path.open(encoding="utf-8", newline="") as file:
        questions = [row["question"] for row in csv.DictReader(file)][:rows]
    return [
        Request(str(number), tokenizer(template.prompt(text))["input_ids"], tokens, adapter=adapter)
        for number, text in enumerate(questions)
        for adapter in (False, True)
    ]


def measure(name: str, engine: Engine, requests: list[Request], expected: dict) -> dict:
    list(engine.generate(requests[:2]))
    wall, cpu = time.perf_counter(), time.process_time()
    results = list(engine.generate(requests))
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    answers = {(each.request.id, each.request.adapter): each.token_ids for each in results}
    count, tokens = len(answers), sum(map(len, answers.values()))
    equal = sum(expected[key] == ids for key, ids in answers.items()) if expected else count
    print(
        f"{name:22} {count / cpu:7.2f} answers/CPU s {count / wall:7.2f} answers/s "
        f"{tokens:6} tokens  {equal} of {count} equal",
        flush=True,
    )
    return answers


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("questions", type=Path)
    parser.add_argument("--rows", type=int, default=32)
    parser.add_argument("--tokens", type=int, default=64)
    options = parser.parse_args()
    recipe = Recipe(
        model=Model(source=str(options.model), dtype="float32"),
        data=Data(source=str(options.questions)),
        generate=Generate(engine="ctranslate2"),
    )
    base = ModelFolder(options.model, None, str(options.model))
    with tempfile.TemporaryDirectory() as name:
        model = make_adapter(base, recipe, Path(name) / "adapter")
        loaded = model.load(recipe.model, print)
        template = Template.of(recipe.data)
        requests = ask(options.questions, template, loaded.tokenizer, options.rows, options.tokens)
        expected = measure("static, batch of 16", StaticEngine(loaded, 16), requests, {})
        measure("continuous, 16", ContinuousEngine(loaded, 16), requests, expected)
        measure("row by row", StaticEngine(loaded, 1), requests[:8], expected)
        for compute_type in ("float32", "int8"):
            spec = recipe.generate.model_copy(update={"compute_type": compute_type})
            ours = recipe.model_copy(update={"generate": spec})
            engine = ctranslate2.open_engine(model, loaded, ours, Path(name) / compute_type)
            measure(f"ctranslate2 {compute_type}", engine, requests, expected)


if __name__ == "__main__":
    main()
