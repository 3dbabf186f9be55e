"""The comparisons: the same rows, model, compute type and settings for all of each."""

import csv
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import product
from harness import Contestant, Part, Runs
from transformers import AutoConfig

from qatune.model import devices
from qatune.model.checks import skeleton
from qatune.model.flops import Work, training_flops

HERE = Path(__file__).parent
COMPARATORS = HERE / "comparators"
BATCH = 16
TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj"]
NEVER = 10**9
LORA = {"r": 16, "lora_alpha": 32, "lora_dropout": 0.2}


@dataclass(frozen=True)
class Asked:
    """What the command line asks for."""

    model: Path
    source: Path
    """A CSV with columns question and answer."""
    large: Path
    """The CSV for preprocess."""
    work: Path
    training_rows: int
    prompts: int
    new_tokens: int
    targets: Sequence[str]


def training(asked: Asked) -> Part:
    """Rows a step: 8, or a pack of 1,024 tokens; of each setting one epoch, the loss over all."""
    recipe, texts, lengths = training_input(asked)
    nf4 = recipe_of(asked, asked.work / "training.csv", 1, "nf4")
    script = str(COMPARATORS / "trl_training.py")
    trl = [script, str(asked.model), texts, "--dtype", devices.native_dtype()]
    trl += ["--targets", *asked.targets]
    kept = "--no-checkpointing"
    own = [str(HERE / "product.py"), "training"]
    peak = [str(HERE / "flops.py"), str(asked.model), "--dtype", devices.native_dtype()]
    done = Work(sum(lengths), supervised=sum(lengths), squares=sum(each**2 for each in lengths))
    flops = training_flops(skeleton(AutoConfig.from_pretrained(asked.model)), done)

    def share_of_peak(runs: Runs) -> None:
        for turn, possible in enumerate(runs["matmul peak"]):
            for figures in (each[turn] for each in runs.values() if "seconds" in each[turn]):
                figures["peak_share"] = flops / figures["seconds"] / 1e9 / possible["gflops"]

    return Part(
        "training",
        f"{len(lengths)} rows of {asked.source.name}, of {sum(lengths) / len(lengths):.0f} tokens "
        "on average, 8 rows a step (packed by TRL: 1,024 tokens), LoRA on "
        f"{', '.join(asked.targets)}, dropout 0.2, one epoch",
        "tokens_per_second",
        ["loss", "gflops", "peak_share", "peak_mb"],
        [
            Contestant("qatune", [*own, recipe]),
            Contestant("TRL, padded batches", trl, "qatune"),
            Contestant("TRL, padded batches, activations kept", [*trl, kept], "qatune"),
            Contestant("TRL, packed", [*trl, "--packing"], "qatune"),
            Contestant("TRL, packed, activations kept", [*trl, "--packing", kept], "qatune"),
            Contestant("qatune, NF4", [*own, nf4]),
            Contestant("TRL, NF4, padded batches", [*trl, "--nf4"], "qatune, NF4"),
            Contestant(
                "TRL, NF4, padded batches, activations kept", [*trl, "--nf4", kept], "qatune, NF4"
            ),
            Contestant("matmul peak", peak),
        ],
        share_of_peak,
    )


def training_input(asked: Asked) -> tuple[str, str, list[int]]:
    """Return the recipe, the file of the texts that it trains on, and their lengths in tokens."""
    source = _cut(asked.source, asked.work / "training.csv", asked.training_rows + 1)
    recipe = recipe_of(asked, source, 1)
    store = asked.work / "training-store"
    product.stage("preprocess", Path(recipe), store)
    rows = product.rows(store, "train", ["question", "answer", "input_ids"])
    texts = asked.work / "texts.jsonl"
    _write(texts, ({"text": f"{_prompt(row)} {row['answer']}"} for row in rows))
    return recipe, str(texts), [len(row["input_ids"]) for row in rows]


def generation(asked: Asked) -> Part:
    """Answer each prompt twice, by base and adapter, and no more: comparators cannot score.

    The product does it once from a file of questions, as they do, and once as in a whole run, where
    it scores the expected answers of the held-out rows, too.
    """
    recipe, store, prompts = _generation_input(asked)
    adapter = str(product.folder(store, "train") / "adapter")
    fields = json.loads(recipe.read_text(encoding="utf-8"))["recipe"]
    fields["data"]["columns"] = {"id": "id"}
    fields["generate"] |= {"input": prompts, "adapter": adapter}
    alike = _write_recipe(asked.work / "answers.yaml", fields)
    fields["generate"] |= {"engine": "ctranslate2"}
    certified = _write_recipe(asked.work / "answers-ctranslate2.yaml", fields)
    script = str(COMPARATORS / "hf_generation.py")
    hf = [script, str(asked.model), adapter, prompts, "--dtype", devices.native_dtype()]
    hf += ["--new-tokens", str(asked.new_tokens)]
    own = [str(HERE / "product.py"), "generation"]
    scored = [*own, str(recipe), "--prepared", str(store)]
    batches = [*hf, "--batch", str(BATCH)]
    return Part(
        "generation",
        f"{asked.prompts} prompts of {asked.source.name}, answered by base and adapter, at most "
        f"{asked.new_tokens} new tokens each, greedy",
        "answers_per_second",
        ["tokens", "same_answers", "certified", "peak_mb"],
        [
            Contestant("qatune", [*own, alike]),
            Contestant("qatune, ctranslate2 float32", [*own, certified], "qatune"),
            Contestant("model.generate, row by row", hf, "qatune"),
            Contestant(f"model.generate, batches of {BATCH}", batches, "qatune"),
            Contestant("qatune, expected answers scored, too", scored, "qatune"),
        ],
        _compare_answers,
    )


def _generation_input(asked: Asked) -> tuple[Path, Path, str]:
    """Return a recipe, a store with its held-out rows and adapter, and the file of the prompts."""
    rows = asked.training_rows + asked.prompts
    source = _cut(asked.source, asked.work / "generation.csv", rows)
    recipe, store = Path(recipe_of(asked, source, asked.prompts)), asked.work / "generation-store"
    for stage in ("preprocess", "train"):
        product.stage(stage, recipe, store)
    prompts = asked.work / "prompts.jsonl"
    held_out = product.rows(store, "test", ["id", "question"])
    _write(prompts, (row | {"prompt": _prompt(row)} for row in held_out))
    return recipe, store, str(prompts)


def _compare_answers(runs: Runs) -> None:
    """Replace each run's answers by the share of them that the product gives, too."""
    ours = [run["answers"] for run in runs["qatune"]]
    for found in runs.values():
        for run, own in zip(found, ours, strict=True):
            theirs = run.pop("answers")
            pairs = [
                (mine.strip(), their.strip())
                for name, texts in own.items()
                for mine, their in zip(texts, theirs[name], strict=True)
            ]
            run["same_answers"] = sum(mine == their for mine, their in pairs) / len(pairs)


def preprocess(asked: Asked) -> Part:
    """From a CSV to tokenized Parquet on two sides; the tokenizer alone has no files."""
    plain = _write_recipe(
        asked.work / "preprocess.yaml",
        {
            "model": {"source": str(asked.model)},
            "data": {
                "source": str(asked.large),
                "drop_duplicates": False,
                "split": {"method": "shuffle"},
            },
        },
    )
    defaults = _write_recipe(
        asked.work / "preprocess-defaults.yaml",
        {"model": {"source": str(asked.model)}, "data": {"source": str(asked.large)}},
    )
    own = [str(HERE / "product.py"), "preprocess"]

    def script(name: str, *more: str) -> list[str]:
        return [str(COMPARATORS / name), str(asked.model), str(asked.large), *more]

    return Part(
        "preprocess",
        f"a CSV of {asked.large.stat().st_size / 1e6:.0f} MB, rows of up to 1,024 tokens kept, "
        "divided by shuffling",
        "rows_per_second",
        ["seconds", "peak_mb"],
        [
            Contestant("qatune", [*own, plain]),
            Contestant("pandas, row by row", script("pandas_preprocess.py"), "qatune"),
            Contestant("datasets, batches, all cores", script("datasets_preprocess.py"), "qatune"),
            Contestant(
                "tokenizer alone, library's threads",
                script("tokenizer_alone.py", "library"),
                "qatune",
            ),
            Contestant(
                "tokenizer alone, a batch to a thread",
                script("tokenizer_alone.py", "batches"),
                "qatune",
            ),
            Contestant(
                "qatune, duplicates dropped, divided by question", [*own, defaults], "qatune"
            ),
        ],
    )


PARTS = {"training": training, "generation": generation, "preprocess": preprocess}


def _prompt(row: dict[str, Any]) -> str:
    return f"### Question: {row['question']}\n### Answer:"


def _cut(source: Path, target: Path, rows: int) -> Path:
    """Write the first `rows` rows that have a question and an answer."""
    with source.open(encoding="utf-8", newline="") as file:
        whole = (row for row in csv.DictReader(file) if row["question"] and row["answer"])
        found = [[row["question"], row["answer"]] for row in islice(whole, rows)]
    if len(found) < rows:
        raise SystemExit(f"{source}: {len(found)} rows where {rows} are needed")
    with target.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([["question", "answer"], *found])
    return target


def recipe_of(asked: Asked, source: Path, held_out: int, quantization: str = "none") -> str:
    """Write the recipe that equals what the comparators do, field by field; return its path."""
    fields = {
        "model": {"source": str(asked.model), "quantization": quantization},
        "data": {
            "source": str(source),
            "drop_duplicates": False,
            "split": {"method": "shuffle", "test_size": held_out},
        },
        "train": {
            "lora": {**LORA, "target_modules": list(asked.targets)},
            "learning_rate": 3e-4,
            "train_sampling_strategy": "group_by_length",
            "completion_only_loss": False,
            "eval_steps": NEVER,
            "save_steps": NEVER,
        },
        "generate": {"max_new_tokens": asked.new_tokens, "batch_size": BATCH},
    }
    return _write_recipe(asked.work / f"{source.stem}-{quantization}.yaml", fields)


def _write_recipe(path: Path, fields: dict[str, Any]) -> str:
    # JSON is YAML, too.
    path.write_text(json.dumps({"recipe": fields}, indent=1), encoding="utf-8")
    return str(path)


def _write(path: Path, rows: Iterator[dict[str, Any]]) -> None:
    with path.open("w", encoding="utf-8", newline="\n") as file:
        file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
