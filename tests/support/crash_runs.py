"""Runs that are complete up to the stage that is to be killed."""

import csv
from pathlib import Path

from qatune import recipe as recipes
from qatune.config import Columns, Data, Generate, Lora, Model, Recipe, Split, Train
from qatune.store.opening import open_store
from tests.support.crashing import RUN, Crashes, Start, Tally

BEFORE = {"train": "preprocess", "generate": "train", "evaluate": "generate"}
SHARDS = 2
MODELS = {
    "fp32": {"dtype": "float32"},
    "bf16": {"dtype": "bfloat16"},
    "nf4": {"dtype": "float32", "quantization": "nf4"},
}


class Runs:
    """Makes each run once, stage by stage; a stage's copy begins where the one before has ended."""

    def __init__(self, context, model: Path, tally: Tally, folder: Path):
        self._context, self._model, self._tally, self._folder = context, model, tally, folder
        self._rows = rows(folder / "rows.csv")
        self._ended: dict[tuple, Path] = {}

    def crashes(self, stage: str, kind: str = "fp32", order: str = "random") -> Crashes:
        ours = recipe(self._model, self._rows, kind, order)
        template = self._before(stage, kind, order, ours)
        return Crashes(self._context, self._folder, template, starts(stage, ours), self._tally)

    def _before(self, stage, kind, order, ours) -> Path:
        """Return a store in which all stages before this one are complete."""
        if stage == "preprocess":
            empty = self._folder / "empty"
            empty.mkdir(exist_ok=True)
            return empty
        earlier = BEFORE[stage]
        if (earlier, kind, order) not in self._ended:
            crashes = self.crashes(earlier, kind, order)
            place = crashes.place()
            crashes.until_done(place, [])
            self._ended[earlier, kind, order] = place / "store"
        return self._ended[earlier, kind, order]


def starts(stage: str, ours: Recipe) -> list[Start]:
    text = recipes.canonical(ours).decode()
    if stage != "generate":
        return [Start(stage, "", text)]
    return [Start(stage, "", text, {"shard": number, "shards": SHARDS}) for number in range(SHARDS)]


def recipe(model: Path, source: Path, kind: str, order: str) -> Recipe:
    """12 steps over 2 epochs, a checkpoint every 2 steps, 13 questions in chunks of 3."""
    return Recipe(
        model=Model(source=str(model), **MODELS[kind]),
        data=Data(
            source=str(source), columns=Columns(id="id"), split=Split(test_size=13), max_length=200
        ),
        train=Train(
            lora=Lora(r=4, lora_dropout=0.1), learning_rate=0.01, per_device_train_batch_size=2,
            gradient_accumulation_steps=2, num_train_epochs=2, save_steps=2, eval_steps=5,
            logging_steps=3, save_total_limit=2, train_sampling_strategy=order,
        ),
        generate=Generate(max_new_tokens=6, batch_size=4, chunk_rows=3),
    )  # fmt: skip


def rows(path: Path) -> Path:
    """36 rows that are kept, of several lengths, some of them poison; and 3 that are rejected."""
    with path.open("w", newline="") as file:
        write = csv.writer(file)
        write.writerow(["id", "question", "answer"])
        for number in range(36):
            question = f"What is item {number}?" + " word" * (number % 7)
            write.writerow(
                [number, ("\x1b[31m" if number % 6 == 0 else "") + question, "x" * (number % 5 + 1)]
            )
        write.writerows([["36", "", "no question"], ["37", "no answer", ""], ["1", "twice", "id"]])
    return path


def verified(store: Path) -> None:
    """Prove a run that is complete from its store alone."""
    from qatune.store import verification

    list(verification.verify(open_store(str(store)), RUN))
