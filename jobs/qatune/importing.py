"""Importing a stage: most of its start, as its libraries import more than it uses."""

import gc
import importlib
import importlib.util
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import ModuleType

from qatune.errors import BadRecipeError

# peft imports bitsandbytes wherever it is installed, which prepares torch's compiler; accelerate
# does so with boto3, transformers with scipy. They are imported for real where a model is
# quantized, a store is S3, or differences are tested.
_IF_USED = ("bitsandbytes", "boto3", "scipy")
_ENGINE_LIBRARIES = {"ctranslate2", "vllm"}


def import_stage(name: str) -> ModuleType:
    """Import `qatune.stages.{name}`, but for libraries that it may turn out not to use."""
    gc.collect()  # what an earlier stage left must not be frozen: it holds a model
    gc.disable()  # imports leave no garbage, and looking for it took a sixth of their time
    try:
        with absent(*_IF_USED):
            return importlib.import_module(f"qatune.stages.{name}")
    finally:
        gc.freeze()  # what is imported stays: no later collection goes through it
        gc.enable()


def check_engine(engine: str) -> None:
    """Raise BadRecipeError if `engine` needs a library that is not installed."""
    if engine in _ENGINE_LIBRARIES and importlib.util.find_spec(engine) is None:
        raise BadRecipeError(
            f"recipe.generate.engine: {engine} is not installed; install qatune[{engine}] "
            "or set engine to continuous"
        )


def check_trackers(report_to: Sequence[str]) -> None:
    """Raise BadRecipeError if `train.report_to` names a library that is not installed."""
    for tracker in report_to:
        if importlib.util.find_spec(tracker) is None:
            raise BadRecipeError(
                f"recipe.train.report_to: {tracker} is not installed; install qatune[{tracker}] "
                "or take it out"
            )


@contextmanager
def absent(*modules: str) -> Iterator[None]:
    """Make modules that are not imported yet look as if they were not installed, inside.

    None in `sys.modules` is the import system's own sign for it.
    """
    hidden = [name for name in modules if name not in sys.modules]
    sys.modules.update(dict.fromkeys(hidden))  # type: ignore[arg-type]
    try:
        yield
    finally:
        for name in hidden:
            del sys.modules[name]
