import importlib
import subprocess
import sys
import threading
from types import SimpleNamespace

import pytest
import structlog

from qatune import cli, importing
from qatune.config import Model, Recipe
from qatune.errors import BadRecipeError, MissingInputError
from qatune.importing import absent, check_engine
from qatune.store import sources
from qatune.store.artifacts import StageRun
from qatune.store.folder import FolderStore
from qatune.store.sources import ModelFolder


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


def test_the_base_is_fetched_while_the_libraries_are_imported(tmp_path, monkeypatch):
    """The import waits for the fetch to begin: one after the other would wait for ever."""
    store, begun, got = FolderStore(str(tmp_path)), threading.Event(), []
    ours = parsed_recipe(tmp_path)
    stage = StageRun(store, "tiny", "train", ours, {})
    folder = ModelFolder(tmp_path, None, "here")

    def fetch(*given):
        begun.set()
        got.append((given, structlog.contextvars.get_contextvars()))
        return folder

    def import_slowly(name):
        assert begun.wait(60)
        return SimpleNamespace(run=lambda ran: got.append(ran.base_model()))

    monkeypatch.setattr(sources, "base_model", fetch)
    monkeypatch.setattr(importing, "import_stage", import_slowly)
    monkeypatch.setattr(StageRun, "open", lambda *_: stage)
    assert cli._run_stage("train", store, "tiny", ours)
    assert got == [((store, "tiny", ours.model), {"stage": "train"}), folder]


@pytest.mark.parametrize(
    ("source", "revision", "alone"),
    [("folder", None, True), ("s3://bucket/model", None, False), ("org/model", "main", False)],
)
def test_what_may_import_while_it_is_fetched_is_not_fetched_ahead(
    tmp_path, s3_store, source, revision, alone
):
    spec = Model(source=source, revision=revision)
    assert sources.needs_no_import(FolderStore(str(tmp_path)), spec) is alone
    assert sources.needs_no_import(s3_store, spec)


def test_a_model_that_is_not_there_is_the_stage_s_to_report(tmp_path):
    stage = StageRun(
        FolderStore(str(tmp_path)), "tiny", "train", parsed_recipe(tmp_path / "missing"), {}
    )
    stage.fetch_base_ahead()
    with pytest.raises(MissingInputError, match="missing: no such folder"):
        stage.base_model()


def parsed_recipe(model):
    return Recipe.model_validate({"model": {"source": str(model)}, "data": {"source": "-"}})
