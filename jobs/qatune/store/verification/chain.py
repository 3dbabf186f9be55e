"""A run's recipe and manifests: each sealed, each made from those before it."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby

from qatune import STAGES, recipe
from qatune.config import Recipe
from qatune.data.shards import Shard
from qatune.errors import BadRecipeError, MissingInputError
from qatune.store import artifacts, manifests, mirror
from qatune.store.manifests import Manifest, manifest_key
from qatune.store.objects import ObjectRef, Store
from qatune.store.verification.objects import fault

_MIRROR_LIST = "mirror.json"
_HEARTBEAT = re.compile(r"progress(-\d{5,})?\.json")


@dataclass(frozen=True)
class Chain:
    """A run whose manifests fit its recipe and each other."""

    store: Store
    run: str
    recipe: Recipe
    stages: Mapping[str, Manifest]
    """Manifests of the stages that are complete."""
    keys: Mapping[str, Sequence[str]]
    """What lies in each stage's folder: names of objects."""

    @property
    def own_stages(self) -> list[str]:
        """The stages that this run has, and any other that is complete."""
        trains = self.recipe.generate.adapter == "train"
        return [each for each in STAGES if each != "train" or trains or each in self.stages]

    def key(self, stage: str, name: str) -> str:
        return f"runs/{self.run}/{stage}/{name}"

    def check_counter(self, stage: str, name: str, counted: int) -> None:
        """Raise MissingInputError unless a stage's manifest says what its outputs hold."""
        said = self.stages[stage].counters.get(name)
        if said != counted:
            what = f"says {name} {said}, and its outputs hold {counted:,}"
            raise fault(self.store, manifest_key(self.run, stage), what)


def load(store: Store, run: str) -> Chain:
    """Read a run's recipe and manifests; raise MissingInputError for the first that is wrong."""
    ours = _recipe(store, run)
    found: dict[str, tuple[Manifest, str]] = {}
    for stage in STAGES:
        loaded = manifests.load(store, run, stage)
        if loaded:
            _check_parents(store, loaded[0], ours, found)
            _check_inputs(store, loaded[0], found)
            _check_outputs(store, loaded[0])
            found[stage] = loaded
    stages = {stage: manifest for stage, (manifest, _) in found.items()}
    return Chain(store, run, ours, stages, _listed(store, run))


def _recipe(store: Store, run: str) -> Recipe:
    key = _recipe_key(run)
    try:
        ours = artifacts.bound_recipe(store, run)
    except BadRecipeError:
        ours = None
    if ours is None or recipe.canonical(ours) != store.read(key):
        raise fault(store, key, "was edited or damaged: not what qatune wrote")
    return ours


def _recipe_key(run: str) -> str:
    return f"runs/{run}/recipe.json"


def _check_parents(
    store: Store, manifest: Manifest, ours: Recipe, found: Mapping[str, tuple[Manifest, str]]
) -> None:
    run, stage = manifest.run, manifest.stage
    if manifest.recipe_sha256 != recipe.digest(ours):
        what = f"was edited: {stage} was made with another recipe"
        raise fault(store, _recipe_key(run), what)
    for parent in artifacts.parents(stage, ours):
        if parent not in found:
            what = f"no such object, and {stage} was made from it"
            raise fault(store, manifest_key(run, parent), what)
        if manifest.parents.get(parent) != found[parent][1]:
            what = f"is not what {manifest_key(run, stage)} was made from"
            raise fault(store, manifest_key(run, parent), what)
    if len(manifest.parents) != len(artifacts.parents(stage, ours)):
        raise fault(store, manifest_key(run, stage), "names a stage that it does not depend on")


def _check_inputs(
    store: Store, manifest: Manifest, found: Mapping[str, tuple[Manifest, str]]
) -> None:
    """Hold what a stage read against what earlier ones wrote.

    Inputs from elsewhere are left alone: files of a user may have moved on since.
    """
    run, stage = manifest.run, manifest.stage
    written = {ref.key: ref for before, _ in found.values() for ref in before.outputs}
    for ref in manifest.inputs:
        for wrote in STAGES:
            if ref.key.startswith(f"runs/{run}/{wrote}/") and written.get(ref.key) != ref:
                key = ref.key if wrote in found else manifest_key(run, wrote)
                raise fault(store, key, f"is not what {manifest_key(run, stage)} was made from")


def _check_outputs(store: Store, manifest: Manifest) -> None:
    keys = [ref.key for ref in manifest.outputs]
    folder, where = (
        f"runs/{manifest.run}/{manifest.stage}/",
        manifest_key(manifest.run, manifest.stage),
    )
    for key in keys:
        if not key.startswith(folder):
            raise fault(store, where, f"names {key}, which is not below it")
    if len(set(keys)) != len(keys):
        raise fault(store, where, "names an output twice")


def mirrored(manifest: Manifest) -> list[ObjectRef]:
    """Return what a stage read of a model that lies in the store itself."""
    folders = tuple(
        ref.key.removesuffix(_MIRROR_LIST)
        for ref in manifest.inputs
        if ref.key.startswith(mirror.MIRRORS) and ref.key.endswith(f"/{_MIRROR_LIST}")
    )
    return [ref for ref in manifest.inputs if ref.key.startswith(folders)]


def _listed(store: Store, run: str) -> dict[str, list[str]]:
    """List a run's objects by stage; raise MissingInputError for one that is of none."""
    keys = sorted(set(store.keys(f"runs/{run}/")) - {_recipe_key(run)})
    listed = {stage: list(found) for stage, found in groupby(keys, lambda key: key.split("/")[2])}
    for stage, found in listed.items():
        if stage not in STAGES:
            raise _unaccounted(store, found[0])
    return listed


def check_nothing_else(chain: Chain, stage: str) -> None:
    """Raise MissingInputError for an object in a stage's folder that no manifest accounts for."""
    manifest = chain.stages[stage]
    known = {ref.key for ref in manifest.outputs} | {manifest_key(chain.run, stage)}
    known |= {chain.key(stage, name) for name in _bookkeeping(manifest)}
    for key in chain.keys.get(stage, ()):
        name = key.removeprefix(chain.key(stage, ""))
        saved = stage == "train" and name.startswith("checkpoints/")
        if key not in known and not saved and not _HEARTBEAT.fullmatch(name):
            raise _unaccounted(chain.store, key)


def _bookkeeping(manifest: Manifest) -> Iterable[str]:
    shards = manifest.counters.get("shards")
    if manifest.stage != "generate" or not isinstance(shards, int):
        return ()
    records = (f"shards/{Shard(number, shards).name}.json" for number in range(shards))
    return ("shards.json", *records)


def _unaccounted(store: Store, key: str) -> MissingInputError:
    return MissingInputError(
        f"{store.uri}/{key}: no manifest of this run names it; take it out of the run's folder"
    )
