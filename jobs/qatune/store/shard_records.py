"""What each shard of the generate stage has done, and how that becomes the stage's manifest.

Each shard proves its own rows and writes a record, which is created once. A shard that finds all
records there merges them; whoever writes the last one sees them all. Listings are not relied upon.
"""

import random
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor

from qatune.data.shards import Layout, Shard
from qatune.errors import MissingInputError, QatuneError
from qatune.store import manifests
from qatune.store.artifacts import StageRun
from qatune.store.manifests import Manifest
from qatune.store.objects import NoSuchObjectError, ObjectRef, Store

_STAGE = "generate"
_STREAMS = 16
SUMMED = ("rows", "answers", "errors", "base_tokens", "adapter_tokens")
RATES = ("prompts_per_second", "tokens_per_second")


class Record(Manifest):
    """One shard's last word: what a manifest says, of its rows alone."""

    shard: int
    shards: int


def is_recorded(store: Store, run: str, shard: Shard) -> bool:
    return store.stat(_record_key(run, shard)) is not None


def save_record(stage: StageRun, shard: Shard) -> None:
    """Write a shard's record; one that is there already must tell of the same outputs."""
    ours = Record(**dict(stage.manifest()), shard=shard.number, shards=shard.of)
    key = _record_key(stage.run, shard)
    if not stage.store.create(key, manifests.encode(ours)):
        theirs = _record(stage.store, stage.run, shard)
        manifests.check_same_result(f"{stage.store.uri}/{key}", theirs, ours)


def all_recorded(store: Store, run: str, shard: Shard) -> bool:
    """Look for the records of all shards, up to the first that is missing.

    Each shard looks in an order of its own: in a common one those that end late would all look
    through the many that are there, to find the same few missing.
    """
    order = random.Random(shard.number).sample(range(shard.of), shard.of)
    return all(is_recorded(store, run, Shard(number, shard.of)) for number in order)


def load_records(stage: StageRun, shards: int) -> list[Record]:
    """Read all records; raise MissingInputError for one that is not of this recipe and input."""
    return records_like(stage.store, stage.manifest(), shards)


def records_like(store: Store, ours: Manifest, shards: int) -> list[Record]:
    """Read the records of all shards, which must be of the recipe and the parents of `ours`."""
    with ThreadPoolExecutor(_STREAMS) as pool:
        numbers = (Shard(number, shards) for number in range(shards))
        records = list(pool.map(lambda each: _record(store, ours.run, each), numbers))
    for record in records:
        made_for = (record.recipe_sha256, record.parents, record.shards)
        if made_for != (ours.recipe_sha256, ours.parents, shards):
            raise MissingInputError(
                f"{store.uri}/{_record_key(ours.run, Shard(record.shard, shards))}: belongs "
                "to another recipe or other inputs than this run's; choose another name for the run"
            )
    return records


def check_cover(where: str, records: Sequence[Record], layout: Layout) -> None:
    """Raise QatuneError unless the records hold the part of every chunk, and all rows."""
    missing, extra = uncovered(records, layout)
    rows = sum(_count(record, "rows") for record in records)
    if not missing and not extra and rows == layout.rows:
        return
    raise QatuneError(
        f"{where}: the ledger is wrong: {rows:,} of {layout.rows:,} rows, {len(missing)} parts "
        f"missing, {len(extra)} too many {(missing + extra)[:1]}; the input has changed since: "
        "choose another name for the run"
    )


def uncovered(records: Sequence[Record], layout: Layout) -> tuple[list[str], list[str]]:
    """Name the parts that no record holds, and those that are not of the layout; both sorted."""
    of = len(records)
    wanted = {Shard(chunk % of, of).part(chunk) for chunk in range(layout.chunks)}
    found = {
        ref.key.split("/", 3)[-1] for each in records for ref in each.outputs_like(prefix="parts/")
    }
    return sorted(wanted - found), sorted(found - wanted)


def merged(end: Manifest, records: Sequence[Record]) -> Manifest:
    """Put the records together. `end` is what the worker that does this has added."""
    parts: list[Manifest] = [*records, end]
    worked = [record for record in records if RATES[0] in record.counters] or records
    counters = {name: sum(_count(record, name) for record in records) for name in SUMMED}
    return end.model_copy(
        update={
            "inputs": _united(ref for part in parts for ref in part.inputs),
            "outputs": _united(ref for part in parts for ref in part.outputs),
            "counters": counters | {"shards": len(records)} | _mean_rates(worked),
            "seconds": {
                kind: round(sum(part.seconds.get(kind, 0) for part in parts), 3)
                for kind in end.seconds
            },
            "notes": list(dict.fromkeys(note for part in parts for note in part.notes)),
            "certificates": [each for part in parts for each in part.certificates],
            "versions": {
                name: _listed(part.versions.get(name) for part in parts)
                for name in sorted({name for part in parts for name in part.versions})
            },
            "device": _listed(record.device for record in worked),
            "image": _listed(part.image for part in parts) or None,
        }
    )


def _mean_rates(worked: Sequence[Record]) -> dict[str, float]:
    """Return the speed of one worker; of a shard that only found its parts there is none."""
    found = {
        name: [_rate(each, name) for each in worked if name in each.counters] for name in RATES
    }
    return {name: round(sum(rates) / len(rates), 3) for name, rates in found.items() if rates}


def _rate(record: Record, name: str) -> float:
    return float(record.counters[name] or 0)


def _united(refs: Iterable[ObjectRef]) -> list[ObjectRef]:
    """Sort refs by key; raise MissingInputError where two shards saw different contents."""
    named: dict[str, ObjectRef] = {}
    for ref in refs:
        if named.setdefault(ref.key, ref) != ref:
            raise MissingInputError(
                f"{ref.key}: not the same for all shards; give all the same model and input, "
                "and start again under another --run"
            )
    return [named[key] for key in sorted(named)]


def _listed(values: Iterable[str | None]) -> str:
    return ", ".join(dict.fromkeys(value for value in values if value))


def _count(record: Record, name: str) -> int:
    count = record.counters.get(name)
    return count if isinstance(count, int) else 0


def _record(store: Store, run: str, shard: Shard) -> Record:
    key = _record_key(run, shard)
    try:
        record = manifests.parse(store.read(key), f"{store.uri}/{key}", Record)
    except NoSuchObjectError:
        raise MissingInputError(
            f"{store.uri}/{key}: no such object, and its shard has ended; "
            "bring it back from a copy, or start again under another --run"
        ) from None
    if (record.run, record.stage, record.shard) != (run, _STAGE, shard.number):
        raise MissingInputError(f"{store.uri}/{key}: belongs to another run or shard")
    return record


def _record_key(run: str, shard: Shard) -> str:
    return f"runs/{run}/{_STAGE}/shards/{shard.name}.json"
