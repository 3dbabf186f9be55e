"""Whether the outputs of preprocess, train and evaluate hold what their counters say."""

import json
from collections import Counter
from collections.abc import Hashable, Iterator
from typing import Any

from qatune.data import executions
from qatune.store.manifests import manifest_key
from qatune.store.objects import ObjectRef
from qatune.store.verification.chain import Chain
from qatune.store.verification.columns import row_batches, row_files
from qatune.store.verification.objects import fault, lines, whole
from qatune.store.verification.repeats import Hashes

_REJECTED = "rejected.jsonl"
_ADAPTER = ("adapter/adapter_config.json", "adapter/adapter_model.safetensors")


def check_preprocess(chain: Chain) -> dict[str, int]:
    """Count rows and rejected ones, and hold that each row and each id is there once."""
    stage, seen, kept = "preprocess", Hashes(), {"train": 0, "test": 0}
    for side, _, names in _names(chain):
        seen.add(names)
        kept[side] += len(names) // 2
    if twice := seen.repeated():
        _name_repeated(chain, twice)
    for side, rows in kept.items():
        chain.check_counter(stage, f"rows_{side}", rows)
    chain.check_counter(stage, "rows_kept", sum(kept.values()))
    rejected = Counter(str(line.get("reason")) for line in _output_lines(chain, stage, _REJECTED))
    said = (name for name in chain.stages[stage].counters if name.startswith("rejected_"))
    for name in {*said, *(f"rejected_{reason}" for reason in rejected)}:
        chain.check_counter(stage, name, rejected[name.removeprefix("rejected_")])
    chain.check_counter(stage, "rows_read", sum(kept.values()) + rejected.total())
    return {"rows": sum(kept.values()), "rejected": rejected.total()}


def _names(chain: Chain) -> Iterator[tuple[str, ObjectRef, list[Hashable]]]:
    """Yield what may be there once only, batch by batch: each row's id, and its file and number."""
    for side in ("train", "test"):
        for ref in row_files(chain, side):
            for batch in row_batches(chain.store, ref, ["id", "file", "row"]):
                ids, files, rows = (column.to_pylist() for column in batch.columns)
                yield side, ref, [*ids, *zip(files, rows, strict=True)]


def _name_repeated(chain: Chain, hashes: set[int]) -> None:
    """Look again at what may be there twice; raise MissingInputError for the first that is."""
    seen: set[Hashable] = set()
    for _, ref, names in _names(chain):
        for name in names:
            if name in seen:
                shown = f"id {name!r}" if isinstance(name, str) else f"file and row {name!r}"
                raise fault(chain.store, ref.key, f"{shown} is there twice in train and test rows")
            if hash(name) in hashes:
                seen.add(name)


def check_train(chain: Chain) -> dict[str, int]:
    """Hold that the journal has each step once, and that the adapter is there."""
    stage, steps = "train", 0
    for line in _output_lines(chain, stage, "metrics.jsonl"):
        if "loss" in line:
            steps += 1
            if line.get("step") != steps:
                what = f"has step {line.get('step')} where step {steps} belongs"
                raise fault(chain.store, chain.key(stage, "metrics.jsonl"), what)
    chain.check_counter(stage, "steps", steps)
    for name in _ADAPTER:
        _output(chain, stage, name)
    return {"steps": steps}


def check_evaluate(chain: Chain) -> dict[str, int]:
    """Hold the measures' counts of rows against the counters, and those against generate's."""
    stage = "evaluate"
    ref = _output(chain, stage, "metrics.json")
    try:
        found = json.loads(whole(chain.store, ref))
        rows, errors = int(found["rows"]), int(found["errors"])
        run = int((found.get("execution") or {"rows": 0})["rows"])
    except (ValueError, KeyError, TypeError):
        raise fault(chain.store, ref.key, "not what qatune wrote") from None
    for generated, name, count in (("answers", "rows", rows), ("errors", "errors", errors)):
        chain.check_counter(stage, name, count)
        chain.check_counter("generate", generated, count)
    executed = _executed(chain)
    if run != executed:
        what = f"says that {run} rows were executed, and the parts hold {executed:,}"
        raise fault(chain.store, ref.key, what)
    return {"rows": rows} | ({"executed": executed} if executed else {})


def _executed(chain: Chain) -> int:
    """Count the rows whose answers were run; each is there once."""
    ids: set[str] = set()
    for ref in chain.stages["evaluate"].outputs_like(".jsonl", prefix="execution/"):
        try:
            found = executions.decode(whole(chain.store, ref)).rows
        except ValueError:
            raise fault(chain.store, ref.key, "not the outcomes that qatune wrote") from None
        for row in found:
            if row.id in ids:
                raise fault(chain.store, ref.key, f"row {row.id!r} is there twice")
            ids.add(row.id)
    return len(ids)


def _output(chain: Chain, stage: str, name: str) -> ObjectRef:
    """Return an output that the stage always has."""
    key = chain.key(stage, name)
    for ref in chain.stages[stage].outputs:
        if ref.key == key:
            return ref
    raise fault(chain.store, manifest_key(chain.run, stage), f"does not name {key}")


def _output_lines(chain: Chain, stage: str, name: str) -> Iterator[dict[str, Any]]:
    ref = _output(chain, stage, name)
    for line in lines(chain.store, ref):
        try:
            yield dict(json.loads(line))
        except (ValueError, TypeError):
            raise fault(chain.store, ref.key, "not the lines of JSON that qatune wrote") from None
