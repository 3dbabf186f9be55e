"""Several runs side by side: what each took, and which of their models answers better."""

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

import pyarrow as pa

from qatune.errors import MissingInputError, UsageError
from qatune.evaluation import several
from qatune.evaluation.metrics import Statistics
from qatune.evaluation.several import Contender
from qatune.report import inputs
from qatune.report.inputs import Inputs
from qatune.store import artifacts
from qatune.store.objects import Store


@dataclass(frozen=True)
class _Run:
    found: Inputs
    metrics: dict[str, Any]
    rows: pa.Table

    @cached_property
    def questions(self) -> dict[str, tuple[str, str | None]]:
        """What was asked, and what was expected, by id; of failed rows the id alone counts."""
        columns = (self.rows[name].to_pylist() for name in ("id", "question", "expected"))
        return {
            name: (question, expected) for name, question, expected in zip(*columns, strict=True)
        }

    @cached_property
    def ids(self) -> set[str]:
        return {*self.questions, *(row.id for row in self.found.failed)}

    @property
    def variant(self) -> str:
        return "adapter" if self.found.has_adapter else "base"


def comparison(store: Store, names: Sequence[str]) -> dict[str, Any]:
    """Compare finished runs. Raises MissingInputError where they answered different rows."""
    if len(set(names)) < len(names):
        raise UsageError("a run is named twice; name each run once")
    runs = [_read(store, name) for name in names]
    for run in runs[1:]:
        _refuse_other_rows(runs[0], run)
    contenders = [Contender(run.found.run, run.rows, run.variant) for run in runs]
    shared = several.shared_ids(contenders)
    matches = several.matches(contenders, shared)
    return {
        "runs": [_described(run) for run in runs],
        "shared_rows": len(shared),
        "held_out_sha256": _digest(runs[0], shared),
        "pairs": [asdict(match) for match in matches],
        "statistics": Statistics(
            family=[
                f"{match.one}, {match.other}: {key}"
                for match in matches
                for key, each in match.measures.items()
                if each.p_adjusted is not None
            ]
        ).model_dump(),
        "notes": list(_notes(runs, len(shared))),
    }


def _read(store: Store, name: str) -> _Run:
    metrics = inputs.metrics(store, name)
    found = inputs.load(store, name, artifacts.bound_recipe(store, name))
    return _Run(found, metrics, inputs.measured(store, name))


def _refuse_other_rows(first: _Run, other: _Run) -> None:
    names = f"runs {first.found.run!r} and {other.found.run!r}"
    advice = "compare runs of the same data.source and data.split"
    if lacking := first.ids ^ other.ids:
        raise MissingInputError(
            f"{names} answered different rows: {len(lacking):,} ids, as {min(lacking)!r}, are in "
            f"one of them only; {advice}"
        )
    ours, theirs = first.questions, other.questions
    for name in ours.keys() & theirs.keys():
        if ours[name] != theirs[name]:
            raise MissingInputError(
                f"{names} answered different rows: row {name!r} has other texts; {advice}"
            )


def _digest(run: _Run, ids: Sequence[str]) -> str:
    """Return the SHA-256 of these rows' ids and texts, whatever their order."""
    lines = sorted(json.dumps([name, *run.questions[name]]) for name in ids)
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def _described(run: _Run) -> dict[str, Any]:
    """Tell of a run what the reference's table told, and what it lacked."""
    found, train = run.found, run.found.stages.get("train")
    counters = train.counters if train else {}
    model, measures = found.recipe.model, run.metrics["measures"]
    return {
        "name": found.run,
        "model": model.source,
        "quantization": model.quantization,
        "rows": run.metrics["rows"],
        "device": train.device if train else found.stages["generate"].device,
        "samples_per_second": counters.get("samples_per_second"),
        "seconds": round(sum(train.seconds.values()), 1) if train else None,
        "steps": counters.get("steps"),
        "train_loss": counters.get("train_loss"),
        "heldout_loss": counters.get("heldout_loss_after"),
        "trainable_parameters": counters.get("trainable_parameters"),
        "verdict": run.metrics["verdict"],
        "measures": {
            key: {"base": each["base"], "adapter": each["adapter"]}
            for key, each in measures.items()
        },
    }


def _notes(runs: Sequence[_Run], shared: int) -> Iterator[str]:
    for run in runs:
        if alone := run.metrics["rows"] - shared:
            yield (
                f"{run.found.run} answered {alone:,} rows that another run has no answer to: they "
                "are left out"
            )
        if not run.found.has_adapter:
            yield f"{run.found.run} has no adapter: its base model is compared"
