"""Everything that the report tells, read from the store and checked against the manifests."""

import io
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
from pyarrow import parquet

from qatune.config import Recipe
from qatune.data import answers
from qatune.data.records import AnsweredRow, FailedRow, Outcome
from qatune.data.shards import chunk_of
from qatune.errors import MissingInputError
from qatune.evaluation.metrics import Metrics
from qatune.store import artifacts, manifests
from qatune.store.manifests import Manifest
from qatune.store.objects import ObjectRef, Store, verified

ROWS = "rows.parquet"
_FORMAT = Metrics.model_fields["format"].default
_READ = {
    "preprocess": ("lengths.json",),
    "train": ("metrics.jsonl", "checks.json"),
    "generate": ("errors/",),
}


@dataclass(frozen=True)
class Inputs:
    """A run as the report sees it. Nothing here depends on when or where it is read."""

    run: str
    recipe: Recipe
    stages: dict[str, Manifest]
    """Manifests of preprocess, train and generate, of those that the run has."""
    digests: dict[str, str]
    """SHA-256 of each of these manifests."""
    failed: list[FailedRow]
    """Rows without an answer."""
    steps: list[dict[str, Any]] = field(default_factory=list)
    """Lines of metrics.jsonl."""
    lengths: dict[str, Any] | None = None
    checks: dict[str, Any] | None = None
    """Content of train's checks.json."""

    @property
    def has_adapter(self) -> bool:
        return self.recipe.generate.adapter != "none"

    @property
    def files(self) -> list[ObjectRef]:
        """The objects that all this was read from."""
        return [
            ref
            for stage, manifest in self.stages.items()
            for name in _READ[stage]
            for ref in manifest.outputs_like(prefix=name)
        ]


def load(store: Store, run: str, recipe: Recipe) -> Inputs:
    """Read a run whose answers are complete; raise MissingInputError if they are not."""
    found = {stage: loaded for stage in _READ if (loaded := manifests.load(store, run, stage))}
    if "generate" not in found:
        raise MissingInputError(
            f"{store.uri}: generate of run {run!r} is not complete; "
            f"run it first: qatune generate --run {run} --store {store.uri}"
        )
    if recipe.generate.adapter != "train":
        found.pop("train", None)
    stages = {stage: manifest for stage, (manifest, _) in found.items()}
    measured = [ref for stage in stages.values() for ref in stage.outputs_like("metrics.jsonl")]
    return Inputs(
        run=run,
        recipe=recipe,
        stages=stages,
        digests={stage: sha256 for stage, (_, sha256) in found.items()},
        failed=answers.divided(_outcomes(store, stages["generate"], "errors/"))[1],
        steps=list(_lines_of(store, measured)),
        lengths=_content(store, stages.get("preprocess"), "lengths.json"),
        checks=_content(store, stages.get("train"), "checks.json"),
    )


def metrics(store: Store, run: str) -> dict[str, Any]:
    """Read metrics.json of a finished run."""
    (ref,) = _evaluated(store, run).outputs_like("metrics.json")
    content: dict[str, Any] = json.loads(verified(store, ref))
    if content.get("format") != _FORMAT:
        raise MissingInputError(
            f"{store.uri}/{ref.key}: written by another version of qatune; delete the objects of "
            f"runs/{run}/evaluate and run the stage again: qatune evaluate --run {run} "
            f"--store {store.uri}"
        )
    return content


def measured(store: Store, run: str) -> pa.Table:
    """Read the measured rows of a finished run (`evaluation.rows`)."""
    (ref,) = _evaluated(store, run).outputs_like(ROWS)
    return parquet.read_table(io.BytesIO(verified(store, ref)))


def _evaluated(store: Store, run: str) -> Manifest:
    found = manifests.load(store, run, "evaluate")
    if found is None:
        artifacts.bound_recipe(store, run)  # says so where there is no such run
        raise MissingInputError(
            f"{store.uri}: evaluate of run {run!r} is not complete; "
            f"run it first: qatune evaluate --run {run} --store {store.uri}"
        )
    return found[0]


def rows(store: Store, generate: Manifest) -> tuple[list[AnsweredRow], list[FailedRow]]:
    """Read all answers and all rows without one, in the order of the input."""
    return answers.divided(_outcomes(store, generate, "parts/"))


def _outcomes(store: Store, generate: Manifest, folder: str) -> list[Outcome]:
    refs = sorted(generate.outputs_like(".jsonl", folder), key=lambda ref: chunk_of(ref.key))
    return [row for ref in refs for row in answers.decode(verified(store, ref))]


def _content(store: Store, stage: Manifest | None, name: str) -> dict[str, Any] | None:
    for ref in stage.outputs_like(name) if stage else ():
        content: dict[str, Any] = json.loads(verified(store, ref))
        return content
    return None


def _lines_of(store: Store, refs: Iterable[ObjectRef]) -> Iterator[dict[str, Any]]:
    for ref in refs:
        for line in verified(store, ref).split(b"\n"):
            if line:
                yield json.loads(line)
