"""The ledger of generate, from the store alone: each row of the input has one line in one part."""

from collections.abc import Iterator, Sequence
from itertools import islice

from qatune.data.shards import Layout, Shard
from qatune.store import shard_records
from qatune.store.manifests import Manifest, manifest_key
from qatune.store.objects import NoSuchObjectError
from qatune.store.shard_records import Record
from qatune.store.shards import Division
from qatune.store.verification.chain import Chain
from qatune.store.verification.columns import row_batches, row_files
from qatune.store.verification.objects import check, fault
from qatune.store.verification.parts import Chunk, Part, read_parts
from qatune.store.verification.repeats import Hashes

_STAGE = "generate"


def check_generate(chain: Chain) -> dict[str, int]:
    """Hash parts while proving the ledger; raise MissingInputError for the first that is wrong."""
    manifest = chain.stages[_STAGE]
    check(chain.store, manifest.outputs_like(prefix="openai/"))
    layout, shards = _division(chain, manifest)
    records = shard_records.records_like(chain.store, manifest, shards)
    _check_names(chain, manifest, records, layout)
    counts = _proven(chain, manifest, layout, shards)
    for number, record in enumerate(records):
        _check_counts(chain, _record_key(chain, number), record, counts[number])
    total = {name: sum(each[name] for each in counts) for name in counts[0]}
    _check_counts(chain, manifest_key(chain.run, _STAGE), manifest, total)
    return total


def _division(chain: Chain, manifest: Manifest) -> tuple[Layout, int]:
    """Return how the rows are divided, which the run's other files say, too."""
    key = chain.key(_STAGE, "shards.json")
    rows, shards = (manifest.counters.get(name) for name in ("rows", "shards"))
    if not isinstance(rows, int) or not isinstance(shards, int) or shards < 1:
        raise fault(chain.store, manifest_key(chain.run, _STAGE), "says no rows or no shards")
    if not chain.recipe.generate.input:
        chain.check_counter("preprocess", "rows_test", rows)
    ours = Division(shards=shards, rows=rows, chunk_rows=chain.recipe.generate.chunk_rows)
    try:
        data = chain.store.read(key)
    except NoSuchObjectError:
        raise fault(chain.store, key, "no such object, and parts are cut by it") from None
    if data != ours.model_dump_json(indent=1).encode():
        what = f"was edited or damaged: there are {rows:,} rows in {shards} shards"
        raise fault(chain.store, key, what)
    return ours.layout, shards


def _check_names(
    chain: Chain, manifest: Manifest, records: Sequence[Record], layout: Layout
) -> None:
    """Hold that records name the part of every chunk, and the manifest what they name."""
    missing, extra = shard_records.uncovered(records, layout)
    if missing:
        key = chain.key(_STAGE, missing[0])
        raise fault(chain.store, key, "no record names this part of the answers")
    if extra:
        key = chain.key(_STAGE, extra[0])
        raise fault(chain.store, key, "a record names this part, and the run has no such chunk")
    recorded = {ref for record in records for ref in record.outputs}
    united = set(manifest.outputs) - set(manifest.outputs_like(prefix="openai/"))
    for ref in sorted(recorded ^ united, key=lambda ref: ref.key):
        raise fault(chain.store, ref.key, "the manifest says of it what the shards' records do not")


def _proven(chain: Chain, manifest: Manifest, layout: Layout, shards: int) -> list[dict[str, int]]:
    """Hold each part against the rows of its chunk; count rows, answers and errors by shard."""
    counts = [dict.fromkeys(("rows", "answers", "errors"), 0) for _ in range(shards)]
    asked = None if chain.recipe.generate.input else _held_out(chain)
    seen = Hashes()
    for number, part in enumerate(
        read_parts(chain.store, _chunks(chain, manifest, layout, shards))
    ):
        _check_size(chain, part, len(layout.rows_of_chunk(number)))
        if asked is None:
            seen.add(part.ids)
        else:
            _check_ids(chain, part, list(islice(asked, len(part.ids))))
        count = counts[number % shards]
        count["rows"] += len(part.ids)
        count["answers"] += len(part.ids) - part.failed
        count["errors"] += part.failed
    if twice := seen.repeated():
        _name_repeated(
            chain, read_parts(chain.store, _chunks(chain, manifest, layout, shards)), twice
        )
    return counts


def _chunks(chain: Chain, manifest: Manifest, layout: Layout, shards: int) -> Iterator[Chunk]:
    refs = {ref.key: ref for ref in manifest.outputs}
    for number in range(layout.chunks):
        shard = Shard(number % shards, shards)
        errors = chain.key(_STAGE, shard.errors(number))
        part = refs.pop(chain.key(_STAGE, shard.part(number)))
        yield Chunk(part, refs.pop(errors, None), errors)
    for key in refs:
        if "/errors/" in key:
            raise fault(chain.store, key, "errors of a chunk that the run does not have")


def _held_out(chain: Chain) -> Iterator[str]:
    for ref in row_files(chain, "test"):
        for batch in row_batches(chain.store, ref, ["id"]):
            yield from batch.column(0).to_pylist()


def _check_size(chain: Chain, part: Part, rows: int) -> None:
    if len(part.ids) != rows:
        what = f"the ledger is wrong: it has {len(part.ids):,} rows, and its chunk {rows:,}"
        raise fault(chain.store, part.key, what)


def _check_ids(chain: Chain, part: Part, asked: Sequence[str]) -> None:
    """Raise MissingInputError unless a part has the rows of its chunk, in their order."""
    for wanted, found in zip(asked, part.ids, strict=True):
        if wanted != found:
            what = f"the ledger is wrong: it has row {found!r} in place of {wanted!r}"
            raise fault(chain.store, part.key, what)


def _name_repeated(chain: Chain, parts: Iterator[Part], hashes: set[int]) -> None:
    """Look again at the rows that may be there twice; raise MissingInputError for one that is."""
    seen: set[str] = set()
    for part in parts:
        for name in part.ids:
            if name in seen:
                what = f"the ledger is wrong: row {name!r} is there twice"
                raise fault(chain.store, part.key, what)
            if hash(name) in hashes:
                seen.add(name)


def _check_counts(chain: Chain, key: str, said: Manifest, counted: dict[str, int]) -> None:
    for name, count in counted.items():
        if said.counters.get(name) != count:
            what = f"says {name} {said.counters.get(name)}, and the parts hold {count:,}"
            raise fault(chain.store, key, what)


def _record_key(chain: Chain, number: int) -> str:
    return chain.key(_STAGE, f"shards/{Shard(number).name}.json")
