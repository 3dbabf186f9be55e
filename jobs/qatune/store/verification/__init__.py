"""Whether a run is what its stages wrote: every hash, the chain of manifests, and the ledger.

All of it is computed anew, from the store alone: neither the files of rows nor the hub are asked.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from qatune.store import checkpoints
from qatune.store.objects import ObjectRef, Store
from qatune.store.verification import chain as chains
from qatune.store.verification.answers import check_generate
from qatune.store.verification.chain import Chain
from qatune.store.verification.objects import check
from qatune.store.verification.rows import check_evaluate, check_preprocess, check_train

_CONTENTS = {
    "preprocess": check_preprocess,
    "train": check_train,
    "generate": check_generate,
    "evaluate": check_evaluate,
}


@dataclass(frozen=True)
class Verified:
    """A stage that is as it was written."""

    objects: int
    size: int
    """Bytes that were hashed."""
    counted: Mapping[str, int]
    """Rows, steps and the like, which were counted in its outputs."""

    def __str__(self) -> str:
        counts = {"objects": self.objects} | {name: n for name, n in self.counted.items() if n}
        shown = [
            f"{n:,} {name if n != 1 else name.removesuffix('s')}" for name, n in counts.items()
        ]
        return ", ".join([shown[0], megabytes(self.size), *shown[1:]])


def megabytes(size: float) -> str:
    return f"{size / 1e6:,.1f} MB"


def verify(store: Store, run: str) -> Iterator[tuple[str, Verified | None]]:
    """Tell of each stage what was found, and None of one that is not complete.

    Raises MissingInputError for the first that is wrong: in a recipe or manifest, then stage by
    stage.
    """
    chain = chains.load(store, run)
    hashed: set[ObjectRef] = set()
    for stage in chain.own_stages:
        yield stage, _stage(chain, stage, hashed) if stage in chain.stages else None


def _stage(chain: Chain, stage: str, hashed: set[ObjectRef]) -> Verified:
    """Verify one stage; what it read of a model in the store is `hashed` once for all of them."""
    manifest = chain.stages[stage]
    model = set(chains.mirrored(manifest)) - hashed
    hashed |= model
    saved, counted = _saved(chain, stage)
    outputs = manifest.outputs if stage != "generate" else ()  # hashed as its ledger is proven
    check(chain.store, [*outputs, *saved, *model])
    chains.check_nothing_else(chain, stage)
    counted = _CONTENTS[stage](chain) | counted
    refs = [*manifest.outputs, *saved, *model]
    return Verified(len(refs), sum(ref.size for ref in refs), counted)


def _saved(chain: Chain, stage: str) -> tuple[list[ObjectRef], dict[str, int]]:
    """Return the files of train's complete checkpoints; those cut off are counted."""
    if stage != "train":
        return [], {}
    prefix = chain.key(stage, "checkpoints/")
    found = dict(checkpoints.complete(chain.store, prefix))
    whole = {checkpoint.folder for checkpoint in found}
    begun = {_folder(key, prefix) for key in chain.keys[stage] if key.startswith(prefix)}
    refs = [ref for files in found.values() for ref in files]
    return refs, {"checkpoints": len(whole), "torn checkpoints": len(begun - whole)}


def _folder(key: str, prefix: str) -> str:
    step, attempt, *_ = f"{key.removeprefix(prefix)}//".split("/")
    return f"{prefix}{step}/{attempt}/"
