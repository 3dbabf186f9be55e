"""The shards of the generate stage: how a run is divided, how far they are, and what they lack."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from qatune.config import Recipe
from qatune.data.shards import Layout, Shard, spans_text
from qatune.errors import BadRecipeError, MissingInputError
from qatune.store import manifests
from qatune.store.artifacts import StageRun
from qatune.store.heartbeats import heartbeat
from qatune.store.objects import NoSuchObjectError, Store

_STAGE = "generate"
_LOOKED_AT = 8
_STREAMS = 16


class Division(BaseModel):
    """How a run is divided; the first shard that writes anything settles it."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    format: int = 1
    shards: int
    rows: int
    chunk_rows: int

    @property
    def layout(self) -> Layout:
        return Layout(self.rows, self.chunk_rows)


@dataclass(frozen=True)
class MissingRows:
    """Rows of failed shards that have no saved answer."""

    rows: int | None
    """None where the number of rows is not known."""
    total: int | None
    spans: Sequence[tuple[int, int]]
    """First and last, counted from 1."""
    shards: Sequence[int]
    """The shards that were looked at."""
    others: int
    """Failed shards that were not: a look at all of a thousand would take too many requests."""

    def __str__(self) -> str:
        named = ", ".join(map(str, self.shards))
        named = f"shard {named}" if len(self.shards) == 1 else f"shards {named}"
        if self.rows == 0:
            return f"{named}: all answers are saved, but they could not be proven"
        if self.others:
            named += f" and {self.others} more"
        if self.rows is None or self.total is None:
            return f"{named}: rows unknown, as nothing was answered yet"
        more = "at least " if self.others else ""
        where = f": {spans_text(self.spans)}" if self.spans else ""
        return f"{named}: {more}{self.rows:,} of {self.total:,} rows have no answer{where}"


def missing_rows(
    store: Store, run: str, ours: Recipe, shards: int, only: Sequence[int]
) -> MissingRows:
    """Tell which rows of the shards `only` (the failed ones) have no saved part.

    At most 8 shards are looked at, each by a few HEAD requests: parts are saved in order.
    """
    looked_at = sorted(only)[:_LOOKED_AT]
    others = len(only) - len(looked_at)
    layout = _layout(store, run, ours, shards)
    if layout is None:
        return MissingRows(None, None, (), looked_at, others)
    missing: list[int] = []
    for number in looked_at:
        shard = Shard(number, shards)
        chunks = layout.chunks_of(shard)
        missing += chunks[_saved(store, run, shard, chunks) :]
    spans = layout.spans(missing)
    return MissingRows(layout.rows_of(missing), layout.rows, spans, looked_at, others)


def _layout(store: Store, run: str, ours: Recipe, shards: int) -> Layout | None:
    """Return the run's own layout, else that of its held-out rows, else None."""
    division = load_division(store, run)
    if division is not None and division.shards == shards:
        return division.layout
    found = None if ours.generate.input else manifests.load(store, run, "preprocess")
    rows = found[0].counters.get("rows_test") if found else None
    return Layout(rows, ours.generate.chunk_rows) if isinstance(rows, int) else None


def _saved(store: Store, run: str, shard: Shard, chunks: Sequence[int]) -> int:
    """Count the first chunks whose parts are there, by halving what is left."""
    low, high = 0, len(chunks)
    while low < high:
        middle = (low + high) // 2
        if store.stat(_key(run, shard.part(chunks[middle]))) is None:
            high = middle
        else:
            low = middle + 1
    return low


def heartbeat_name(shard: Shard) -> str:
    """Name the heartbeat of one shard: several must not write over each other's."""
    return "progress.json" if shard.of == 1 else f"progress-{shard.name}.json"


def progress(store: Store, run: str, shards: int) -> dict[str, Any] | None:
    """Sum the shards' heartbeats into one of the same fields; None before the first.

    `total` is None while it is not known. Takes a request a shard.
    """
    names = [_key(run, heartbeat_name(Shard(number, shards))) for number in range(shards)]
    with ThreadPoolExecutor(_STREAMS) as pool:
        beats = [beat for beat in pool.map(lambda key: heartbeat(store, key), names) if beat]
    if not beats:
        return None
    done = sum(beat["done"] for beat in beats)
    division = load_division(store, run)
    total = division.rows if division else None
    if len(beats) == shards:
        total = sum(beat["total"] for beat in beats)
    running = [beat for beat in beats if beat["done"] < beat["total"]]
    rate = sum(beat["rate_per_second"] for beat in running)
    return {
        "done": done,
        "total": total,
        "unit": beats[0]["unit"],
        "rate_per_second": round(rate, 3),
        "eta_seconds": _eta(total, done, rate, running),
        "at": max(beat["at"] for beat in beats),
    }


def _eta(total: int | None, done: int, rate: float, running: Sequence[dict[str, Any]]) -> Any:
    """Wait for the slowest shard at least, and for shards that have not begun."""
    if total is None or not rate:
        return None
    slowest = max(beat["eta_seconds"] or 0.0 for beat in running)
    return round(max((total - done) / rate, slowest), 1)


def load_division(store: Store, run: str) -> Division | None:
    """Return how a run is divided; None while no shard has written anything."""
    key = _key(run, "shards.json")
    try:
        return Division.model_validate_json(store.read(key))
    except NoSuchObjectError:
        return None
    except ValidationError:
        raise MissingInputError(f"{store.uri}/{key}: not what qatune wrote") from None


def check_number(store: Store, run: str, shards: int) -> None:
    """Raise BadRecipeError if the run is divided into another number of shards."""
    theirs = load_division(store, run)
    if theirs is not None and theirs.shards != shards:
        raise BadRecipeError(
            f"generate of run {run!r} is divided into {theirs.shards} shards, not {shards}: "
            f"use --shards {theirs.shards} (generate.shards in the chart), or choose another name "
            "for the run"
        )


def divide(stage: StageRun, shards: int, layout: Layout) -> None:
    """Settle how the run is divided, before anything of it is written."""
    stage.bind()
    ours = Division(shards=shards, rows=layout.rows, chunk_rows=layout.chunk_rows)
    key = _key(stage.run, "shards.json")
    if stage.store.create(key, ours.model_dump_json(indent=1).encode()):
        return
    check_number(stage.store, stage.run, shards)
    if load_division(stage.store, stage.run) != ours:
        raise MissingInputError(
            f"{stage.store.uri}/{key}: the run began with another number of rows than the "
            f"{layout.rows:,} that the input has now; bring that back, or choose "
            "another name for the run"
        )


def _key(run: str, name: str) -> str:
    return f"runs/{run}/{_STAGE}/{name}"
