"""The model that a run answers with: its base, and its adapter if it has one."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from qatune import config
from qatune.config import Recipe
from qatune.errors import MissingInputError
from qatune.model import adapters
from qatune.model.loading import LoadedModel, load_model
from qatune.store import sources
from qatune.store.manifests import Manifest
from qatune.store.objects import ObjectRef, Store, fetch
from qatune.store.sources import ModelFolder


@dataclass(frozen=True)
class FoundModel:
    """Where the base and its adapter lie, and what is in their files."""

    base: ModelFolder
    base_files: Sequence[ObjectRef]
    adapter: Path | None
    adapter_files: Sequence[ObjectRef]

    @property
    def files(self) -> list[ObjectRef]:
        """All that the answers depend on, for the manifest."""
        return [*self.base_files, *self.adapter_files]

    def load(self, spec: config.Model, note: Callable[[str], None]) -> LoadedModel:
        """Load the base and attach the adapter, if there is one.

        Raises MissingInputError for an unusable model, or an adapter of another one.
        """
        loaded = load_model(self.base.path, spec, note)
        if self.adapter is None:
            return loaded
        base = adapters.Base(
            source=self.base.source,
            revision=self.base.revision,
            sha256=adapters.base_digest(self.base_files),
            quantization=spec.quantization,
            dtype=loaded.weights,
        )
        return replace(loaded, model=adapters.attach(loaded.model, self.adapter, base, note))


def find_model(
    base: ModelFolder, store: Store, recipe: Recipe, train: Manifest | None, scratch: Path
) -> FoundModel:
    """Put the base and the adapter together that `recipe.generate.adapter` names.

    `train` is that stage's manifest where its adapter is asked for: fetched to `scratch`, verified.
    """
    files = base.files()
    if train is not None:
        return FoundModel(base, files, scratch, _fetched(store, train, scratch))
    if recipe.generate.adapter == "none":
        return FoundModel(base, files, None, ())
    folder = sources.adapter_folder(recipe.generate.adapter)
    return FoundModel(base, files, folder, sources.describe_files(folder, recipe.generate.adapter))


def _fetched(store: Store, train: Manifest, scratch: Path) -> list[ObjectRef]:
    refs = train.outputs_like(prefix="adapter/")
    if not refs:
        raise MissingInputError(f"{store.uri}: training of run {train.run!r} left no adapter")
    head = f"runs/{train.run}/{train.stage}/adapter/"
    for ref in refs:
        fetch(store, ref, scratch / ref.key.removeprefix(head))
    return refs
