import importlib
import subprocess
import sys

import pytest

from qatune import cli
from qatune.errors import BadRecipeError
from qatune.importing import absent, check_engine
from qatune.store.folder import FolderStore


def test_what_is_not_imported_yet_is_absent_inside_and_there_again_after():
    name = "this"
    sys.modules.pop(name, None)
    with absent(name), pytest.raises(ModuleNotFoundError):
        importlib.import_module(name)
    assert name not in sys.modules
    assert importlib.util.find_spec(name)


def test_what_is_imported_stays():
    with absent("json"):
        assert importlib.import_module("json").dumps(1) == "1"
    assert "json" in sys.modules


def test_a_stage_whose_libraries_are_missing_leaves_nothing_hidden():
    script = """
import gc, sys
from qatune.importing import import_stage
try:
    import_stage("nothing")
except ModuleNotFoundError as error:
    print(error, {"bitsandbytes", "boto3"} & sys.modules.keys(), gc.isenabled())
"""
    done = subprocess.run(
        [sys.executable, "-c", script], check=True, capture_output=True, text=True
    )
    assert done.stdout == "No module named 'qatune.stages.nothing' set() True\n"


def test_an_engine_that_is_not_installed_is_found_before_anything_is_written(tmp_path):
    arguments = ["demo", "--store", str(tmp_path), "--set", "generate.engine=vllm"]
    wanted = r"generate\.engine: vllm is not installed; install qatune\[vllm\] or set engine to con"
    with pytest.raises(BadRecipeError, match=wanted):
        cli.cli(["run", *arguments], standalone_mode=False)
    assert not list(FolderStore(str(tmp_path)).keys(""))
    check_engine("continuous")
