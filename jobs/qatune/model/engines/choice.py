"""The engine that the recipe asks for, or the one that stands in for it."""

from collections.abc import Callable
from pathlib import Path

from qatune import config
from qatune.model.engines import ctranslate2, vllm
from qatune.model.engines.continuous import ContinuousEngine, obstacle
from qatune.model.engines.parity import Candidate
from qatune.model.engines.protocol import Engine
from qatune.model.engines.static import StaticEngine
from qatune.model.loading import LoadedModel
from qatune.model.opening import FoundModel


def default_engine(
    loaded: LoadedModel, spec: config.Generate, note: Callable[[str], None]
) -> Engine:
    """Return the engine that answers with the loaded model itself; note where one stands in."""
    if spec.engine == "static":
        return StaticEngine(loaded, spec.batch_size)
    if reason := obstacle(loaded.model):
        note(f"generate.engine continuous cannot run this model: {reason}; static is used instead")
        return StaticEngine(loaded, spec.batch_size)
    return ContinuousEngine(loaded, spec.batch_size)


def candidate_engine(
    model: FoundModel, loaded: LoadedModel, recipe: config.Recipe, scratch: Path
) -> Candidate | None:
    """Return the engine that the recipe asks for if it needs a certificate; it lives in `scratch`.

    Raises BadRecipeError where it cannot answer for this model.
    """
    if recipe.generate.engine == "ctranslate2":
        return ctranslate2.open_engine(model, loaded, recipe, scratch)
    if recipe.generate.engine == "vllm":
        return vllm.open_engine(model, loaded)
    return None
