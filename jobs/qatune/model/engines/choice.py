"""The engine that the recipe asks for, or the one that stands in for it."""

from collections.abc import Callable

from qatune import config
from qatune.model.engines.continuous import ContinuousEngine, obstacle
from qatune.model.engines.protocol import Engine
from qatune.model.engines.static import StaticEngine
from qatune.model.loading import LoadedModel


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
