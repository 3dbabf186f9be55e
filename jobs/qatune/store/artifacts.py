"""One stage of one run: what it may read, what it has written, and its end."""

import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import copy_context
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from threading import Event

from qatune import log, recipe
from qatune.config import Recipe
from qatune.errors import BadRecipeError, MissingInputError
from qatune.log import Progress
from qatune.store import manifests, sources
from qatune.store.folder import FolderStore
from qatune.store.heartbeats import beating
from qatune.store.manifests import Certificate, Manifest
from qatune.store.objects import (
    ObjectRef,
    Store,
    chunks,
    create_once,
    describe_source,
    until,
)
from qatune.store.sources import ModelFolder


def parents(stage: str, recipe: Recipe) -> tuple[str, ...]:
    """Stages whose outputs this one reads, which its recipe decides."""
    if stage == "train":
        return ("preprocess",)
    if stage == "generate":
        rows = () if recipe.generate.input else ("preprocess",)
        adapter = ("train",) if recipe.generate.adapter == "train" else ()
        return rows + adapter
    return {"preprocess": (), "evaluate": ("generate",)}[stage]


def bind_recipe(store: Store, run: str, ours: Recipe) -> None:
    """Tie the run's name to this recipe for good; raise BadRecipeError if it has another."""
    if not store.create(_recipe_key(run), recipe.canonical(ours)):
        check_recipe(store, run, ours)


def check_recipe(store: Store, run: str, ours: Recipe) -> None:
    """Raise BadRecipeError if the run's name is tied to another recipe."""
    key = _recipe_key(run)
    if store.stat(key) is None:
        return
    theirs = recipe.parse(store.read(key), f"{store.uri}/{key}")
    if theirs != ours:
        raise BadRecipeError(
            f"run {run!r} in {store.uri} already has another recipe "
            f"({'; '.join(recipe.differences(theirs, ours)[:3])}); choose another name for the run"
        )


def bound_recipe(store: Store, run: str) -> Recipe:
    """Return the recipe of a run that exists; raise MissingInputError if it does not."""
    key = _recipe_key(run)
    if store.stat(key) is None:
        raise MissingInputError(f"{store.uri}: no run {run!r}; start it with qatune run")
    return recipe.parse(store.read(key), f"{store.uri}/{key}")


def _recipe_key(run: str) -> str:
    return f"runs/{run}/recipe.json"


def is_complete(store: Store, run: str, stage: str, ours: Recipe) -> bool:
    """Tell whether a stage's manifest is there, and of this recipe and these parents."""
    found = manifests.load(store, run, stage)
    if found is None:
        return False
    manifest, _ = found
    expected = {name: _finished(store, run, name)[1] for name in parents(stage, ours)}
    if manifest.recipe_sha256 != recipe.digest(ours) or dict(manifest.parents) != expected:
        raise MissingInputError(
            f"{store.uri}/{manifests.manifest_key(run, stage)}: belongs to another recipe or other "
            "inputs than this run's; choose another name for the run"
        )
    return True


def _finished(store: Store, run: str, stage: str) -> tuple[Manifest, str]:
    found = manifests.load(store, run, stage)
    if found is None:
        raise MissingInputError(
            f"{store.uri}: {stage} of run {run!r} is not complete; "
            f"run it first: qatune {stage} --run {run} --store {store.uri}"
        )
    return found


@dataclass
class StageRun:
    """A stage at work. Nothing it has written counts before `finish`.

    The run's name is tied to the recipe by the first write: a stage that finds its inputs missing
    leaves the name free.
    """

    store: Store
    run: str
    stage: str
    recipe: Recipe
    upstream: Mapping[str, tuple[Manifest, str]]
    device: str = "cpu"
    counters: dict[str, int | float | str | None] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=lambda: dict.fromkeys(manifests.SECONDS, 0))
    certificates: list[Certificate] = field(default_factory=list)
    _base: Future[ModelFolder | None] | None = None
    _nested: float = 0.0
    _bound: bool = False
    _inputs: dict[str, ObjectRef] = field(default_factory=dict)
    _outputs: dict[str, ObjectRef] = field(default_factory=dict)

    @classmethod
    def open(cls, store: Store, run: str, stage: str, recipe: Recipe) -> "StageRun":
        """Begin a stage; raise MissingInputError while a parent is incomplete."""
        check_recipe(store, run, recipe)
        upstream = {name: _finished(store, run, name) for name in parents(stage, recipe)}
        return cls(store, run, stage, recipe, upstream, notes=list(store.notes))

    def key(self, name: str) -> str:
        return f"runs/{self.run}/{self.stage}/{name}"

    def parent(self, stage: str) -> Manifest:
        return self.upstream[stage][0]

    @contextmanager
    def base_on_its_way(self) -> Iterator[None]:
        """Inside, the base model comes from the bucket's mirror while something else is done.

        Afterwards nothing is under way any more: what nobody asked for by then is not needed.
        """
        spec = self.recipe.model
        if spec.revision is None or isinstance(self.store, FolderStore):
            yield
            return
        stopped, logged_alike = Event(), copy_context().run
        store = until(stopped, self.store)
        with ThreadPoolExecutor(1) as pool:
            self._base = pool.submit(logged_alike, sources.mirrored_base, store, self.run, spec)
            try:
                yield
            finally:
                stopped.set()

    def base_model(self) -> ModelFolder:
        """Bring the base model to this machine. Raises MissingInputError."""
        found = self._base.result() if self._base else None
        return found or sources.base_model(self.store, self.run, self.recipe.model)

    def create(self, name: str, source: bytes | Path) -> ObjectRef:
        """Write one output. An equal one from an earlier attempt is fine, another is not."""
        self.bind()
        with self.timed("saving"):
            ref = create_once(self.store, self.key(name), source)
        self._outputs[ref.key] = ref
        return ref

    def settle(self, name: str, data: bytes) -> bool:
        """Write one output unless it is there; False says that what another worker wrote counts.

        For what two may make differently. `adopt` makes it an output of this stage.
        """
        self.bind()
        with self.timed("saving"):
            return self.store.create(self.key(name), data)

    def bind(self) -> None:
        """Tie the run's name to the recipe, before anything is written under it."""
        if not self._bound:
            bind_recipe(self.store, self.run, self.recipe)
            self._bound = True

    def adopt(self, name: str) -> bytes:
        """Count an output that an attempt of this stage wrote, and return its content."""
        key = self.key(name)
        data = b"".join(chunks(self.store, key))
        self._outputs[key] = describe_source(key, data)
        return data

    def used(self, refs: Sequence[ObjectRef]) -> None:
        """Record what this stage has read: objects of the store, or files by their URI."""
        self._inputs.update((ref.key, ref) for ref in refs)

    def note(self, text: str) -> None:
        """Record a fallback: in the log, in the manifest, in the report."""
        log.get().warning(text)
        self.notes.append(text)

    @contextmanager
    def timed(self, kind: str) -> Iterator[None]:
        """Add the time spent inside to `seconds[kind]`, less what is timed within it."""
        start, outer, self._nested = time.monotonic(), self._nested, 0.0
        try:
            yield
        finally:
            spent = time.monotonic() - start
            self.seconds[kind] += spent - self._nested
            self._nested = outer + spent

    def spent(self, kind: str, seconds: float) -> None:
        """Count seconds that were measured elsewhere, within what is timed now."""
        self.seconds[kind] += seconds
        self._nested += seconds

    @contextmanager
    def progress(
        self, label: str, total: int | None, unit: str, heartbeat: str = "progress.json"
    ) -> Iterator[Progress]:
        """Show progress here and, every few seconds, as an object of the store."""
        with (
            log.progress(label, total, unit) as shown,
            beating(partial(self._beat, heartbeat), shown, total, unit) as beat,
        ):
            yield beat

    def _beat(self, name: str, state: bytes) -> None:
        self.bind()
        self.store.replace(self.key(name), state)

    def manifest(self) -> Manifest:
        """Describe what was done up to now."""
        return Manifest(
            run=self.run,
            stage=self.stage,
            recipe_sha256=recipe.digest(self.recipe),
            parents={name: sha256 for name, (_, sha256) in self.upstream.items()},
            inputs=[self._inputs[key] for key in sorted(self._inputs)],
            outputs=[self._outputs[key] for key in sorted(self._outputs)],
            counters=self.counters,
            seconds={kind: round(spent, 3) for kind, spent in self.seconds.items()},
            notes=self.notes,
            certificates=self.certificates,
            versions=manifests.versions(),
            device=self.device,
            image=manifests.image(),
            finished=datetime.now(UTC).isoformat(timespec="seconds"),
        )

    def finish(self) -> Manifest:
        """Write the manifest: from now on the stage is complete."""
        return self.complete(self.manifest())

    def complete(self, manifest: Manifest) -> Manifest:
        """Write this manifest, or agree with the worker that was first."""
        self.bind()
        if not self.store.create(self.key("manifest.json"), manifests.encode(manifest)):
            theirs, _ = _finished(self.store, self.run, self.stage)
            where = f"{self.store.uri}/{self.key('manifest.json')}"
            manifests.check_same_result(where, theirs, manifest)
        return manifest

    def anew(self) -> "StageRun":
        """Return the same stage with nothing read, written or counted."""
        return StageRun(self.store, self.run, self.stage, self.recipe, self.upstream)
