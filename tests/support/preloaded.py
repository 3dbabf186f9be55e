"""What the process that forks the stages has done before, so that each starts in a second."""

import gc
import importlib

import click  # noqa: F401
import tensorboard.summary  # noqa: F401

from qatune import STAGES, cli  # noqa: F401

for stage in STAGES:
    importlib.import_module(f"qatune.stages.{stage}")
# A collection would go through all of these, and copy each page of them into the fork.
gc.freeze()
