"""The manifest: a stage's last word. It exists exactly when the stage is complete."""

import hashlib
import json
import os
import platform
from collections.abc import Mapping, Sequence
from importlib import metadata
from typing import TypeVar

from pydantic import BaseModel, ConfigDict, Field

from qatune import __version__
from qatune.errors import MissingInputError
from qatune.store.objects import ObjectRef, Store

LIBRARIES = (
    "torch", "transformers", "peft", "trl", "bitsandbytes", "datasets", "tokenizers", "pyarrow",
    "sacrebleu", "rouge-score", "rapidfuzz", "scipy", "ctranslate2", "vllm",
)  # fmt: skip


SECONDS = ("queued", "starting", "loading", "waiting", "working", "saving", "lost")
"""What a stage's time is divided into."""


class Sealed(BaseModel):
    """What `encode` writes, and `parse` refuses where a byte of it has changed."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    seal: str = ""
    """SHA-256 of all else in it: the last manifest of a run has no other that names it."""


class Certificate(BaseModel):
    """How the answers of an engine compared with the default one's, on a sample of the rows."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    engine: str
    compute_type: str
    rows: int
    """Answers compared, those of the adapter counted apart."""
    rows_equal: int
    """Token for token."""
    asked_share: float
    largest_difference: float
    """Of the likelihood of the default engine's answers, in nats per token."""
    allowed_difference: float
    passed: bool
    """Whether the engine answered. If not, the default one did."""


class Manifest(Sealed):
    """What a stage read, wrote, counted and took."""

    format: int = 1
    run: str
    stage: str
    recipe_sha256: str
    parents: Mapping[str, str]
    """SHA-256 of each parent stage's manifest."""
    inputs: Sequence[ObjectRef]
    outputs: Sequence[ObjectRef]
    counters: Mapping[str, int | float | str | None]
    seconds: Mapping[str, float]
    """Keys are those of SECONDS."""
    notes: Sequence[str]
    """Fallbacks: what was asked for and what was done instead."""
    certificates: Sequence[Certificate] = Field(default_factory=list)
    """One for each shard that another engine than the default ones was asked for."""
    versions: Mapping[str, str]
    device: str
    image: str | None
    finished: str
    """UTC, ISO 8601."""

    def outputs_like(self, suffix: str = "", prefix: str = "") -> list[ObjectRef]:
        """Return the outputs whose name below the stage's folder starts and ends so."""
        head = f"runs/{self.run}/{self.stage}/{prefix}"
        return [
            ref for ref in self.outputs if ref.key.startswith(head) and ref.key.endswith(suffix)
        ]


AnySealed = TypeVar("AnySealed", bound=Sealed)


def manifest_key(run: str, stage: str) -> str:
    return f"runs/{run}/{stage}/manifest.json"


def encode(manifest: Sealed) -> bytes:
    """Write a manifest and its seal; one manifest has one encoding."""
    fields = manifest.model_dump(mode="json") | {"seal": ""}
    return _canonical(fields | {"seal": hashlib.sha256(_canonical(fields)).hexdigest()})


def _canonical(fields: Mapping[str, object]) -> bytes:
    return (json.dumps(fields, indent=1, sort_keys=True, ensure_ascii=False) + "\n").encode()


def parse(data: bytes, where: str, kind: type[AnySealed]) -> AnySealed:
    """Read what `encode` wrote. Raises MissingInputError if a single byte of it is another."""
    try:
        manifest = kind.model_validate_json(data)
        if encode(manifest) == data:
            return manifest
    except ValueError:
        pass
    raise MissingInputError(
        f"{where}: was edited or damaged: not what qatune wrote; "
        "bring it back from a copy, or start again under another --run"
    )


def load(store: Store, run: str, stage: str) -> tuple[Manifest, str] | None:
    """Return a stage's manifest with its SHA-256, or None while it is incomplete."""
    key = manifest_key(run, stage)
    if store.stat(key) is None:
        return None
    data = store.read(key)
    manifest = parse(data, f"{store.uri}/{key}", Manifest)
    if (manifest.run, manifest.stage) != (run, stage):
        raise MissingInputError(
            f"{store.uri}/{key}: belongs to {manifest.stage} of run {manifest.run!r}; "
            "a run cannot be copied to another name: start it again under another --run"
        )
    return manifest, hashlib.sha256(data).hexdigest()


def check_same_result(where: str, theirs: Manifest, ours: Manifest) -> None:
    """Raise MissingInputError unless whoever was first has come to our result."""
    same = ("recipe_sha256", "parents", "outputs")
    if any(getattr(theirs, name) != getattr(ours, name) for name in same):
        raise MissingInputError(
            f"{where}: another worker finished this with another result; "
            "choose another name for the run"
        )


def versions() -> dict[str, str]:
    """Version of the code, of Python and of each installed library that shapes a result."""
    found = {"qatune": __version__, "python": platform.python_version()}
    for name in LIBRARIES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def image() -> str | None:
    """Return the container image that this runs in, as the pod's spec says."""
    return os.environ.get("QATUNE_IMAGE")
